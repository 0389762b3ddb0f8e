"""Server-sent events: a ledger's journal as it grows, and a job on its way.

What was sent before is not sent again to who comes back with `Last-Event-ID`. A ledger's events are read from its
journal, so a client that was away for long misses none either.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from api.access import sees_job
from api.context import Services, services_of
from api.decoding import invalid, malformed, query_of
from api.edge import Edge, edge_of, principal_of
from api.jobs import JobView, as_shown, id_of, job_view, viewer_of
from api.ledgers import admit
from api.live import BEAT, BEAT_S, MEDIA_TYPE, Allowed, Content, EventStream
from domain.clock import format_time
from domain.errors import Fault, NotFoundError
from infrastructure import jobs, journal
from infrastructure.api_keys import KnownKey
from infrastructure.command_log import Job
from infrastructure.journal import Line
from infrastructure.principals import Principal
from infrastructure.read_models import Time
from infrastructure.sessions import read_slot

AnyRequest = Request[Any, Any, Any]

LINES: Final = 100
BYTES: Final = 65_536
"""A page of events ends once it is as large as this, or has so many lines."""
PUBLISH_S: Final = 2.0
"""How long a finished job's stream waits for subscribers to take its event; whoever is later goes unmentioned."""
LOOKS_S: Final = (0.02, 0.05, 0.1, 0.2)

HEAD: Final = "SELECT epoch, seq FROM actors WHERE actor = $1"

_PLACE: Final = re.compile(r"(?:(?P<epoch>[0-9]{1,9})\.)?(?P<seq>[0-9]{1,18})")
_STEPS: Final = ("accepted", "turn", "published", "finished")

_encode: Final = msgspec.json.Encoder().encode


class AcceptedStep(msgspec.Struct, frozen=True):
    """A job's `accepted`: durable since `at`, and not to be applied before `execute_at`."""

    at: Time
    execute_at: Time | None


class TurnStep(msgspec.Struct, frozen=True):
    """A job's `turn`: which one, in which Celery task of which worker, and what came of it."""

    turn: UUID | None
    task: str | None
    worker: str | None
    attempts: int
    status: str
    seq: int | None
    at: Time | None


class PublishedStep(msgspec.Struct, frozen=True):
    """A job's `published`: a subscriber has taken its event `seq`."""

    subscriber: str
    seq: int


