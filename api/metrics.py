"""`/metrics`, for Prometheus: counters and histograms of every process, and what Postgres knows at this moment.

Counters come from the hash in Redis that all processes push to (infrastructure/metrics.py), so any API process gives
all of them: scrape one address, not each process. Gauges are asked of Postgres, one bounded statement each. What
can't be reached is left out, and `daybook_scrape_ok` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import structlog
from asyncpg import Record
from litestar import Request, Response, get
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.context import services_of
from api.edge import principal_of
from domain.errors import AuthError
from infrastructure import journal, metrics
from infrastructure.metrics import FAMILIES, meter
from infrastructure.postgres import OUTSIDE
from infrastructure.principals import KeyPrincipal
from infrastructure.redis import end_tasks, open_redis
from infrastructure.settings import Settings

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "text/plain; version=0.0.4"
PUSH_S: Final = 1.0
PATIENCE_S: Final = 3.0
MOST_COUNTED: Final = 1_000_000

MAILBOXES: Final = """
SELECT split_part(actor, ':', 1) AS actor_type, count(*) AS commands,
    greatest(extract(epoch FROM clock_timestamp() - min(accepted_at)), 0)::float8 AS oldest_s
FROM (SELECT actor, accepted_at FROM commands WHERE status = 'accepted' ORDER BY actor, position LIMIT $1) AS pending
GROUP BY 1 ORDER BY 1
"""

DEAD: Final = "SELECT count(*) FROM (SELECT FROM commands WHERE status = 'failed' LIMIT $1) AS dead"


class _Gathered(Collector):
    """Metrics that were gathered before they are rendered."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


@asynccontextmanager
async def pushing(settings: Settings) -> AsyncIterator[Redis]:
    """Pushes what this process counts, once a second, for the length of the application's life."""
    redis = open_redis(settings)

    async def push_forever() -> None:
        while True:
            await asyncio.sleep(PUSH_S)
            await meter.push(redis)

    task = asyncio.create_task(push_forever())
    try:
        yield redis
    finally:
        await end_tasks(task)
        await meter.push(redis)
        await redis.aclose()


@get(
    "/metrics",
    media_type=MEDIA_TYPE,
    summary="Counters, histograms and gauges for Prometheus",
    media="text/plain",
    keys=("ledger:read", "ledger:write"),
)
async def scrape(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Everything there is to measure. For the roles `admin` and `operator`; an operator's API key will do, too.

    Whatever such a key is good for: a scraper needs a credential that lasts, and nothing here is of any ledger. Not an
    administrator's: what its scopes do not name, a key has from no role but this.
    """
    principal = principal_of(request)
    good_for = {"operator"} if isinstance(principal, KeyPrincipal) else {"admin", "operator"}
    if not good_for & set(principal.roles):
        raise AuthError("forbidden", "This needs the role operator.")
    services = services_of(request)
    return Response(await gather(services.pool, services.metrics), media_type=MEDIA_TYPE)


async def gather(pool: asyncpg.Pool[Record], redis: Redis) -> bytes:
    """The exposition, in Prometheus's text format."""
    await meter.push(redis)
    parts: dict[str, Callable[[], Awaitable[list[Metric]]]] = {
        "counters": lambda: _counters(redis),
        "mailboxes": lambda: _mailboxes(pool),
        "dead_letters": lambda: _dead_letters(pool),
        "subscribers": lambda: _subscribers(pool),
    }
    answers = await asyncio.gather(*(_patiently(name, part()) for name, part in parts.items()))
    ok = GaugeMetricFamily(
        "daybook_scrape_ok", "1 for each part of this answer that could be gathered.", labels=["part"]
    )
    for name, answer in zip(parts, answers, strict=True):
        ok.add_metric([name], 0 if answer is None else 1)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered([ok, *(metric for answer in answers if answer is not None for metric in answer)]))
    return generate_latest(registry)


async def _patiently(name: str, part: Awaitable[list[Metric]]) -> list[Metric] | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await part
    except (*OUTSIDE, RedisError) as error:
        log.warning("not_measured", part=name, error=str(error))
        return None


async def _counters(redis: Redis) -> list[Metric]:
    made: dict[str, CounterMetricFamily | HistogramMetricFamily] = {}
    for name, family in FAMILIES.items():
        kind = HistogramMetricFamily if family.buckets else CounterMetricFamily
        made[name] = kind(name, family.help, labels=family.labels)
    for one in metrics.series(await metrics.read(redis)):
        metric = made[one.name]
        if isinstance(metric, HistogramMetricFamily):
            metric.add_metric(one.labels, one.buckets, one.sum_s)
        else:
            metric.add_metric(one.labels, one.value)
    return list(made.values())


async def _mailboxes(pool: asyncpg.Pool[Record]) -> list[Metric]:
    depth = GaugeMetricFamily(
        "daybook_mailbox_commands", f"Pending commands, counted up to {MOST_COUNTED:,}.", labels=["actor_type"]
    )
    oldest = GaugeMetricFamily(
        "daybook_mailbox_oldest_seconds", "Age of the oldest pending command.", labels=["actor_type"]
    )
    found = {row["actor_type"]: row for row in await pool.fetch(MAILBOXES, MOST_COUNTED)}
    for actor_type in sorted({"ledger", *found}):
        row = found.get(actor_type)
        depth.add_metric([actor_type], 0 if row is None else row["commands"])
        oldest.add_metric([actor_type], 0 if row is None else row["oldest_s"])
    return [depth, oldest]


async def _dead_letters(pool: asyncpg.Pool[Record]) -> list[Metric]:
    help_text = f"Commands that were set aside, counted up to {MOST_COUNTED:,}."
    return [GaugeMetricFamily("daybook_dead_letters", help_text, value=await pool.fetchval(DEAD, MOST_COUNTED))]


async def _subscribers(pool: asyncpg.Pool[Record]) -> list[Metric]:
    labels = ["subscriber"]
    events = GaugeMetricFamily("daybook_subscriber_events_behind", "Events a subscriber lacks.", labels=labels)
    actors = GaugeMetricFamily("daybook_subscriber_actors_behind", "Actors it lacks events of.", labels=labels)
    oldest = GaugeMetricFamily(
        "daybook_subscriber_oldest_seconds", "At most so old is the oldest event it lacks.", labels=labels
    )
    failing = GaugeMetricFamily(
        "daybook_subscriber_failing_actors", "Actors whose last delivery failed.", labels=labels
    )
    for lag in await journal.lag(pool):
        for family, value in (
            (events, lag.events),
            (actors, lag.actors),
            (oldest, lag.oldest_s),
            (failing, lag.failing),
        ):
            family.add_metric([lag.subscriber], value)
    return [events, actors, oldest, failing]


ROUTES: Final = [scrape]
