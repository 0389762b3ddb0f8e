"""The cache in Redis, and the protocol that keeps old values out of it.

A slot is one of: absent; a lease `L:{token}`, somebody is reading Postgres to fill it; a tombstone `X`, a turn that
changes it is about to commit; a value `V:…`. Only a value is ever served.

- A filler takes the lease with NX, reads Postgres, and stores only where its own lease still stands.
- A turn puts tombstones (`begin_write`) before it commits and removes them (`end_write`) afterwards. So between its
  commit and its end no older value can be served, and a filler that read before the commit has lost its lease.
- A crash in between is bounded by the tombstone's 30 s. A value is bounded by its time to live.

Keys: `view:{ledger}:{what}` with `what` one of `account:{name}`, `transaction:{id}`, holding
`V:{epoch}.{version}.{seq}\\n{json}`; `seq:{ledger}` holding `V:{epoch}.{seq}`, the ledger's newest; lists in keys that
name the seq they were read at, so that they never change: `list:{ledger}:{epoch}.{seq}:{path?query}`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from infrastructure.deletions import Deletions
from infrastructure.redis import RedisUnavailable, Script, SharedRedis

TOMBSTONE: Final = b"X:"
TOMBSTONE_MS: Final = 30_000
LEASE_MS: Final = 2_000

# KEYS: slot. ARGV: lease, value (empty: there is nothing to store), milliseconds to live. 1 when the lease still stood.
STORE: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
""")


# KEYS: the ledger's seq. ARGV: what all its views begin with, their names, one a line, the tombstone, and more. The
# names come in one argument because packing a thousand arguments costs the client more than all the rest.
BAR: Final = """
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
for what in string.gmatch(ARGV[2], '[^\\n]+') do redis.call('SET', ARGV[1] .. what, ARGV[3], 'PX', ARGV[4]) end
"""

# Values and leases go as well as the turn's own tombstone: where that was lost (FLUSHALL, eviction, a Redis that was
# not there in time), they may be older than the commit. Then the turn's seqs join those before them, if they follow.
OPEN: Final = """
local function open(key)
    local slot = redis.call('GET', key)
    if slot and (slot == ARGV[3] or string.sub(slot, 1, 2) ~= 'X:') then redis.call('DEL', key) end
end
open(KEYS[1])
for what in string.gmatch(ARGV[2], '[^\\n]+') do open(ARGV[1] .. what) end
if ARGV[5] == ARGV[6] then return end
local epoch, from, to = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+):(%d+):(%d+)$')
if epoch ~= ARGV[4] or to ~= ARGV[5] then from = ARGV[5] end
redis.call('SET', KEYS[2], ARGV[4] .. ':' .. from .. ':' .. ARGV[6], 'PX', ARGV[7])
"""

# KEYS: slots. ARGV: epoch, then for each slot the seq of the last event that changed it. Removes values read before
# their event, and leases, whose holder may have read before it too. Tombstones stay: their turn removes them.
HEAL: Final = """
for i, key in ipairs(KEYS) do
    local slot = redis.call('GET', key)
    if slot and string.sub(slot, 1, 2) ~= 'X:' then
        local epoch, seq = string.match(slot, '^V:(%d+)%.[%d%.]*%f[%d](%d+)%f[^%d]')
        if not epoch or tonumber(epoch) < tonumber(ARGV[1]) or tonumber(seq) < tonumber(ARGV[i + 1]) then
            redis.call('DEL', key)
        end
    end
end
"""
_HEALED_AT_ONCE: Final = 500

OPENED_MS: Final = 600_000


class Span(msgspec.Struct, frozen=True):
    """The events behind seq `before` up to `upto`, of one epoch of a ledger."""

    epoch: int
    before: int
    upto: int

    def covers(self, epoch: int, seq: int) -> bool:
        return epoch == self.epoch and self.before < seq <= self.upto


NOTHING: Final = Span(0, 0, 0)


def view_key(ledger: str, what: str) -> str:
    """Where a single thing is kept: `what` is `account:{name}` or `transaction:{id}`."""
    return f"view:{ledger}:{what}"


def seq_key(ledger: str) -> str:
    """Where the ledger's newest seq is kept."""
    return f"seq:{ledger}"


def list_key(ledger: str, seq: str, tail: str) -> str:
    """Where a list is kept as it was at `seq` (`{epoch}.{seq}`); `tail` is its path and query."""
    return f"list:{ledger}:{seq}:{tail}"


CACHED: Final = ("view:{ledger}:*", "seq:{ledger}", "list:{ledger}:*")
"""Patterns of all keys that are about a ledger's contents."""


async def begin_write(redis: Redis, ledger: str, views: Sequence[str], turn: str) -> None:
    """Bars `views` and the ledger's seq from being served or filled. Call it before the commit that changes them."""
    await redis.eval(BAR, 1, seq_key(ledger), *_slots(ledger, views, turn), TOMBSTONE_MS)


def end_write(pipe: Any, ledger: str, views: Sequence[str], turn: str, span: Span = NOTHING) -> None:
    """Adds to a pipeline what opens them again, to be filled from what is committed. Call it after the commit.

    Of the tombstones only the turn's own go: the next turn may have put its own meanwhile, and not have committed yet.
    `span` is the turn's events, which need no healing from then on: see `opened`.
    """
    keys = (seq_key(ledger), _opened_key(ledger))
    pipe.eval(
        OPEN, 2, *keys, *_slots(ledger, views, turn), str(span.epoch), str(span.before), str(span.upto), OPENED_MS
    )


