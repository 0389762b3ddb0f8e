"""Deliveries against real servers: order, repetition, failures that stay alone, replay, and positions under races."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from confluent_kafka.admin import AdminClient

from domain.ledger.events import (
    AccessGranted,
    AccessRevoked,
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountUnfrozen,
    CurrencyRegistered,
    TransactionCaptured,
    TransactionExpired,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.messages import Entry, Event
from infrastructure import embedded, journal, metrics
from infrastructure.embedded import make_state_directory
from infrastructure.journal import Line
from infrastructure.kafka import Kafka, KafkaRecord, KafkaUnavailable, connection
from infrastructure.processes import Program, await_ready, choose_port, start, stop
from infrastructure.settings import Settings
from tests.conftest import temporary_state
from tests.contracts.kafka_deliveries import KafkaDeliveries, an_actor
from tests.journals import NEW_ACTOR, Stage, consume, first_occurrences, on_a_loop, registered, stage, write_in
from tests.turns import nobody_waits, others_wait
from workers import delivery
from workers.subscribers import handlers
from workers.subscribers.redis import stream_key

SOMEBODY = UUID("01890000-0000-7000-8000-00000000e4e0")
ONE, OTHER = UUID(int=1), UUID(int=2)


class TestEmbeddedBroker(KafkaDeliveries):
    """The contract, against the broker of `daybook up`."""

    @pytest.fixture
    def kafka_settings(self, settings: Settings) -> Settings:
        return settings


class Broker:
    """A broker of this test's own, to be stopped."""

    def __init__(self, state: Path) -> None:
        self._port = choose_port()
        self._state = make_state_directory(state)
        self._running: tuple[Program, Any] | None = None
        self.servers = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        program = embedded.kafka(self._state, port=self._port)
        self._running = program, start(program)
        await_ready(*self._running, seconds=10)

    def stop(self) -> None:
        if self._running is not None:
            self._running[1].kill()
            stop(*self._running, seconds=5)
            self._running = None


@pytest.fixture
def broker() -> Iterator[Broker]:
    with temporary_state() as state:
        made = Broker(state)
        made.start()
        try:
            yield made
        finally:
            made.stop()


async def streamed(on: Stage, actor: str) -> list[tuple[bytes, bytes]]:
    return [(entry, fields[b"event"]) for entry, fields in await on.redis.xrange(stream_key(actor))]


async def deliver_all(on: Stage, subscriber: str, actor: str) -> None:
    while await on.deliveries.deliver(subscriber, actor):
        pass


# -- a subscriber fails alone -----------------------------------------------------------------------------------------


@on_a_loop
async def test_a_broker_that_is_down_holds_back_nobody_else_and_catches_up(settings: Settings, broker: Broker) -> None:
    settings = replace(settings, kafka_servers=broker.servers)
    actors = [an_actor() for _ in range(5)]
    async with stage(settings) as on:
        for actor in actors:
            await on.write(actor, 3)
            await deliver_all(on, "kafka", actor)
        broker.stop()
        for actor in actors:
            await on.write(actor, 4)
        began = time.monotonic()
        for actor in actors:
            await on.deliveries.deliver("kafka", actor)
            await on.deliveries.deliver("redis", actor)
        # the first one met the failure, the others were spared it
        assert time.monotonic() - began < 15
        assert [len(await streamed(on, actor)) for actor in actors] == [7] * 5
        lag = {one.subscriber: one for one in await journal.lag(on.pool)}
        assert (lag["redis"].actors, lag["redis"].events) == (0, 0)
        assert (lag["kafka"].actors, lag["kafka"].events, lag["kafka"].failing) == (5, 20, 1)
        assert "Kafka" in (lag["kafka"].error or "")
        assert lag["kafka"].oldest_s > 0

        broker.start()
        await on.forget_backoff()
        later = on.restarted()
        for actor in actors:
            await deliver_all(later, "kafka", actor)
        await later.deliveries.close()
        # this broker forgets everything when it stops, so everything came again
        for actor in actors:
            assert first_occurrences(consume(settings, actor, last=7)) == list(range(1, 8))
        assert not await on.behind()


