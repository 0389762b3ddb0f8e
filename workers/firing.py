"""Fires schedules: each time that has come makes a command of its own, in the name of who made the schedule.

One transaction takes schedules that are due, writes their times and commands down, and moves them on; so a time makes
one command, however many sweeps there are. The command is as if it had been sent with that time as its `execute_at`:
that is when it takes effect, however late it comes. Its principal's authority is looked at when it applies.

A time is missed if nobody came for it within LATE, or if it had passed when the schedule was made. Times of a pause are
not missed but passed over, whatever is to become of missed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from msgspec.structs import asdict
from uuid_utils.compat import uuid7

from domain.catalog import KIND_OF
from domain.ledger import commands, templates
from domain.ledger.commands import CaptureTransaction, LedgerCommand, OpenAccount, VoidTransaction
from domain.ledger.handlers import weight
from domain.ledger.templates import Template
from infrastructure import mailbox, schedules
from infrastructure.metrics import meter
from infrastructure.postgres import Db
from infrastructure.recurrence import Occurrence, leap, occurrences
from infrastructure.schedules import Fire, Move, Schedule

log = structlog.get_logger(__name__)

AT_ONCE: Final = 50
ROUNDS: Final = 20
MOST_STEPS: Final = 2_000
"""Times of a schedule that are looked at in one go. Those behind are for the next."""
MOST_FIRES: Final = 100
LATE: Final = timedelta(seconds=60)
"""A sweep that comes later than this has missed a time."""

_COMMAND_OF: Final[dict[type[Template], type[LedgerCommand]]] = {
    templates.OpenAccountTemplate: commands.OpenAccount,
    templates.PostTransactionTemplate: commands.PostTransaction,
    templates.CaptureTransactionTemplate: commands.CaptureTransaction,
    templates.VoidTransactionTemplate: commands.VoidTransaction,
    templates.ReverseTransactionTemplate: commands.ReverseTransaction,
    templates.FreezeAccountTemplate: commands.FreezeAccount,
    templates.UnfreezeAccountTemplate: commands.UnfreezeAccount,
    templates.CloseAccountTemplate: commands.CloseAccount,
}


@dataclass(frozen=True, slots=True)
class Firing:
    """Looks for schedules that are due. `ring` wakes a worker for an actor whose mailbox is not full."""

    pool: asyncpg.Pool[Record]
    ring: Callable[[str], None]
    mailbox_limit: int

    async def run(self) -> int:
        """One sweep, bounded. Answers how many commands it made."""
        total = 0
        # what can't go on is not to be in the way of what is due after it
        passed_over: set[UUID] = set()
        for _ in range(ROUNDS):
            found, fired = await self._fire(passed_over)
            self._tell(fired)
            total += len(fired)
            if not found:
                break
        return total

    async def _fire(self, passed_over: set[UUID]) -> tuple[int, Sequence[Fire]]:
        """How many schedules were due, and the commands they made. Adds to those passed over what did not go on."""
        async with self.pool.acquire() as db, db.transaction():
            found = await schedules.due(db, AT_ONCE, passed_over)
            plans = list(_plans(await self._with_room(db, found)))
            fires = [fire for made, _ in plans for fire in made]
            fired = await schedules.submit(db, fires) if fires else []
            if plans:
                await schedules.move(db, [move for _, move in plans])
        passed_over.update({schedule.id for schedule in found} - {move.schedule.id for _, move in plans})
        return len(found), fired

    async def _with_room(self, db: Db, found: Sequence[Schedule]) -> list[Schedule]:
        """Without those whose mailbox is full: their time comes when there is room."""
        actors = {schedule.actor for schedule in found}
        full = {actor for actor in actors if await mailbox.waiting(db, actor, self.mailbox_limit) >= self.mailbox_limit}
        return [schedule for schedule in found if schedule.actor not in full]

    def _tell(self, fired: Sequence[Fire]) -> None:
        for fire in fired:
            meter.command_accepted(fire.kind, 1)
        for actor in dict.fromkeys(fire.schedule.actor for fire in fired):
            self.ring(actor)
        if fired:
            log.info("fired", commands=len(fired))


def _plans(found: Iterable[Schedule]) -> Iterator[tuple[list[Fire], Move]]:
    for schedule in found:
        try:
            times, move = plan(schedule)
            yield [_fire_of(schedule, at) for at in times], move
        except Exception:
            # the others are not to wait for it
            log.exception("schedule_broken", ledger=schedule.ledger, schedule=str(schedule.id))


def plan(schedule: Schedule) -> tuple[list[datetime], Move]:
    """Which of a schedule's times make commands now, and where it goes on."""
    begin = schedule.next
    if schedule.resumed_at is not None:
        begin = leap(schedule.every, begin, schedule.resumed_at)
    if schedule.missed != "all":
        begin = leap(schedule.every, begin, _missed_upto(schedule))
    times = list(islice(occurrences(schedule.every, schedule.rrule, *begin), MOST_STEPS + 1))
    due = [time for time in times[:MOST_STEPS] if time.at <= schedule.now]
    onward = times[len(due)] if len(due) < len(times) else None
    counting = [time for time in due if schedule.resumed_at is None or time.at > schedule.resumed_at]
    fires, onward = _chosen(schedule, counting, onward)
    return [time.at for time in fires], Move(schedule, onward, fires[-1].at if fires else None)


def _chosen(
    schedule: Schedule, due: list[Occurrence], onward: Occurrence | None
) -> tuple[list[Occurrence], Occurrence | None]:
    """Those that make commands, and where it goes on if not all were looked at."""
    upto = _missed_upto(schedule)
    if schedule.missed == "once" and due and due[0].at <= upto:
        if onward is not None and onward.at <= schedule.now:
            # there are more: the last of them all is the one
            return [], onward
        return due[-1:], onward
    if schedule.missed == "skip":
        due = [time for time in due if time.at > upto]
    if len(due) > MOST_FIRES:
        return due[:MOST_FIRES], due[MOST_FIRES]
    return due, onward


def _missed_upto(schedule: Schedule) -> datetime:
    return max(schedule.created_at, schedule.now - LATE)


def _fire_of(schedule: Schedule, at: datetime) -> Fire:
    template, job = schedules.template(schedule), uuid7()
    made = _COMMAND_OF[type(template)](**{**asdict(template), "execute_at": at})
    resource = f"/v1/ledgers/{schedule.ledger}/{_made_at(made, job)}"
    return Fire(schedule, at, job, KIND_OF[type(made)], made, weight(made), resource)


def _made_at(command: LedgerCommand, job: UUID) -> str:
    """What the command makes or changes."""
    if isinstance(command, OpenAccount):
        return f"accounts/{command.name}"
    if isinstance(command, (commands.FreezeAccount, commands.UnfreezeAccount, commands.CloseAccount)):
        return f"accounts/{command.account}"
    if isinstance(command, (CaptureTransaction, VoidTransaction)):
        return f"transactions/{command.transaction}"
    return f"transactions/{job}"
