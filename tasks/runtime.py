"""What a worker process keeps between tasks: one event loop, its connections, a doorbell.

Celery has no pool for coroutines. Each process runs them on one `asyncio.Runner`, made after the fork, so that
connections live as long as the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, TypeVar

import asyncpg
import uvloop
from asyncpg import Record
from celery.signals import worker_process_init, worker_process_shutdown
from redis.asyncio import Redis

from infrastructure.bells import Bells
from infrastructure.logs import configure_logging
from infrastructure.memory import relieve_collector
from infrastructure.postgres import open_pool
from infrastructure.processes import die_with_parent
from infrastructure.redis import open_queues, open_redis
from infrastructure.settings import Settings, load
from tasks.doorbell import Doorbell

T = TypeVar("T")

_WORK_CONNECTIONS: Final = 3


class Runtime:
    """The loop and the connections of this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.pool: Final[asyncpg.Pool[Record]] = self.run(
            open_pool(settings, application="worker", size=_WORK_CONNECTIONS)
        )
        # A mark must outlive its worker, not the server: it need not wait for the disk.
        self.marks: Final[asyncpg.Pool[Record]] = self.run(
            open_pool(settings, application="mark", size=1, synchronous_commit="off")
        )
        self.redis: Final[Redis] = open_redis(settings)
        self.broker: Final = open_queues(settings)
        self.bells: Final = Bells(self.redis, self.broker)
        self.doorbell: Final = Doorbell(settings)
        self._closers: list[Callable[[], Awaitable[None]]] = []

    def close_with(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Has something that was made on this loop closed before the connections are."""
        self._closers.append(closer)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on this process's loop, with the caller's context: what is bound to the log reaches it."""
        return self._runner.run(work, context=copy_context())

    def close(self) -> None:
        self.doorbell.close()
        self.run(self._disconnect())
        self._runner.close()

    async def _disconnect(self) -> None:
        for closer in self._closers:
            await closer()
        if self.broker is not None:
            await self.broker.aclose()
        await self.redis.aclose()
        await self.marks.close()
        await self.pool.close()


_current: Runtime | None = None


def runtime() -> Runtime:
    """This process's runtime, made at the first call."""
    global _current
    if _current is None:
        _current = Runtime(load())
    return _current


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _start(**_: object) -> None:
    die_with_parent()
    configure_logging(load())
    runtime()
    relieve_collector()


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _stop(**_: object) -> None:
    global _current
    if _current is not None:
        _current.close()
        _current = None
