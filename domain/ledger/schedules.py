"""Schedules: what the ledger is asked to do again and again, on behalf of who made them.

They are made, paused, resumed and cancelled here. When the next time is, and what becomes of those that were missed, is
the sweep's (`workers.firing`): each time makes a command of its own.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from domain.clock import LATEST, format_time, in_utc
from domain.decision import Stamp
from domain.errors import DomainError, Fault, NotFoundError
from domain.ledger.admission import admit, asked_at
from domain.ledger.commands import LedgerCommand, Moment
from domain.ledger.events import ScheduleCancelled, ScheduleCreated, SchedulePaused, ScheduleResumed
from domain.ledger.model import Ledger
from domain.ledger.templates import Template
from domain.messages import Event, Recorded
from domain.specification import Rule, Specification

# -- commands ---------------------------------------------------------------------------------------------------------

_EVERY: Final = (
    r"P(?:(?P<weeks>[0-9]{1,4})W"
    r"|(?:(?P<days>[0-9]{1,5})D)?(?:T(?=[0-9])(?:(?P<hours>[0-9]{1,6})H)?(?:(?P<minutes>[0-9]{1,8})M)?"
    r"(?:(?P<seconds>[0-9]{1,9})S)?)?)"
)
_DURATION: Final = re.compile(_EVERY)
SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(days=36_525)

Every = Annotated[
    str,
    Meta(
        pattern=r"\A" + re.sub(r"\?P<[a-z]+>", "?:", _EVERY) + r"\Z",
        description="must be an ISO 8601 duration in weeks, days, hours, minutes and seconds, such as PT15M or P1D",
    ),
]
RecurrenceRule = Annotated[
    str, Meta(min_length=1, max_length=255, description="must be a recurrence rule of RFC 5545, of 1 to 255 characters")
]
Missed = Literal["skip", "once", "all"]


class CreateSchedule(LedgerCommand, frozen=True, kw_only=True):
    """Repeat `command` at each time of a series, which is either `every` so often or what an `rrule` says, in UTC.

    `missed` says what becomes of times that nobody was there for: nothing, one command for all of them, or every one.
    """

    command: Template
    id: UUID | None = None
    every: Every | None = None
    rrule: RecurrenceRule | None = None
    starts_at: Moment | None = None
    missed: Missed = "skip"


class PauseSchedule(LedgerCommand, frozen=True, kw_only=True):
    """Let no time of a schedule count until it is resumed."""

    schedule: UUID


class ResumeSchedule(LedgerCommand, frozen=True, kw_only=True):
    """Go on with a schedule that was paused, at its next time from now."""

    schedule: UUID


class CancelSchedule(LedgerCommand, frozen=True, kw_only=True):
    """End a schedule for good."""

    schedule: UUID


def duration_of(every: str) -> timedelta:
    """How long that is. Raises ValueError for what is none, or is shorter than SHORTEST or longer than LONGEST."""
    match = _DURATION.fullmatch(every)
    if match is None:
        raise ValueError("must be an ISO 8601 duration, such as PT15M or P1D")
    span = timedelta(**{unit: int(number) for unit, number in match.groupdict(default="0").items()})
    if not SHORTEST <= span <= LONGEST:
        raise ValueError("must be a second at least, and 36525 days at most")
    return span


# -- rules ------------------------------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True):
    """A schedule by its id, its status, None where there is none, and from which one may get to where it is to go."""

    id: UUID
    status: str | None
    ways: tuple[str, ...] = ()


is_new: Specification[Wanted] = Specification(lambda wanted: wanted.status is None)
may_go: Specification[Wanted] = Specification(lambda wanted: wanted.status in wanted.ways)

UNTAKEN: Final = Rule(
    is_new,
    lambda wanted: DomainError(
        "validation_failed", f"There is a schedule {wanted.id} already.", (Fault("#/id", f"{wanted.id} is taken"),)
    ),
)
CHANGES: Final = (
    Rule(~is_new, lambda wanted: NotFoundError(f"There is no schedule {wanted.id}.")),
    Rule(
        may_go,
        lambda wanted: DomainError("validation_failed", f"The schedule {wanted.id} is {wanted.status} already."),
    ),
)

# -- handlers ---------------------------------------------------------------------------------------------------------


def create_schedule(command: CreateSchedule, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    schedule = command.id or recorded.id
    UNTAKEN.check((Wanted(schedule, ledger.schedules.get(schedule)),))
    asked = asked_at(command, recorded)
    return [
        ScheduleCreated(
            schedule=schedule,
            principal=recorded.principal,
            command=command.command,
            every=command.every,
            rrule=command.rrule,
            starts_at=format_time(_start(command, asked)),
            missed=command.missed,
            created_at=format_time(asked),
        )
    ]


def _start(command: CreateSchedule, asked: datetime) -> datetime:
    """Where the series begins. A rule knows no parts of seconds; a series that says nothing begins after now."""
    if command.every is not None:
        return in_utc(command.starts_at) if command.starts_at is not None else later(asked, duration_of(command.every))
    if command.starts_at is not None:
        return in_utc(command.starts_at).replace(microsecond=0)
    return later(asked, timedelta(seconds=1)).replace(microsecond=0)


def later(moment: datetime, span: timedelta) -> datetime:
    """So much later, or the last moment there is."""
    try:
        return min(moment + span, LATEST)
    except OverflowError:
        return LATEST


def pause_schedule(command: PauseSchedule, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _check(command.schedule, ledger, recorded, "active")
    return [SchedulePaused(schedule=command.schedule)]


def resume_schedule(command: ResumeSchedule, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _check(command.schedule, ledger, recorded, "paused")
    return [ScheduleResumed(schedule=command.schedule)]


def cancel_schedule(command: CancelSchedule, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _check(command.schedule, ledger, recorded, "active", "paused")
    return [ScheduleCancelled(schedule=command.schedule)]


def _check(schedule: UUID, ledger: Ledger, recorded: Recorded, *ways: str) -> None:
    admit(ledger, recorded, "writer")
    wanted = Wanted(schedule, ledger.schedules.get(schedule), ways)
    for rule in CHANGES:
        rule.check((wanted,))


# -- appliers ---------------------------------------------------------------------------------------------------------


def schedule_created(event: ScheduleCreated, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep(event.schedule, "active", ledger)


def schedule_paused(event: SchedulePaused, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep(event.schedule, "paused", ledger)


def schedule_resumed(event: ScheduleResumed, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep(event.schedule, "active", ledger)


def schedule_cancelled(event: ScheduleCancelled, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep(event.schedule, "cancelled", ledger)


def _keep(schedule: UUID, status: str, ledger: Ledger) -> list[str]:
    ledger.schedules[schedule] = status
    return []