@on_a_loop
async def test_the_same_process_recovers_by_itself(settings: Settings, broker: Broker) -> None:
    settings = replace(settings, kafka_servers=broker.servers)
    actor = an_actor()
    async with stage(settings) as on:
        await on.write(actor, 3)
        await deliver_all(on, "kafka", actor)
        broker.stop()
        await on.write(actor, 3)
        await on.deliveries.deliver("kafka", actor)
        broker.start()
        deadline = time.monotonic() + 20
        while await on.behind():
            assert time.monotonic() < deadline
            await on.deliveries.deliver("kafka", actor)
            await on.deliveries.deliver("redis", actor)
            await asyncio.sleep(0.05)
        assert first_occurrences(consume(settings, actor, last=6)) == list(range(1, 7))


@on_a_loop
async def test_publishing_makes_no_topic(settings: Settings) -> None:
    """A topic that vanished between the look and the publishing would come back without what it had."""
    kafka = Kafka(settings, publish_s=3)
    with pytest.raises(KafkaUnavailable):
        await kafka.publish("daybook.nobody.events", [KafkaRecord("nobody:a", b"{}", [])])
    await kafka.close()
    topics = AdminClient(connection(settings)).list_topics(timeout=5).topics
    assert "daybook.nobody.events" not in topics


