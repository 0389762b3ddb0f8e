"""Exports: what was asked for, how far it is, and the file, kept in parts so that any API process can hand it out.

An export shows the ledger as it was at its `seq`. Whoever works at one holds a lease by token, which each part renews;
who has lost it writes nothing more. Files are kept for a day.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from infrastructure.postgres import Db

KEPT_S: Final = 86_400
LEASE_S: Final = 60
MOST_ATTEMPTS: Final = 3
MOST_KEPT: Final = 20
"""Of one user in one ledger: finished ones until they expire included."""

_COLUMNS: Final = """
id, ledger, principal, request, status, seq, done, total, attempts, size, problem, correlation_id, created_at,
finished_at, expires_at
"""

# Only where the user has few enough already: none is added otherwise.
ADD: Final = f"""
INSERT INTO exports (id, ledger, principal, request, correlation_id, seq)
SELECT $1, $2, $3, $4, $5, actors.seq FROM actors
WHERE actors.actor = 'ledger:' || $2
    AND (SELECT count(*) FROM exports WHERE ledger = $2 AND principal = $3) < {MOST_KEPT}
RETURNING {_COLUMNS}
"""

FIND: Final = f"SELECT {_COLUMNS} FROM exports WHERE ledger = $1 AND id = $2"

LIST: Final = f"""
SELECT {_COLUMNS} FROM exports WHERE ledger = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""

CLAIM: Final = f"""
UPDATE exports SET status = 'running', attempts = attempts + 1, done = 0, size = 0, lease = $2,
    leased_until = clock_timestamp() + make_interval(secs => {LEASE_S})
WHERE id = $1 AND status IN ('accepted', 'running') AND (leased_until IS NULL OR leased_until < clock_timestamp())
RETURNING {_COLUMNS}
"""

CLEAR: Final = "DELETE FROM export_parts WHERE export = $1"

EXPECT: Final = "UPDATE exports SET total = $3 WHERE id = $1 AND lease = $2"

PROGRESS: Final = f"""
UPDATE exports SET done = $3, size = size + $4,
    leased_until = clock_timestamp() + make_interval(secs => {LEASE_S})
WHERE id = $1 AND lease = $2 RETURNING id
"""

ADD_PART: Final = "INSERT INTO export_parts (export, part, content) VALUES ($1, $2, $3)"

FINISH: Final = f"""
UPDATE exports SET status = $3, problem = $4, finished_at = clock_timestamp(), lease = NULL, leased_until = NULL,
    expires_at = clock_timestamp() + make_interval(secs => {KEPT_S})
WHERE id = $1 AND lease = $2
"""

# Given up, since it broke whoever worked at it.
BURY: Final = f"""
UPDATE exports SET status = 'failed', problem = $2, finished_at = clock_timestamp(), lease = NULL, leased_until = NULL,
    expires_at = clock_timestamp() + make_interval(secs => {KEPT_S})
WHERE status = 'running' AND leased_until < clock_timestamp() AND attempts >= $1
"""

RELEASE: Final = "UPDATE exports SET leased_until = clock_timestamp() WHERE id = $1 AND lease = $2"

WAITING: Final = """
SELECT id FROM exports
WHERE status IN ('accepted', 'running')
    AND CASE WHEN leased_until IS NULL THEN created_at < clock_timestamp() - make_interval(secs => $1 / 1000.0)
        ELSE leased_until < clock_timestamp() END
ORDER BY id LIMIT $2
"""

EXPIRE: Final = """
DELETE FROM exports WHERE id IN (
    SELECT id FROM exports WHERE expires_at < clock_timestamp() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""

PART: Final = "SELECT content FROM export_parts WHERE export = $1 AND part = $2"

REMOVE: Final = "DELETE FROM exports WHERE ledger = $1 AND id = $2 RETURNING id"


What = Literal["journal", "statement", "ledger"]
Format = Literal["csv", "ndjson", "parquet", "beancount", "hledger"]
Status = Literal["accepted", "running", "succeeded", "failed"]


class Wanted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be written: the journal, the statement of an account from and to a moment, or the ledger as text."""

    what: What
    format: Format
    account: str | None = None
    start: datetime | None = None
    end: datetime | None = None


class Export(msgspec.Struct, frozen=True):
    """An export. `request` is the JSON it was asked for with; `done` of `total` is its progress, in events or lines.

    `total` is None until it is known; `size` counts the bytes written so far.
    """

    id: UUID
    ledger: str
    principal: UUID
    request: bytes
    status: Status
    seq: int
    done: int
    total: int | None
    attempts: int
    size: int
    problem: str | None
    correlation_id: str
    created_at: datetime
    finished_at: datetime | None
    expires_at: datetime | None


async def add(db: Db, export: UUID, ledger: str, principal: UUID, request: bytes, correlation_id: str) -> Export | None:
    """Writes down what is asked for. None where the user has as many as may be kept."""
    row = await db.fetchrow(ADD, export, ledger, principal, request, correlation_id)
    return None if row is None else _export(row)


async def find(db: Db, ledger: str, export: UUID) -> Export | None:
    row = await db.fetchrow(FIND, ledger, export)
    return None if row is None else _export(row)


async def listed(db: Db, ledger: str, before: UUID | None, limit: int) -> list[Export]:
    """The ledger's exports, newest first."""
    return [_export(row) for row in await db.fetch(LIST, ledger, before, limit)]


async def remove(db: Db, ledger: str, export: UUID) -> bool:
    """Forgets an export and its file; whoever works at it stops at the next part. False where there is none."""
    return await db.fetchval(REMOVE, ledger, export) is not None


async def part(db: Db, export: UUID, number: int) -> bytes | None:
    """A part of the file, None behind the last."""
    content: bytes | None = await db.fetchval(PART, export, number)
    return content


# -- for whoever works at them ----------------------------------------------------------------------------------------


async def claim(pool: asyncpg.Pool[Record], export: UUID, lease: UUID) -> Export | None:
    """Takes an export from its beginning; None when somebody is at it, or it has ended."""
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(CLAIM, export, lease)
        if row is None:
            return None
        await connection.execute(CLEAR, export)
    return _export(row)


async def expect(db: Db, export: UUID, lease: UUID, total: int) -> None:
    await db.execute(EXPECT, export, lease, total)


async def write(pool: asyncpg.Pool[Record], export: UUID, lease: UUID, number: int, content: bytes, done: int) -> bool:
    """Adds a part. False when the lease is lost: then nothing was written."""
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(PROGRESS, export, lease, done, len(content)) is None:
            return False
        if content:
            await connection.execute(ADD_PART, export, number, content)
    return True


async def finish(db: Db, export: UUID, lease: UUID, problem: str | None) -> None:
    await db.execute(FINISH, export, lease, "succeeded" if problem is None else "failed", problem)


async def release(db: Db, export: UUID, lease: UUID) -> None:
    """Leaves it to whoever comes next."""
    await db.execute(RELEASE, export, lease)


async def waiting(db: Db, older_than_ms: int, limit: int) -> list[UUID]:
    """Exports that nobody is at, though somebody should be."""
    return [row["id"] for row in await db.fetch(WAITING, older_than_ms, limit)]


async def tidy(db: Db, limit: int, given_up: str) -> None:
    """Gives up what broke its workers time and again, and removes what has expired."""
    await db.execute(BURY, MOST_ATTEMPTS, given_up)
    await db.execute(EXPIRE, limit)


def _export(row: Record) -> Export:
    return Export(**row)
