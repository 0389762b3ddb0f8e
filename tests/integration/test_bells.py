"""Bells in Redis: set while somebody comes or is there, and gone by themselves should nobody come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from infrastructure import bells
from infrastructure.bells import LAPSE_MS, LONGEST_MS, Bells, bell_key, is_measurable, lapse_ms
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.journals import on_a_loop


@asynccontextmanager
async def on_redis(settings: Settings) -> AsyncIterator[tuple[Bells, Redis, str]]:
    redis = open_redis(settings)
    try:
        yield Bells(redis, redis), redis, f"ledger:{uuid4().hex}"
    finally:
        await redis.aclose()


@on_a_loop
async def test_a_bell_that_is_kept_does_not_lapse_and_one_that_was_answered_is_gone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bells, "LAPSE_MS", 100)
    monkeypatch.setattr(bells, "KEEP_S", 0.01)
    async with on_redis(settings) as (kept, redis, actor):
        key = bell_key(actor)
        await redis.set(key, b"1", px=100)
        async with kept.kept(actor):
            seen = []
            for _ in range(30):
                await asyncio.sleep(0.01)
                seen.append(await redis.pttl(key))
        assert len(set(seen)) > 1 and all(left > 0 for left in seen)
        await kept.answer(actor)
        assert await redis.exists(key) == 0
        # nothing that was still under way has set it again
        await asyncio.sleep(0.05)
        assert await redis.exists(key) == 0


@on_a_loop
async def test_a_short_stay_says_nothing_to_redis(settings: Settings) -> None:
    async with on_redis(settings) as (kept, redis, actor):
        async with kept.kept(actor):
            pass
        assert await redis.exists(bell_key(actor)) == 0


@on_a_loop
async def test_others_wait_as_long_as_a_message_does(settings: Settings) -> None:
    async with on_redis(settings) as (kept, redis, queue):
        assert not await kept.others_wait(queue)
        await redis.lpush(queue, b"message")
        assert await kept.others_wait(queue)
        assert not await Bells(redis, None).others_wait(queue), "it can't be measured"


@on_a_loop
async def test_without_redis_nothing_is_kept_and_nothing_raised(settings: Settings) -> None:
    redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)
    alone = Bells(redis, redis)
    async with alone.kept("ledger:acme"):
        await asyncio.sleep(0)
    await alone.answer("ledger:acme")
    assert not await alone.others_wait("ledgers")
    await redis.aclose()


def test_a_bell_waits_for_its_message_as_long_as_others_are_ahead() -> None:
    assert lapse_ms(0) == LAPSE_MS
    assert LAPSE_MS < lapse_ms(1) < lapse_ms(10) < lapse_ms(1_000) == LONGEST_MS


@pytest.mark.parametrize(
    ("url", "measurable"), [("redis://h/0", True), ("rediss://h/0", True), ("amqp://h", False), ("memory://", False)]
)
def test_only_redis_is_measured(url: str, measurable: bool) -> None:
    assert is_measurable(url) is measurable
