"""Schedules: making one, pausing, resuming and cancelling it. Listing them is a read (`api.views`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from litestar import Request, Response, post
from litestar.params import FromPath

from api.accounts import CLOSE_ACCOUNT, FREEZE_ACCOUNT, OPEN_ACCOUNT, UNFREEZE_ACCOUNT
from api.commands import Form
from api.decoding import parse_json, read_body
from api.jobs import JobView
from api.ledgers import accept_for, accept_in
from api.paths import body_of, command_about, id_in
from api.queries import GetSchedule
from api.transactions import CAPTURE_TRANSACTION, POST_TRANSACTION, REVERSE_TRANSACTION, VOID_TRANSACTION
from domain.clock import in_utc, unkept
from domain.errors import Fault
from domain.ledger import templates
from domain.ledger.schedules import CancelSchedule, CreateSchedule, PauseSchedule, ResumeSchedule, duration_of
from domain.ledger.templates import PostTransactionTemplate, Template
from infrastructure.recurrence import first, read_rule
from infrastructure.schedules import ScheduleView

AnyRequest = Request[Any, Any, Any]

MOST_PAST: Final = timedelta(days=3_653)
"""How long ago a schedule may begin: what has passed since is looked through, if only to be left out."""

_FORMS: Final[Mapping[type[Template], Form[Any]]] = {
    templates.OpenAccountTemplate: OPEN_ACCOUNT,
    templates.PostTransactionTemplate: POST_TRANSACTION,
    templates.CaptureTransactionTemplate: CAPTURE_TRANSACTION,
    templates.VoidTransactionTemplate: VOID_TRANSACTION,
    templates.ReverseTransactionTemplate: REVERSE_TRANSACTION,
    templates.FreezeAccountTemplate: FREEZE_ACCOUNT,
    templates.UnfreezeAccountTemplate: UNFREEZE_ACCOUNT,
    templates.CloseAccountTemplate: CLOSE_ACCOUNT,
}


# -- what can be seen in a request alone ------------------------------------------------------------------------------


def schedule_faults(command: CreateSchedule) -> Iterator[Fault]:
    """What its own route would say to the command that is repeated, and whether there are times to repeat it at."""
    yield from _template_faults(command.command)
    now = datetime.now(UTC)
    starts_at = now if command.starts_at is None else in_utc(command.starts_at)
    if said := unkept(starts_at):
        yield Fault("#/starts_at", said)
    elif starts_at < now - MOST_PAST:
        yield Fault("#/starts_at", f"must not be more than {MOST_PAST.days} days in the past")
    elif (command.every is None) == (command.rrule is None):
        yield Fault("#/every", "must be given, or rrule, but not both")
    elif command.every is not None:
        yield from _said("#/every", lambda: duration_of(command.every or ""))
    else:
        yield from _said("#/rrule", lambda: _check_rule(command.rrule or "", starts_at))


def _template_faults(template: Template) -> Iterator[Fault]:
    for fault in _FORMS[type(template)].faults(template):
        yield Fault(f"#/command{fault.pointer[1:]}", fault.detail)
    if template.execute_at is not None:
        yield Fault("#/command/execute_at", "must be left out: the schedule says when")
    if isinstance(template, PostTransactionTemplate) and template.expires_at is not None:
        yield Fault("#/command/expires_at", "must be left out: it would be the same each time")


def _said(pointer: str, check: Callable[[], object]) -> Iterator[Fault]:
    try:
        check()
    except ValueError as error:
        yield Fault(pointer, str(error))


def _check_rule(rrule: str, starts_at: datetime) -> None:
    read_rule(rrule)
    if first(None, rrule, starts_at) is None:
        raise ValueError("must have a time, and has none")


# -- forms ------------------------------------------------------------------------------------------------------------


class AboutSchedule(Protocol):
    """A command to a schedule that is there, or on its way."""

    @property
    def schedule(self) -> UUID: ...


def _made_at(ledger: str, command: CreateSchedule, job: UUID) -> str:
    return f"/v1/ledgers/{ledger}/schedules/{command.id or job}"


def _made(ledger: str, command: CreateSchedule, job: UUID, seq: int) -> GetSchedule:
    return GetSchedule(ledger=ledger, schedule=command.id or job, min_version=seq)


def _changed_at(ledger: str, command: AboutSchedule, _job: UUID) -> str:
    return f"/v1/ledgers/{ledger}/schedules/{command.schedule}"


def _changed(ledger: str, command: AboutSchedule, _job: UUID, seq: int) -> GetSchedule:
    return GetSchedule(ledger=ledger, schedule=command.schedule, min_version=seq)


_ONE: Final = "schedules/{schedule}"

CREATE_SCHEDULE: Final = Form(CreateSchedule, "schedules", _made_at, _made, schedule_faults)
PAUSE_SCHEDULE: Final = Form(PauseSchedule, f"{_ONE}/pause", _changed_at, _changed, status=200)
RESUME_SCHEDULE: Final = Form(ResumeSchedule, f"{_ONE}/resume", _changed_at, _changed, status=200)
CANCEL_SCHEDULE: Final = Form(CancelSchedule, f"{_ONE}/cancel", _changed_at, _changed, status=200)

# -- routes -----------------------------------------------------------------------------------------------------------

SCHEDULE: Final = "/v1/ledgers/{ledger:str}/schedules/{schedule:str}"


@post(
    "/v1/ledgers/{ledger:str}/schedules",
    status_code=202,
    summary="Repeat a command, every so often or by a recurrence rule",
    body=CreateSchedule,
    command=True,
    answers={201: ScheduleView, 202: JobView},
    refusals=("validation_failed",),
)
async def create_schedule(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    """Each time makes a command on behalf of who has made the schedule, if they may still send it then."""
    return await accept_for(request, CREATE_SCHEDULE, ledger)


@post(
    f"{SCHEDULE}/pause",
    status_code=202,
    summary="Let no time of a schedule count until it is resumed",
    body=body_of(PauseSchedule, "schedule"),
    command=True,
    answers={200: ScheduleView, 202: JobView},
    refusals=("validation_failed",),
)
async def pause_schedule(request: AnyRequest, ledger: FromPath[str], schedule: FromPath[str]) -> Response[bytes]:
    return await _accept(request, PAUSE_SCHEDULE, ledger, schedule)


@post(
    f"{SCHEDULE}/resume",
    status_code=202,
    summary="Go on with a schedule, at its next time from now",
    body=body_of(ResumeSchedule, "schedule"),
    command=True,
    answers={200: ScheduleView, 202: JobView},
    refusals=("validation_failed",),
)
async def resume_schedule(request: AnyRequest, ledger: FromPath[str], schedule: FromPath[str]) -> Response[bytes]:
    """Times of the pause are passed over, whatever `missed` says."""
    return await _accept(request, RESUME_SCHEDULE, ledger, schedule)


@post(
    f"{SCHEDULE}/cancel",
    status_code=202,
    summary="End a schedule for good",
    body=body_of(CancelSchedule, "schedule"),
    command=True,
    answers={200: ScheduleView, 202: JobView},
    refusals=("validation_failed",),
)
async def cancel_schedule(request: AnyRequest, ledger: FromPath[str], schedule: FromPath[str]) -> Response[bytes]:
    """Commands that it has made already are not taken back: they are jobs to cancel by themselves."""
    return await _accept(request, CANCEL_SCHEDULE, ledger, schedule)


async def _accept(request: AnyRequest, form: Form[Any], ledger: str, schedule: str) -> Response[bytes]:
    document = parse_json(await read_body(request))
    named = id_in(schedule)
    attempt = command_about(form.command, "schedule", named or UUID(int=0), document)
    return await accept_in(request, form, ledger, document, attempt, "writer", exists=named is not None)


ROUTES: Final[list[Any]] = [create_schedule, pause_schedule, resume_schedule, cancel_schedule]
