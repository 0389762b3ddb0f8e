"""Bells in Redis: set while somebody comes or is there, and gone by themselves should nobody come."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from infrastructure import bells
from infrastructure.bells import LAPSE_MS, LONGEST_MS, Ahead, Bells, bell_key, lapse_ms
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.journals import on_a_loop


@asynccontextmanager
async def on_redis(settings: Settings) -> AsyncIterator[tuple[Bells, Redis, str]]:
    redis = open_redis(settings)
    actor = f"ledger:{uuid4().hex}"
    try:
        yield Bells(redis, redis), redis, actor
    finally:
        await redis.delete(actor, bell_key(actor))
        await redis.aclose()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)


def message(*names: str) -> bytes:
    body = b64encode(msgspec.json.encode([names, {}, {}])).decode()
    return msgspec.json.encode({"body": body, "headers": {"task": "tasks.turns.run"}})


@on_a_loop
async def test_a_bell_that_is_kept_does_not_lapse_and_one_that_was_answered_is_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "KEEP_S", 0.01)
    async with on_redis(settings) as (kept, redis, actor):
        key = bell_key(actor)
        await redis.set(key, b"1", px=60_000)
        async with kept.kept(actor):
            assert 0 < await redis.pttl(key) <= LAPSE_MS, "it lapses soon, should the worker die"
            await redis.delete(key)
            await until(lambda: redis.exists(key))
        await kept.answer(actor)
        assert await redis.exists(key) == 0
        # nothing that was still under way has set it again
        await asyncio.sleep(0.05)
        assert await redis.exists(key) == 0


@on_a_loop
async def test_who_is_next_is_seen(settings: Settings) -> None:
    async with on_redis(settings) as (kept, redis, queue):
        assert await kept.ahead(queue, "kafka", "a") == Ahead()
        await redis.lpush(queue, message("kafka", "a"))
        assert await kept.ahead(queue, "kafka", "a") == Ahead(itself=True)
        assert await kept.ahead(queue, "redis", "a") == Ahead(others=True)
        await redis.lpush(queue, message("kafka", "b"))
        assert await kept.ahead(queue, "kafka", "a") == Ahead(others=True, itself=True)
        assert await Bells(redis, None).ahead(queue, "kafka", "a") == Ahead(), "it can't be looked into"


@pytest.mark.parametrize(
    "strange", [b"", b"[]", b"7", b"{}", b'{"body":7}', b'{"body":"?"}', b'{"body":"e30="}', b"\xff"]
)
@on_a_loop
async def test_what_is_no_message_is_another_matter(settings: Settings, strange: bytes) -> None:
    async with on_redis(settings) as (kept, redis, queue):
        await redis.lpush(queue, strange)
        assert await kept.ahead(queue, "ledger:acme") == Ahead(others=True)


@on_a_loop
async def test_without_redis_nothing_is_kept_and_nothing_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bells, "KEEP_S", 0.001)
    redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)
    alone = Bells(redis, redis)
    with capture_logs() as logs:
        async with alone.kept("ledger:acme"):
            await until(lambda: asyncio.sleep(0, len(logs) > 2))
        await alone.answer("ledger:acme")
        assert await alone.ahead("ledgers", "ledger:acme") == Ahead()
    told = {line["event"] for line in logs}
    assert told == {"bell_not_kept", "bell_not_answered", "queue_not_seen"}
    await redis.aclose()


def test_a_bell_waits_for_its_message_as_long_as_others_are_ahead() -> None:
    assert lapse_ms(0) == LAPSE_MS
    assert LAPSE_MS < lapse_ms(1) < lapse_ms(10) < lapse_ms(1_000) == LONGEST_MS
