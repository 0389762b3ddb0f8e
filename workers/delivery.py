"""A delivery: a subscriber's turn over one actor's journal, in order and at least once.

Lease the actor's row in `behind`, read a page of the journal, publish it outside any transaction, move the position by
compare-and-set, and so on until the subscriber has caught up or its time is used. Whatever dies in between leaves the
position where it was: the same bytes are published again. Two deliveries of one actor can overlap only when a lease
ran out under a stalled process; both go up from an acknowledged position one by one, so that even then every event's
first publication comes after its predecessor's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol

import asyncpg
import structlog
from asyncpg import Record
from redis.exceptions import RedisError

from domain.errors import InfrastructureError
from infrastructure import journal
from infrastructure.bells import Ahead
from infrastructure.journal import Lease, Line
from infrastructure.metrics import Meter
from infrastructure.postgres import Db

log = structlog.get_logger(__name__)

PAGE_LINES: Final = 1_000
PAGE_BYTES: Final = 16 * 1024 * 1024
PUBLISH_S: Final = 25
"""Seconds a subscriber may take for a page. Below the lease's, so that nobody takes over from a publisher at work."""

SHARE_S: Final = 0.25
"""Seconds after which a delivery makes room for others that wait for a worker."""

IDLE_MS: Final = 1_000
"""Milliseconds since an event after which nobody can still be about to deliver it."""

UNAVAILABLE: Final = (InfrastructureError, RedisError, OSError, TimeoutError)
"""Failures that say something about the subscriber as a whole, not about one event."""


class Subscriber(Protocol):
    """What consumes journals."""

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        """Takes these entries in order, durably, and answers how many: all, or as many as it had time for, but one.

        Taking an entry twice must be harmless.

        Raises Interrupted when it took some, Rewound when it must begin again elsewhere, else whatever went wrong.
        """

    async def close(self) -> None:
        """Lets go of its connections."""


class Interrupted(Exception):
    """The subscriber took everything up to `seq` and failed at the next entry; `__cause__` says why."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"stopped behind {seq}")
        self.seq: Final = seq


class Rewound(Exception):
    """The subscriber's positions were set back meanwhile: what is to be delivered now comes earlier."""


class _Failed(Exception):
    """A page was not taken. Carries the lease as it stands; `__cause__` says why."""

    def __init__(self, held: Lease) -> None:
        super().__init__()
        self.held: Final = held


class Breaker:
    """Keeps this process from trying a subscriber that is down, once for every actor, a time-out each."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() < self._until

    def failed(self) -> None:
        """Opens for a second, doubled with each failure in a row up to 30 s."""
        self._until = time.monotonic() + min(30, 2**self._failures)
        self._failures = min(self._failures + 1, 10)

    def succeeded(self) -> None:
        self._failures = 0


class Deliveries:
    """What deliveries of this process share."""

    def __init__(
        self,
        pool: asyncpg.Pool[Record],
        subscribers: Mapping[str, Subscriber],
        meter: Meter,
        time_ms: int,
        ahead: Callable[[str, str], Awaitable[Ahead]],
    ) -> None:
        self._pool = pool
        self._subscribers = subscribers
        self._meter = meter
        self._time_s = time_ms / 1000
        self._ahead = ahead
        self._breakers = {name: Breaker() for name in subscribers}

    def knows(self, subscriber: object) -> bool:
        return subscriber in self._subscribers

    async def deliver(self, subscriber: str, actor: str) -> bool:
        """Delivers what `actor`'s journal has for `subscriber`. True: there is more, but others come first.

        A subscriber's failure is noted beside its position and logged, not raised: it will be tried again. Raises what
        goes wrong with Postgres.
        """
        breaker = self._breakers[subscriber]
        if breaker.is_open:
            return False
        held = await journal.lease(self._pool, subscriber, actor)
        if held is None:
            return False
        started, result = time.monotonic(), "delivered"
        try:
            return await self._catch_up(self._subscribers[subscriber], held)
        except Rewound:
            result = "rewound"
            return True
        except _Failed as failure:
            result = "failed"
            await self._note(failure.held, failure.__cause__, breaker)
            return False
        finally:
            self._meter.delivery_finished(subscriber, time.monotonic() - started, result)

    async def close(self) -> None:
        """Closes every subscriber."""
        for subscriber in self._subscribers.values():
            await subscriber.close()

    async def _catch_up(self, target: Subscriber, held: Lease) -> bool:
        began = time.monotonic()
        while lines := await self._next(held):
            last = lines[await self._publish(target, held, lines) - 1]
            self._breakers[held.subscriber].succeeded()
            if await journal.finish(self._pool, held, last.seq):
                return False
            advanced = await self._advance(held, last)
            if advanced is None:
                log.info("lease_lost", subscriber=held.subscriber, actor=held.actor)
                return False
            held = advanced
            if await self._is_over(held, time.monotonic() - began):
                await journal.release(self._pool, held)
                return True
        if not await journal.finish(self._pool, held, held.position):
            await journal.release(self._pool, held)
        return False

    async def _is_over(self, held: Lease, seconds: float) -> bool:
        if SHARE_S < seconds <= self._time_s:
            return (await self._ahead(held.subscriber, held.actor)).others
        return seconds > self._time_s

    async def _next(self, held: Lease) -> list[Line]:
        # whom a whole page took too long gets half of it, down to one event: a slow line makes progress too
        lines = max(1, PAGE_LINES >> held.failures)
        return await journal.page(self._pool, held.actor, held.position, lines=lines, size=PAGE_BYTES)

    async def _publish(self, target: Subscriber, held: Lease, lines: Sequence[Line]) -> int:
        taken = 0
        try:
            async with asyncio.timeout(PUBLISH_S):
                taken = await target.publish(held.actor, lines)
            return taken
        except Rewound:
            raise
        except Interrupted as stop:
            done = [line for line in lines if line.seq <= stop.seq]
            taken = len(done)
            raise _Failed((await self._advance(held, done[-1]) if done else None) or held) from stop.__cause__
        except Exception as error:
            raise _Failed(held) from error
        finally:
            self._meter.events_delivered(held.subscriber, taken)

    async def _advance(self, held: Lease, last: Line) -> Lease | None:
        recorded_at = datetime.fromisoformat(journal.read_label(last.event).recorded_at)
        return await journal.advance(self._pool, held, last.seq, recorded_at)

    async def _note(self, held: Lease, error: BaseException | None, breaker: Breaker) -> None:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UNAVAILABLE):
            breaker.failed()
            log.warning("delivery_failed", subscriber=held.subscriber, actor=held.actor, error=reason)
        else:
            log.error("delivery_failed", subscriber=held.subscriber, actor=held.actor, error=reason, exc_info=error)
        await journal.fail(self._pool, held, reason)


async def due(db: Db, subscribers: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """What sweeps ring: subscribers and actors behind for `IDLE_MS` that nobody delivers, at most `limit`."""
    return await journal.lagging(db, list(subscribers), IDLE_MS, limit)
