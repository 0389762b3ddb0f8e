"""Finds the work nobody was woken for, so that a lost doorbell delays and never loses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog
from asyncpg import Record
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infrastructure import exports, mailbox
from infrastructure.settings import Settings
from workers import delivery
from workers.subscribers import names

log = structlog.get_logger(__name__)

_AT_MOST: Final = 200
_LONG_QUEUE: Final = 100
_GIVEN_UP: Final = "It could not be written, and was given up. Ask for it again, or tell the operator."


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rings overdue actors, deliveries and exports. Silent for a queue so long that ringing would only make it longer.

    `queues` says which one serves which type of actor. `broker` is where they can be measured; None where the broker is
    not Redis.
    """

    pool: asyncpg.Pool[Record]
    broker: Redis | None
    settings: Settings
    queues: Mapping[str, str]
    ring: Callable[[str], None]
    ring_delivery: Callable[[str, str], None]
    ring_export: Callable[[str], None]

    async def run(self) -> int:
        """One sweep, bounded. Answers how many bells it rang."""
        return await self._sweep_mailboxes() + await self._sweep_deliveries() + await self._sweep_exports()

    async def _sweep_mailboxes(self) -> int:
        served = [kind for kind, queue in self.queues.items() if not await self._is_long(queue)]
        if not served:
            return 0
        overdue = await mailbox.overdue(self.pool, self.settings.sweep_ms, _AT_MOST, served)
        for actor in overdue:
            self.ring(actor)
        if overdue:
            log.info("swept_mailboxes", actors=len(overdue))
        return len(overdue)

    async def _sweep_deliveries(self) -> int:
        if await self._is_long("events"):
            return 0
        due = await delivery.due(self.pool, names(self.settings), _AT_MOST)
        for subscriber, actor in due:
            self.ring_delivery(subscriber, actor)
        return len(due)

    async def _sweep_exports(self) -> int:
        await exports.tidy(self.pool, _AT_MOST, _GIVEN_UP)
        if await self._is_long("exports"):
            return 0
        waiting = await exports.waiting(self.pool, self.settings.sweep_ms, _AT_MOST)
        for export in waiting:
            self.ring_export(str(export))
        return len(waiting)

    async def _is_long(self, queue: str) -> bool:
        if self.broker is None:
            return False
        try:
            return int(await self.broker.llen(queue)) > _LONG_QUEUE
        except (RedisError, OSError):
            return False


async def again(period_s: float, *sweeps: Callable[[], Awaitable[int]]) -> None:
    """Sweeps about once a period. One that fails is in no other's way."""
    while True:
        await pause(period_s)
        for run in sweeps:
            try:
                await run()
            except Exception as error:
                log.warning("sweep_failed", error=repr(error))


async def pause(period_s: float) -> None:
    """Waits for about a period: several processes should not all look at the same moment."""
    await asyncio.sleep(period_s * random.uniform(0.5, 1.5))  # a pause is no secret  # nosec B311
