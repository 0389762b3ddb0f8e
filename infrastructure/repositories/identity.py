"""Loads what a turn needs of a user, and saves what its events changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from domain.decision import Link
from domain.identity.commands import DisableUser, RegisterUser, UpdateUser
from domain.identity.events import PasswordChanged, UserDisabled, UserRegistered
from domain.identity.model import Profile, User
from domain.messages import Recorded
from infrastructure.api_keys import keys_of, slot_key
from infrastructure.credentials import take_back, take_over
from infrastructure.postgres import Db
from infrastructure.sessions import end_sessions_of, session_key

# Turns of different users meet here, and only where one's outcome is the other's condition: a name that both want, and
# who is left as administrator. In one order, against deadlocks; all else is read after it.
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"

PROFILE: Final = "SELECT username, roles, status = 'active' AS active, created_at, version FROM users WHERE id = $1"

OTHERS: Final = "SELECT id, roles FROM users WHERE id = ANY ($1::uuid[]) AND id <> $2 AND status = 'active'"

TAKEN: Final = """
SELECT lower(username COLLATE "C") AS name FROM users WHERE lower(username COLLATE "C") = ANY ($1::text[])
"""

OTHER_ADMINS: Final = """
SELECT EXISTS (SELECT FROM users WHERE status = 'active' AND 'admin' = ANY (roles) AND id <> $1)
"""

# Those ended a moment ago, too: whoever ended them may not have come to drop their copies.
SESSIONS: Final = """
SELECT id FROM sessions
WHERE user_id = $1 AND expires_at > clock_timestamp()
    AND coalesce(ended_at, 'infinity') > clock_timestamp() - interval '2 minutes'
LIMIT 10000
"""

REGISTER: Final = """
INSERT INTO users (id, username, roles, status, created_at, version) VALUES ($1, $2, $3, $4, $5, $6)
"""

UPDATE: Final = "UPDATE users SET roles = $2, status = $3, version = $4 WHERE id = $1"


async def load(db: Db, user_id: str, commands: Sequence[Recorded], *, locks: bool = True) -> User:
    """Everything that `commands` will ask of the user and of others."""
    user = UUID(user_id)
    names = {each.command.username.lower() for each in commands if isinstance(each.command, RegisterUser)}
    leaving = any(isinstance(each.command, UpdateUser | DisableUser) for each in commands)
    wanted = [*(f"user name {name}" for name in names), *(["administrators"] if leaving else [])]
    for lock in sorted(wanted) if locks else ():
        await db.execute(LOCK, lock)
    row = await db.fetchrow(PROFILE, user)
    others = await db.fetch(OTHERS, sorted({each.principal for each in commands}), user)
    taken = await db.fetch(TAKEN, sorted(names)) if names else []
    return User(
        id=user,
        profile=None if row is None else _profile(row),
        others={other["id"]: frozenset(other["roles"]) for other in others},
        taken=frozenset(other["name"] for other in taken),
        other_admins=leaving and bool(await db.fetchval(OTHER_ADMINS, user)),
        sessions=tuple(await sessions_of(db, user)),
        api_keys=tuple(await keys_of(db, user)),
    )


async def append(db: Db, user: User, links: Sequence[Link], now: datetime) -> None:
    """A user's events add no rows."""


async def save(db: Db, user: User, links: Sequence[Link], now: datetime) -> None:
    """Writes what `links`, all that there are, changed. The caller's transaction makes it one with the journal."""
    profile = user.profile
    if profile is None:
        raise AssertionError("an event of nobody")
    events = [link.entry.data for link in links]
    status = "active" if profile.active else "disabled"
    if isinstance(events[0], UserRegistered):
        register = (profile.username, profile.roles, status, profile.created_at, profile.version)
        await db.execute(REGISTER, user.id, *register)
    else:
        await db.execute(UPDATE, user.id, profile.roles, status, profile.version)
    brought = [link.entry.command for link in links if isinstance(link.entry.data, UserRegistered | PasswordChanged)]
    if brought:
        await take_over(db, brought)
    if any(isinstance(event, UserDisabled) for event in events):
        await end_sessions_of(db, {user.id}, "user disabled")


def views(user: User) -> list[str]:
    """The copies in Redis of who the user is: one for each session, and for each API key."""
    return [*map(session_key, user.sessions), *map(slot_key, user.api_keys)]


async def discard(db: Db, user_id: str, commands: Collection[UUID]) -> list[str]:
    """Throws away what came beside `commands`, which are not applied; the copies in Redis that must go with it."""
    return [session_key(session) for session in await take_back(db, UUID(user_id), commands)]


async def sessions_of(db: Db, user: UUID) -> list[UUID]:
    """The sessions of a user of which Redis may have a copy."""
    return [row["id"] for row in await db.fetch(SESSIONS, user)]


def _profile(row: Record) -> Profile:
    return Profile(row["username"], tuple(row["roles"]), row["active"], row["created_at"], row["version"])
