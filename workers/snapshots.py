"""Seals the movements of busy accounts, so that what they were stays cheap to tell: see `infrastructure.snapshots`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import structlog
from asyncpg import Record

from infrastructure import snapshots
from infrastructure.snapshots import QUIET, SHAPE, SHARE, Behind, Shape

log = structlog.get_logger(__name__)

AT_MOST: Final = 200
"""Ledgers that one sweep looks through."""
TIME_S: Final = 1.0
"""How long a sweep goes on, so that others of its pool wait no longer. The next one takes up where it has stopped."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Looks through ledgers for accounts with movements to be sealed, and seals them."""

    pool: asyncpg.Pool[Record]
    shape: Shape = SHAPE
    share: float = SHARE
    quiet: timedelta = QUIET
    time_s: float = TIME_S

    async def run(self) -> int:
        """One sweep, bounded. Answers how many runs it sealed."""
        until, sealed = time.monotonic() + self.time_s, 0
        for found in await snapshots.behind(self.pool, AT_MOST, self.quiet):
            sealed += await self._look_through(found, until)
            if time.monotonic() > until:
                break
        if sealed:
            log.info("sealed", runs=sealed)
        return sealed

    async def _look_through(self, found: Behind, until: float) -> int:
        sealed = 0
        while found.after < found.head and time.monotonic() < until:
            upto, accounts = await snapshots.look(self.pool, found, self.share)
            for account in accounts:
                while await self._seal(found.ledger, account):
                    sealed += 1
                    if time.monotonic() > until:
                        return sealed
            await snapshots.advance(self.pool, found.ledger, upto)
            found = found._replace(after=upto)
        return sealed

    async def _seal(self, ledger: str, account: str) -> bool:
        async with self.pool.acquire() as db, db.transaction():
            return await snapshots.seal(db, ledger, account, self.shape)
