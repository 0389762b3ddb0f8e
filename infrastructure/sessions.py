"""Sessions: rows in Postgres, which alone decides, and copies in Redis that live at most a minute.

A session is a family of refresh tokens. Token number `generation` is the only one that rotates; the one before it is
answered for ten seconds with the same successor (its reply may have been lost); an older one ends the session.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from infrastructure.cache import Cache

CACHED_S: Final = 60
GRACE_S: Final = 10

INSERT_SESSION: Final = """
INSERT INTO sessions (id, user_id, expires_at, address, user_agent)
SELECT $1, id, clock_timestamp() + make_interval(secs => $3), $4, $5 FROM users WHERE id = $2 AND status = 'active'
"""

FIND_SESSION: Final = """
SELECT users.id AS user, username, roles
FROM sessions JOIN users ON users.id = user_id
WHERE sessions.id = $1 AND ended_at IS NULL AND expires_at > clock_timestamp() AND status = 'active'
"""

# The only statement that rotates: of several at once with the same generation, one finds its row.
ROTATE: Final = """
UPDATE sessions SET generation = generation + 1, rotated_at = clock_timestamp()
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

END_SESSION: Final = """
UPDATE sessions SET ended_at = clock_timestamp(), end_reason = $2 WHERE id = $1 AND ended_at IS NULL
"""


class Principal(msgspec.Struct, frozen=True):
    """The user behind a request, and the session that the access token belongs to."""

    user_id: UUID
    username: str
    roles: tuple[str, ...]
    session_id: UUID

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles


class Session(msgspec.Struct, frozen=True):
    """Whose session it is, as Redis keeps it."""

    user: UUID
    username: str
    roles: tuple[str, ...]


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


def read_slot(slot: bytes, session_id: UUID) -> Principal:
    """The principal of a session, from its slot, which must hold a value."""
    session = _decode(slot[2:])
    return Principal(session.user, session.username, session.roles, session_id)


class Sessions:
    """The sessions of all users."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache) -> None:
        self._pool = pool
        self._cache = cache

    async def start(self, user_id: UUID, lifetime_s: int, address: str, user_agent: str) -> UUID | None:
        """Begins a session of `lifetime_s` seconds; None when the user was disabled meanwhile."""
        session_id: UUID = uuid7()
        done = await self._pool.execute(
            INSERT_SESSION, session_id, user_id, float(lifetime_s), address, user_agent[:200]
        )
        return session_id if done == "INSERT 0 1" else None

    async def find(self, session_id: UUID) -> bytes | None:
        """The slot of a session that lives, from Postgres, and put into Redis on the way; None for any other."""

        async def read() -> bytes | None:
            row = await self._pool.fetchrow(FIND_SESSION, session_id)
            if row is None:
                return None
            return b"V:" + _encode(Session(row["user"], row["username"], tuple(row["roles"])))

        return await self._cache.fill(session_key(session_id), read, CACHED_S)

    async def rotate(self, session_id: UUID, generation: int) -> Rotated | None:
        """Answers refresh token number `generation`. None: not to be honoured, and the session is over."""
        row = await self._pool.fetchrow(ROTATE, session_id, generation)
        if row is None:
            row = await self._pool.fetchrow(SUCCESSOR, session_id, generation, float(GRACE_S))
        if row is None:
            await self.end(session_id, "refresh token used again")
            return None
        return Rotated(row["user_id"], row["generation"], row["left_s"])

    async def end(self, session_id: UUID, reason: str) -> None:
        """Ends a session, in Postgres and then in Redis.

        Raises InfrastructureError when the copy in Redis could not be deleted: it then lives up to a minute longer.
        """
        await self._pool.execute(END_SESSION, session_id, reason)
        await self._cache.drop(session_key(session_id))
