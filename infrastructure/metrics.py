"""Counters and histograms of every process, kept together in one hash in Redis, where any API process can render them.

A process counts in memory and pushes what came together: an API process once a second, a worker with what it tells
Redis anyway. Losing the hash (FLUSHALL) sets counters back to zero, which whoever reads them takes for a restart.
Anything that must not be lost is asked of Postgres when it is scraped: see api/metrics.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

KEY: Final = "metrics"
TTL_S: Final = 7 * 86_400
_FIELDS: Final = 20_000
"""More different series than a process ever has: beyond, new ones are not counted."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Family(msgspec.Struct, frozen=True):
    """A metric: its help text and the names of its labels. With `buckets` a histogram, else a counter."""

    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


REQUESTS: Final = "daybook_requests"
REQUEST_SECONDS: Final = "daybook_request_seconds"
ACCEPTED: Final = "daybook_commands_accepted"
REPLAYED: Final = "daybook_commands_replayed"
REFUSED: Final = "daybook_commands_refused"
FINISHED: Final = "daybook_commands_finished"
TURNS: Final = "daybook_turns"
TURN_SECONDS: Final = "daybook_turn_seconds"
TURN_COMMANDS: Final = "daybook_turn_commands"
DELIVERIES: Final = "daybook_deliveries"
DELIVERY_SECONDS: Final = "daybook_delivery_seconds"
DELIVERED: Final = "daybook_delivered_events"
STREAMS_OPENED: Final = "daybook_streams_opened"
STREAMS_CLOSED: Final = "daybook_streams_closed"

FAMILIES: Final[Mapping[str, Family]] = {
    REQUESTS: Family("HTTP requests answered.", ("method", "route", "status")),
    REQUEST_SECONDS: Family("Seconds from request to answer.", ("method", "route"), SECONDS),
    ACCEPTED: Family("Commands recorded in the daybook.", ("kind",)),
    REPLAYED: Family("Commands answered from an idempotency key.", ("kind",)),
    REFUSED: Family("Commands refused on receipt, by problem code.", ("code",)),
    FINISHED: Family("Commands that reached their outcome.", ("kind", "status")),
    TURNS: Family("Turns, by how they ended.", ("actor_type", "result")),
    TURN_SECONDS: Family("Seconds a turn took.", ("actor_type",), SECONDS),
    TURN_COMMANDS: Family("Commands taken by turns.", ("actor_type",)),
    DELIVERIES: Family("Deliveries, by how they ended.", ("subscriber", "result")),
    DELIVERY_SECONDS: Family("Seconds a delivery took.", ("subscriber",), SECONDS),
    DELIVERED: Family("Events that subscribers took, repeats included.", ("subscriber",)),
    STREAMS_OPENED: Family("Streams of events that clients began to follow.", ("of",)),
    STREAMS_CLOSED: Family("Streams of events that ended; those opened but not closed are open.", ("of",)),
}

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SEPARATOR: Final = "|"


