"""API keys: rows in Postgres, which alone decides, and copies in Redis that live at most a minute.

A key is found by the hash of its secret; the secret itself is nowhere. The slot `apikey:{hash}` holds a value only
while the key is good, and says when it expires, which is compared with the clock at each request.

Whoever ends keys (revokes one, disables their owner, changes its roles) does so in Postgres first, commits, and then
drops the copies. Meanwhile a filler may have read Postgres before the commit: dropping takes its lease away.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from domain.errors import Fault, ValidationError
from infrastructure.api_secrets import LENGTH, MARK, SHOWN, digest_of, is_secret, new_secret
from infrastructure.cache import Cache, for_this_run, of_this_run, value_in
from infrastructure.command_log import FIND_KEYS, TAKE_KEYS, Asked, Held
from infrastructure.postgres import OUTSIDE, Db
from infrastructure.principals import KeyPrincipal, Scope
from infrastructure.redis import RedisUnavailable

CACHED_S: Final = 60
TOUCHED_S: Final = 50
"""How old `last_used_at` gets before it is written: a little less than a copy lives, so that each refill counts."""

MOST_KEYS: Final = 1_000
"""Keys that a user may have at a time."""
MOST_KNOWN: Final = 10_000
"""Keys that a process remembers."""

# A user is disabled as soon as that is accepted, whether or not any worker runs.
_ACTIVE = """
users.status = 'active' AND NOT EXISTS (
    SELECT FROM commands AS ending
    WHERE ending.actor = 'user:' || users.id AND ending.status = 'accepted' AND ending.kind = 'disable_user')
"""

FIND_KEY: Final = f"""
SELECT api_keys.id, users.id AS user, username, roles, prefix, scopes, ledgers,
    extract(epoch FROM expires_at)::float8 AS expires_at,
    coalesce(last_used_at < clock_timestamp() - make_interval(secs => $2), TRUE) AS long_ago
FROM api_keys JOIN users ON users.id = user_id
WHERE secret_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
    AND {_ACTIVE}
"""

# The condition again: without Redis many requests with a key come here at once, and one write is enough.
TOUCH_KEY: Final = """
UPDATE api_keys SET last_used_at = clock_timestamp()
WHERE secret_hash = $1 AND revoked_at IS NULL
    AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => $2))
"""

# Two keys of a user's are made one after the other, so that there are never more than there may be; and none is made
# while its owner is being disabled.
LOCK_OWNER: Final = "SELECT FROM users WHERE id = $1 FOR NO KEY UPDATE"

IS_ACTIVE: Final = f"SELECT {_ACTIVE} FROM users WHERE id = $1"

COUNT_KEYS: Final = """
SELECT count(*) FROM (SELECT FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL LIMIT $2) AS kept
"""

# Administrators own every ledger that there is.
OUT_OF_REACH: Final = """
SELECT number - 1 FROM unnest($2::text[]) WITH ORDINALITY AS wanted (ledger, number)
WHERE NOT EXISTS (SELECT FROM grants WHERE grants.ledger = wanted.ledger AND user_id = $1)
    AND NOT ($3 AND EXISTS (SELECT FROM ledger_reservations AS reserved WHERE reserved.ledger = wanted.ledger))
