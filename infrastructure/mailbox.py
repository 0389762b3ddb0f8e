"""The worker's side of the daybook: lock an actor, take what waits in its mailbox, write down what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.catalog import KINDS
from domain.decision import Decision, Head, Link, Outcome
from domain.messages import Command, Recorded, Refusal
from infrastructure.postgres import Db

# Locks the actor's row alone: reading anything else in the same statement could return a snapshot older than the lock.
LOCK: Final = """
SELECT epoch, seq, head, greatest(clock_timestamp(), recorded_at) AS now
FROM actors WHERE actor = $1 FOR NO KEY UPDATE SKIP LOCKED
"""

# Bounded here and not by the reader: a thousand commands of a thousand postings each are a hundred megabytes.
PENDING: Final = """
SELECT id, position, kind, payload, weight, principal, correlation_id, accepted_at, line
FROM (
    SELECT *, sum(weight) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) AS postings
    FROM (SELECT * FROM commands WHERE actor = $1 AND status = 'accepted' ORDER BY position LIMIT $2) AS next
) AS weighed
WHERE postings <= $3 OR postings = weight
ORDER BY position
"""

COUNT_ENTRY: Final = "SELECT count(*) FROM commands WHERE actor = $1 AND position = $2 AND status = 'accepted'"

ENTRY: Final = """
SELECT id, position, kind, payload, weight, principal, correlation_id, accepted_at, line
FROM commands WHERE actor = $1 AND position = $2 AND status = 'accepted'
"""

WAITING: Final = """
SELECT count(*) FROM (SELECT FROM commands WHERE actor = $1 AND status = 'accepted' LIMIT $2) AS next
"""

MARK: Final = "SELECT turn, width, attempts, suspect_position, running, late FROM turn_marks WHERE actor = $1"

SET_MARK: Final = """
INSERT INTO turn_marks (actor, turn, width, attempts, suspect_position, running, late)
VALUES ($1, $2, $3, $4, $5, true, $6)
ON CONFLICT (actor) DO UPDATE SET turn = excluded.turn, width = excluded.width, attempts = excluded.attempts,
    suspect_position = excluded.suspect_position, running = true, late = excluded.late
"""

CLEAR_MARK: Final = "DELETE FROM turn_marks WHERE actor = $1"

NARROW_MARK: Final = """
UPDATE turn_marks SET running = false, width = $2, attempts = 0, late = 0, suspect_position = $3 WHERE actor = $1
"""

ACQUIT: Final = """
UPDATE turn_marks SET running = false, attempts = attempts - 1,
    width = CASE WHEN $3 THEN greatest(1, width / 2) ELSE width END,
    late = late + CASE WHEN $3 AND width = 1 THEN 1 ELSE 0 END
WHERE actor = $1 AND turn = $2
"""

JOURNAL_COLUMNS: Final = ("actor", "seq", "epoch", "hash", "event")

# With the turn that did it: what was known when, and which task to look for. And every subscriber falls behind. A row
# that is absent means: caught up, so delivery starts behind what stood before this turn. The names come from the table,
# not from this process, which may be older than a subscriber; and reading it makes new ones wait for this turn.
ADVANCE: Final = """
WITH moved AS (
    UPDATE actors SET seq = $2, head = $3, recorded_at = $4 WHERE actor = $1
), noted AS (
    INSERT INTO turns (actor, seq, recorded_at, turn, task, worker) VALUES ($1, $2, $4, $5, $6, $7)
)
INSERT INTO behind (subscriber, actor, position, head)
SELECT name, $1, $8, $2 FROM subscribers ORDER BY name
ON CONFLICT (subscriber, actor) DO UPDATE SET head = excluded.head
"""

FINISH: Final = """
UPDATE commands SET status = CASE WHEN done.problem IS NULL THEN 'succeeded' ELSE 'rejected' END,
    seq = done.seq, problem = done.problem, finished_at = $1, attempts = $2,
    task = CASE WHEN done.problem IS NOT NULL THEN $6 END
FROM unnest($3::uuid[], $4::bigint[], $5::bytea[]) AS done (id, seq, problem)
WHERE commands.id = done.id
"""

BURY: Final = """
UPDATE commands SET status = 'failed', finished_at = clock_timestamp(), attempts = $2, problem = $3, task = $4
WHERE id = ANY ($1::uuid[])
"""

# A loose index scan: one step per actor with pending commands, however deep its mailbox is. It looks further than it
# answers, or as many busy actors, whom nobody needs to ring for, would hide all those behind them.
OVERDUE: Final = """
WITH RECURSIVE waiting AS (
    (SELECT actor, accepted_at FROM commands WHERE status = 'accepted' ORDER BY actor, position LIMIT 1)
    UNION ALL
    SELECT following.actor, following.accepted_at FROM waiting CROSS JOIN LATERAL (
        SELECT actor, accepted_at FROM commands
        WHERE status = 'accepted' AND commands.actor > waiting.actor ORDER BY actor, position LIMIT 1
    ) AS following
)
SELECT actor FROM (SELECT * FROM waiting LIMIT $3) AS bounded
WHERE accepted_at < clock_timestamp() - make_interval(secs => $1::int / 1000.0)
    AND split_part(actor, ':', 1) = ANY ($4::text[])
