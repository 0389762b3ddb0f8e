"""Lets commands into the mailbox whose time has come.

What was accepted with an `execute_at` waits in the daybook without a position. It draws one here, in the order of
(execute_at, id): by beat, and by a timer in every worker process, so that neither beat nor the broker is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog
from asyncpg import Record

log = structlog.get_logger(__name__)

AT_ONCE: Final = 1_000
ROUNDS: Final = 10

# One at a time, by the lock, or two sweeps would share out what is due and mix up its order; who finds it taken leaves
# it to the other. What another sweep has let in since this statement's snapshot no longer fits once it is locked, and
# what a cancellation holds comes next time, if it is still to come. now() and not the clock, which no index can be
# searched by: the statement is a transaction of its own.
JOIN: Final = """
WITH alone AS MATERIALIZED (
    SELECT pg_try_advisory_xact_lock(hashtextextended('daybook.due', 0)) AS locked
), due AS MATERIALIZED (
    SELECT id, execute_at FROM commands
    WHERE status = 'scheduled' AND execute_at <= now() AND (SELECT locked FROM alone)
    ORDER BY execute_at, id LIMIT $1 FOR UPDATE SKIP LOCKED
), drawn AS MATERIALIZED (
    SELECT id, nextval('daybook_position') AS position FROM (SELECT id FROM due ORDER BY execute_at, id) AS sorted
), joined AS (
    UPDATE commands SET status = 'accepted', position = drawn.position FROM drawn WHERE commands.id = drawn.id
    RETURNING commands.actor
)
SELECT actor, count(*) AS commands FROM joined GROUP BY actor
"""


@dataclass(frozen=True, slots=True)
class Due:
    """Looks for them. `ring` wakes a worker for an actor."""

    pool: asyncpg.Pool[Record]
    ring: Callable[[str], None]

    async def run(self) -> int:
        """One sweep, bounded. Answers how many commands it let in."""
        total = 0
        for _ in range(ROUNDS):
            actors = await self.pool.fetch(JOIN, AT_ONCE)
            for row in actors:
                self.ring(row["actor"])
            joined = sum(row["commands"] for row in actors)
            total += joined
            if joined < AT_ONCE:
                break
        if total:
            log.info("due", commands=total)
        return total
