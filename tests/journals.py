"""Journals for tests of what reads them: entries as turns write them, and what Kafka made of them."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, ParamSpec
from uuid import UUID, uuid4

import asyncpg
import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from redis.asyncio import Redis

from domain.clock import format_time
from domain.decision import Decision, Head, Link
from domain.ledger.events import CurrencyRegistered, PostedLine, TransactionPosted
from domain.messages import Balance, Entry, Event
from infrastructure import journal, mailbox
from infrastructure.kafka import connection
from infrastructure.mailbox import Origin
from infrastructure.metrics import Meter
from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.turns import nobody_waits
from workers.delivery import Deliveries, Subscriber
from workers.subscribers import build, names

P = ParamSpec("P")
NEW_ACTOR = "INSERT INTO actors (actor) VALUES ($1) ON CONFLICT DO NOTHING"


def on_a_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an `async def` test, which may take a minute."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


def posted(number: int) -> TransactionPosted:
    return TransactionPosted(
        transaction=UUID(int=number),
        postings=(PostedLine("assets:bank", f"wallets:w{number % 7}", "1.00", "USD"),),
        reference=f"r-{number}",
        description=None,
        metadata={},
        effective_at=format_time(datetime(2026, 1, 1, tzinfo=UTC)),
    )


def registered(number: int) -> CurrencyRegistered:
    return CurrencyRegistered(code=f"C{number}", scale=2)


def balance(account: str) -> Balance:
    return Balance(account, "USD", "1.00", "0.00", "0.00", "0.00", "1.00", "1.00")


@dataclass
class Stage:
    """A database with journals, its subscribers, and what delivers between them."""

    settings: Settings
    pool: asyncpg.Pool[asyncpg.Record]
    redis: Redis
    meter: Meter
    subscribers: dict[str, Subscriber]
    deliveries: Deliveries

    async def write(self, actor: str, count: int = 1, make: Callable[[int], Event] = posted) -> list[bytes]:
        """Commits entries as a turn does: journal, head and positions in one transaction. Answers their bytes."""
        async with self.pool.acquire() as db:
            await db.execute(NEW_ACTOR, actor)
            async with db.transaction():
                return [link.event for link in await write_in(db, actor, count, make)]

    def restarted(self, **changes: Any) -> Stage:
        """Another process: the same positions, and nothing remembered."""
        settings = replace(self.settings, **changes)
        subscribers = build(settings, self.pool, self.redis)
        meter = Meter()
        deliveries = Deliveries(self.pool, subscribers, meter, settings.turn_time_ms, nobody_waits)
        return Stage(settings, self.pool, self.redis, meter, subscribers, deliveries)

    async def behind(self) -> dict[tuple[str, str], tuple[int, int]]:
        rows = await self.pool.fetch("SELECT subscriber, actor, position, head FROM behind")
        return {(row["subscriber"], row["actor"]): (row["position"], row["head"]) for row in rows}

    async def forget_backoff(self) -> None:
        """As if the time to retry had come."""
        await self.pool.execute("UPDATE behind SET retry_at = NULL")


async def write_in(db: mailbox.Db, actor: str, count: int = 1, make: Callable[[int], Event] = posted) -> Sequence[Link]:
    """Writes entries in the caller's transaction, as the rest of a turn does."""
    locked = await mailbox.lock(db, actor)
    assert locked is not None
    before = head = locked.head
    links: list[Link] = []
    for seq in range(before.seq + 1, before.seq + 1 + count):
        event = make(seq)
        balances = (balance("assets:bank"), balance(f"wallets:w{seq % 7}"))
        entry = Entry(
            actor,
            head.epoch,
            seq,
            f"{actor}/{head.epoch}/{seq}",
            type(event).__name__,
            format_time(locked.now),
            uuid4(),
            f"correlation-{seq}",
            event,
            balances,
        )
        written = msgspec.json.encode(entry)
        links.append(Link(entry, written, sha256(head.hash + written).digest()))
        head = Head(actor, head.epoch, seq, links[-1].hash)
    await mailbox.append_journal(db, links)
    await mailbox.advance(db, before, Decision(links, [], head), locked.now, uuid4(), Origin())
    return links


@asynccontextmanager
async def stage(settings: Settings) -> AsyncIterator[Stage]:
    """A stage with its subscribers registered."""
    async with await open_pool(settings, application="test", size=8) as pool:
        async with pool.acquire() as db:
            await journal.register_subscribers(db, names(settings))
        redis = open_redis(settings)
        first = Stage(settings, pool, redis, Meter(), {}, Deliveries(pool, {}, Meter(), 1, nobody_waits)).restarted()
        try:
            yield first
        finally:
            await first.deliveries.close()
            await redis.aclose()


@dataclass(frozen=True)
class Received:
    """A message as a consumer gets it."""

    key: str
    value: bytes
    headers: dict[str, bytes]
    partition: int

    @property
    def seq(self) -> int:
        return int(self.headers["ce_sequence"])


def consume(settings: Settings, actor: str, *, last: int, quiet_s: float = 0.3, seconds: float = 20) -> list[Received]:
    """Everything the topic has of `actor`, from the beginning, in order: until `last` has come and quiet followed."""
    topic = f"daybook.{actor.partition(':')[0]}.events"
    consumer = Consumer(
        {**connection(settings), "group.id": "test", "enable.auto.commit": False, "isolation.level": "read_committed"}
    )
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in partitions])
        received: list[Received] = []
        until = time.monotonic() + seconds
        quiet_since = time.monotonic()
        while not (any(one.seq == last for one in received) and time.monotonic() > quiet_since + quiet_s):
            assert time.monotonic() < until, f"{actor}: {len(received)} events, {last} is not among them"
            message = consumer.poll(0.05)
            if message is None or message.error() or message.key() != actor.encode():
                continue
            quiet_since = time.monotonic()
            headers = dict(message.headers() or [])
            received.append(Received(actor, message.value() or b"", headers, message.partition() or 0))
        return received
    finally:
        consumer.close()


def first_occurrences(received: Sequence[Received]) -> list[int]:
    """The seqs in the order in which each was seen first."""
    return list(dict.fromkeys(one.seq for one in received))
