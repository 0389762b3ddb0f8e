"""The task behind the doorbell: an actor's turns."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import structlog
from celery import Task, current_task

from infrastructure.bells import Ahead
from infrastructure.mailbox import Origin
from infrastructure.repositories.catalog import type_of
from tasks.app import QUEUE_OF_ACTOR, app
from tasks.runtime import runtime
from workers.notices import Notices
from workers.subscribers import names
from workers.turn import Turns

log = structlog.get_logger(__name__)

_LONGEST_NAME: Final = 200


@lru_cache(maxsize=1)
def turns() -> Turns:
    """The turns of this process."""
    process = runtime()
    return Turns(
        process.pool,
        process.marks,
        Notices(process.redis),
        process.bells,
        process.settings,
        names(process.settings),
        process.doorbell.ring_delivery,
        _origin,
        _ahead,
    )


def _origin() -> Origin:
    """The task that runs."""
    request = current_task.request
    return Origin(request.id, request.hostname)


async def _ahead(actor: str) -> Ahead:
    return await runtime().bells.ahead(QUEUE_OF_ACTOR[type_of(actor)], actor)


@app.task(name="tasks.turns.run", bind=True)  # type: ignore[untyped-decorator]
def run(self: Task, actor: str) -> None:
    """Takes `actor`'s turns until its mailbox is empty, time is up or others wait; then it rings again, behind them.

    Whatever the message says is looked up in the daybook: a name that is no actor's does nothing.
    """
    if not isinstance(actor, str) or len(actor) > _LONGEST_NAME:
        log.warning("not_an_actor")
        return
    process = runtime()
    correlation_id = (self.request.headers or {}).get("correlation")
    with structlog.contextvars.bound_contextvars(actor=actor, correlation_id=correlation_id):
        if process.run(turns().work(actor)):
            process.doorbell.ring(actor, correlation_id)
