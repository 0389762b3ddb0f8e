"""Movements of busy accounts, sealed in runs, so that what an account was is found without adding up its history.

A movement is one posting as one of its two accounts sees it. Movements of an account that follow each other by seq are
sealed in runs, and many runs once more in a long one. A run keeps its movements by effective time, a chunk a row, with
what they come to up to each of them; so one index look-up a run says what it moved up to a moment, and only what came
behind the last run is added up. `infrastructure.history` asks.

Runs are never changed, and everything in them follows from `postings`: they may lag or be missing, and nothing but the
time that an answer takes will tell.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NamedTuple

from infrastructure.postgres import Db

MOST_SEEN: Final = 50_000
"""Postings that one look through a ledger goes over."""
QUIET: Final = timedelta(seconds=5)
MOST_BEHIND: Final = 16_384
"""Events that a ledger may be behind for as long as it is not quiet."""
SHARE: Final = 1 / 256
"""How likely a movement has its account looked at: one with a whole run to be sealed is hardly ever overlooked."""


class Shape(NamedTuple):
    """How many movements make a run, how many runs a long one, and how many movements a chunk has at the most.

    Chunks of 40 stay just below the size from which Postgres would compress each.
    """

    run: int = 1_024
    runs: int = 64
    chunk: int = 40


SHAPE: Final = Shape()

SHORT: Final = 0
LONG: Final = 1

# Two who knew different shapes would seal runs that overlap.
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('seal ' || $1 || ' ' || $2, 0))"

LAST: Final = """
SELECT coalesce(max(last_seq), 0) FROM sealed_runs WHERE ledger = $1 AND account = $2 AND level = $3
"""

# Where the next run ends: with all that the event moved which brings its last movement.
END_OF_SHORT: Final = """
SELECT seq FROM (
    (SELECT seq FROM postings WHERE ledger = $1 AND debit = $2 AND seq > $3 ORDER BY seq LIMIT $4)
    UNION ALL
    (SELECT seq FROM postings WHERE ledger = $1 AND credit = $2 AND seq > $3 ORDER BY seq LIMIT $4)
) AS moved
ORDER BY seq OFFSET $4::int - 1 LIMIT 1
"""
END_OF_LONG: Final = """
SELECT last_seq FROM sealed_runs WHERE ledger = $1 AND account = $2 AND level = 0 AND last_seq > $3
ORDER BY last_seq OFFSET $4::int - 1 LIMIT 1
"""

SEAL: Final = """
WITH moved AS (
    SELECT effective_at, seq, posting, amount AS debited, 0 AS credited
    FROM postings WHERE ledger = $1 AND debit = $2 AND seq > $4 AND seq <= $5
    UNION ALL
    SELECT effective_at, seq, posting, 0, amount
    FROM postings WHERE ledger = $1 AND credit = $2 AND seq > $4 AND seq <= $5
), summed AS (
    SELECT moved.*, row_number() OVER place AS number, sum(debited) OVER place AS debits,
        sum(credited) OVER place AS credits
    FROM moved WINDOW place AS (ORDER BY effective_at, seq, posting ROWS UNBOUNDED PRECEDING)
), gathered AS (
    SELECT count(*) AS size, min(debits - debited) AS debits_before, min(credits - credited) AS credits_before,
        array_agg(effective_at) AS times, array_agg(seq) AS seqs, array_agg(posting) AS postings,
        array_agg(debits) AS debits, array_agg(credits) AS credits
    FROM (SELECT summed.*, (number - 1) / $6 AS chunk FROM summed ORDER BY chunk, number) AS ordered GROUP BY chunk
), run AS (
    INSERT INTO sealed_runs
    SELECT $1, $2, $3, $5, min(times[1]), max(times[size]), max(debits[size]), max(credits[size]) FROM gathered
)
INSERT INTO sealed_chunks
SELECT $1, $2, $3, $5, times[size], seqs[size], postings[size], debits_before, credits_before, times, seqs, postings,
    debits, credits
FROM gathered
"""

BEHIND: Final = """
SELECT substr(actor, 8) AS ledger, coalesce(sealed_upto.seq, 0) AS after, actors.seq AS head
FROM actors LEFT JOIN sealed_upto ON sealed_upto.ledger = substr(actor, 8)
WHERE actor LIKE 'ledger:%' AND actors.seq > coalesce(sealed_upto.seq, 0)
    AND (actors.recorded_at < now() - $2::interval OR actors.seq - coalesce(sealed_upto.seq, 0) > $3)
ORDER BY actors.seq - coalesce(sealed_upto.seq, 0) DESC LIMIT $1
"""

LOOK: Final = """
WITH seen AS (
    SELECT seq, debit, credit FROM postings WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
)
SELECT (SELECT CASE WHEN count(*) < $4 THEN $3 ELSE max(seq) END FROM seen) AS upto, array(
    SELECT DISTINCT account FROM (
        SELECT debit AS account FROM seen WHERE random() < $5
        UNION ALL SELECT credit FROM seen WHERE random() < $5
    ) AS drawn
) AS accounts
"""

ADVANCE: Final = """
INSERT INTO sealed_upto (ledger, seq) VALUES ($1, $2)
ON CONFLICT (ledger) DO UPDATE SET seq = greatest(sealed_upto.seq, excluded.seq)
"""


class Behind(NamedTuple):
    """A ledger, how far it was looked through, and where its journal ends."""

    ledger: str
    after: int
    head: int


async def behind(db: Db, most: int, quiet: timedelta = QUIET) -> list[Behind]:
    """Ledgers with events that nobody looked through, those with the most of them first.

    Those that are being written to are left alone until they pause, or it has become too much.
    """
    rows = await db.fetch(BEHIND, most, quiet, MOST_BEHIND)
    return [Behind(row["ledger"], row["after"], row["head"]) for row in rows]


async def look(db: Db, found: Behind, share: float = SHARE) -> tuple[int, list[str]]:
    """Goes over the next postings: how far it came, and accounts that may have a run to be sealed."""
    row = await db.fetchrow(LOOK, found.ledger, found.after, found.head, MOST_SEEN, share)
    if row is None:
        raise AssertionError("a statement without FROM has one row")
    return row["upto"], row["accounts"]


async def advance(db: Db, ledger: str, seq: int) -> None:
    """Notes that a ledger was looked through up to `seq`."""
    await db.execute(ADVANCE, ledger, seq)


async def seal(db: Db, ledger: str, account: str, shape: Shape = SHAPE) -> bool:
    """Seals the account's next run, and with it the long one that it completes. False when there is none yet.

    The caller's transaction makes them one.
    """
    await db.execute(LOCK, ledger, account)
    after = await db.fetchval(LAST, ledger, account, SHORT)
    upto = await db.fetchval(END_OF_SHORT, ledger, account, after, shape.run)
    if upto is None:
        return False
    await db.execute(SEAL, ledger, account, SHORT, after, upto, shape.chunk)
    after = await db.fetchval(LAST, ledger, account, LONG)
    end = await db.fetchval(END_OF_LONG, ledger, account, after, shape.runs)
    if end is not None:
        await db.execute(SEAL, ledger, account, LONG, after, end, shape.chunk)
    return True
