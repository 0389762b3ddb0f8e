"""Bells: they keep a worker from being woken twice for the same actor, and tell it when others want one.

A bell is a key in Redis. Whoever rings sets it, and sends a message only if it was not set yet. It stays set until the
worker that the message has woken is about to take its last look: whoever rang before that is seen, whoever rings later
sends a message. It lapses by itself, should a message or a worker be lost. All of it is a hint: sweeps find what nobody
was woken for.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

LAPSE_MS: Final = 1_000
EACH_AHEAD_MS: Final = 500
LONGEST_MS: Final = 10_000
KEEP_S: Final = 0.3
LOOKED_AT: Final = 20
"""Messages of a queue that are looked at, those that are next."""


def bell_key(*names: str) -> str:
    """The key that says a bell was rung."""
    return ":".join(("bell", *names))


def lapse_ms(ahead: int) -> int:
    """Milliseconds until a bell lapses whose message has so many others ahead of it: it is still to come, not lost."""
    return min(LAPSE_MS + EACH_AHEAD_MS * ahead, LONGEST_MS)


class Message(msgspec.Struct):
    """What a message of Celery's has in Redis, as far as it matters here."""

    body: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """Who waits for a worker: `others`, and, by a message that was sent twice, the very actor that it is with."""

    others: bool = False
    itself: bool = False


@dataclass(frozen=True, slots=True)
class Bells:
    """Those that a process's workers hear. `broker` is where queues can be looked at; None where it is not Redis."""

    redis: Redis
    broker: Redis | None

    @asynccontextmanager
    async def kept(self, *names: str) -> AsyncIterator[None]:
        """Keeps a bell set that was heard, however long it takes inside: whoever rings need not send a message."""
        left = asyncio.Event()
        bell = bell_key(*names)
        await self._set(bell)
        keeping = asyncio.create_task(self._keep(bell, left))
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

    async def ahead(self, queue: str, *names: str) -> Ahead:
        """Who waits in a queue for the worker that is with the actor of these names."""
        if self.broker is None:
            return Ahead()
        try:
            found = await self.broker.lrange(queue, -LOOKED_AT, -1)
        except (RedisError, OSError) as error:
            log.warning("queue_not_seen", queue=queue, error=str(error))
            return Ahead()
        named = [_names_in(message) == list(names) for message in found]
        return Ahead(others=not all(named), itself=any(named))

    async def _keep(self, bell: str, left: asyncio.Event) -> None:
        while not await _comes(left, KEEP_S):
            await self._set(bell)

    async def _set(self, bell: str) -> None:
        try:
            await self.redis.set(bell, b"1", px=LAPSE_MS)
        except Exception as error:
            # whatever it is, the work inside goes on: it needs no bell
            log.warning("bell_not_kept", bell=bell, error=repr(error))


def _names_in(message: bytes | str) -> Any:
    """The arguments of a task's message; None if it is no such message: the gate will drop it."""
    try:
        arguments, *_ = msgspec.json.decode(b64decode(msgspec.json.decode(message, type=Message).body))
    except (msgspec.MsgspecError, ValueError, TypeError):
        return None
    return arguments


async def _comes(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
