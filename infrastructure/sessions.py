"""Sessions: rows in Postgres, which alone decides, and copies in Redis, for a minute at most and no restart of it.

A session is a family of refresh tokens. Token number `generation` is the only one that rotates; the one before it is
answered for ten seconds with the same successor (its reply may have been lost) while that has not been exchanged in
turn; an older one ends the session.

Whoever ends sessions does so in Postgres first, commits, and then drops the copies (`Sessions.drop`). A filler may have
read Postgres before the commit: dropping takes its lease away, so that it can't put back what it read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from infrastructure.cache import Cache, for_this_run, value_in
from infrastructure.postgres import OUTSIDE, Db
from infrastructure.principals import SessionPrincipal
from infrastructure.users import STANDING

CACHED_S: Final = 60
GRACE_S: Final = 10
TOUCHED_S: Final = 50
"""How old `last_used_at` gets before it is written: a little less than a copy lives, so that each refill counts."""

_DROPPED_AT_ONCE: Final = 1_000

# A session begins under the lock that END_OF_USERS takes, too: it either sees what they changed, or is seen and ended.
LOCK_USER: Final = "SELECT FROM users WHERE id = $1 FOR SHARE"

# Not when the password was changed, or its user disabled, since they were looked up.
INSERT_SESSION: Final = f"""
INSERT INTO sessions (id, user_id, expires_at, address, user_agent)
SELECT $1, users.id, clock_timestamp() + make_interval(secs => $3), $4, $5
FROM users {STANDING} WHERE users.id = $2 AND standing.active AND standing.proven = $6
"""

FIND_SESSION: Final = """
SELECT users.id AS user, username, roles,
    last_used_at < clock_timestamp() - make_interval(secs => $2) AS long_ago
FROM sessions JOIN users ON users.id = user_id
WHERE sessions.id = $1 AND ended_at IS NULL AND expires_at > clock_timestamp() AND status = 'active'
"""

# The condition again: without Redis many requests of a session come here at once, and one write is enough.
TOUCH: Final = """
UPDATE sessions SET last_used_at = clock_timestamp()
WHERE id = $1 AND ended_at IS NULL AND last_used_at < clock_timestamp() - make_interval(secs => $2)
"""

# The only statement that rotates: of several at once with the same generation, one finds its row.
ROTATE: Final = """
UPDATE sessions SET generation = generation + 1, rotated_at = clock_timestamp(), last_used_at = clock_timestamp()
FROM users
WHERE sessions.id = $1 AND generation = $2 AND ended_at IS NULL AND expires_at > clock_timestamp()
    AND users.id = user_id AND users.status = 'active'
RETURNING user_id, generation, extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_s
"""

SUCCESSOR: Final = """
SELECT user_id, generation, extract(epoch FROM expires_at - clock_timestamp())::float8 AS left_s
FROM sessions JOIN users ON users.id = user_id
WHERE sessions.id = $1 AND generation = $2 + 1 AND rotated_at > clock_timestamp() - make_interval(secs => $3)
    AND ended_at IS NULL AND expires_at > clock_timestamp() AND status = 'active'
"""

END_REUSED: Final = """
UPDATE sessions SET ended_at = clock_timestamp(), end_reason = 'refresh token used again'
WHERE id = $1 AND generation > $2 AND ended_at IS NULL
"""

# Ended before or not, what is in Redis has to go; so the row is found either way.
END_SESSION: Final = """
WITH ended AS (
    UPDATE sessions SET ended_at = clock_timestamp(), end_reason = $3
    WHERE id = $1 AND user_id = $2 AND ended_at IS NULL AND expires_at > clock_timestamp() RETURNING id
)
SELECT EXISTS (SELECT FROM ended) FROM sessions WHERE id = $1 AND user_id = $2
"""

LOCK_USERS: Final = "SELECT FROM users WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE"

END_OF_USERS: Final = """
UPDATE sessions SET ended_at = clock_timestamp(), end_reason = $2 WHERE user_id = ANY($1) AND ended_at IS NULL
RETURNING id
"""

LIST_SESSIONS: Final = """
SELECT id, created_at, last_used_at, expires_at, address, user_agent FROM sessions
WHERE user_id = $1 AND ended_at IS NULL AND expires_at > clock_timestamp() AND ($2::uuid IS NULL OR id < $2)
ORDER BY id DESC LIMIT $3
"""


class Session(msgspec.Struct, frozen=True):
    """Whose session it is, as Redis keeps it."""

    user: UUID
    username: str
    roles: tuple[str, ...]


class Listed(msgspec.Struct, frozen=True):
    """A session as its user sees it. Address and user agent are those of the login."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    address: str | None
    user_agent: str | None


