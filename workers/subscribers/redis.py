"""The `redis` subscriber: one capped, expiring stream an actor for live followers, and the healing of cached views.

A stream's ids are `{epoch}-{seq}`, so that Redis itself refuses what it has already. A follower that finds a gap, or
nothing, reads the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from redis.asyncio import Redis

from infrastructure import cache
from infrastructure.api_keys import keys_of, slot_key
from infrastructure.journal import Line
from infrastructure.repositories.identity import sessions_of
from infrastructure.sessions import session_key

NAME: Final = "redis"
STREAM_LENGTH: Final = 10_000
STREAM_TTL_S: Final = 86_400


# KEYS: the stream. ARGV: its length, seconds to live, then id and event of each entry. What is there already is left
# alone. One script: a pipeline of as many XADDs costs the client several times the processor time.
APPEND: Final = """
for i = 3, #ARGV, 2 do
    local reply = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[i], 'event', ARGV[i + 1])
    if type(reply) == 'table' and reply.err and not string.find(reply.err, 'equal or smaller', 1, true) then
        redis.call('EXPIRE', KEYS[1], ARGV[2])
        return redis.error_reply(reply.err)
    end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""
_APPENDED_AT_ONCE: Final = 250

_OF_ACCOUNTS: Final = frozenset({"AccountFrozen", "AccountUnfrozen", "AccountClosed", "AccountMetadataChanged"})
_OF_TRANSACTIONS: Final = frozenset(
    {"TransactionCaptured", "TransactionVoided", "TransactionExpired", "TransactionMetadataChanged"}
)


class _Account(msgspec.Struct, frozen=True):
    account: str


class _Data(msgspec.Struct, frozen=True):
    user: str | None = None
    name: str | None = None
    transaction: str | None = None
    reverses: str | None = None


class _Touched(msgspec.Struct, frozen=True):
    """What of an event tells which cached views it made old: of accounts, transactions, or what a user was granted."""

    type: str
    data: _Data
    balances: tuple[_Account, ...]

    def views(self) -> Iterator[str]:
        """Their names within the ledger. A transaction that was just made has no older view."""
        for balance in self.balances:
            yield f"account:{balance.account}"
        data = self.data
        if self.type in _OF_ACCOUNTS:
            yield f"account:{data.name}"
        elif self.type in _OF_TRANSACTIONS:
            yield f"transaction:{data.transaction}"
        elif data.reverses is not None:
            yield f"transaction:{data.reverses}"
        elif data.user is not None:
            yield f"grant:{data.user}"


_read_touched: Final = msgspec.json.Decoder(_Touched).decode


class RedisSubscriber:
    """Appends to streams, then heals the cache. `pool` is where the sessions of users are."""

    def __init__(self, redis: Redis, pool: asyncpg.Pool[Record]) -> None:
        self._redis = redis
        self._pool = pool

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        await self._append(actor, lines)
        kind, _, name = actor.partition(":")
        if kind == "user":
            await self._drop_credentials(UUID(name))
        else:
            await self._heal(name, lines)
        return len(lines)

    async def _heal(self, ledger: str, lines: Sequence[Line]) -> None:
        """Only behind turns that did not come to open their views themselves: hardly ever."""
        opened = await cache.opened(self._redis, ledger)
        ill = [line for line in lines if not opened.covers(line.epoch, line.seq)]
        if ill:
            await cache.heal(self._redis, ledger, ill[-1].epoch, _changed(ill), ill[-1].seq)

    async def close(self) -> None:
        """The connection is the process's own."""

    async def _drop_credentials(self, user: UUID) -> None:
        """The copies of a user's sessions and API keys say who the user is. Those begun beside the turn, too, go."""
        sessions, keys = await sessions_of(self._pool, user), await keys_of(self._pool, user)
        if slots := [*map(session_key, sessions), *map(slot_key, keys)]:
            await self._redis.delete(*slots)

    async def _append(self, actor: str, lines: Sequence[Line]) -> None:
        append = self._redis.register_script(APPEND)
        for start in range(0, len(lines), _APPENDED_AT_ONCE):
            entries: list[str | bytes | int] = [STREAM_LENGTH, STREAM_TTL_S]
            for line in lines[start : start + _APPENDED_AT_ONCE]:
                entries += (f"{line.epoch}-{line.seq}", line.event)
            await append(keys=[stream_key(actor)], args=entries)


def stream_key(actor: str) -> str:
    """Where an actor's newest events are: entries `{epoch}-{seq}` with the field `event`, the journal's exact bytes."""
    return f"stream:{actor}"


def _changed(lines: Sequence[Line]) -> dict[str, int]:
    """The views that these events changed, each with the last seq that did."""
    return {what: line.seq for line in lines for what in _read_touched(line.event).views()}
