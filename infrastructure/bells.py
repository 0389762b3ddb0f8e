"""Bells: they keep a worker from being woken twice for the same actor, and tell it when others want one.

A bell is a key in Redis. Whoever rings sets it, and sends a message only if it was not set yet. It stays set until the
worker that the message has woken is about to take its last look: whoever rang before that is seen, whoever rings later
sends a message. It lapses by itself, should a message or a worker be lost. All of it is a hint: sweeps find what nobody
was woken for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

LAPSE_MS: Final = 1_000
EACH_AHEAD_MS: Final = 500
LONGEST_MS: Final = 30_000
KEEP_S: Final = 0.3


def bell_key(*names: str) -> str:
    """The key that says a bell was rung."""
    return ":".join(("bell", *names))


def lapse_ms(ahead: int) -> int:
    """Milliseconds until a bell lapses whose message has so many others ahead of it: it is still to come, not lost."""
    return min(LAPSE_MS + EACH_AHEAD_MS * ahead, LONGEST_MS)


def is_measurable(broker_url: str) -> bool:
    """Whether the broker is one whose queues can be measured."""
    return broker_url.startswith(("redis://", "rediss://"))


@dataclass(frozen=True, slots=True)
class Bells:
    """Those that a process's workers hear. `broker` is where queues can be measured; None where it is not Redis."""

    redis: Redis
    broker: Redis | None

    @asynccontextmanager
    async def kept(self, *names: str) -> AsyncIterator[None]:
        """Keeps a bell set that was heard, however long it takes inside: whoever rings need not send a message."""
        left = asyncio.Event()
        keeping = asyncio.create_task(self._keep(bell_key(*names), left))
        try:
            yield
        finally:
            left.set()
            # not cancelled: what it sends must not arrive after the answer
            await keeping

    async def answer(self, *names: str) -> None:
        """From now on whoever rings sends a message again. Before the last look."""
        bell = bell_key(*names)
        try:
            await self.redis.delete(bell)
        except (RedisError, OSError) as error:
            log.warning("bell_not_answered", bell=bell, error=str(error))

    async def others_wait(self, queue: str) -> bool:
        """Whether a message waits there for a worker. As long as a bell is kept, it is another's."""
        if self.broker is None:
            return False
        try:
            return int(await self.broker.llen(queue)) > 0
        except (RedisError, OSError) as error:
            log.warning("queue_not_measured", queue=queue, error=str(error))
            return False

    async def _keep(self, bell: str, left: asyncio.Event) -> None:
        while not await _comes(left, KEEP_S):
            try:
                await self.redis.set(bell, b"1", px=LAPSE_MS)
            except (RedisError, OSError) as error:
                log.warning("bell_not_kept", bell=bell, error=str(error))


async def _comes(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
