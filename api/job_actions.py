"""What may be done about jobs: cancelling one that waits, and retrying dead letters, one or many.

Whoever submitted a command may take it back, and so may writers of its ledger; operators look after all ledgers' jobs,
administrators after those of users, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.params import FromPath

from api.access import authorise, require, sees_job
from api.context import Services, services_of
from api.decoding import invalid, parse_json, query_of, read_body, try_decode
from api.edge import edge_of, principal_of
from api.jobs import JobView, as_shown, id_of, job_response, viewer_of
from domain.catalog import KINDS
from domain.errors import AuthError, DomainError, Fault, NotFoundError
from domain.ledger.model import RANKS
from infrastructure import jobs
from infrastructure.bells import bell_key
from infrastructure.command_log import Job
from infrastructure.principals import Principal, SessionPrincipal
from infrastructure.redis import TURNS_CHANNEL, RedisUnavailable

AnyRequest = Request[Any, Any, Any]

_FILTERS: Final = ("kind", "ledger")

_encode: Final = msgspec.json.Encoder().encode


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request that says all with its address."""


class RetriedView(msgspec.Struct, frozen=True):
    """Jobs that wait again. With `more` there were more dead letters than one request retries: ask again."""

    jobs: list[UUID]
    more: bool


@post(
    "/v1/jobs/{job:str}/cancel",
    status_code=200,
    summary="Cancel a job that is scheduled or accepted",
    body=Nothing,
    answers={200: JobView},
    keys=("ledger:write",),
    codes=("job_not_cancellable",),
)
async def cancel_job(request: AnyRequest, job: FromPath[str]) -> Response[bytes]:
    found = await _asked(request, job)
    services = services_of(request)
    slots = await jobs.cancel(services.pool, found.actor, found.id)
    if slots is None:
        # it may have held the actor's lock for a moment
        await _call_back(request, found.actor)
        raise DomainError("job_not_cancellable", "The job has finished, or is not one that can be cancelled.")
    with suppress(RedisUnavailable):
        await services.cache.drop(*slots)
    await _call_back(request, found.actor)
    with suppress(RedisUnavailable):
        await services.redis.call("PUBLISH", TURNS_CHANNEL, found.actor)
    return await _as_it_is(request, found)


@post(
    "/v1/jobs/{job:str}/retry",
    status_code=200,
    summary="Put a dead letter back into its mailbox, behind whatever waits there",
    body=Nothing,
    answers={200: JobView},
    keys=("ledger:write",),
    codes=("job_not_failed",),
)
async def retry_job(request: AnyRequest, job: FromPath[str]) -> Response[bytes]:
    """Those of one atomic batch are retried together. Commands to users are sent anew: a password is kept once only."""
    found = await _asked(request, job)
    retried = await jobs.retry(services_of(request).pool, found.id)
    if not retried.jobs:
        raise DomainError("job_not_failed", "The job is no dead letter of a ledger.")
    _tell(request, retried.actors)
    return await _as_it_is(request, found)


@post(
    "/v1/jobs/retry",
    status_code=200,
    summary="Retry dead letters, the oldest first, up to 1,000 at a time",
    body=Nothing,
    query=_FILTERS,
    choices={"kind": tuple(KINDS)},
    answers={200: RetriedView},
    keys=("ledger:write",),
    codes=("not_found",),
)
async def retry_jobs(request: AnyRequest) -> RetriedView:
    """Without `ledger` it is for operators."""
    attempt = try_decode(parse_json(await read_body(request)), Nothing)
    given = query_of(request)
    ledger, kind = dict(given).get("ledger"), dict(given).get("kind")
    await _admit_to_many(request, ledger)
    faults = [*attempt.faults, *_faults(given)]
    if faults:
        raise invalid(faults)
    actor = None if ledger is None else f"ledger:{ledger}"
    retried = await jobs.retry(services_of(request).pool, actor=actor, kind=kind)
    _tell(request, retried.actors)
    return RetriedView(list(retried.jobs), len(retried.jobs) >= jobs.RETRIED_AT_ONCE)


async def _asked(request: AnyRequest, text: str) -> Job:
    """The job, if whoever asks may change what becomes of it. Raises 404 and 403, and 422 for what is not asked so."""
    attempt = try_decode(parse_json(await read_body(request)), Nothing)
    principal = principal_of(request)
    services = services_of(request)
    found = await services.recorder.log.find_job(id_of(text), viewer_of(principal))
    if found is None or not sees_job(principal, found.actor, found.principal):
        raise NotFoundError
    require(principal, "ledger:write")
    if not (found.principal == principal.user_id or await _looks_after(services, principal, found.actor)):
        raise AuthError("forbidden", "This needs the role writer.")
    faults = [*attempt.faults, *_unknown(name for name, _ in query_of(request))]
    if faults:
        raise invalid(faults)
    return found


async def _looks_after(services: Services, principal: Principal, actor: str) -> bool:
    kind, _, ledger = actor.partition(":")
    if principal.is_admin:
        return True
    if kind != "ledger":
        return False
    if _is_operator(principal):
        return True
    role = await services.grants.find(ledger, principal.user_id, principal.is_admin)
    return role is not None and RANKS[role] >= RANKS["writer"]


def _is_operator(principal: Principal) -> bool:
    """What operators may is not in any key's scopes."""
    return isinstance(principal, SessionPrincipal) and not {"admin", "operator"}.isdisjoint(principal.roles)


async def _admit_to_many(request: AnyRequest, ledger: str | None) -> None:
    if _is_operator(principal_of(request)):
        return
    if ledger is None:
        raise AuthError("forbidden", "Without a ledger this needs the role operator.")
    if "\0" in ledger:
        raise NotFoundError
    await authorise(request, ledger, "writer")


def _faults(given: list[tuple[str, str]]) -> Iterable[Fault]:
    yield from _unknown(name for name, _ in given if name not in _FILTERS)
    if len(dict(given)) != len(given):
        yield Fault("#", "a parameter is given more than once")
    if dict(given).get("kind") not in (None, *KINDS):
        yield Fault("#/kind", f"must be one of {', '.join(KINDS)}")
    if "\0" in dict(given).get("ledger", ""):
        yield Fault("#/ledger", "is no ledger's id")


def _unknown(names: Iterable[str]) -> list[Fault]:
    return [Fault(f"#/{name}", "is no parameter of this address") for name in dict.fromkeys(names)]


def _tell(request: AnyRequest, actors: Iterable[str]) -> None:
    """Has workers look, and those who wait in this process."""
    recorder = services_of(request).recorder
    for actor in actors:
        recorder.bell.ring(actor, edge_of(request).correlation_id)
        recorder.waiters.look_at(actor)


async def _call_back(request: AnyRequest, actor: str) -> None:
    """Has a worker come in any case.

    One that came meanwhile has found the actor locked. It took that for another worker, left the bell to it and went
    away, and nobody else would come for what waits.
    """
    with suppress(RedisUnavailable):
        await services_of(request).redis.call("DEL", bell_key(actor))
    _tell(request, [actor])


async def _as_it_is(request: AnyRequest, job: Job) -> Response[bytes]:
    services = services_of(request)
    now = await services.recorder.log.find_job(job.id) or job
    (shown,) = await as_shown(services, principal_of(request), [now])
    return job_response(shown, 200, {})


ROUTES: Final[list[Any]] = [cancel_job, retry_jobs, retry_job]
