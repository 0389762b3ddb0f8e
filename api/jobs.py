"""Jobs: commands as their submitters see them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath
from msgspec import Meta

from api.access import sees_job
from api.answers import Answer
from api.context import Services, services_of
from api.decoding import invalid, malformed, query_of
from api.edge import Principal, principal_of
from api.preferences import wait_of
from api.problems import Problem, problem
from domain.catalog import KINDS
from domain.clock import format_time
from domain.errors import Fault, NotFoundError
from domain.messages import Refusal
from infrastructure.command_log import STATUSES, Filter, Job, KeyBounds
from infrastructure.principals import KeyPrincipal
from infrastructure.read_models import Time

MOST_ITEMS: Final = 1_000
ITEMS: Final = 100
WITHHELD: Final = "What a rule has said is shown to those who were granted the ledger."
_PARAMETERS: Final = frozenset({"cursor", "limit", "status", "ledger", "kind"})

_encode: Final = msgspec.json.Encoder().encode

Kind = Annotated[str, Meta(extra_json_schema={"enum": list(KINDS)})]
Status = Annotated[str, Meta(extra_json_schema={"enum": list(STATUSES)})]


class JobResult(msgspec.Struct, frozen=True):
    """What a command that succeeded came to: `seq` is the ledger's version that shows it."""

    resource: str | None
    seq: int | None


class JobLinks(msgspec.Struct, frozen=True):
    """Where to go from a job."""

    self_: str = msgspec.field(name="self")
    events: str
    resource: str | None


class JobView(msgspec.Struct, frozen=True):
    """A job as JSON."""

    id: UUID
    kind: Kind
    actor: str
    batch: UUID | None
    status: Status
    accepted_at: Time
    execute_at: Time | None
    finished_at: Time | None
    attempts: int
    progress: None
    result: JobResult | None
    problem: Problem | None
    links: JobLinks


class JobPage(msgspec.Struct, frozen=True):
    """A page of jobs, newest first."""

    items: list[JobView]
    next: str | None


def job_path(job: UUID) -> str:
    return f"/v1/jobs/{job}"


def job_problem(job: Job) -> Problem | None:
    """Why the job was refused or set aside."""
    refusal = job.problem
    if refusal is None:
        return None
    return problem(
        refusal.code,
        refusal.detail,
        instance=job_path(job.id),
        correlation_id=job.correlation_id,
        job=str(job.id),
        faults=refusal.faults,
        caused_by=refusal.caused_by,
    )


def job_view(job: Job) -> JobView:
    path = job_path(job.id)
    return JobView(
        id=job.id,
        kind=job.kind,
        actor=job.actor,
        batch=job.batch,
        status=job.status,
        accepted_at=format_time(job.accepted_at),
        execute_at=None if job.execute_at is None else format_time(job.execute_at),
        finished_at=None if job.finished_at is None else format_time(job.finished_at),
        attempts=job.attempts,
        progress=None,
        result=JobResult(job.resource, job.seq) if job.status == "succeeded" else None,
        problem=job_problem(job),
        links=JobLinks(path, f"{path}/events", job.resource),
    )


def job_response(job: Job, status_code: int, headers: dict[str, str]) -> Response[bytes]:
    """The job as it is, to be asked again in a second while it is unfinished."""
    if not job.finished:
        headers = {**headers, "retry-after": "1"}
    return Answer(_encode(job_view(job)), status_code, headers)


def viewer_of(principal: Principal) -> UUID | None:
    """Whose jobs a principal may see: None is everybody's. What operators may is not in any key's scopes."""
    if isinstance(principal, KeyPrincipal):
        return None if principal.is_admin else principal.user_id
    return None if {"admin", "operator"} & set(principal.roles) else principal.user_id


async def as_shown(services: Services, principal: Principal, jobs: Sequence[Job]) -> list[Job]:
    """The jobs as the principal may see them, who may see them at all.

    Operators see everybody's, but no ledger's contents: of jobs that are neither theirs nor of a ledger that was
    granted to them they see what became of them and with which code, but no words and no names.
    """
    if principal.is_admin or viewer_of(principal) is not None:
        return list(jobs)
    others = {job.actor for job in jobs if job.principal != principal.user_id}
    ledgers = [actor.removeprefix("ledger:") for actor in others if actor.startswith("ledger:")]
    known = {f"ledger:{ledger}" for ledger in await services.grants.among(principal.user_id, ledgers)}
    return [job if job.principal == principal.user_id or job.actor in known else _reticent(job) for job in jobs]