class Refusing:
    """Takes what it is given until told otherwise."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.error: Exception | None = None

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        if self.error is not None:
            raise self.error
        self.taken += [line.seq for line in lines]
        return len(lines)

    async def close(self) -> None:
        pass


def with_subscriber(on: Stage, target: delivery.Subscriber) -> delivery.Deliveries:
    return delivery.Deliveries(on.pool, {"redis": target}, on.meter, 1_000, nobody_waits)


@on_a_loop
async def test_a_refused_event_waits_ever_longer_and_the_breaker_stays_closed(settings: Settings) -> None:
    bad, good = an_actor(), an_actor()
    async with stage(settings) as on:
        target = Refusing()
        deliveries = with_subscriber(on, target)
        await on.write(bad)
        await on.write(good)
        target.error = LookupError("no such thing")
        pauses = []
        for _ in range(9):
            await on.forget_backoff()
            await deliveries.deliver("redis", bad)
            row = await on.pool.fetchrow(
                "SELECT retry_at - clock_timestamp() AS pause, last_error FROM behind"
                " WHERE subscriber = 'redis' AND actor = $1",
                bad,
            )
            pauses.append(row["pause"].total_seconds())
            assert row["last_error"] == "LookupError: no such thing"
        assert [round(pause * 2) / 2 for pause in pauses] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
        await deliveries.deliver("redis", bad)
        assert ("redis", bad) not in await delivery.due(on.pool, ["redis"], 10)
        target.error = None
        await deliveries.deliver("redis", bad)
        assert target.taken == []
        await deliveries.deliver("redis", good)
        assert target.taken == [1]


@on_a_loop
async def test_the_breaker_spares_every_other_actor_the_time_out(settings: Settings) -> None:
    actors = [an_actor() for _ in range(3)]
    async with stage(settings) as on:
        target = Refusing()
        deliveries = with_subscriber(on, target)
        for actor in actors:
            await on.write(actor)
        target.error = ConnectionError("down")
        await deliveries.deliver("redis", actors[0])
        target.error = None
        await deliveries.deliver("redis", actors[1])
        assert target.taken == []
        assert await on.pool.fetchval("SELECT sum(failures) FROM behind") == 1
        fresh = with_subscriber(on, target)
        await fresh.deliver("redis", actors[1])
        assert target.taken == [1]


# -- the stream and the cache -----------------------------------------------------------------------------------------


@on_a_loop
async def test_the_stream_has_every_event_once_though_it_is_delivered_twice(settings: Settings) -> None:
    actor = an_actor()
    async with stage(settings) as on:
        written = await on.write(actor, 5)
        await deliver_all(on, "redis", actor)
        async for _ in journal.set_back(on.pool, "redis", from_seq=1, actor=actor):
            pass
        written += await on.write(actor, 2)
        await deliver_all(on, "redis", actor)
        assert await streamed(on, actor) == [(f"1-{seq}".encode(), event) for seq, event in enumerate(written, start=1)]
        assert 0 < await on.redis.ttl(stream_key(actor)) <= 86_400
        assert ("redis", actor) not in await on.behind()


@on_a_loop
async def test_old_views_and_leases_go_and_newer_views_and_tombstones_stay(settings: Settings) -> None:
    actor = an_actor()
    ledger = actor.removeprefix("ledger:")
    async with stage(settings) as on:
        await on.write(actor, 12)
        slots = {
            f"seq:{ledger}": (b"V:1.11", False),
            f"view:{ledger}:account:assets:bank": (b"V:1.11.11\n{}", False),
            f"view:{ledger}:account:wallets:w5": (b"V:1.12.12\n{}", True),
            f"view:{ledger}:account:wallets:w4": (b"L:abc", False),
            f"view:{ledger}:account:wallets:w3": (b"X:turn", True),
            # changed last by 9, read at 10: as new as can be
            f"view:{ledger}:account:wallets:w2": (b"V:1.9.10\n{}", True),
            f"view:{ledger}:account:wallets:w1": (b"V:1.1.7\n{}", False),
            f"view:{ledger}:account:wallets:other": (b"V:1.1.1\n{}", True),
        }
        for key, (slot, _) in slots.items():
            await on.redis.set(key, slot)
        await deliver_all(on, "redis", actor)
        left = {key: bool(await on.redis.exists(key)) for key in slots}
        assert left == {key: stays for key, (_, stays) in slots.items()}


@pytest.mark.parametrize("event", [AccessGranted(user=SOMEBODY, role="reader"), AccessRevoked(user=SOMEBODY)])
@on_a_loop
async def test_copies_of_a_grant_go_when_it_has_changed(
    settings: Settings, event: AccessGranted | AccessRevoked
) -> None:
    actor = an_actor()
    ledger = actor.removeprefix("ledger:")
    async with stage(settings) as on:
        await on.write(actor, 1, lambda _: event)
        slots = {
            f"view:{ledger}:grant:{SOMEBODY}": (b"V:0123456789abcdef@owner", False),
            f"view:{ledger}:grant:admin": (b"V:0123456789abcdef@owner", True),
            f"view:other:grant:{SOMEBODY}": (b"V:0123456789abcdef@owner", True),
        }
        for key, (slot, _) in slots.items():
            await on.redis.set(key, slot)
        await deliver_all(on, "redis", actor)
        left = {key: bool(await on.redis.exists(key)) for key in slots}
        assert left == {key: stays for key, (_, stays) in slots.items()}


CHANGING: dict[str, Event] = {
    "transaction:captured": TransactionCaptured(
        transaction=ONE, capture=OTHER, status="captured", postings=(), effective_at="2026-01-01T00:00:00.000000Z"
    ),
    "transaction:voided": TransactionVoided(transaction=ONE, status="voided", postings=()),
    "transaction:expired": TransactionExpired(transaction=ONE, status="expired", postings=()),
    "transaction:described": TransactionMetadataChanged(transaction=ONE, metadata={}),
    "transaction:reversed": TransactionReversed(
        transaction=OTHER, reverses=ONE, postings=(), reference=None, description=None, metadata={}, effective_at=""
    ),
    "account:frozen": AccountFrozen(name="idle"),
    "account:unfrozen": AccountUnfrozen(name="idle"),
    "account:closed": AccountClosed(name="idle"),
    "account:described": AccountMetadataChanged(name="idle", metadata={}),
}


@on_a_loop
async def test_views_of_what_changed_after_it_was_made_go_as_well(settings: Settings) -> None:
    async with stage(settings) as on:
        for what, event in CHANGING.items():
            actor = an_actor()
            ledger = actor.removeprefix("ledger:")
            await on.write(actor, 3, lambda seq, event=event: event if seq == 2 else registered(seq))  # type: ignore[misc]
            kind = what.partition(":")[0]
            old, other = ("account:idle", "account:x") if kind == "account" else (f"transaction:{ONE}", "transaction:x")
            slots = {f"view:{ledger}:{old}": False, f"view:{ledger}:{other}": True}
            for key in slots:
                await on.redis.set(key, b"V:1.1.1\n{}")
            await deliver_all(on, "redis", actor)
            assert {key: bool(await on.redis.exists(key)) for key in slots} == slots, what


# -- handlers ---------------------------------------------------------------------------------------------------------


@contextmanager
def handler_module(name: str) -> Iterator[tuple[ModuleType, list[Entry]]]:
    """A module with two handlers, as a user would write it; gone at the end."""
    module = ModuleType(name)
    seen: list[Entry] = []

    async def note(entry: Entry) -> None:
        if getattr(module, "broken_at", None) == entry.seq:
            raise RuntimeError("broken")
        seen.append(entry)

    note.__module__, note.__qualname__ = name, "note"
    handlers.on(TransactionPosted)(note)
    sys.modules[name] = module
    try:
        yield module, seen
    finally:
        del sys.modules[name]
        del handlers._registered[f"handler:{name}.note"]


@on_a_loop
async def test_a_new_handler_gets_everything_from_the_first_event_on(settings: Settings) -> None:
    first, second = an_actor(), an_actor()
    async with stage(settings) as on:
        await on.write(first, 3)
        await on.write(second, 2, registered)
        await on.write(second, 2)
        for subscriber in ("kafka", "redis"):
            await deliver_all(on, subscriber, first)
            await deliver_all(on, subscriber, second)
    with handler_module("made_up_handlers") as (_, seen):
        settings = replace(settings, handlers=("made_up_handlers",))
        name = "handler:made_up_handlers.note"
        async with stage(settings) as on:
            assert await on.behind() == {(name, first): (0, 3), (name, second): (0, 4)}
            await on.write(first)
            due = await delivery.due(on.pool, [name], 10)
            assert not due, "nothing is overdue yet"
            await on.pool.execute("UPDATE behind SET since = since - interval '2 seconds'")
            for subscriber, actor in await delivery.due(on.pool, [name], 10):
                await deliver_all(on, subscriber, actor)
            assert [entry.seq for entry in seen if entry.actor == first] == [1, 2, 3, 4]
            assert [entry.seq for entry in seen if entry.actor == second] == [3, 4]
            assert all(isinstance(entry.data, TransactionPosted) for entry in seen)
            assert not [key for key in await on.behind() if key[0] == name]


@on_a_loop
async def test_a_handler_that_raises_goes_on_where_it_stopped(settings: Settings) -> None:
    actor = an_actor()
    with handler_module("fragile_handlers") as (module, seen):
        settings = replace(settings, handlers=("fragile_handlers",))
        name = "handler:fragile_handlers.note"
        async with stage(settings) as on:
            await on.write(actor, 6)
            module.broken_at = 4  # type: ignore[attr-defined]
            await on.deliveries.deliver(name, actor)
            assert [entry.seq for entry in seen] == [1, 2, 3]
            assert (await on.behind())[name, actor] == (3, 6)
            await deliver_all(on, "redis", actor)
            assert len(await streamed(on, actor)) == 6
            module.broken_at = None  # type: ignore[attr-defined]
            await on.forget_backoff()
            await deliver_all(on, name, actor)
            assert [entry.seq for entry in seen] == [1, 2, 3, 4, 5, 6]


@on_a_loop
async def test_a_slow_handler_keeps_what_it_has_done(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = an_actor()
    monkeypatch.setattr(handlers, "ENOUGH_S", -1.0)
    with handler_module("slow_handlers") as (_, seen):
        settings = replace(settings, handlers=("slow_handlers",), turn_time_ms=0)
        name = "handler:slow_handlers.note"
        async with stage(settings) as on:
            await on.write(actor, 3)
            assert await on.deliveries.deliver(name, actor) is True
            assert (await on.behind())[name, actor] == (1, 3)
            await deliver_all(on, name, actor)
            assert [entry.seq for entry in seen] == [1, 2, 3]


@on_a_loop
async def test_a_delivery_that_others_wait_for_makes_room_once_it_had_its_share(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PAGE_LINES", 2)
    async with stage(settings) as on:
        target = Refusing()
        shared = delivery.Deliveries(on.pool, {"redis": target}, on.meter, 60_000, others_wait)
        actor = an_actor()
        await on.write(actor, 6)
        monkeypatch.setattr(delivery, "SHARE_S", 0.0)
        assert await shared.deliver("redis", actor) is True
        assert target.taken == [1, 2]
        monkeypatch.setattr(delivery, "SHARE_S", 60.0)
        assert await shared.deliver("redis", actor) is False
        assert target.taken == [1, 2, 3, 4, 5, 6]


def test_a_handler_must_be_a_coroutine_function() -> None:
    with pytest.raises(TypeError, match="async def"):
        handlers.on(CurrencyRegistered)(lambda entry: None)  # type: ignore[arg-type,return-value]


# -- positions --------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_one_lease_at_a_time_and_none_before_the_time_to_retry(settings: Settings) -> None:
    actor = an_actor()
    async with stage(settings) as on:
        assert await journal.lease(on.pool, "redis", actor) is None
        await on.write(actor)
        held = await journal.lease(on.pool, "redis", actor)
        assert held is not None
        assert await journal.lease(on.pool, "redis", actor) is None
        await journal.fail(on.pool, held, "no")
        assert await journal.lease(on.pool, "redis", actor) is None
        await on.forget_backoff()
        again = await journal.lease(on.pool, "redis", actor)
        assert again is not None
        assert again.failures == 1


@on_a_loop
async def test_a_lease_that_ran_out_moves_nothing(settings: Settings) -> None:
    actor = an_actor()
    async with stage(settings) as on:
        await on.write(actor, 3)
        late = await journal.lease(on.pool, "redis", actor, seconds=0)
        heir = await journal.lease(on.pool, "redis", actor)
        assert late is not None
        assert heir is not None
        line = (await journal.page(on.pool, actor, 0, lines=2, size=10**6))[-1]
        now = await on.pool.fetchval("SELECT now()")
        assert await journal.advance(on.pool, late, line.seq, now) is None
        assert not await journal.finish(on.pool, late, 3)
        await journal.fail(on.pool, late, "late")
        moved = await journal.advance(on.pool, heir, line.seq, now)
        assert moved is not None
        assert await journal.finish(on.pool, moved, 3)


@on_a_loop
async def test_a_turn_and_the_end_of_a_delivery_never_lose_each_others_work(settings: Settings) -> None:
    """Both orders of the race, each with the second one made to wait for the first one's row lock."""
    actor = an_actor()
    async with stage(settings) as on:
        await on.write(actor, 3)
        held = await journal.lease(on.pool, "redis", actor)
        assert held is not None

        async with on.pool.acquire() as db:
            turn = db.transaction()
            await turn.start()
            await write_in(db, actor, 2)
            finishing = asyncio.create_task(journal.finish(on.pool, held, 3))
            await waits_for_a_lock(on)
            await turn.commit()
        assert await finishing is False
        assert (await on.behind())["redis", actor] == (0, 5)

        async with on.pool.acquire() as db:
            end = db.transaction()
            await end.start()
            assert await journal.finish(db, held, 5)
            writing = asyncio.create_task(on.write(actor, 2))
            await waits_for_a_lock(on)
            await end.commit()
        await writing
        assert (await on.behind())["redis", actor] == (5, 7)


