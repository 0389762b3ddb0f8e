"""Sweeps: a task that beat sends, and a timer in every worker process for when beat, or the broker, is gone."""

from __future__ import annotations

import asyncio
import random
import threading

import asyncpg
import structlog
from celery.signals import worker_process_init
from redis.exceptions import RedisError

from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tasks.app import SWEEP_PERIOD_S, app
from tasks.runtime import runtime
from workers.sweep import Sweep

log = structlog.get_logger(__name__)


@app.task(name="tasks.sweeps.sweep")  # type: ignore[untyped-decorator]
def sweep() -> None:
    """One sweep on this worker's own connections."""
    process = runtime()
    process.run(_sweep_of(process.settings, process.pool).run())


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _start_timer(**_: object) -> None:
    threading.Thread(target=lambda: asyncio.run(_sweep_forever()), name="sweep", daemon=True).start()


def _sweep_of(settings: Settings, pool: asyncpg.Pool[asyncpg.Record]) -> Sweep:
    broker = open_redis(settings, settings.broker_url) if settings.broker_url.startswith("redis") else None
    doorbell = runtime().doorbell
    return Sweep(pool, broker, settings, doorbell.ring, doorbell.ring_delivery)


async def _sweep_forever() -> None:
    """Runs in a thread of its own, on its own loop and connection: a turn that hangs does not stop it."""
    settings = runtime().settings
    while True:
        try:
            async with await open_pool(settings, application="sweep", size=1) as pool:
                sweep = _sweep_of(settings, pool)
                while True:
                    await asyncio.sleep(SWEEP_PERIOD_S * random.uniform(0.5, 1.5))
                    await sweep.run()
        except (OSError, TimeoutError, RedisError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("sweep_failed", error=str(error))
            await asyncio.sleep(SWEEP_PERIOD_S)
