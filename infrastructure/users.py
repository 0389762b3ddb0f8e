"""Users and their credentials, which nothing else keeps: no command, event or log ever holds a password or its hash."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from domain.clock import format_time
from infrastructure.postgres import Db
from infrastructure.read_models import UserView

# What counts for logins, as soon as it is accepted, whether or not any worker runs: the newest password, and that one
# is disabled. `proven` is when the password was accepted. Both look into the user's own mailbox only.
STANDING: Final = """
LEFT JOIN credentials ON credentials.user_id = users.id
LEFT JOIN LATERAL (
    SELECT pending.password_hash, brought.accepted_at
    FROM commands AS brought JOIN pending_credentials AS pending ON pending.command = brought.id
    WHERE brought.actor = 'user:' || users.id AND brought.status = 'accepted'
    ORDER BY brought.position DESC LIMIT 1
) AS newest ON true
CROSS JOIN LATERAL (
    SELECT coalesce(newest.password_hash, credentials.password_hash) AS password_hash,
        coalesce(newest.accepted_at, credentials.changed_at) AS proven,
        users.status = 'active' AND NOT EXISTS (
            SELECT FROM commands AS ending
            WHERE ending.actor = 'user:' || users.id AND ending.status = 'accepted' AND ending.kind = 'disable_user'
        ) AS active
) AS standing
"""

FIND_USER: Final = f"""
SELECT users.id, username, roles, standing.active, standing.password_hash, standing.proven
FROM users {STANDING} WHERE username = $1
"""

# Its registration is enough: commands are applied in their order.
IS_KNOWN: Final = """
SELECT EXISTS (SELECT FROM users WHERE id = $1)
    OR EXISTS (SELECT FROM commands WHERE id = $1 AND kind = 'register_user' AND status = 'accepted')
"""

_VIEW: Final = "SELECT id, username, roles, status, created_at, version FROM users"

VIEW: Final = f"{_VIEW} WHERE id = $1"

LIST: Final = f"{_VIEW} WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2"

# Not a change of the password: whoever changed that meanwhile wins, and `changed_at` stays.
UPGRADE_HASH: Final = "UPDATE credentials SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"

GRANTS_OF_USER: Final = """
SELECT ledger, role FROM grants WHERE user_id = $1 AND ($2::text[] IS NULL OR ledger = ANY ($2))
ORDER BY ledger LIMIT 1000
"""


class User(msgspec.Struct, frozen=True):
    """A user as the login sees it."""

    id: UUID
    username: str
    roles: tuple[str, ...]
    active: bool
    password_hash: str | None
    changed_at: datetime | None


async def find_user(pool: asyncpg.Pool[Record], username: str) -> User | None:
    """The user of that name, disabled ones too."""
    row = await pool.fetchrow(FIND_USER, username)
    return None if row is None else User(row[0], row[1], tuple(row[2]), row[3], row[4], row[5])


async def upgrade_hash(pool: asyncpg.Pool[Record], user_id: UUID, old: str, new: str) -> None:
    """Replaces a hash by another one of the same password; without effect if it is not `old` any more."""
    await pool.execute(UPGRADE_HASH, user_id, old, new)


async def is_known(db: Db, user_id: UUID) -> bool:
    """Whether there is such a user, or one is about to be registered."""
    known: bool = await db.fetchval(IS_KNOWN, user_id)
    return known


async def view_user(db: Db, user_id: UUID) -> UserView | None:
    """A user as others see it."""
    row = await db.fetchrow(VIEW, user_id)
    return None if row is None else _view(row)


async def list_users(db: Db, before: UUID | None, limit: int) -> list[UserView]:
    """Users from behind `before`, newest first."""
    return [_view(row) for row in await db.fetch(LIST, before, limit)]


def _view(row: Record) -> UserView:
    user_id, username, roles, status, created_at, version = row
    return UserView(user_id, username, tuple(roles), status, format_time(created_at), version)


async def grants_of(
    pool: asyncpg.Pool[Record], user_id: UUID, within: Collection[str] | None = None
) -> list[tuple[str, str]]:
    """Ledgers that were granted to the user, of those `within`, with the role, by name; at most 1,000."""
    only = None if within is None else list(within)
    return [(row[0], row[1]) for row in await pool.fetch(GRANTS_OF_USER, user_id, only)]