@on_a_loop
async def test_a_new_subscriber_misses_no_turn_under_way(settings: Settings) -> None:
    """Registration waits for turns that began without the name: their events would be told to nobody."""
    actor = an_actor()
    async with stage(settings) as on:
        await on.pool.execute(NEW_ACTOR, actor)
        async with on.pool.acquire() as db, on.pool.acquire() as other:
            turn = db.transaction()
            await turn.start()
            await write_in(db, actor, 2)
            registering = asyncio.create_task(journal.register_subscribers(other, ["redis", "handler:new"]))
            await waits_for_a_lock(on)
            await turn.commit()
            assert await registering == ["handler:new"]
        assert (await on.behind())["handler:new", actor] == (0, 2)
        await on.write(actor)
        assert (await on.behind())["handler:new", actor] == (0, 3)


async def waits_for_a_lock(on: Stage) -> None:
    deadline = time.monotonic() + 5
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    while not await on.pool.fetchval(waiting):
        assert time.monotonic() < deadline, "nobody waits: the race is not there"
        await asyncio.sleep(0.01)


@on_a_loop
async def test_turns_and_deliveries_at_random_lose_and_reorder_nothing(settings: Settings) -> None:
    actors = [an_actor() for _ in range(3)]
    taken: dict[str, list[int]] = {actor: [] for actor in actors}

    class Collecting:
        async def publish(self, actor: str, lines: Sequence[Line]) -> int:
            await asyncio.sleep(0)
            some = lines[: len(lines) // 2 + 1]
            taken[actor] += [line.seq for line in some]
            return len(some)

        async def close(self) -> None:
            pass

    async with stage(settings) as on:
        written = 0

        async def write() -> None:
            nonlocal written
            for number in range(60):
                await on.write(actors[number % 3], 1 + number % 4)
            written = 1

        async def deliver() -> None:
            deliveries = with_subscriber(on, Collecting())
            while not written or [key for key in await on.behind() if key[0] == "redis"]:
                for actor in actors:
                    await deliveries.deliver("redis", actor)

        await asyncio.gather(write(), deliver(), deliver())
        for actor in actors:
            assert taken[actor] == list(
                range(1, await on.pool.fetchval("SELECT seq FROM actors WHERE actor=$1", actor) + 1)
            )


@on_a_loop
async def test_a_page_is_bounded_and_always_gets_on(settings: Settings) -> None:
    actor = an_actor()
    async with stage(settings) as on:
        written = await on.write(actor, 10)
        size = len(written[0])
        assert [line.event for line in await journal.page(on.pool, actor, 0, lines=4, size=10**9)] == written[:4]
        assert [line.seq for line in await journal.page(on.pool, actor, 4, lines=9, size=1)] == [5]
        assert len(await journal.page(on.pool, actor, 0, lines=9, size=3 * size)) == 3
        assert journal.read_entry(written[0]).data.reference == "r-1"  # type: ignore[attr-defined]


@on_a_loop
async def test_what_is_behind_is_found_oldest_first(settings: Settings) -> None:
    old, leased, new = an_actor(), an_actor(), an_actor()
    async with stage(settings) as on:
        for actor in (new, leased, old):
            await on.write(actor)
        assert await delivery.due(on.pool, ["redis"], 10) == []
        await on.pool.execute("UPDATE behind SET since = since - interval '1 minute' WHERE actor = $1", old)
        await on.pool.execute("UPDATE behind SET since = since - interval '2 seconds'")
        await journal.lease(on.pool, "redis", leased)
        assert await delivery.due(on.pool, ["redis"], 10) == [("redis", old), ("redis", new)]
        assert len(await delivery.due(on.pool, ["redis", "kafka"], 2)) == 2


@on_a_loop
async def test_deliveries_are_counted(settings: Settings) -> None:
    actor = an_actor()
    async with stage(settings) as on:
        await on.write(actor, 4)
        await deliver_all(on, "redis", actor)
        await on.meter.push(on.redis)
        await on.meter.push(on.redis)
        found = {one.name: one for one in metrics.series(await metrics.read(on.redis))}
        assert found[metrics.DELIVERED].value == 4
        assert found[metrics.DELIVERIES].labels == ("redis", "delivered")
        assert found[metrics.DELIVERY_SECONDS].value == 1
        assert found[metrics.DELIVERY_SECONDS].buckets[-1] == ("+Inf", 1.0)
        assert await on.redis.ttl(metrics.KEY) > 0