ORDER BY accepted_at LIMIT $2
"""

MOST_LOOKED_AT: Final = 10_000
"""Actors with pending commands, by name, among whom a sweep finds the overdue ones."""

_encode = msgspec.json.Encoder().encode
_DECODERS: Final = {kind: msgspec.json.Decoder(command) for kind, command in KINDS.items()}


class Mark(msgspec.Struct, frozen=True):
    """What a turn left before it decided. `running`: it never said that it ended.

    `late` is how often the one entry of a turn of width 1 has run out of time.
    """

    turn: UUID
    width: int
    attempts: int
    suspect_position: int
    running: bool
    late: int = 0


class Origin(msgspec.Struct, frozen=True):
    """Where a turn is taken: the Celery task's id and its worker's name, None outside of any."""

    task: str | None = None
    worker: str | None = None


class Locked(msgspec.Struct, frozen=True):
    """An actor whose row this transaction holds."""

    head: Head
    now: datetime


async def lock(db: Db, actor: str) -> Locked | None:
    """Locks the actor until the transaction ends; None when another turn holds it, or there is no such actor."""
    row = await db.fetchrow(LOCK, actor)
    return None if row is None else Locked(Head(actor, row["epoch"], row["seq"], row["head"]), row["now"])


async def find_mark(db: Db, actor: str) -> Mark | None:
    row = await db.fetchrow(MARK, actor)
    return None if row is None else Mark(**row)


async def pending(db: Db, actor: str, limit: int, postings: int) -> list[Record]:
    """The next commands of the mailbox, in order: at most `limit`, of at most `postings` together.

    There is always one of them, and of an atomic entry all or none: all, if it comes first, however many those are.
    """
    rows = list(await db.fetch(PENDING, actor, limit, postings))
    if rows and rows[-1]["line"] is not None:
        rows = await _whole(db, actor, rows)
    if any(row["line"] is not None for row in rows):
        rows.sort(key=_place)
    return rows


def decoded(row: Record) -> Recorded:
    """A row of `pending` as the domain takes it. Raises ValueError for a payload that no kind has."""
    command: Command = _DECODERS[row["kind"]].decode(row["payload"])
    return Recorded(
        row["id"],
        row["position"],
        row["kind"],
        command,
        row["principal"],
        row["correlation_id"],
        row["accepted_at"],
        row["line"],
    )


async def _whole(db: Db, actor: str, rows: list[Record]) -> list[Record]:
    """The rows without the entry at their end, unless they have all of it; if there is nothing else, all of it."""
    position = rows[-1]["position"]
    before = [row for row in rows if row["position"] != position]
    if len(rows) - len(before) == await db.fetchval(COUNT_ENTRY, actor, position):
        return rows
    return before or list(await db.fetch(ENTRY, actor, position))


def _place(row: Record) -> tuple[int, int]:
    return row["position"], row["line"] or 0


async def waiting(db: Db, actor: str, most: int) -> int:
    """How many commands the mailbox holds; the count ends at `most`. Needs no lock."""
    counted: int = await db.fetchval(WAITING, actor, most)
    return counted


async def set_mark(db: Db, actor: str, mark: Mark) -> None:
    await db.execute(SET_MARK, actor, mark.turn, mark.width, mark.attempts, mark.suspect_position, mark.late)


async def clear_mark(db: Db, actor: str) -> None:
    await db.execute(CLEAR_MARK, actor)


async def narrow_mark(db: Db, actor: str, width: int, suspect_position: int) -> None:
    """Remembers that one of the commands up to `suspect_position` has broken a turn: go on `width` at a time."""
    await db.execute(NARROW_MARK, actor, width, suspect_position)


async def acquit(db: Db, actor: str, turn: UUID, *, late: bool) -> None:
    """Takes back a turn's mark: what ended it was no fault of its commands. After a late one the next has half as many.

    An entry that was late alone can't be halved: that is counted.
    """
    await db.execute(ACQUIT, actor, turn, late)


async def append_journal(db: Db, links: Sequence[Link]) -> None:
    records = [(link.entry.actor, link.entry.seq, link.entry.epoch, link.hash, link.event) for link in links]
    await db.copy_records_to_table("journal", records=records, columns=JOURNAL_COLUMNS)


async def advance(db: Db, before: Head, decision: Decision, now: datetime, turn: UUID, origin: Origin) -> None:
    """Moves the actor's head, keeps the turn that did, and tells its subscribers' positions that there is more."""
    head = decision.head
    await db.execute(ADVANCE, head.actor, head.seq, head.hash, now, turn, origin.task, origin.worker, before.seq)


async def finish(db: Db, outcomes: Sequence[Outcome], now: datetime, attempts: int, task: str | None = None) -> None:
    """Writes every command's outcome; `task` is the Celery task that came to it."""
    await db.execute(
        FINISH,
        now,
        attempts,
        [outcome.command for outcome in outcomes],
        [outcome.seq for outcome in outcomes],
        [None if outcome.refusal is None else _encode(outcome.refusal) for outcome in outcomes],
        task,
    )


async def bury(db: Db, commands: Sequence[UUID], attempts: int, refusal: Refusal, task: str | None = None) -> None:
    """Makes dead letters of an entry's commands, without running them again."""
    await db.execute(BURY, commands, attempts, _encode(refusal), task)


async def overdue(db: Db, older_than_ms: int, limit: int, types: Sequence[str]) -> list[str]:
    """Actors of these types whose oldest pending command has waited longer than `older_than_ms`, the longest first."""
    return [row["actor"] for row in await db.fetch(OVERDUE, older_than_ms, limit, MOST_LOOKED_AT, types)]
