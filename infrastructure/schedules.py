"""Schedules in Postgres: what a turn saves of them, what is read of them, and which are due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import islice
from typing import Final, Literal
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.clock import format_time
from domain.decision import Link
from domain.ledger.events import ScheduleCancelled, ScheduleCreated, SchedulePaused, ScheduleResumed
from domain.ledger.schedules import Missed
from domain.ledger.templates import Template
from domain.messages import Command
from infrastructure.postgres import Db
from infrastructure.read_models import Page, Snapshot, Time
from infrastructure.recurrence import Occurrence, first, leap, occurrences

STATUSES: Final = "SELECT id, status FROM schedules WHERE ledger = $1 AND id = ANY ($2::uuid[])"

ADD: Final = """
INSERT INTO schedules (ledger, id, seq, principal, command, every, rrule, starts_at, missed, created_at, version,
    next_at, number)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $3, $11, $12)
"""

SET_STATUS: Final = "UPDATE schedules SET status = $3, version = $4 WHERE ledger = $1 AND id = $2"

LOCK: Final = "SELECT every, rrule, next_at, number FROM schedules WHERE ledger = $1 AND id = $2 FOR UPDATE"

RESUME: Final = """
UPDATE schedules SET status = 'active', version = $3, resumed_at = $4, next_at = $5, number = $6
WHERE ledger = $1 AND id = $2
"""

# Of the times that passed during a pause, so many are gone through while a turn waits; the sweep does the rest.
MOST_PASSED: Final = 200

_VIEW: Final = "id, seq, command, every, rrule, next_at, last_at, status, missed, created_at, version"

LIST: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
FROM ledgers JOIN actors ON actors.actor = 'ledger:' || ledgers.id LEFT JOIN LATERAL (
    SELECT {_VIEW} FROM schedules WHERE ledger = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.seq DESC
"""

FIND: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
FROM ledgers JOIN actors ON actors.actor = 'ledger:' || ledgers.id
JOIN LATERAL (SELECT {_VIEW} FROM schedules WHERE ledger = $1 AND id = $2) AS item ON true
WHERE ledgers.id = $1
"""

# now() and not the clock, which no index can be searched by. What a turn or another sweep is at is left to it.
DUE: Final = """
SELECT ledger, id, principal, command, every, rrule, missed, created_at, resumed_at, next_at, number, now() AS now
FROM schedules WHERE status = 'active' AND next_at <= now() AND id <> ALL ($2::uuid[])
ORDER BY next_at LIMIT $1 FOR UPDATE SKIP LOCKED
"""

# A time is there once, whoever comes by: what is written down is what this has taken.
TAKE: Final = """
INSERT INTO schedule_fires (ledger, schedule, fire_at, command)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::uuid[])
ON CONFLICT DO NOTHING RETURNING command
"""

# Into the mailbox at once, since their time has come; in the order of their times.
SUBMIT: Final = """
INSERT INTO commands (id, actor, position, kind, status, payload, weight, principal, correlation_id, resource,
    execute_at)
SELECT id, actor, nextval('daybook_position'), kind, 'accepted', payload, weight, principal, correlation_id, resource,
    execute_at
FROM (
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::int[], $6::uuid[], $7::text[], $8::text[],
        $9::timestamptz[]) AS line (id, actor, kind, payload, weight, principal, correlation_id, resource, execute_at)
    ORDER BY execute_at, correlation_id
) AS lines
"""

MOVE: Final = """
UPDATE schedules SET next_at = moved.next_at, number = moved.number,
    last_at = coalesce(moved.last_at, schedules.last_at)
FROM unnest($1::text[], $2::uuid[], $3::timestamptz[], $4::bigint[], $5::timestamptz[])
    AS moved (ledger, id, next_at, number, last_at)
WHERE schedules.ledger = moved.ledger AND schedules.id = moved.id
"""

_encode: Final = msgspec.json.Encoder().encode
_template: Final[msgspec.json.Decoder[Template]] = msgspec.json.Decoder(Template)


class ScheduleView(msgspec.Struct, frozen=True):
    """A command that is repeated. `next_at` is null when it is not active, or has no time left."""

    id: UUID
    command: Template
    every: str | None
    rrule: str | None
    next_at: Time | None
    last_at: Time | None
    status: Literal["active", "paused", "cancelled"]
    missed: Missed
    created_at: Time
    version: int


class Schedule(msgspec.Struct, frozen=True):
    """A schedule that is due, as the sweep has locked it. `next` is its first time that nothing was made of yet.

    Its command is as it is written down: one that can't be read is to be nobody else's trouble.
    """

    ledger: str
    id: UUID
    principal: UUID
    command: bytes
    every: str | None
    rrule: str | None
    missed: str
    created_at: datetime
    resumed_at: datetime | None
    next: Occurrence
    now: datetime

    @property
    def actor(self) -> str:
        return f"ledger:{self.ledger}"


class Fire(msgspec.Struct, frozen=True):
    """One time of a schedule, and the command that it makes."""

    schedule: Schedule
    at: datetime
    job: UUID
    kind: str
    command: Command
    weight: int
    resource: str


class Move(msgspec.Struct, frozen=True):
    """Where a schedule goes on, None at its end, and the last time that made a command, None if none did."""

    schedule: Schedule
    next: Occurrence | None
    last_at: datetime | None


# -- in a turn --------------------------------------------------------------------------------------------------------


async def statuses(db: Db, ledger: str, named: Collection[UUID]) -> dict[UUID, str]:
    """Those of the named schedules that there are."""
    if not named:
        return {}
    return {row["id"]: row["status"] for row in await db.fetch(STATUSES, ledger, sorted(named))}


async def save(db: Db, ledger: str, links: Sequence[Link], now: datetime) -> None:
    """Writes what `links` changed of schedules, in their order."""
    for link in links:
        event, seq = link.entry.data, link.entry.seq
        if isinstance(event, ScheduleCreated):
            await _add(db, ledger, event, seq)
        elif isinstance(event, SchedulePaused):
            await db.execute(SET_STATUS, ledger, event.schedule, "paused", seq)
        elif isinstance(event, ScheduleResumed):
            await _resume(db, ledger, event.schedule, seq, now)
        elif isinstance(event, ScheduleCancelled):
            await db.execute(SET_STATUS, ledger, event.schedule, "cancelled", seq)


async def _add(db: Db, ledger: str, event: ScheduleCreated, seq: int) -> None:
    starts_at = datetime.fromisoformat(event.starts_at)
    begins = first(event.every, event.rrule, starts_at)
    await db.execute(
        ADD,
        ledger,
        event.schedule,
        seq,
        event.principal,
        _encode(event.command),
        event.every,
        event.rrule,
        starts_at,
        event.missed,
        datetime.fromisoformat(event.created_at),
        None if begins is None else begins.at,
        0 if begins is None else begins.number,
    )


async def _resume(db: Db, ledger: str, schedule: UUID, seq: int, now: datetime) -> None:
    """Lets the times after `now` count, so that the schedule's view names the next one that will make a command."""
    row = await db.fetchrow(LOCK, ledger, schedule)
    if row is None:
        raise LookupError(f"schedule {schedule}")
    at: datetime | None = row["next_at"]
    number: int = row["number"]
    if at is not None:
        onward = _after(row["every"], row["rrule"], Occurrence(at, number), now)
        at, number = (None, number) if onward is None else onward
    await db.execute(RESUME, ledger, schedule, seq, now, at, number)


