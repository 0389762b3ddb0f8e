"""Batches: what became of the commands of a bulk request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from api.access import sees_job
from api.answers import Answer
from api.context import services_of
from api.edge import principal_of
from api.jobs import as_shown, id_of, job_problem, viewer_of
from api.preferences import wait_of
from api.problems import Problem
from api.waiting import all_finished
from domain.clock import format_time
from domain.errors import NotFoundError
from infrastructure.command_log import UNFINISHED, Batch, CommandLog, Job
from infrastructure.read_models import Time

MOST_REFUSALS: Final = 100

Show = Callable[[Sequence[Job]], Awaitable[Sequence[Job]]]

_encode: Final = msgspec.json.Encoder().encode


class BatchRefusal(msgspec.Struct, frozen=True):
    """A command that a rule refused; `index` is its place in the request."""

    job: UUID
    index: int
    problem: Problem | None


class BatchView(msgspec.Struct, frozen=True):
    """A batch as JSON."""

    id: UUID
    ledger: str
    atomic: bool
    total: int
    done: bool
    accepted_at: Time
    finished_at: Time | None
    counts: dict[str, int]
    refusals: list[BatchRefusal]
    refusals_total: int


def batch_path(batch: UUID) -> str:
    return f"/v1/batches/{batch}"


async def batch_view(log: CommandLog, batch: Batch, show: Show | None = None) -> BatchView:
    """The batch as it is now, its refusals as `show` makes them, for who has not submitted it."""
    tally = await log.tally(batch, MOST_REFUSALS)
    refused = [job for _, job in tally.refusals]
    problems = map(job_problem, refused if show is None else await show(refused))
    done = not any(tally.counts[status] for status in UNFINISHED)
    finished_at = tally.finished_at and max(tally.finished_at, batch.accepted_at)  # jobs replayed are older than it
    return BatchView(
        id=batch.id,
        ledger=batch.actor.partition(":")[2],
        atomic=batch.atomic,
        total=len(batch.jobs),
        done=done,
        accepted_at=format_time(batch.accepted_at),
        finished_at=format_time(finished_at) if done and finished_at is not None else None,
        counts=tally.counts,
        refusals=[
            BatchRefusal(job.id, index, problem) for (index, job), problem in zip(tally.refusals, problems, strict=True)
        ],
        refusals_total=tally.counts["rejected"],
    )


def batch_response(view: BatchView, headers: dict[str, str]) -> Response[bytes]:
    """The batch, to be asked again in a second while it is unfinished."""
    if not view.done:
        headers = {**headers, "retry-after": "1"}
    return Answer(_encode(view), 200, headers)


@get(
    "/v1/batches/{batch:str}",
    summary="One batch; Prefer: wait=N waits until all its jobs have finished",
    answers={200: BatchView},
    keys=("ledger:read", "ledger:write"),
    awaitable=True,
)
async def get_batch(request: Request[Any, Any, Any], batch: FromPath[str]) -> Response[bytes]:
    recorder = services_of(request).recorder
    principal = principal_of(request)
    found = await recorder.log.find_batch(id_of(batch), viewer_of(principal))
    if found is None or not sees_job(principal, found.actor, found.principal):
        raise NotFoundError
    seconds = wait_of(request)
    headers = {}
    if seconds is not None:
        headers["preference-applied"] = "wait"
        await all_finished(recorder.log, recorder.waiters, found.actor, found.jobs, seconds)
    show = partial(as_shown, services_of(request), principal)
    return batch_response(await batch_view(recorder.log, found, show), headers)


ROUTES: Final[list[Any]] = [get_batch]
