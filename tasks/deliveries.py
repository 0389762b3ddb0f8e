"""The task that delivers an actor's journal to a subscriber."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import asyncpg
import structlog
from celery.signals import worker_process_init

from infrastructure import journal
from infrastructure.metrics import meter
from tasks.app import app
from tasks.runtime import runtime
from workers.delivery import Deliveries
from workers.subscribers import build, names

log = structlog.get_logger(__name__)

LONGEST_ACTOR = 200
SHORT_S: Final = 5
"""After a delivery that took longer another task looks for more: two such would be too long for one."""

_deliveries: Deliveries | None = None


def deliveries() -> Deliveries:
    """The deliveries of this process, made at the first call."""
    global _deliveries
    if _deliveries is None:
        process = runtime()
        subscribers = build(process.settings, process.pool, process.redis)
        ahead = partial(process.bells.ahead, "events")
        _deliveries = Deliveries(process.pool, subscribers, meter, process.settings.turn_time_ms, ahead)
        process.close_with(_deliveries.close)
    return _deliveries


@app.task(name="tasks.deliveries.deliver")  # type: ignore[untyped-decorator]
def deliver(subscriber: str, actor: str) -> None:
    """Delivers until the subscriber has caught up, time is up or others wait; then it rings again, behind them.

    Whatever the message says is looked up: an unknown subscriber, or a name that is no actor's, does nothing.
    """
    if not (deliveries().knows(subscriber) and isinstance(actor, str) and len(actor) <= LONGEST_ACTOR):
        log.warning("not_a_delivery")
        return
    process = runtime()
    with structlog.contextvars.bound_contextvars(subscriber=subscriber, actor=actor):
        if process.run(_deliver(subscriber, actor)):
            process.doorbell.ring_delivery(subscriber, actor, again=True)


async def _deliver(subscriber: str, actor: str) -> bool:
    bells, began = runtime().bells, time.monotonic()
    try:
        try:
            async with bells.kept(subscriber, actor):
                more = await deliveries().deliver(subscriber, actor)
        finally:
            await bells.answer(subscriber, actor)
        # once more: whoever rang meanwhile was told that somebody is there
        if more or time.monotonic() - began > SHORT_S:
            return True
        return await deliveries().deliver(subscriber, actor)
    finally:
        await meter.push(runtime().redis)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _register(**_: object) -> None:
    """A handler that is new in this release gets its positions with the first worker that knows it."""
    process = runtime()
    new = process.run(_register_subscribers())
    if new:
        log.info("subscribers_registered", names=new)


async def _register_subscribers() -> list[str]:
    process = runtime()
    async with process.pool.acquire() as db:
        try:
            return await journal.register_subscribers(db, names(process.settings))
        except asyncpg.PostgresError as error:
            log.warning("subscribers_not_registered", error=str(error))
            return []
