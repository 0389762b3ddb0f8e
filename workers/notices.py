"""What a turn tells the rest around its commit: caches to forget, waiters to look, subscribers to come.

All of it is hints. Redis may be down: then cached views are healed by the `redis` subscriber and bounded by their
time to live, waiters look once a second, and sweeps ring the subscribers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infrastructure import cache
from infrastructure.cache import Span
from infrastructure.metrics import meter
from infrastructure.redis import TURNS_CHANNEL

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Notices:
    """The turn's line to Redis."""

    redis: Redis

    async def begin(self, actor: str, views: Sequence[str], turn: UUID) -> None:
        """Bars the views that this turn changes from being served or filled until `announce`. Before the commit."""
        if not _is_ledger(actor):
            return
        try:
            await cache.begin_write(self.redis, _ledger(actor), views, str(turn))
        except (RedisError, OSError) as error:
            log.warning("views_not_barred", actor=actor, error=str(error))

    async def announce(self, actor: str, views: Sequence[str], turn: UUID, span: Span) -> None:
        """Frees the views, in their new state, and wakes whoever waits for a command of `actor`. After the commit.

        `span` is the turn's events. The views of a user are the copies of its sessions, by their keys; those are
        dropped.
        """
        try:
            async with self.redis.pipeline(transaction=False) as pipe:
                if _is_ledger(actor):
                    cache.end_write(pipe, _ledger(actor), views, str(turn), span)
                elif views:
                    pipe.delete(*views)
                pipe.publish(TURNS_CHANNEL, actor)
                meter.commands_for(pipe)
                await pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("turn_not_announced", actor=actor, error=str(error))


def _is_ledger(actor: str) -> bool:
    return actor.startswith("ledger:")


def _ledger(actor: str) -> str:
    return actor.partition(":")[2]
