"""The `redis` subscriber: one capped, expiring stream an actor for live followers, and the healing of cached views.

A stream's ids are `{epoch}-{seq}`, so that Redis itself refuses what it has already. A follower that finds a gap, or
nothing, reads the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from infrastructure import cache
from infrastructure.journal import Line

NAME: Final = "redis"
STREAM_LENGTH: Final = 10_000
STREAM_TTL_S: Final = 86_400
_THERE_ALREADY: Final = "equal or smaller than the target stream top item"


class _Account(msgspec.Struct, frozen=True):
    account: str


class _Data(msgspec.Struct, frozen=True):
    transaction: str | None = None


class _Touched(msgspec.Struct, frozen=True):
    """What of an event tells which cached views it made old."""

    data: _Data
    balances: tuple[_Account, ...]


_read_touched: Final = msgspec.json.Decoder(_Touched).decode


class RedisSubscriber:
    """Appends to streams, then heals the cache."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        await self._append(actor, lines)
        await cache.heal(self._redis, actor.partition(":")[2], lines[-1].epoch, _changed(lines), lines[-1].seq)
        return len(lines)

    async def close(self) -> None:
        """The connection is the process's own."""

    async def _append(self, actor: str, lines: Sequence[Line]) -> None:
        stream = stream_key(actor)
        async with self._redis.pipeline(transaction=False) as pipe:
            for line in lines:
                pipe.xadd(stream, {"event": line.event}, id=f"{line.epoch}-{line.seq}", maxlen=STREAM_LENGTH)
            pipe.expire(stream, STREAM_TTL_S)
            for reply in await pipe.execute(raise_on_error=False):
                if isinstance(reply, Exception) and not _is_repetition(reply):
                    raise reply


def stream_key(actor: str) -> str:
    """Where an actor's newest events are: entries `{epoch}-{seq}` with the field `event`, the journal's exact bytes."""
    return f"stream:{actor}"


def _is_repetition(reply: Exception) -> bool:
    return isinstance(reply, ResponseError) and _THERE_ALREADY in str(reply)


def _changed(lines: Sequence[Line]) -> dict[str, int]:
    """The views that these events changed, each with the last seq that did."""
    changed: dict[str, int] = {}
    for line in lines:
        touched = _read_touched(line.event)
        if touched.data.transaction is not None:
            changed[f"transaction:{touched.data.transaction}"] = line.seq
        for balance in touched.balances:
            changed[f"account:{balance.account}"] = line.seq
    return changed
