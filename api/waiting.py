"""Waiting for jobs to finish, for `Prefer: wait`.

A waiter registers before its command is written down. Turns announce themselves on a Redis channel by the names of
their actors; on each notice, each reconnect and each second one query reads the outcomes of everybody concerned. So a
notice that is lost, or a Redis that is down, delays an answer by a second and loses none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infrastructure.command_log import Job
from infrastructure.postgres import OUTSIDE
from infrastructure.redis import TURNS_CHANNEL, end_tasks

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""How often everybody's outcome is looked up, notice or not."""
MOST: Final = 10_000
"""Waiters of one process; further ones are answered at once, unfinished."""
_AT_ONCE: Final = 2_000

Finished = Callable[[Sequence[UUID]], Awaitable[list[Job]]]


class Waiters:
    """All who wait in this process. `finished` tells which of some jobs have finished."""

    def __init__(self, redis: Redis, finished: Finished, look_s: float = LOOK_S) -> None:
        self._redis = redis
        self._finished = finished
        self._look_s = look_s
        self._by_actor: dict[str, dict[UUID, set[asyncio.Future[Job]]]] = {}
        self.count = 0
        self.heard: Callable[[str | None], None] = lambda _: None
        """Told the actor of each turn that is announced, and None when some may have been missed."""
        self._noticed: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to listen and to look. `close` ends it."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look())]

    async def close(self) -> None:
        await end_tasks(*self._tasks)

    @contextmanager
    def expecting(self, actor: str, job: UUID) -> Iterator[asyncio.Future[Job]]:
        """A future that holds the job as soon as it has finished. It is cancelled when there are too many waiters."""
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        if self.count >= MOST:
            future.cancel()
            yield future
            return
        jobs = self._by_actor.setdefault(actor, {})
        jobs.setdefault(job, set()).add(future)
        self.count += 1
        try:
            yield future
        finally:
            future.cancel()
            self._forget(actor, job, future)

    async def outcome(self, actor: str, job: UUID, seconds: float) -> Job | None:
        """The job once it has finished, None if that takes longer. Looks at once: it may have finished before."""
        with self.expecting(actor, job) as future:
            self.look_at(actor)
            return await within(future, seconds)

    def look_at(self, actor: str) -> None:
        """Has the outcomes of the actor's waiters looked up now."""
        self._noticed.add(actor)
        self._wake.set()

    def _forget(self, actor: str, job: UUID, future: asyncio.Future[Job]) -> None:
        self.count -= 1
        jobs = self._by_actor[actor]
        jobs[job].discard(future)
        if not jobs[job]:
            del jobs[job]
        if not jobs:
            del self._by_actor[actor]

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        everybody_at = loop.time() + self._look_s
        while True:
            try:
                async with asyncio.timeout_at(everybody_at):
                    await self._wake.wait()
            except TimeoutError:
                everybody_at = loop.time() + self._look_s
                self._noticed.update(self._by_actor)
            self._wake.clear()
            noticed, self._noticed = self._noticed, set()
            await self._answer(noticed)

    async def _answer(self, actors: set[str]) -> None:
        jobs = iter([job for actor in actors for job in self._by_actor.get(actor, ())])
        while some := list(islice(jobs, _AT_ONCE)):
            try:
                found = await self._finished(some)
            except OUTSIDE as error:
                log.warning("outcomes_not_read", error=repr(error))
                return
            except Exception:
                # whatever it is, everybody after this would wait in vain if nobody looked any more
                log.exception("outcomes_not_read")
                return
            for job in found:
                for future in self._by_actor.get(job.actor, {}).get(job.id, ()):
                    if not future.done():
                        future.set_result(job)

    async def _listen(self) -> None:
        while True:
            try:
                await self._follow()
            except (RedisError, OSError) as error:
                log.warning("notices_lost", error=repr(error))
            except Exception:
                log.exception("notices_lost")
            await asyncio.sleep(self._look_s)

    async def _follow(self) -> None:
        async with self._redis.pubsub() as channel:
            await channel.subscribe(TURNS_CHANNEL)
            while True:
                message = await channel.get_message(timeout=10)
                if message is not None:
                    self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            # Connected, perhaps again: what was announced while nobody listened is gone.
            self._noticed.update(self._by_actor)
            self._wake.set()
            self.heard(None)
            return
        actor = message["data"].decode()
        self.heard(actor)
        if actor in self._by_actor:
            self.look_at(actor)


async def within(future: asyncio.Future[Job], seconds: float) -> Job | None:
    """The job, or None when it does not come in time."""
    done, _ = await asyncio.wait((future,), timeout=seconds)
    return future.result() if done and not future.cancelled() else None


class Unfinished(Protocol):
    """Tells which of some jobs is to be applied last."""

    async def last_unfinished(self, jobs: Sequence[UUID]) -> UUID | None: ...


async def all_finished(log: Unfinished, waiters: Waiters, actor: str, jobs: Sequence[UUID], seconds: float) -> bool:
    """Whether all of `jobs` have finished, or do so in time. They are applied in order, so the last one is awaited."""
    deadline = asyncio.get_running_loop().time() + seconds
    while (last := await log.last_unfinished(jobs)) is not None:
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0 or await waiters.outcome(actor, last, left_s) is None:
            return False
    return True
