"""The cache's protocol: what was read before a change is never served after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import asyncpg
import pytest
import redis.asyncio
from asyncpg import Record

from domain.errors import InfrastructureError
from infrastructure.cache import NOTHING, Cache, Span, begin_write, end_write, opened, view_key
from infrastructure.embedded import Addresses
from infrastructure.journal import Line
from infrastructure.redis import RedisUnavailable, SharedRedis
from tests.journals import on_a_loop
from workers.subscribers.redis import RedisSubscriber

KEY = view_key("acme", "account:a")
SEQ = "seq:acme"
NO_POOL = cast("asyncpg.Pool[Record]", None)
NOWHERE = "redis://127.0.0.1:1"


@asynccontextmanager
async def open_cache(url: str) -> AsyncIterator[tuple[Cache, redis.asyncio.Redis]]:
    shared = SharedRedis(url)
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushall()
        try:
            yield Cache(shared), client
        finally:
            await client.flushall()
            await shared.close()


class Store:
    """Stands for Postgres: a value, and reads that can be held up between their beginning and their end."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value
        self.reads = 0
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self) -> bytes | None:
        self.reads += 1
        value = self.value
        self.reached.set()
        await self.go_on.wait()
        return value


async def write(client: redis.asyncio.Redis, change: Callable[[], None]) -> None:
    await begin_write(client, "acme", ["account:a"], "t1")
    change()
    async with client.pipeline(transaction=False) as pipe:
        end_write(pipe, "acme", ["account:a"], "t1")
        await pipe.execute()