class Meter:
    """What this process has counted and not pushed yet. Counting costs about a microsecond and can't fail."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, name: str, *labels: str, amount: int = 1) -> None:
        self._add(_SEPARATOR.join((name, *labels)), amount)

    def observe(self, name: str, *labels: str, seconds: float) -> None:
        """Adds to a histogram. Its field ends in the bucket's number; the sum is in microseconds."""
        series = _SEPARATOR.join((name, *labels, ""))
        self._add(f"{series}{bisect_left(FAMILIES[name].buckets, seconds)}", 1)
        self._add(f"{series}sum", int(seconds * 1_000_000))

    def _add(self, field: str, amount: int) -> None:
        if field in self._counts or len(self._counts) < _FIELDS:
            self._counts[field] += amount

    # -- what is counted ----------------------------------------------------------------------------------------------

    def request_finished(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, never the path: paths are without number."""
        method = method if method in _METHODS else "other"
        self.count(REQUESTS, method, route, str(status))
        self.observe(REQUEST_SECONDS, method, route, seconds=seconds)

    def command_accepted(self, kind: str, amount: int = 1) -> None:
        self.count(ACCEPTED, kind, amount=amount)

    def command_replayed(self, kind: str, amount: int = 1) -> None:
        self.count(REPLAYED, kind, amount=amount)

    def command_refused(self, code: str) -> None:
        self.count(REFUSED, code)

    def turn_finished(
        self, actor_type: str, seconds: float, result: str, outcomes: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        """`outcomes` says how many commands of a kind came to a status: {("post_transaction", "succeeded"): 998}."""
        self.count(TURNS, actor_type, result)
        self.observe(TURN_SECONDS, actor_type, seconds=seconds)
        for (kind, status), amount in (outcomes or {}).items():
            self.count(FINISHED, kind, status, amount=amount)
            self.count(TURN_COMMANDS, actor_type, amount=amount)

    def delivery_finished(self, subscriber: str, seconds: float, result: str) -> None:
        self.count(DELIVERIES, subscriber, result)
        self.observe(DELIVERY_SECONDS, subscriber, seconds=seconds)

    def events_delivered(self, subscriber: str, amount: int) -> None:
        if amount:
            self.count(DELIVERED, subscriber, amount=amount)

    # -- pushing and reading ------------------------------------------------------------------------------------------

    def commands_for(self, pipe: Any) -> None:
        """Moves what was counted into a pipeline the caller is about to execute. If that fails it is not counted."""
        counts, self._counts = self._counts, Counter()
        for field, amount in counts.items():
            pipe.hincrby(KEY, field, amount)
        if counts:
            pipe.expire(KEY, TTL_S)

    async def push(self, redis: Redis) -> None:
        """Pushes what was counted; with Redis down it stays counted, for the next time. Never raises RedisError."""
        counts = self._counts
        if not counts:
            return
        try:
            async with redis.pipeline(transaction=False) as pipe:
                self.commands_for(pipe)
                await pipe.execute()
        except (RedisError, OSError):
            self._counts.update(counts)


meter: Final = Meter()
"""This process's meter."""


async def read(redis: Redis) -> dict[str, int]:
    """Every field of every process. Raises RedisError."""
    return {_text(field): int(amount) for field, amount in (await redis.hgetall(KEY)).items()}


class Series(msgspec.Struct, frozen=True):
    """One line of a counter, or one histogram: `buckets` counts observations up to each bound, the last all of them."""

    name: str
    labels: tuple[str, ...]
    value: int = 0
    buckets: tuple[tuple[str, float], ...] = ()
    sum_s: float = 0.0


def series(fields: Mapping[str, int]) -> Iterable[Series]:
    """The fields as they are exposed. Those that no metric of this release has are left out."""
    histograms: dict[tuple[str, tuple[str, ...]], dict[str, int]] = {}
    for field, amount in sorted(fields.items()):
        name, *labels = field.split(_SEPARATOR)
        family = FAMILIES.get(name)
        if family is None or len(labels) != len(family.labels) + bool(family.buckets):
            continue
        if family.buckets:
            histograms.setdefault((name, tuple(labels[:-1])), {})[labels[-1]] = amount
        else:
            yield Series(name, tuple(labels), amount)
    for (name, which), counted in histograms.items():
        yield _histogram(name, which, counted)


def _histogram(name: str, labels: tuple[str, ...], counted: Mapping[str, int]) -> Series:
    bounds = (*(str(bound) for bound in FAMILIES[name].buckets), "+Inf")
    total, buckets = 0, []
    for number, bound in enumerate(bounds):
        total += counted.get(str(number), 0)
        buckets.append((bound, float(total)))
    return Series(name, labels, total, tuple(buckets), counted.get("sum", 0) / 1_000_000)


def _text(field: bytes | str) -> str:
    return field.decode() if isinstance(field, bytes) else field
