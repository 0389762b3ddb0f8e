"""What Redis could not be told in time, it is told when it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from infrastructure import deletions as module
from infrastructure.deletions import Deletions
from infrastructure.embedded import Addresses
from infrastructure.redis import RedisUnavailable, SharedRedis
from tests.journals import on_a_loop


class Moody(SharedRedis):
    """Redis, when it wants to."""

    down = True

    async def call(self, *command: Any) -> Any:
        if self.down:
            raise RedisUnavailable("Not today.")
        return await super().call(*command)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - it is Redis that changes
            await asyncio.sleep(0.01)


@on_a_loop
async def test_what_is_owed_is_paid(servers: Addresses) -> None:
    redis, steady = Moody(servers.redis_url), SharedRedis(servers.redis_url)
    deletions = Deletions(redis)
    keys = [f"test:owed:{number}" for number in range(2_500)]
    try:
        for key in keys:
            await steady.call("SET", key, "1", "EX", 60)
        for part in (keys[:1_500], keys[1_500:]):
            with pytest.raises(RedisUnavailable):
                await deletions.delete(*part)
        assert await steady.call("EXISTS", *keys) == len(keys)
        redis.down = False

        async def gone() -> bool:
            return bool(await steady.call("EXISTS", *keys) == 0)

        await until(gone)
        assert deletions._owed == {}
    finally:
        await deletions.close()
        await steady.close()
        await redis.close()


@on_a_loop
async def test_no_longer_than_a_copy_lives(servers: Addresses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OWED_S", 0.1)
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    monkeypatch.setattr(module, "MOST_OWED", 3)
    redis = Moody(servers.redis_url)
    deletions = Deletions(redis)
    try:
        with pytest.raises(RedisUnavailable):
            await deletions.delete("a", "b", "c", "d", "e")
        assert set(deletions._owed) == {"a", "b", "c"}
        paying = deletions._paying
        assert paying is not None
        await asyncio.wait_for(paying, 10)
        assert deletions._owed == {}
    finally:
        await deletions.close()
        await redis.close()