ORDER BY number
"""

INSERT_KEY: Final = """
INSERT INTO api_keys (id, user_id, name, prefix, secret_hash, scopes, ledgers, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

_COLUMNS = "id, name, prefix, scopes, ledgers, expires_at, last_used_at, created_at"

READ_KEY: Final = f"SELECT {_COLUMNS} FROM api_keys WHERE id = $1"

LIST_KEYS: Final = f"""
SELECT {_COLUMNS} FROM api_keys
WHERE user_id = $1 AND revoked_at IS NULL AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""

# Revoked before or not, what is in Redis has to go; so the row is found either way.
REVOKE_KEY: Final = """
WITH revoked AS (
    UPDATE api_keys SET revoked_at = clock_timestamp()
    WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL RETURNING id
)
SELECT secret_hash, EXISTS (SELECT FROM revoked) AS was_good FROM api_keys WHERE id = $1 AND user_id = $2
"""

HASHES_OF_USER: Final = "SELECT secret_hash FROM api_keys WHERE user_id = $1 AND revoked_at IS NULL LIMIT $2"


class ApiKey(msgspec.Struct, frozen=True):
    """A key as its owner sees it. `ledgers` None is every ledger of the owner's."""

    id: UUID
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    ledgers: tuple[str, ...] | None
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class Wanted(msgspec.Struct, frozen=True):
    """A key about to be made for a user, and the idempotency key of the request that asks for it."""

    owner: UUID
    is_admin: bool
    name: str
    scopes: tuple[Scope, ...]
    ledgers: tuple[str, ...] | None
    expires_at: datetime | None
    asked: Asked | None = None
    request_hash: bytes = b""


class Made(msgspec.Struct, frozen=True):
    """What became of a request for a key: it was made, with this secret; or it had been, by the request `held`."""

    key: ApiKey | None
    secret: str | None = None
    held: Held | None = None


class Stored(msgspec.Struct, frozen=True):
    """A key as Redis keeps it. `expires_at` is in seconds since 1970."""

    id: UUID
    user: UUID
    username: str
    roles: tuple[str, ...]
    prefix: str
    scopes: frozenset[Scope]
    ledgers: frozenset[str] | None
    expires_at: float | None


class KnownKey(msgspec.Struct):
    """A key that this process has seen to be good. Whether it still is, is another question."""

    user_id: UUID
    digest: bytes
    # what the key and its owner are called in Redis
    slot_key: str
    bucket: str
    # the key's slot in Redis as last seen, and what was made of it: equal bytes need no second decoding
    seen: bytes | None = None
    principal: KeyPrincipal | None = None
    expires_at: float | None = None

    def read(self, slot: bytes) -> KeyPrincipal | None:
        """Who comes with the key, from its slot, which must hold a value; None once it has expired."""
        if slot != self.seen:
            found = _decode(value_in(slot))
            self.principal = KeyPrincipal(
                found.user, found.username, found.roles, found.id, found.prefix, found.scopes, found.ledgers
            )
            self.expires_at, self.seen = found.expires_at, slot
        return None if self.expires_at is not None and self.expires_at <= time.time() else self.principal


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Stored).decode


def slot_key(digest: bytes) -> str:
    """Where Redis keeps its copy of the key whose secret has this hash."""
    return f"apikey:{digest.hex()}"


async def keys_of(db: Db, user: UUID) -> list[bytes]:
    """The hashes of a user's keys, of which Redis may have a copy: to be dropped with what it says of the user."""
    return [row[0] for row in await db.fetch(HASHES_OF_USER, user, MOST_KEYS)]


