"""Users and their credentials, which nothing else keeps: no command, event or log ever holds a password or its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from infrastructure.passwords import hash_password

INSERT_USER: Final = "INSERT INTO users (id, username, roles) VALUES ($1, $2, $3)"

INSERT_CREDENTIALS: Final = "INSERT INTO credentials (user_id, password_hash) VALUES ($1, $2)"

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

# Not a change of the password: whoever changed that meanwhile wins, and `changed_at` stays.
UPGRADE_HASH: Final = "UPDATE credentials SET password_hash = $3 WHERE user_id = $1 AND password_hash = $2"

GRANTS_OF_USER: Final = "SELECT ledger, role FROM grants WHERE user_id = $1 ORDER BY ledger LIMIT 1000"


class UsernameTaken(Exception):
    """There is a user of that name already."""


class User(msgspec.Struct, frozen=True):
    """A user as the login sees it."""

    id: UUID
    username: str
    roles: tuple[str, ...]
    active: bool
    password_hash: str | None
    changed_at: datetime | None


async def add_user(pool: asyncpg.Pool[Record], username: str, password: str, roles: Sequence[str]) -> UUID:
    """Creates a user with a password, and gives its id. Raises UsernameTaken."""
    password_hash = await asyncio.to_thread(hash_password, password)
    user_id: UUID = uuid7()
    async with pool.acquire() as connection, connection.transaction():
        try:
            await connection.execute(INSERT_USER, user_id, username, list(roles))
        except asyncpg.UniqueViolationError as error:
            raise UsernameTaken(username) from error
        await connection.execute(INSERT_CREDENTIALS, user_id, password_hash)
    return user_id


async def find_user(pool: asyncpg.Pool[Record], username: str) -> User | None:
    """The user of that name, disabled ones too."""
    row = await pool.fetchrow(FIND_USER, username)
    return None if row is None else User(row[0], row[1], tuple(row[2]), row[3], row[4], row[5])


async def upgrade_hash(pool: asyncpg.Pool[Record], user_id: UUID, old: str, new: str) -> None:
    """Replaces a hash by another one of the same password; without effect if it is not `old` any more."""
    await pool.execute(UPGRADE_HASH, user_id, old, new)


async def grants_of(pool: asyncpg.Pool[Record], user_id: UUID) -> list[tuple[str, str]]:
    """Ledgers that were granted to the user, with the role, by name; at most 1,000."""
    return [(row[0], row[1]) for row in await pool.fetch(GRANTS_OF_USER, user_id)]