class Rotated(msgspec.Struct, frozen=True):
    """A session after a refresh: the number of its newest refresh token, and the seconds it has left."""

    user_id: UUID
    generation: int
    left_s: float


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Session).decode


def session_key(session_id: UUID) -> str:
    """Where Redis keeps its copy."""
    return f"session:{session_id}"


def read_slot(slot: bytes, session_id: UUID) -> SessionPrincipal:
    """The principal of a session, from its slot, which must hold a value."""
    session = _decode(value_in(slot))
    return SessionPrincipal(session.user, session.username, session.roles, session_id)


async def end_sessions_of(connection: Db, users: Collection[UUID], reason: str) -> list[UUID]:
    """Ends all sessions of `users` within the caller's transaction; the ids of those that were alive.

    It locks the users, against logins that are about to begin a session. Call `Sessions.drop` with the ids after the
    commit. What changes a password or a status does so in the same transaction, so that no login slips in between.
    """
    await connection.execute(LOCK_USERS, list(users))
    return [row[0] for row in await connection.fetch(END_OF_USERS, list(users), reason)]


class Sessions:
    """The sessions of all users."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache) -> None:
        self._pool = pool
        self._cache = cache

    async def start(
        self, user_id: UUID, proven: datetime, lifetime_s: int, address: str, user_agent: str
    ) -> UUID | None:
        """Begins a session of `lifetime_s` seconds for a user whose password, as of `proven`, was given.

        None when the password was changed or the user disabled meanwhile.
        """
        session_id: UUID = uuid7()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(LOCK_USER, user_id)
            done = await connection.execute(
                INSERT_SESSION, session_id, user_id, float(lifetime_s), address, user_agent[:200], proven
            )
        return session_id if done == "INSERT 0 1" else None

    async def find(self, session_id: UUID) -> bytes | None:
        """The slot of a session that lives, from Postgres, and put into Redis on the way; None for any other."""
        long_ago = False

        async def read() -> bytes | None:
            nonlocal long_ago
            server = self._cache.server
            row = await self._pool.fetchrow(FIND_SESSION, session_id, float(TOUCHED_S))
            if row is None:
                return None
            long_ago = row["long_ago"]
            session = Session(row["user"], row["username"], tuple(row["roles"]))
            return for_this_run(_encode(session), server)

        slot = await self._cache.fill(session_key(session_id), read, CACHED_S)
        if long_ago:
            # a database that only reads, its disk being full, still answers
            with suppress(*OUTSIDE):
                await self._pool.execute(TOUCH, session_id, float(TOUCHED_S))
        return slot

    async def page(self, user_id: UUID, before: UUID | None, limit: int) -> Sequence[Listed]:
        """Sessions of a user that are alive, newest first, from behind `before`."""
        return [Listed(*row) for row in await self._pool.fetch(LIST_SESSIONS, user_id, before, limit)]

    async def rotate(self, session_id: UUID, generation: int) -> Rotated | None:
        """Answers refresh token number `generation`. None: not to be honoured. If it was used before, the session ends.

        Raises InfrastructureError when the session ended and its copy in Redis could not be deleted.
        """
        row = await self._pool.fetchrow(ROTATE, session_id, generation)
        if row is None:
            row = await self._pool.fetchrow(SUCCESSOR, session_id, generation, float(GRACE_S))
        if row is None:
            if await self._pool.execute(END_REUSED, session_id, generation) == "UPDATE 1":
                await self.drop([session_id])
            return None
        return Rotated(row["user_id"], row["generation"], row["left_s"])

    async def end(self, user_id: UUID, session_id: UUID, reason: str) -> bool:
        """Ends a session of the user's, in Postgres and then in Redis; False if it was not alive, or is not theirs.

        Raises InfrastructureError when the copy in Redis could not be deleted: it then lives up to a minute longer.
        """
        ended: bool | None = await self._pool.fetchval(END_SESSION, session_id, user_id, reason)
        if ended is not None:
            await self.drop([session_id])
        return bool(ended)

    async def drop(self, session_ids: Sequence[UUID]) -> None:
        """Deletes the copies of sessions that ended. Raises InfrastructureError when that can't be done."""
        for start in range(0, len(session_ids), _DROPPED_AT_ONCE):
            await self._cache.drop(*map(session_key, session_ids[start : start + _DROPPED_AT_ONCE]))