class ApiKeys:
    """The keys of all users."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache) -> None:
        self._pool = pool
        self._cache = cache
        self._known: OrderedDict[bytes, KnownKey] = OrderedDict()

    def recall(self, secret: bytes) -> KnownKey | None:
        """The key if this process knows it. No I/O."""
        if len(secret) != LENGTH or not secret.startswith(MARK):
            return None
        digest = digest_of(secret)
        known = self._known.get(digest)
        if known is not None:
            self._known.move_to_end(digest)
        return known

    async def recognise(self, secret: bytes) -> KnownKey | None:
        """A key that this process meets for the first time; None for junk, which costs no I/O, and for what is over.

        Raises what Postgres raises, when Redis does not know the key either.
        """
        if not is_secret(secret):
            return None
        digest = digest_of(secret)
        try:
            slot = of_this_run(await self._cache.get(slot_key(digest)), self._cache.server)
        except RedisUnavailable:
            slot = None
        slot = slot or await self.find(digest)
        if slot is None:
            return None
        user_id = _decode(value_in(slot)).user
        known = self._known[digest] = KnownKey(user_id, digest, slot_key(digest), f"principal:{user_id}")
        known.read(slot)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return known

    async def find(self, digest: bytes) -> bytes | None:
        """The slot of a key that is good, from Postgres, and put into Redis on the way; None for any other."""
        long_ago = False

        async def read() -> bytes | None:
            nonlocal long_ago
            server = self._cache.server
            row = await self._pool.fetchrow(FIND_KEY, digest, float(TOUCHED_S))
            if row is None:
                return None
            long_ago = row["long_ago"]
            return for_this_run(_encode(_stored(row)), server)

        slot = await self._cache.fill(slot_key(digest), read, CACHED_S)
        if long_ago:
            # a database that only reads, its disk being full, still answers
            with suppress(*OUTSIDE):
                await self._pool.execute(TOUCH_KEY, digest, float(TOUCHED_S))
        if slot is None:
            # so that what comes with it counts for the address from now on, not for its owner
            self._known.pop(digest, None)
        return slot

    async def make(self, wanted: Wanted) -> Made:
        """Makes a key, unless the idempotency key of the request was used before.

        `key` is None when the owner has been disabled meanwhile. Raises ValidationError (422) for a ledger that is not
        the owner's, and for more keys than one may have.
        """
        async with self._pool.acquire(timeout=5) as db, db.transaction():
            key_id: UUID = uuid7()
            held = None if wanted.asked is None else await _take(db, wanted.asked, wanted.request_hash, key_id)
            if held is not None:
                return Made(None, held=held)
            await db.execute(LOCK_OWNER, wanted.owner)
            if not await db.fetchval(IS_ACTIVE, wanted.owner):
                return Made(None)
            await _check(db, wanted)
            secret = new_secret()
            hashed = digest_of(secret.encode())
            columns = (wanted.name, secret[:SHOWN], hashed, wanted.scopes, wanted.ledgers, wanted.expires_at)
            await db.execute(INSERT_KEY, key_id, wanted.owner, *columns)
            return Made(await _read(db, key_id), secret)

    async def read(self, key_id: UUID) -> ApiKey | None:
        """A key, whatever has become of it."""
        return await _read(self._pool, key_id)

    async def page(self, user_id: UUID, before: UUID | None, limit: int) -> list[ApiKey]:
        """Keys of a user that were not revoked, newest first, from behind `before`."""
        return [_key(row) for row in await self._pool.fetch(LIST_KEYS, user_id, before, limit)]

    async def revoke(self, user_id: UUID, key_id: UUID) -> bool:
        """Ends a key of the user's, in Postgres and then in Redis; False if it was revoked before, or is not theirs.

        Raises InfrastructureError when the copy in Redis could not be deleted: it then lives up to a minute longer.
        """
        row = await self._pool.fetchrow(REVOKE_KEY, key_id, user_id)
        if row is None:
            return False
        await self.drop([row["secret_hash"]])
        return bool(row["was_good"])

    async def drop(self, digests: Sequence[bytes]) -> None:
        """Deletes the copies of keys that ended. Raises InfrastructureError when that can't be done."""
        for start in range(0, len(digests), MOST_KEYS):
            await self._cache.drop(*map(slot_key, digests[start : start + MOST_KEYS]))


async def _take(db: Db, asked: Asked, request_hash: bytes, key_id: UUID) -> Held | None:
    """Takes an idempotency key for the API key about to be made; what it stands for if it is taken already."""
    scope = ([asked.principal], [asked.actor], [asked.key])
    if await db.fetch(TAKE_KEYS, *scope, [request_hash], [key_id]):
        return None
    row = (await db.fetch(FIND_KEYS, *scope))[0]
    return Held(row["request_hash"], row["command"])


async def _check(db: Db, wanted: Wanted) -> None:
    """Raises ValidationError. A ledger that does not exist is refused in the same words as somebody else's."""
    if await db.fetchval(COUNT_KEYS, wanted.owner, MOST_KEYS) >= MOST_KEYS:
        raise ValidationError(f"There are {MOST_KEYS} keys already; revoke some.")
    rows = await db.fetch(OUT_OF_REACH, wanted.owner, wanted.ledgers or (), wanted.is_admin)
    if rows:
        faults = tuple(Fault(f"#/ledgers/{row[0]}", "is no ledger that was granted to you") for row in rows)
        raise ValidationError(f"{len(faults)} error{'' if len(faults) == 1 else 's'}", faults)


async def _read(db: Db, key_id: UUID) -> ApiKey | None:
    row = await db.fetchrow(READ_KEY, key_id)
    return None if row is None else _key(row)


def _key(row: Record) -> ApiKey:
    id_, name, prefix, scopes, ledgers, *times = row
    return ApiKey(id_, name, prefix, tuple(scopes), None if ledgers is None else tuple(ledgers), *times)


def _stored(row: Record) -> Stored:
    ledgers = row["ledgers"]
    return Stored(
        row["id"],
        row["user"],
        row["username"],
        tuple(row["roles"]),
        row["prefix"],
        frozenset(row["scopes"]),
        None if ledgers is None else frozenset(ledgers),
        row["expires_at"],
    )
