"""Making a ledger's projections again from its journal, by the same appliers and the same saving as a turn's.

Left as they are: what is no projection (the daybook, grants of other ledgers, turns), and schedules, since how far they
have come is not in the journal. Sealed runs are removed, and sealed again in the background.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Final

from domain.catalog import APPLIERS
from domain.decision import Link, Stamp
from domain.ledger.events import TransactionMetadataChanged
from domain.ledger.model import Touches
from domain.ledger.replay import replayed
from infrastructure import journal
from infrastructure.postgres import Db
from infrastructure.repositories import ledger as ledgers

PAGE_EVENTS: Final = 2_000
PAGE_BYTES: Final = 8 << 20
MOST_NAMING: Final = 100
"""Events applied together that name a transaction without showing its postings, which are loaded all the same."""

# No turn of the ledger's runs meanwhile; whoever holds the lock is waited for as long as a statement may take.
LOCK: Final = "SELECT seq FROM actors WHERE actor = $1 FOR NO KEY UPDATE"

REMOVE: Final = """
WITH gone AS (DELETE FROM ledgers WHERE id = $1),
    gone_grants AS (DELETE FROM grants WHERE ledger = $1),
    gone_currencies AS (DELETE FROM currencies WHERE ledger = $1),
    gone_accounts AS (DELETE FROM accounts WHERE ledger = $1),
    gone_changes AS (DELETE FROM account_changes WHERE ledger = $1),
    gone_sums AS (DELETE FROM pending_sums WHERE ledger = $1),
    gone_periods AS (DELETE FROM periods WHERE ledger = $1),
    gone_transactions AS (DELETE FROM transactions WHERE ledger = $1),
    gone_postings AS (DELETE FROM postings WHERE ledger = $1),
    gone_holds AS (DELETE FROM holds WHERE ledger = $1),
    gone_captures AS (DELETE FROM captures WHERE ledger = $1),
    gone_chunks AS (DELETE FROM sealed_chunks WHERE ledger = $1),
    gone_runs AS (DELETE FROM sealed_runs WHERE ledger = $1)
DELETE FROM sealed_upto WHERE ledger = $1
"""

# A page holds events of many turns, each with a time of its own.
DATE: Final = """
WITH event AS (SELECT * FROM unnest($2::bigint[], $3::timestamptz[]) AS event (seq, recorded_at)),
    dated_transactions AS (
        UPDATE transactions SET recorded_at = event.recorded_at FROM event
        WHERE transactions.ledger = $1 AND transactions.seq = event.seq
    ),
    dated_captures AS (
        UPDATE captures SET recorded_at = event.recorded_at FROM event
        WHERE captures.ledger = $1 AND captures.seq = event.seq
    )
UPDATE periods SET closed_at = event.recorded_at FROM event
WHERE periods.ledger = $1 AND periods.seq = event.seq
"""


async def project(db: Db, ledger: str) -> AsyncIterator[int]:
    """Makes everything again; after each page it answers how many events that had.

    The caller's transaction makes it all or nothing: others go on reading what was there before, and commands wait.
    Raises msgspec.ValidationError or KeyError for a journal that this release can't read.
    """
    actor = f"ledger:{ledger}"
    await db.fetchval(LOCK, actor)
    await db.execute(REMOVE, ledger)
    after = 0
    while lines := await journal.page(db, actor, after, lines=PAGE_EVENTS, size=PAGE_BYTES):
        links = [Link(journal.read_entry(line.event), line.event, b"") for line in lines]
        for run in _runs(links):
            await _apply(db, ledger, run)
        after = lines[-1].seq
        yield len(lines)


def _runs(links: Sequence[Link]) -> Iterator[Sequence[Link]]:
    """The links, in runs of few enough that name without showing."""
    first = naming = 0
    for place, link in enumerate(links):
        naming += isinstance(link.entry.data, TransactionMetadataChanged)
        if naming > MOST_NAMING:
            yield links[first:place]
            first, naming = place, 1
    yield links[first:]


async def _apply(db: Db, ledger: str, links: Sequence[Link]) -> None:
    needed = Touches.none()
    for link in links:
        replayed(link.entry.data, needed)
    state = await ledgers.assemble(db, ledger, needed, set(), {})
    times = [datetime.fromisoformat(link.entry.recorded_at) for link in links]
    for link, recorded_at in zip(links, times, strict=True):
        event = link.entry.data
        APPLIERS[type(event)](event, state, Stamp(link.entry.seq, recorded_at))
    state.schedules.clear()
    await ledgers.append(db, state, links, times[-1])
    await ledgers.save(db, state, links, times[-1])
    seqs = [link.entry.seq for link in links]
    await db.execute(DATE, ledger, seqs, times)