@get(
    "/v1/ledgers/{ledger:str}/events",
    summary="The ledger's events as they happen (SSE), or from behind Last-Event-ID on",
    answers={200: None},
    media=MEDIA_TYPE,
    codes=("malformed_request", "validation_failed"),
)
async def ledger_events(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    """Each event's `data` is its exact bytes as in the journal, its `id` is `{epoch}.{seq}`."""
    last = _last_event_id(request)
    place = None if last is None else _PLACE.fullmatch(last)
    if last is not None and place is None:
        raise _unusable()
    await admit(request, ledger, "reader")
    _check_query(request)
    services = services_of(request)
    actor = f"ledger:{ledger}"
    head = await services.pool.fetchrow(HEAD, actor)
    if head is None or head["seq"] == 0:
        raise NotFoundError
    epoch, after = head["epoch"], head["seq"]
    if place is not None:
        after = int(place["seq"])
        if after > head["seq"] or (place["epoch"] is not None and int(place["epoch"]) != epoch):
            raise _unusable()

    async def allowed() -> bool:
        found = await _still(services, edge_of(request))
        if found is None or not (found.reaches(ledger) and found.has("ledger:read")):
            return False
        return await services.grants.find(ledger, found.user_id, found.is_admin) is not None

    content = _ledger_content(services, actor, f": {epoch}.{after}\n\n".encode(), after)
    return _stream(request, "ledger", content, allowed)


@get(
    "/v1/jobs/{job:str}/events",
    summary="A job on its way (SSE): accepted, turn, published, finished",
    answers={200: None, 204: None},
    media=MEDIA_TYPE,
    keys=("ledger:read", "ledger:write"),
    codes=("malformed_request", "validation_failed"),
)
async def job_events(request: AnyRequest, job: FromPath[str]) -> Response[bytes]:
    """The last event, `finished`, has the job itself; 204 is for who has had it. `turn` names the Celery task."""
    last = _last_event_id(request)
    if last is not None and last.partition(".")[0] not in _STEPS:
        raise _unusable()
    services = services_of(request)
    found = await _find(services, principal_of(request), id_of(job))
    if found is None:
        raise NotFoundError
    _check_query(request)
    if last == "finished" and found.finished:
        return Response(b"", status_code=204, media_type=MEDIA_TYPE)

    async def allowed() -> bool:
        principal = await _still(services, edge_of(request))
        return principal is not None and await _find(services, principal, found.id) is not None

    content = _job_content(services, principal_of(request), found, last)
    return _stream(request, "job", content, allowed)


def _stream(request: AnyRequest, kind: str, content: Content, allowed: Allowed) -> Response[bytes]:
    streams, owner = services_of(request).streams, principal_of(request).user_id
    streams.admit(owner)
    if edge_of(request).method == "HEAD":
        return Response(b"", media_type=MEDIA_TYPE)
    return EventStream(request, streams, owner, kind, content, allowed)


# -- a ledger's events ------------------------------------------------------------------------------------------------


async def _ledger_content(services: Services, actor: str, greeting: bytes, after: int) -> Content:
    """Pages of the journal, each read when the one before is sent; comments while there are none."""
    yield greeting
    streams = services.streams
    with streams.following(actor, after) as follower:
        while True:
            follower.woken.clear()
            lines = await journal.page(streams.pool, actor, follower.after, lines=LINES, size=BYTES)
            if lines:
                follower.after = lines[-1].seq
                yield b"".join(map(_event, lines))
                continue
            try:
                async with asyncio.timeout(BEAT_S):
                    await follower.woken.wait()
            except TimeoutError:
                yield BEAT


def _event(line: Line) -> bytes:
    # JSON as it is encoded here has no line breaks
    return b"id: %d.%d\ndata: %b\n\n" % (line.epoch, line.seq, line.event)


# -- a job on its way -------------------------------------------------------------------------------------------------


async def _job_content(services: Services, principal: Principal, job: Job, last: str | None) -> Content:
    """The steps of a job that come behind the one that was had last."""
    had = -1 if last is None else _STEPS.index(last.partition(".")[0])
    yield b": \n\n"
    if had < _STEPS.index("accepted"):
        execute_at = None if job.execute_at is None else format_time(job.execute_at)
        yield _step("accepted", AcceptedStep(format_time(job.accepted_at), execute_at))
    loop = asyncio.get_running_loop()
    while not job.finished:
        asked_at = loop.time()
        found = await services.recorder.waiters.outcome(job.actor, job.id, BEAT_S)
        if found is not None:
            job = found
            break
        yield BEAT
        # nobody was waited for when there are too many waiters
        await asyncio.sleep(max(0.0, 1.0 - (loop.time() - asked_at)))
    if had < _STEPS.index("turn") and job.status != "cancelled":
        yield _step("turn", await _turn(services, job))
    if job.status == "succeeded" and job.seq is not None:
        async for subscriber in _publications(services, job.actor, job.seq):
            if last != f"published.{subscriber}":
                yield _step(f"published.{subscriber}", PublishedStep(subscriber, job.seq))
    (shown,) = await as_shown(services, principal, [job])
    yield _step("finished", job_view(shown))


async def _turn(services: Services, job: Job) -> TurnStep:
    taken = await jobs.find_turn(services.streams.pool, job.id)
    at = None if job.finished_at is None else format_time(job.finished_at)
    return TurnStep(taken.turn, taken.task, taken.worker, job.attempts, job.status, job.seq, at)


async def _publications(services: Services, actor: str, seq: int) -> AsyncIterator[str]:
    """Subscribers as they take the event, for a while."""
    loop, told, looks = asyncio.get_running_loop(), set[str](), 0
    until = loop.time() + PUBLISH_S
    while True:
        known: Mapping[str, bool] = await jobs.published(services.streams.pool, actor, seq)
        for name in [name for name, done in known.items() if done and name not in told]:
            told.add(name)
            yield name
        if len(told) == len(known) or loop.time() > until:
            return
        await asyncio.sleep(LOOKS_S[min(looks, len(LOOKS_S) - 1)])
        looks += 1


def _step(name: str, data: AcceptedStep | TurnStep | PublishedStep | JobView) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (name.encode(), name.partition(".")[0].encode(), _encode(data))


async def _find(services: Services, principal: Principal, job: UUID) -> Job | None:
    """The job, if the principal may see it."""
    found = await services.recorder.log.find_job(job, viewer_of(principal))
    return found if found is not None and sees_job(principal, found.actor, found.principal) else None


# -- what they share --------------------------------------------------------------------------------------------------


async def _still(services: Services, edge: Edge) -> Principal | None:
    """Who asks, as Postgres has it now: None once the token, its session or the API key is over."""
    token = edge.token
    if isinstance(token, KnownKey):
        slot = await services.api_keys.find(token.digest)
        return None if slot is None else token.read(slot)
    if token is None or edge.bearer is None or await services.key_watch.verify(edge.bearer) is None:
        return None
    slot = await services.sessions.find(token.session_id)
    return None if slot is None else read_slot(slot, token.session_id)


def _last_event_id(request: AnyRequest) -> str | None:
    given = edge_of(request).headers.get(b"last-event-id", b"").decode("latin-1").strip()
    return given or None


def _check_query(request: AnyRequest) -> None:
    if given := dict(query_of(request)):
        raise invalid([Fault(f"#/{name}", "is no parameter of this address") for name in given])


def _unusable() -> Exception:
    fault = Fault("Last-Event-ID", "is none that was given out by this stream")
    return malformed("The Last-Event-ID can't be used.", (fault,))


ROUTES: Final[list[Any]] = [ledger_events, job_events]
