"""Sweeps: tasks that beat sends, and a timer in every worker process for when beat, or the broker, is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog
from celery.signals import worker_process_init
from redis.asyncio import Redis

from infrastructure.postgres import open_pool
from infrastructure.redis import open_queues
from infrastructure.settings import Settings, load
from tasks.app import DUE_S, QUEUE_OF_ACTOR, app
from tasks.doorbell import Doorbell
from tasks.runtime import Runtime, runtime
from workers.due import Due
from workers.expiry import Expiry
from workers.firing import Firing
from workers.snapshots import Snapshots
from workers.sweep import Sweep, again, pause

log = structlog.get_logger(__name__)


@app.task(name="tasks.sweeps.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """One sweep, on this worker's own connections."""
    process = runtime()
    process.run(_sweep_once(process))


async def _sweep_once(process: Runtime) -> None:
    async with _broker(process.settings) as broker:
        await _sweep_of(process.settings, process.pool, broker, process.doorbell).run()


@app.task(name="tasks.sweeps.expire")  # type: ignore[untyped-decorator]
def expire() -> None:
    """Asks for the end of transactions whose time is over."""
    process = runtime()
    process.run(Expiry(process.pool, process.doorbell.ring).run())


@app.task(name="tasks.sweeps.seal")  # type: ignore[untyped-decorator]
def seal() -> None:
    """Seals movements of busy accounts. Nothing but time is lost without it."""
    process = runtime()
    process.run(Snapshots(process.pool).run())


@app.task(name="tasks.sweeps.join_due")  # type: ignore[untyped-decorator]
def join_due() -> None:
    """Lets commands into the mailbox whose time has come, and fires schedules."""
    process = runtime()
    process.run(_join_due(process))


async def _join_due(process: Runtime) -> None:
    await Due(process.pool, process.doorbell.ring).run()
    await _firing_of(process.settings, process.pool, process.doorbell).run()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _start_timer(**_: object) -> None:
    threading.Thread(target=lambda: asyncio.run(_sweep_forever(load())), name="sweep", daemon=True).start()


async def _sweep_forever(settings: Settings) -> None:
    """Runs in a thread of its own, on its own loop and connections: a turn that hangs does not stop it."""
    doorbell = Doorbell(settings)
    while True:
        try:
            async with await open_pool(settings, application="sweep", size=1) as pool, _broker(settings) as broker:
                sweep, expiry = _sweep_of(settings, pool, broker, doorbell), Expiry(pool, doorbell.ring)
                async with asyncio.TaskGroup() as together:
                    together.create_task(again(settings.sweep_ms / 1000, sweep.run, expiry.run))
                    firing = _firing_of(settings, pool, doorbell)
                    together.create_task(again(DUE_S, Due(pool, doorbell.ring).run, firing.run))
        except Exception as error:
            # whatever it is, this thread goes on: it is what makes a lost doorbell harmless
            log.warning("sweep_failed", error=repr(error))
            await pause(settings.sweep_ms / 1000)


def _sweep_of(
    settings: Settings, pool: asyncpg.Pool[asyncpg.Record], broker: Redis | None, doorbell: Doorbell
) -> Sweep:
    return Sweep(pool, broker, settings, QUEUE_OF_ACTOR, doorbell.ring, doorbell.ring_delivery, doorbell.ring_export)


def _firing_of(settings: Settings, pool: asyncpg.Pool[asyncpg.Record], doorbell: Doorbell) -> Firing:
    return Firing(pool, doorbell.ring, settings.mailbox_limit)


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Redis | None]:
    """A client to measure queues with; None where the broker is not Redis."""
    client = open_queues(settings)
    if client is None:
        yield None
        return
    try:
        yield client
    finally:
        await client.aclose()
