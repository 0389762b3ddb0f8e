"""What exports are made from: the journal in pages, up to the export's seq, and what its captures leave out.

Every page is a statement of its own, keyed by where the last one ended: no transaction stays open while a file is
written, and what is behind the export's seq never changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final
from uuid import UUID

from asyncpg import Record

from infrastructure.postgres import Db

PAGE_EVENTS: Final = 1_000
PAGE_BYTES: Final = 4 << 20

# A page ends early rather than hold more bytes, but has one event at least.
EVENTS: Final = f"""
SELECT seq, epoch, hash, event FROM (
    SELECT seq, epoch, hash, event, sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS bytes_before
    FROM (
        SELECT seq, epoch, hash, event FROM journal
        WHERE actor = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT {PAGE_EVENTS}
    ) AS following
) AS measured
WHERE bytes_before < {PAGE_BYTES} ORDER BY seq
"""

DESCRIBED: Final = "SELECT id, reference, description FROM transactions WHERE ledger = $1 AND id = ANY ($2::uuid[])"

Described = dict[str, tuple[str | None, str | None]]


async def events(db: Db, ledger: str, until: int) -> AsyncIterator[list[Record]]:
    """The journal's lines up to seq `until`, oldest first, in pages."""
    after = 0
    while page := await db.fetch(EVENTS, f"ledger:{ledger}", after, until):
        yield list(page)
        after = page[-1]["seq"]


async def described(db: Db, ledger: str, transactions: Iterable[str]) -> Described:
    """Reference and description of transactions, by id."""
    wanted = [UUID(transaction) for transaction in transactions]
    rows = await db.fetch(DESCRIBED, ledger, wanted) if wanted else []
    return {str(row["id"]): (row["reference"], row["description"]) for row in rows}