@on_a_loop
async def test_filled_once_then_read(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        store = Store(b"V:1")
        assert await cache.fill(KEY, store.read, 60) == b"V:1"
        assert await cache.get(KEY) == b"V:1"
        assert 0 < await client.pttl(KEY) <= 60_000


@on_a_loop
async def test_nothing_is_not_stored(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        assert await cache.fill(KEY, Store(None).read, 60) is None
        assert await client.exists(KEY) == 0


@on_a_loop
async def test_a_write_during_a_fill_wins(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        store = Store(b"V:1")
        store.go_on.clear()
        filling = asyncio.create_task(cache.fill(KEY, store.read, 60))
        await store.reached.wait()
        await write(client, lambda: setattr(store, "value", b"V:2"))
        # comes after the write was acknowledged, so the old value must not be its answer
        late = asyncio.create_task(cache.fill(KEY, store.read, 60))
        await asyncio.sleep(0)
        store.go_on.set()
        assert await late == b"V:2"
        assert await filling == b"V:1"
        assert await cache.get(KEY) in (None, b"V:2")


@on_a_loop
async def test_a_tombstone_bars_serving_and_filling(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        await client.set(KEY, "V:1")
        await begin_write(client, "acme", ["account:a"], "t1")
        assert await cache.get(KEY) is None
        assert await cache.get(SEQ) is None
        assert await cache.fill(KEY, Store(b"V:1").read, 60) == b"V:1"
        assert await client.get(KEY) == b"X:t1"
        assert 0 < await client.pttl(KEY) <= 30_000


@on_a_loop
async def test_a_lease_of_another_process_is_left_alone(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        await client.set(KEY, "L:other")
        assert await cache.get(KEY) is None
        assert await cache.fill(KEY, Store(b"V:1").read, 60) == b"V:1"
        assert await client.get(KEY) == b"L:other"


@on_a_loop
async def test_many_at_once_read_once(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, _):
        store = Store(b"V:1")
        answers = await asyncio.gather(*(cache.fill(KEY, store.read, 60) for _ in range(50)))
        assert set(answers) == {b"V:1"}
        assert store.reads == 1


@on_a_loop
async def test_an_error_reaches_all_who_wait_and_nobody_after(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, _):

        async def fail() -> bytes | None:
            raise InfrastructureError("gone")

        found = await asyncio.gather(*(cache.fill(KEY, fail, 60) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in found] == [InfrastructureError] * 3
        assert await cache.fill(KEY, Store(b"V:1").read, 60) == b"V:1"


@on_a_loop
async def test_a_fill_outlives_whoever_began_it(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, _):
        store = Store(b"V:1")
        store.go_on.clear()
        first = asyncio.create_task(cache.fill(KEY, store.read, 60))
        await store.reached.wait()
        second = asyncio.create_task(cache.fill(KEY, store.read, 60))
        await asyncio.sleep(0)
        first.cancel()
        store.go_on.set()
        assert await second == b"V:1"
        assert store.reads == 1


@on_a_loop
async def test_readers_and_writers_racing_see_nothing_older_than_was_acknowledged(servers: Addresses) -> None:
    async with open_cache(servers.redis_url) as (cache, client):
        current = acknowledged = 0
        hits: list[bool] = []

        async def read_store() -> bytes | None:
            value = current
            for _ in range(value % 4):
                await asyncio.sleep(0)
            return b"V:%d" % value

        async def keep_writing() -> None:
            nonlocal current, acknowledged
            for number in range(200):
                # now and then somebody gets to fill the slot, and others to read it
                while number % 10 == 9 and sum(hits) < number:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await begin_write(client, "acme", ["account:a"], "t1")
                current += 1
                async with client.pipeline(transaction=False) as pipe:
                    end_write(pipe, "acme", ["account:a"], "t1")
                    await pipe.execute()
                acknowledged = current

        async def keep_reading(cache: Cache) -> None:
            while acknowledged < 200:
                floor = acknowledged
                try:
                    slot = await cache.get(KEY)
                except RedisUnavailable:
                    slot = None
                hits.append(slot is not None)
                slot = slot or await cache.fill(KEY, read_store, 60)
                assert slot is not None
                assert int(slot[2:]) >= floor

        other = SharedRedis(servers.redis_url)
        readers = [keep_reading(reader) for reader in (cache, cache, cache, Cache(other))]
        await asyncio.gather(keep_writing(), *readers)
        await other.close()


@on_a_loop
async def test_turns_that_end_one_after_another_are_one_span(servers: Addresses) -> None:
    """What follows without a gap is remembered as opened; behind a turn that never ended it begins anew."""

    async def end(epoch: int, before: int, upto: int) -> Span:
        async with client.pipeline(transaction=False) as pipe:
            end_write(pipe, "acme", [], "t1", Span(epoch, before, upto))
            await pipe.execute()
        return await opened(client, "acme")

    async with open_cache(servers.redis_url) as (_, client):
        assert await opened(client, "acme") == NOTHING
        assert await end(1, 0, 10) == Span(1, 0, 10)
        assert await end(1, 10, 12) == Span(1, 0, 12)
        assert await end(1, 12, 12) == Span(1, 0, 12), "a turn of refusals has no events"
        assert await end(1, 20, 30) == Span(1, 20, 30), "nobody has opened 13 to 20"
        assert await end(1, 12, 20) == Span(1, 12, 20), "late, and no longer known to reach 30"
        assert await end(2, 20, 21) == Span(2, 20, 21), "another epoch"
        kept = await opened(client, "acme")
        assert [kept.covers(2, seq) for seq in (20, 21, 22)] == [False, True, False]
        assert not kept.covers(1, 21)
        assert 0 < await client.pttl("opened:acme") <= 600_000


@on_a_loop
async def test_only_what_no_turn_has_opened_is_healed(servers: Addresses) -> None:
    """A turn died between its commit and its end: the events of it alone cost the cache anything."""
    event = b'{"type":"TransactionPosted","data":{},"balances":[{"account":"%s"}]}'
    async with open_cache(servers.redis_url) as (_, client):
        for name in ("a", "b"):
            await client.set(view_key("acme", f"account:{name}"), b"V:1.1.1\n{}")
        async with client.pipeline(transaction=False) as pipe:
            end_write(pipe, "acme", [], "t1", Span(1, 2, 3))
            await pipe.execute()
        lines = [Line(seq, 1, event % name) for seq, name in ((2, b"a"), (3, b"b"))]
        # `b` is older than its event, which cannot be behind a turn that has ended: so it shows who looked at what
        assert await RedisSubscriber(client, NO_POOL).publish("ledger:acme", lines) == 2
        assert not await client.exists(view_key("acme", "account:a"))
        assert await client.exists(view_key("acme", "account:b"))


@on_a_loop
async def test_without_redis_everything_is_read(servers: Addresses) -> None:
    shared = SharedRedis(NOWHERE)
    cache = Cache(shared)
    assert await cache.fill(KEY, Store(b"V:1").read, 60) == b"V:1"
    await cache.put_list("list:acme:1.1:x", b"[]", 60)
    with pytest.raises(RedisUnavailable):
        await cache.drop(KEY)
    await shared.close()


@on_a_loop
async def test_a_redis_that_hangs_is_given_up_and_found_again(
    servers: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infrastructure.redis.TIMEOUT_S", 0.1)
    monkeypatch.setattr("infrastructure.redis.PAUSE_S", 0.0)
    silent = True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            if not silent:
                writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    shared = SharedRedis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        with pytest.raises(RedisUnavailable):
            await shared.call("PING")
        silent = False
        assert await shared.call("PING") == b"OK"
        silent = True
        found = await asyncio.gather(*(shared.call("PING") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(error, RedisUnavailable) for error in found)
        silent = False
        assert await shared.call("PING") == b"OK"
        await shared.close()


@on_a_loop
async def test_an_answer_nobody_waits_for_any_more_is_not_given_to_the_next(servers: Addresses) -> None:
    shared = SharedRedis(servers.redis_url)
    assert await shared.call("ECHO", "zero") == b"zero"
    abandoned = asyncio.create_task(shared.call("ECHO", "one"))
    await asyncio.sleep(0)
    abandoned.cancel()
    assert await asyncio.gather(*(shared.call("ECHO", str(number)) for number in range(100))) == [
        str(number).encode() for number in range(100)
    ]
    await shared.close()