def _after(every: str | None, rrule: str | None, at: Occurrence, moment: datetime) -> Occurrence | None:
    """The first time after `moment`, or the last that was looked at; None if the series has ended by then."""
    found = leap(every, at, moment)
    times = occurrences(every, rrule, *found)
    for found in islice(times, MOST_PASSED):
        if found.at > moment:
            return found
    return None if next(times, None) is None else found


# -- reading ----------------------------------------------------------------------------------------------------------


async def list_schedules(db: Db, ledger: str, before: int, limit: int) -> Snapshot[Page[ScheduleView]] | None:
    """The ledger's schedules, newest first, of those made before the seq `before`."""
    rows = await db.fetch(LIST, ledger, before, limit + 1)
    if not rows:
        return None
    found = [row for row in rows if row["id"] is not None]
    more = (found[limit - 1]["seq"],) if len(found) > limit else None
    return Snapshot(rows[0]["epoch"], rows[0]["head"], Page([_view(row) for row in found[:limit]], more))


async def find_schedule(db: Db, ledger: str, schedule: UUID) -> Snapshot[ScheduleView] | None:
    row = await db.fetchrow(FIND, ledger, schedule)
    return None if row is None else Snapshot(row["epoch"], row["head"], _view(row))


def _view(row: Record) -> ScheduleView:
    next_at = row["next_at"] if row["status"] == "active" else None
    return ScheduleView(
        id=row["id"],
        command=_template.decode(row["command"]),
        every=row["every"],
        rrule=row["rrule"],
        next_at=None if next_at is None else format_time(next_at),
        last_at=None if row["last_at"] is None else format_time(row["last_at"]),
        status=row["status"],
        missed=row["missed"],
        created_at=format_time(row["created_at"]),
        version=row["version"],
    )


# -- firing -----------------------------------------------------------------------------------------------------------


def template(schedule: Schedule) -> Template:
    """The command that a schedule repeats. Raises ValueError for what can't be read."""
    return _template.decode(schedule.command)


async def due(db: Db, limit: int, passed_over: Collection[UUID]) -> list[Schedule]:
    """Schedules whose time has come, the longest due first, locked until the transaction ends."""
    return [
        Schedule(
            ledger=row["ledger"],
            id=row["id"],
            principal=row["principal"],
            command=row["command"],
            every=row["every"],
            rrule=row["rrule"],
            missed=row["missed"],
            created_at=row["created_at"],
            resumed_at=row["resumed_at"],
            next=Occurrence(row["next_at"], row["number"]),
            now=row["now"],
        )
        for row in await db.fetch(DUE, limit, list(passed_over))
    ]


async def submit(db: Db, fires: Sequence[Fire]) -> list[Fire]:
    """Writes a command down for each time that has none yet. Answers those."""
    rows = await db.fetch(
        TAKE,
        [fire.schedule.ledger for fire in fires],
        [fire.schedule.id for fire in fires],
        [fire.at for fire in fires],
        [fire.job for fire in fires],
    )
    taken = {row["command"] for row in rows}
    fresh = [fire for fire in fires if fire.job in taken]
    await db.execute(
        SUBMIT,
        [fire.job for fire in fresh],
        [fire.schedule.actor for fire in fresh],
        [fire.kind for fire in fresh],
        [_encode(fire.command) for fire in fresh],
        [fire.weight for fire in fresh],
        [fire.schedule.principal for fire in fresh],
        [f"schedule-{fire.schedule.id}" for fire in fresh],
        [fire.resource for fire in fresh],
        [fire.at for fire in fresh],
    )
    return fresh


async def move(db: Db, moves: Sequence[Move]) -> None:
    """Writes down where schedules go on."""
    await db.execute(
        MOVE,
        [move.schedule.ledger for move in moves],
        [move.schedule.id for move in moves],
        [None if move.next is None else move.next.at for move in moves],
        [0 if move.next is None else move.next.number for move in moves],
        [move.last_at for move in moves],
    )
