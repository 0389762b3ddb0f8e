"""Grants: who may do what with a ledger. Postgres decides; Redis keeps copies of granted roles for at most a minute.

A copy is a view of its ledger (`infrastructure.cache`): the turn that changes a grant bars it before its commit. Unlike
other views it must not be old even for the moment between a commit and the turn's end, whatever Redis forgets (see
FIND_ROLE) or remembers: a copy names the run of Redis it was given to, and after a restart, which a change may have
missed, it counts for nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID

import asyncpg
from asyncpg import Record

from infrastructure.cache import Cache, for_this_run, of_this_run, value_in, view_key

CACHED_S: Final = 60

# A turn locks the grants that it is about to change, then bars their copies, then commits. Whoever reads one in between
# waits here and sees what was committed: so even where Redis has lost the bar, no older role can be put back.
FIND_ROLE: Final = "SELECT role FROM grants WHERE ledger = $1 AND user_id = $2 FOR SHARE"

IS_RESERVED: Final = "SELECT 'owner' FROM ledger_reservations WHERE ledger = $1"

AMONG: Final = "SELECT ledger FROM grants WHERE user_id = $1 AND ledger = ANY ($2::text[])"


def grant_key(ledger: str, user_id: UUID, is_admin: bool) -> str:
    """Where Redis keeps the role. Admins, who own every ledger that exists, share a slot."""
    return view_key(ledger, f"grant:{'admin' if is_admin else user_id}")


def role_in(slot: bytes | None, server: bytes) -> str | None:
    """The role in a slot that was filled since this run of Redis began (see `of_this_run`); None for any other."""
    found = of_this_run(slot, server)
    return None if found is None else value_in(found).decode()


class Grants:
    """The roles of users in ledgers."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache) -> None:
        self._pool = pool
        self._cache = cache

    async def find(self, ledger: str, user_id: UUID, is_admin: bool) -> str | None:
        """The role as Postgres has it, put into Redis on the way; None without a grant, or without a ledger."""
        arguments = (ledger,) if is_admin else (ledger, user_id)

        async def read() -> bytes | None:
            server = self._cache.server
            role = await self._pool.fetchval(IS_RESERVED if is_admin else FIND_ROLE, *arguments)
            return None if role is None else for_this_run(role.encode(), server)

        slot = await self._cache.fill(grant_key(ledger, user_id, is_admin), read, CACHED_S)
        return None if slot is None else value_in(slot).decode()

    async def among(self, user_id: UUID, ledgers: Collection[str]) -> frozenset[str]:
        """Those of `ledgers` in which anything was granted to the user."""
        if not ledgers:
            return frozenset()
        return frozenset(row["ledger"] for row in await self._pool.fetch(AMONG, user_id, list(ledgers)))
