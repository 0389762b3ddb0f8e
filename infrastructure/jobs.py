"""What may be done about commands after they were written down, and what is known of their way.

Whoever cancels takes the actor's lock, as a turn does: a command is either cancelled or applied. A dead letter that is
retried joins the mailbox again, behind whatever waits there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from domain.errors import InfrastructureError
from domain.messages import Refusal
from infrastructure.credentials import take_back
from infrastructure.postgres import Db
from infrastructure.sessions import session_key

CANCELLED: Final = Refusal("command_cancelled", "The command was cancelled before it was applied.")
RETRIED_AT_ONCE: Final = 1_000
MOST_SUBSCRIBERS: Final = 100

WAIT_BRIEFLY: Final = "SET LOCAL lock_timeout = '1s'"

# Without the lock: what has finished stays as it is, and turns need not be in its way.
CAN_BE: Final = "SELECT EXISTS (SELECT FROM commands WHERE id = $1 AND status IN ('scheduled', 'accepted'))"

LOCK_ACTOR: Final = "SELECT FROM actors WHERE actor = $1 FOR NO KEY UPDATE"

# An expiry is asked for once, under a key; without it the hold would be there for ever.
CANCEL: Final = """
UPDATE commands SET status = 'cancelled', finished_at = clock_timestamp(), problem = $2
WHERE id = $1 AND status IN ('scheduled', 'accepted') AND line IS NULL AND kind <> 'expire_transaction'
RETURNING id
"""

# The commands of an atomic entry were set aside together, and go on together: they keep sharing a position. Ledgers
# only, since a password that came with a command is gone with it.
RETRY: Final = """
WITH chosen AS MATERIALIZED (
    SELECT actor, position FROM commands
    WHERE status = 'failed' AND actor LIKE 'ledger:%' AND ($1::uuid IS NULL OR id = $1)
        AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR kind = $3)
    ORDER BY id LIMIT $4
), drawn AS MATERIALIZED (
    SELECT actor, position AS former, nextval('daybook_position') AS position
    FROM (SELECT DISTINCT actor, position FROM chosen ORDER BY position) AS entries
)
UPDATE commands
SET status = 'accepted', position = drawn.position, finished_at = NULL, attempts = 0, problem = NULL, task = NULL
FROM drawn
WHERE commands.status = 'failed' AND commands.actor = drawn.actor AND commands.position = drawn.former
RETURNING commands.id, commands.actor
"""

# Rejected commands may have been alone in a turn that wrote no events, and so no row.
FIND_TURN: Final = """
SELECT taken.turn, coalesce(taken.task, commands.task) AS task, taken.worker
FROM commands LEFT JOIN LATERAL (
    SELECT turn, task, worker FROM turns
    WHERE turns.actor = commands.actor AND turns.seq >= commands.seq AND commands.status = 'succeeded'
    ORDER BY turns.seq LIMIT 1
) AS taken ON true
WHERE commands.id = $1
"""

HAVE_PUBLISHED: Final = """
SELECT name, NOT EXISTS (
    SELECT FROM behind WHERE behind.subscriber = subscribers.name AND behind.actor = $1 AND behind.position < $2
) AS done
FROM subscribers ORDER BY name LIMIT $3
"""


class Taken(msgspec.Struct, frozen=True):
    """Who took a command's turn. Without a `task` it was no Celery task; `turn` is known of what succeeded."""

    turn: UUID | None
    task: str | None
    worker: str | None


class Retried(msgspec.Struct, frozen=True):
    """Commands that wait again, and whose mailboxes they are in."""

    jobs: tuple[UUID, ...]
    actors: tuple[str, ...]


async def cancel(pool: asyncpg.Pool[Record], actor: str, job: UUID) -> tuple[str, ...] | None:
    """Cancels a command that waits; the slots in Redis that must go with it. None: it can't be cancelled (any more).

    Raises InfrastructureError when turns hold the actor for longer than a second: nothing was changed then.
    """
    try:
        async with pool.acquire(timeout=5) as db, db.transaction():
            if not await db.fetchval(CAN_BE, job):
                return None
            await db.execute(WAIT_BRIEFLY)
            await db.execute(LOCK_ACTOR, actor)
            if await db.fetchval(CANCEL, job, msgspec.json.encode(CANCELLED)) is None:
                return None
            return await _take_back(db, actor, job)
    except asyncpg.LockNotAvailableError:
        raise InfrastructureError("The mailbox is busy; the job was not cancelled.") from None


async def retry(db: Db, job: UUID | None = None, actor: str | None = None, kind: str | None = None) -> Retried:
    """Puts dead letters of ledgers back into their mailboxes, oldest first: one, or up to RETRIED_AT_ONCE.

    Those of one atomic batch go together, and count as one at the end of that number.
    """
    rows = await db.fetch(RETRY, job, actor, kind, 1 if job is not None else RETRIED_AT_ONCE)
    return Retried(tuple(sorted(row["id"] for row in rows)), tuple(sorted({row["actor"] for row in rows})))


async def find_turn(db: Db, job: UUID) -> Taken:
    """Who took the turn of a command that has finished."""
    row = await db.fetchrow(FIND_TURN, job)
    return Taken(None, None, None) if row is None else Taken(row["turn"], row["task"], row["worker"])


async def published(db: Db, actor: str, seq: int) -> dict[str, bool]:
    """Of each subscriber, whether it has delivered the actor's event `seq`."""
    rows: Sequence[Record] = await db.fetch(HAVE_PUBLISHED, actor, seq, MOST_SUBSCRIBERS)
    return {row["name"]: row["done"] for row in rows}


async def _take_back(db: Db, actor: str, job: UUID) -> tuple[str, ...]:
    """What came beside a command to a user goes with it, and so do sessions that began with a new password."""
    kind, _, name = actor.partition(":")
    if kind != "user":
        return ()
    return tuple(map(session_key, await take_back(db, UUID(name), [job])))