def _slots(ledger: str, views: Sequence[str], turn: str) -> tuple[str, str, bytes]:
    return view_key(ledger, ""), "\n".join(views), TOMBSTONE + turn.encode()


def _opened_key(ledger: str) -> str:
    return f"opened:{ledger}"


async def opened(redis: Redis, ledger: str) -> Span:
    """Events whose turns have opened their views again, without a gap: nothing older than they are is cached.

    Raises RedisError.
    """
    kept: Any = await redis.get(_opened_key(ledger))
    return Span(*map(int, kept.split(b":"))) if kept else NOTHING


async def heal(redis: Redis, ledger: str, epoch: int, changed: Mapping[str, int], seq: int) -> None:
    """Removes what a turn that could not reach Redis, or died after its commit, has left behind.

    `changed` names views and the seq of the last event that changed each; `seq` is the newest of them. Values read
    since then stay, so that healing what was never ill costs no hit. Raises RedisError.
    """
    script = redis.register_script(HEAL)
    slots = [(seq_key(ledger), seq), *((view_key(ledger, what), at) for what, at in changed.items())]
    for start in range(0, len(slots), _HEALED_AT_ONCE):
        some = slots[start : start + _HEALED_AT_ONCE]
        await script(keys=[key for key, _ in some], args=[epoch, *(at for _, at in some)])


class _Flight:
    """A fill under way. Who joins before it reads Postgres may have its answer whatever becomes of the store."""

    __slots__ = ("reading", "task")

    def __init__(self) -> None:
        self.reading = False
        self.task: asyncio.Task[tuple[bytes | None, bool]]


class Cache:
    """The API's side: slots filled from Postgres, by one request at a time for each key."""

    def __init__(self, redis: SharedRedis) -> None:
        self._redis = redis
        self._deletions = Deletions(redis)
        self._flights: dict[str, _Flight] = {}

    @property
    def server(self) -> bytes:
        """The run of Redis that this process is connected to, or was last."""
        return self._redis.server

    async def get(self, key: str) -> bytes | None:
        """The slot's value; None for an absent one, a lease or a tombstone. Raises RedisUnavailable."""
        return value_of(await self._redis.call("GET", key))

    async def fill(self, key: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float) -> bytes | None:
        """Reads a value with `read` and stores it for `ttl_s` seconds, if nothing changes it meanwhile.

        `read` answers the whole slot, beginning with `V:`, or None when there is nothing, which is not stored. What
        comes back was read after this call began, or was still the newest after it began: with Redis or without.
        """
        while True:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight()
                flight.task = asyncio.create_task(self._fly(flight, key, read, ttl_s))
            early = not flight.reading
            value, stored = await asyncio.shield(flight.task)
            if early or stored:
                return value

    async def put_list(self, key: str, value: bytes, ttl_s: float) -> None:
        """Stores a list under a key that names its seq (see `list_key`). Best effort: Redis may be down."""
        try:
            await self._redis.call("SET", key, value, "EX", max(1, int(ttl_s)))
        except RedisUnavailable:
            return

    async def drop(self, *keys: str) -> None:
        """Deletes slots, and with them the leases of those who are filling them.

        Raises RedisUnavailable when that has to wait: it is tried again for as long as a copy may live.
        """
        await self._deletions.delete(*keys)

    async def close(self) -> None:
        """Tries no more."""
        await self._deletions.close()

    async def _fly(
        self, flight: _Flight, key: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float
    ) -> tuple[bytes | None, bool]:
        try:
            lease = await self._lease(key)
            flight.reading = True
            value = await read()
            return value, lease is not None and await self._store(key, lease, value, ttl_s)
        finally:
            del self._flights[key]

    async def _lease(self, key: str) -> str | None:
        lease = f"L:{secrets.token_hex(8)}"
        try:
            taken = await self._redis.call("SET", key, lease, "NX", "PX", LEASE_MS)
        except RedisUnavailable:
            return None
        return lease if taken is not None else None

    async def _store(self, key: str, lease: str, value: bytes | None, ttl_s: float) -> bool:
        try:
            stored = await self._redis.run(STORE, (key,), (lease, value or b"", max(1, int(ttl_s * 1000))))
        except RedisUnavailable:
            return False
        return bool(stored == 1)


def value_of(slot: bytes | None) -> bytes | None:
    """The slot itself if it holds a value, else None."""
    return slot if slot is not None and slot.startswith(b"V:") else None


def for_this_run(value: bytes, server: bytes) -> bytes:
    """A slot that counts only as long as this very run of Redis, named by `SharedRedis.server`: see `of_this_run`."""
    return b"V:%b@%b" % (server, value)


def of_this_run(slot: bytes | None, server: bytes) -> bytes | None:
    """The slot itself if its value was given to this run of Redis, else None.

    What came back with a restart or a failover may have missed its deletion.
    """
    return slot if slot is not None and slot.startswith(b"V:%b@" % server) else None


def value_in(slot: bytes) -> bytes:
    """The value of a slot of this run."""
    return slot.partition(b"@")[2]
