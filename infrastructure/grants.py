"""Grants: who may do what with a ledger. Postgres decides; Redis keeps copies of granted roles for at most a minute."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg
from asyncpg import Record

from infrastructure.cache import Cache

CACHED_S: Final = 60

# Until create_ledger is applied, and with it the first grant, whoever reserved the id is the owner.
FIND_ROLE: Final = """
SELECT coalesce(
    (SELECT role FROM grants WHERE ledger = $1 AND user_id = $2),
    (SELECT 'owner' FROM ledger_reservations AS reserved WHERE ledger = $1 AND owner = $2
        AND NOT EXISTS (SELECT FROM ledgers WHERE id = $1))
)
"""

IS_RESERVED: Final = "SELECT 'owner' FROM ledger_reservations WHERE ledger = $1"


def grant_key(ledger: str, user_id: UUID, is_admin: bool) -> str:
    """Where Redis keeps the role. Admins, who own every ledger that exists, share a slot."""
    return f"grant:{ledger}:{'admin' if is_admin else user_id}"


class Grants:
    """The roles of users in ledgers."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache) -> None:
        self._pool = pool
        self._cache = cache

    async def find(self, ledger: str, user_id: UUID, is_admin: bool) -> bytes | None:
        """The slot `V:{role}` from Postgres, put into Redis on the way; None without a grant, or without a ledger."""

        async def read() -> bytes | None:
            arguments = (ledger,) if is_admin else (ledger, user_id)
            role = await self._pool.fetchval(IS_RESERVED if is_admin else FIND_ROLE, *arguments)
            return None if role is None else b"V:" + role.encode()

        return await self._cache.fill(grant_key(ledger, user_id, is_admin), read, CACHED_S)
