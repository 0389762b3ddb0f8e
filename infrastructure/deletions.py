"""Deletions that must happen: what Redis can't be told now, it is told as soon as it answers again.

A copy of what ended lives a minute at the longest; so long this process remembers what it owes.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

from infrastructure.redis import RedisUnavailable, SharedRedis, end_tasks

OWED_S: Final = 60.0
AGAIN_S: Final = 0.25
MOST_OWED: Final = 100_000
_AT_ONCE: Final = 1_000


class Deletions:
    """Deletes keys, and tries again what failed."""

    def __init__(self, redis: SharedRedis) -> None:
        self._redis = redis
        # until when, by key
        self._owed: dict[str, float] = {}
        self._paying: asyncio.Task[None] | None = None

    async def delete(self, *keys: str) -> None:
        """Deletes them. Raises RedisUnavailable when that has to wait."""
        try:
            await self._redis.call("DEL", *keys)
        except RedisUnavailable:
            self._owe(keys)
            raise

    async def close(self) -> None:
        """Gives up."""
        if self._paying is not None:
            await end_tasks(self._paying)

    def _owe(self, keys: tuple[str, ...]) -> None:
        until = asyncio.get_running_loop().time() + OWED_S
        for key in keys[: MOST_OWED - len(self._owed)]:
            self._owed[key] = until
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay())

    async def _pay(self) -> None:
        while self._owed:
            await asyncio.sleep(AGAIN_S)
            now = asyncio.get_running_loop().time()
            some = dict(islice(self._owed.items(), _AT_ONCE))
            for key in some:
                del self._owed[key]
            left = {key: until for key, until in some.items() if until > now}
            try:
                if left:
                    await self._redis.call("DEL", *left)
            except RedisUnavailable:
                self._owed = {**left, **self._owed}