def _reticent(job: Job) -> Job:
    problem = job.problem
    if problem is not None and job.status == "rejected":
        problem = Refusal(problem.code, WITHHELD, caused_by=problem.caused_by)
    return msgspec.structs.replace(job, resource=None, problem=problem)


def id_of(text: str) -> UUID:
    """An id in a path. Raises NotFoundError for what is none."""
    try:
        found = UUID(text)
    except ValueError:
        raise NotFoundError from None
    if str(found) != text.lower():
        raise NotFoundError
    return found


@get(
    "/v1/jobs/{job:str}",
    summary="One job; Prefer: wait=N waits until it has finished",
    answers={200: JobView},
    keys=("ledger:read", "ledger:write"),
    awaitable=True,
)
async def get_job(request: Request[Any, Any, Any], job: FromPath[str]) -> Response[bytes]:
    recorder = services_of(request).recorder
    principal = principal_of(request)
    found = await recorder.log.find_job(id_of(job), viewer_of(principal))
    if found is None or not sees_job(principal, found.actor, found.principal):
        raise NotFoundError
    seconds = wait_of(request)
    headers = {}
    if seconds is not None:
        headers["preference-applied"] = "wait"
        if not found.finished:
            found = await recorder.waiters.outcome(found.actor, found.id, seconds) or found
    (shown,) = await as_shown(services_of(request), principal, [found])
    return job_response(shown, 200, headers)


@get(
    "/v1/jobs",
    summary="Jobs, newest first",
    query=sorted(_PARAMETERS),
    choices={"status": STATUSES, "kind": tuple(KINDS)},
    answers={200: JobPage},
    keys=("ledger:read", "ledger:write"),
)
async def list_jobs(request: Request[Any, Any, Any]) -> Response[bytes]:
    log = services_of(request).recorder.log
    principal = principal_of(request)
    given = query_of(request)
    before = _before(dict(given).get("cursor"))
    limit, wanted = _checked(given)
    bounds = {"viewer": viewer_of(principal), "key": _bounds(principal)}
    found = await log.list_jobs(msgspec.structs.replace(wanted, before=before, **bounds), limit + 1)
    shown = await as_shown(services_of(request), principal, found[:limit])
    page = JobPage(list(map(job_view, shown)), _cursor(found[limit - 1].id) if len(found) > limit else None)
    return Answer(_encode(page))


def _bounds(principal: Principal) -> KeyBounds | None:
    if not isinstance(principal, KeyPrincipal):
        return None
    ledgers = None if principal.ledgers is None else tuple(principal.ledgers)
    return KeyBounds(principal.user_id, ledgers, principal.has("ledger:read"))


def _cursor(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _before(cursor: str | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        fault = Fault("#/cursor", "is none that was given out for this query")
        raise malformed("The cursor can't be used.", (fault,)) from None


def _checked(given: list[tuple[str, str]]) -> tuple[int, Filter]:
    """The limit and the filter. Raises ValidationError (422) naming every parameter that is wrong."""
    query = dict(given)
    faults = [Fault(f"#/{name}", "is no parameter of this address") for name in query if name not in _PARAMETERS]
    if len(given) != len(query):
        faults.append(Fault("#", "a parameter is given more than once"))
    limit = query.get("limit", str(ITEMS))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MOST_ITEMS):
        faults.append(Fault("#/limit", f"must be a whole number from 1 to {MOST_ITEMS}"))
    if query.get("status") not in (None, *STATUSES):
        faults.append(Fault("#/status", f"must be one of {', '.join(STATUSES)}"))
    if query.get("kind") not in (None, *KINDS):
        faults.append(Fault("#/kind", f"must be one of {', '.join(KINDS)}"))
    ledger = query.get("ledger")
    if ledger is not None and "\0" in ledger:
        faults.append(Fault("#/ledger", "is no ledger's id"))
    if faults:
        raise invalid(faults)
    actor = None if ledger is None else f"ledger:{ledger}"
    return int(limit), Filter(status=query.get("status"), kind=query.get("kind"), actor=actor)


ROUTES: Final[list[Any]] = [get_job, list_jobs]
