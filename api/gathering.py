"""Gathering: what concurrent requests ask of Postgres is asked together, sharing its round trips and commits.

A flush takes whatever waits when it starts, so a lone request goes at once, and the busier the process is, the more
requests share a flush.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import structlog

from domain.errors import InfrastructureError
from infrastructure.postgres import OUTSIDE

T = TypeVar("T")
R = TypeVar("R")

log = structlog.get_logger(__name__)

SLOW_S = 0.05
UNKNOWN = "It is not known whether the request was recorded: send it again with the same Idempotency-Key."
OVERLOADED = "Too many requests are waiting to be recorded; nothing was recorded."


class Gatherer(Generic[T, R]):
    """Collects items and hands them to `flush`, at most `most` (by weight) at a time and `at_once` flushes at once.

    An item heavier than `most` goes alone. More than `backlog` (by weight) may not wait. While a flush is under way
    another one starts only once `crowd` (by weight) wait: each has the same fixed cost, whatever it takes. But nobody
    waits longer than SLOW_S for one that takes its time.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[T]], Awaitable[Sequence[R | Exception]]],
        *,
        most: int,
        backlog: int,
        at_once: int = 2,
        crowd: int = 1,
        weigh: Callable[[T], int] = lambda _: 1,
    ) -> None:
        self._flush = flush
        self._most = most
        self._backlog = backlog
        self._at_once = at_once
        self._crowd = crowd
        self._weigh = weigh
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self._weight = 0
        self._flushing: set[asyncio.Task[None]] = set()
        # counted apart from the tasks: one that has seen that nothing waits is still among them for a moment
        self._active = 0
        self._slow = 0

    async def ask(self, item: T) -> R:
        """What `flush` answers for the item; an exception among the answers is raised.

        Raises InfrastructureError when too much is waiting, and when Postgres fails. Whoever is cancelled here stops
        waiting for the answer, no more: the item is flushed all the same.
        """
        weight = self._weigh(item)
        if self._waiting and self._weight + weight > self._backlog:
            raise InfrastructureError(OVERLOADED)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, weight, future))
        self._weight += weight
        self._start()
        return await future

    async def close(self) -> None:
        """Waits until everything that was asked is answered."""
        while self._flushing:
            await asyncio.wait(self._flushing)

    def _start(self) -> None:
        if not self._waiting or self._active == self._at_once:
            return
        if self._active == self._slow or self._weight >= self._crowd:
            self._active += 1
            task = asyncio.create_task(self._run())
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                with self._watched():
                    await self._flush_some(self._take())
        finally:
            self._active -= 1

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Has the next flush start beside one that turns out to be slow."""
        slow = False

        def relieve() -> None:
            nonlocal slow
            slow = True
            self._slow += 1
            self._start()

        watch = asyncio.get_running_loop().call_later(SLOW_S, relieve)
        try:
            yield
        finally:
            watch.cancel()
            self._slow -= slow

    async def _flush_some(self, taken: Sequence[tuple[T, int, asyncio.Future[R]]]) -> None:
        try:
            _settle(taken, await self._flush([item for item, _, _ in taken]))
        except Exception as error:
            # first of all, whoever waits is told
            _settle(taken, [_failure(error)] * len(taken))
            log.warning("flush_failed", items=len(taken), exc_info=error)

    def _take(self) -> list[tuple[T, int, asyncio.Future[R]]]:
        taken = [self._waiting.popleft()]
        weight = taken[0][1]
        while self._waiting and weight + self._waiting[0][1] <= self._most:
            taken.append(self._waiting.popleft())
            weight += taken[-1][1]
        self._weight -= weight
        return taken


def _settle(taken: Sequence[tuple[T, int, asyncio.Future[R]]], answers: Sequence[R | Exception]) -> None:
    for (_, _, future), answer in zip(taken, answers, strict=True):
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _failure(error: Exception) -> Exception:
    if isinstance(error, OUTSIDE):
        return InfrastructureError(UNKNOWN)
    return error
