"""`daybook doctor`: is this installation fit to run, and does it? Every answer within seconds, whatever is down."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import redis
from cyclopts import Parameter
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.listeners import listener
from cli.surroundings import STATE, surroundings
from infrastructure.broker import tls_of
from infrastructure.kafka import connection as kafka_connection
from infrastructure.migrations import VERSION, newest
from infrastructure.processes import answers
from infrastructure.safety import dangers
from infrastructure.settings import Settings, examine
from infrastructure.topics import ACTOR_TYPES, topic_of

PATIENCE_S: Final = 3.0
CHECK_S: Final = 8.0
OLDEST_POSTGRES: Final = 150_000
SKEW_S: Final = 2.0
"""Clocks this far apart are wrong: tokens and expiries are judged by them."""

OVERDUE_S: Final = 60.0
LEAST_FREE: Final = 1 << 30
STYLES: Final = {"ok": "green", "note": "yellow", "wrong": "bold red"}

NOW: Final = "SELECT clock_timestamp()"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `status` is `ok`, `note` (worth knowing), or `wrong`."""

    area: str
    what: str
    status: str
    said: str


def doctor(
    *,
    directory: Annotated[Path, Parameter(name=("--dir", "-d"))] = STATE,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Say what is wrong: settings, versions, ports, servers, migrations, clocks, queues, disk. Changes nothing.

    Ends with status 1 if anything is wrong. Settings come from the environment; those that are not there, from the
    `daybook up` that runs in the folder.

    Parameters
    ----------
    directory
        The folder of a `daybook up`.
    as_json
        Answer in JSON.
    """
    environ = surroundings(os.environ, directory)
    chosen, wrong = examine(environ)
    findings = [*_settings(chosen, wrong, dangers(chosen, environ)), *asyncio.run(_look(chosen))]
    sick = any(finding.status == "wrong" for finding in findings)
    if as_json:
        print(json.dumps({"ok": not sick, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _tell(findings)
    if sick:
        sys.exit(1)


# -- settings ---------------------------------------------------------------------------------------------------------


def _settings(chosen: Settings, wrong: list[str], unsafe: list[str]) -> Iterator[Finding]:
    production = chosen.environment == "production"
    for line in sorted(wrong):
        yield Finding("settings", "wrong", "wrong", line)
    for line in sorted(unsafe):
        yield Finding("settings", "unsafe", "wrong" if production else "note", line)
    if not wrong and not unsafe:
        yield Finding("settings", chosen.environment, "ok", "complete, and safe for production")
    elif not production:
        yield Finding("settings", chosen.environment, "note", "production would refuse what is unsafe")


# -- everything else, side by side ------------------------------------------------------------------------------------


async def _look(chosen: Settings) -> list[Finding]:
    checks: tuple[tuple[str, Callable[[Settings], Awaitable[list[Finding]]]], ...] = (
        ("versions", _versions),
        ("ports", _ports),
        ("postgres", _postgres),
        ("redis", _redis),
        ("workers", _workers),
        ("kafka", _kafka),
        ("disk", _disk),
    )
    found = await asyncio.gather(*(_patiently(area, check(chosen)) for area, check in checks))
    return [finding for findings in found for finding in findings]


async def _patiently(area: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    """What a check found; or that it could not be made, in words that hold no address and no password."""
    try:
        async with asyncio.timeout(CHECK_S):
            return await check
    except TimeoutError:
        return [Finding(area, "reachable", "wrong", "no answer in time")]
    except ValueError:
        return [Finding(area, "reachable", "wrong", "its address can't be read")]
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return [Finding(area, "reachable", "wrong", f"not reachable: {said}")]


async def _versions(_: Settings) -> list[Finding]:
    python, fit = platform.python_version(), sys.version_info >= (3, 11)
    return [
        Finding("versions", "Daybook", "ok", version("daybook")),
        Finding("versions", "Python", "ok" if fit else "wrong", python if fit else f"{python}; needs 3.11 or newer"),
    ]


async def _ports(chosen: Settings) -> list[Finding]:
    api = ("API", chosen.host, chosen.port, "/health/live", b'"status"')
    flower = ("Flower", chosen.flower_host, chosen.flower_port, "/healthcheck", b"OK")
    return [await asyncio.to_thread(_port, *one) for one in (api, flower)]


def _port(name: str, host: str, port: int, path: str, expected: bytes) -> Finding:
    # what listens on every address listens on this one
    near = host if host.strip("0:.") else "127.0.0.1"
    what, who = f"{name} {host}:{port}", listener(port)
    request = f"GET {path} HTTP/1.1\r\nHost: {near}:{port}\r\nConnection: close\r\n\r\n".encode()
    if answers(port, request, host=near, expected=expected):
        return Finding("ports", what, "ok", f"Daybook answers{f', {who}' if who else ''}")
    if who or answers(port, b"", host=near, expected=b""):
        return Finding("ports", what, "wrong", f"taken by {who or 'another program'}, which is not Daybook's {name}")
    return Finding("ports", what, "note", "free: it does not run here")


# -- Postgres, and what it alone knows --------------------------------------------------------------------------------


async def _postgres(chosen: Settings) -> list[Finding]:
    if not chosen.database_url:
        return [Finding("postgres", "reachable", "wrong", "not set")]
    db = await asyncpg.connect(chosen.database_url, timeout=PATIENCE_S, command_timeout=PATIENCE_S)
    try:
        number, said = db.get_server_version(), await db.fetchval("SHOW server_version")
        found = await _migration(db)
        begun = time.time()
        now = await db.fetchval(NOW)
        fit = number.major * 10_000 >= OLDEST_POSTGRES
        findings = [
            Finding("postgres", "version", "ok" if fit else "wrong", said if fit else f"{said}; needs 15 or newer"),
            _skew("postgres", now, begun, time.time()),
            found,
        ]
        return [*findings, *(await _books(db) if found.status == "ok" else [])]
    finally:
        await db.close(timeout=1)


async def _migration(db: asyncpg.Connection[asyncpg.Record]) -> Finding:
    try:
        current = await db.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        current = None
    if current == newest():
        return Finding("postgres", "migrations", "ok", f"at {current}, the newest")
    return Finding("postgres", "migrations", "wrong", f"at {current or 'none'}, needs {newest()}: run daybook migrate")


async def _books(db: asyncpg.Connection[asyncpg.Record]) -> list[Finding]:
    """Mailboxes, dead letters and subscribers."""
    from api.metrics import DEAD, MAILBOXES, MOST_COUNTED
    from infrastructure import journal

    findings: list[Finding] = []
    mailboxes = {row["actor_type"]: row for row in await db.fetch(MAILBOXES, MOST_COUNTED)}
    for actor_type in sorted({*ACTOR_TYPES, *mailboxes}):
        row = mailboxes.get(actor_type)
        count, oldest_s = (row["commands"], row["oldest_s"]) if row else (0, 0.0)
        status = "wrong" if oldest_s > OVERDUE_S else "ok"
        said = f"{count:,} commands wait" + (f", the oldest for {oldest_s:.1f} s" if count else "")
        findings.append(Finding("queues", f"mailboxes of {actor_type}s", status, said))
    dead = await db.fetchval(DEAD, MOST_COUNTED)
    findings.append(Finding("queues", "dead letters", "note" if dead else "ok", f"{dead:,}"))
    for lag in await journal.lag(db):
        said = f"{lag.events:,} events behind" + (
            f", the oldest at most {lag.oldest_s:.0f} s old" if lag.events else ""
        )
        status = "wrong" if lag.oldest_s > OVERDUE_S and lag.events else "note" if lag.failing else "ok"
        findings.append(Finding("queues", f"subscriber {lag.subscriber}", status, said))
    return findings


def _skew(area: str, their_time: datetime, before: float, after: float) -> Finding:
    theirs = their_time.timestamp()
    skew = max(before - theirs, theirs - after, 0.0)
    said = (
        f"within {max(after - before, 0.001):.3f} s of this machine's" if not skew else f"{skew:.3f} s apart from ours"
    )
    return Finding(area, "clock", "ok" if skew <= SKEW_S else "wrong", said)


# -- Redis, the broker and its workers --------------------------------------------------------------------------------


async def _redis(chosen: Settings) -> list[Finding]:
    findings = await asyncio.to_thread(_redis_server, "redis", chosen.redis_url)
    if chosen.broker_url != chosen.redis_url and chosen.broker_url.startswith(("redis://", "rediss://")):
        findings += await _patiently("broker", asyncio.to_thread(_redis_server, "broker", chosen.broker_url))
    return findings


def _client(url: str) -> redis.Redis:
    retry = Retry(NoBackoff(), 0)
    client: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, retry=retry
    )
    return client


def _redis_server(area: str, url: str) -> list[Finding]:
    if not url:
        return [Finding(area, "reachable", "wrong", "not set")]
    with _client(url) as client:
        info: dict[str, Any] = client.info()
        begun = time.time()
        seconds, micros = client.time()
        now = datetime.fromtimestamp(seconds + micros / 1_000_000, UTC)
        return [
            Finding(area, "version", "ok", _version_of(info)),
            _skew(area, now, begun, time.time()),
            _eviction(area, str(info.get("maxmemory_policy", "unknown")), int(info.get("maxmemory", 0))),
            _persistence(area, info),
        ]


def _version_of(info: Mapping[str, Any]) -> str:
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"


def _eviction(area: str, policy: str, limit: int) -> Finding:
    what = "maxmemory-policy"
    if policy.startswith("allkeys"):
        return Finding(area, what, "wrong", f"{policy} throws the broker's messages away: set volatile-lru")
    if policy == "noeviction" and limit:
        return Finding(area, what, "note", f"{policy} refuses writes once {limit >> 20} MiB are full: set volatile-lru")
    return Finding(area, what, "ok", policy)


def _persistence(area: str, info: Mapping[str, Any]) -> Finding:
    if info.get("aof_enabled"):
        return Finding(area, "persistence", "ok", "append-only file")
    return Finding(
        area, "persistence", "note", "no append-only file: a restart loses doorbells, which sweeps make good"
    )


async def _workers(chosen: Settings) -> list[Finding]:
    """Which pools are served, and what stands in their queues. Nothing is said twice of a broker that is down."""
    from tasks.queues import QUEUES

    if not chosen.broker_url:
        return [Finding("workers", "broker", "wrong", "not set")]
    depths = await asyncio.to_thread(_depths, chosen.broker_url, QUEUES)
    serving = await asyncio.to_thread(_serving, chosen.broker_url)
    findings = []
    for name in QUEUES:
        number = serving.count(name)
        depth = f", {depths[name]:,} messages wait" if name in depths else ""
        said = f"{number} worker{'' if number == 1 else 's'} answer{'s' if number == 1 else ''}{depth}"
        findings.append(Finding("workers", f"pool {name}", "ok" if number else "wrong", said))
    return findings


def _depths(url: str, queues: tuple[str, ...]) -> dict[str, int]:
    if not url.startswith(("redis://", "rediss://")):
        return {}
    with _client(url) as client:
        return {name: int(client.llen(name)) for name in queues}


def _serving(url: str) -> list[str]:
    """The pool of each worker that answers within a second."""
    from celery import Celery

    with Celery("doctor", broker=url, set_as_current=False) as app:
        app.conf.update(
            accept_content=["json"],
            broker_use_ssl=tls_of(url),
            broker_connection_timeout=PATIENCE_S,
            broker_transport_options={"socket_timeout": PATIENCE_S, "socket_connect_timeout": PATIENCE_S},
        )
        replies = app.control.inspect(timeout=1.0).active_queues() or {}
    return [queue["name"] for queues in replies.values() for queue in queues]


# -- Kafka, disk ------------------------------------------------------------------------------------------------------


async def _kafka(chosen: Settings) -> list[Finding]:
    if not chosen.kafka_servers:
        return [Finding("kafka", "reachable", "wrong", "not set")]
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(kafka_connection(chosen))
    cluster = await asyncio.to_thread(admin.list_topics, timeout=PATIENCE_S)
    findings = [Finding("kafka", "reachable", "ok", f"{len(cluster.brokers)} broker(s)")]
    for topic in map(topic_of, ACTOR_TYPES):
        there = cluster.topics.get(topic)
        said = f"{len(there.partitions)} partitions" if there else "missing: run daybook prepare"
        findings.append(Finding("kafka", f"topic {topic}", "ok" if there else "wrong", said))
    return findings


async def _disk(chosen: Settings) -> list[Finding]:
    return await asyncio.to_thread(_folder, Path(chosen.state_dir))


def _folder(state: Path) -> list[Finding]:
    if not state.exists():
        return [Finding("disk", str(state), "note", "not there yet")]
    usage = shutil.disk_usage(state)
    free = f"{usage.free / (1 << 30):,.1f} GiB free of {usage.total / (1 << 30):,.1f}"
    open_to_all = state.stat().st_mode & 0o007
    return [
        Finding("disk", str(state), "ok" if usage.free >= LEAST_FREE else "wrong", free),
        Finding(
            "disk", "closed to others", "wrong" if open_to_all else "ok", "chmod o-rwx it" if open_to_all else "yes"
        ),
    ]


# -- telling ----------------------------------------------------------------------------------------------------------


def _tell(findings: list[Finding]) -> None:
    table = Table("", "looked at", "found", show_lines=False)
    before = ""
    for finding in findings:
        if before and finding.area != before:
            table.add_section()
        style = STYLES[finding.status]
        name = finding.area if finding.area != before else ""
        table.add_row(name, finding.what, Text(f"{_MARKS[finding.status]} {finding.said}", style=style))
        before = finding.area
    console = Console()
    console.print(table)
    wrong = sum(finding.status == "wrong" for finding in findings)
    console.print(f"{wrong} of {len(findings)} are wrong." if wrong else "Nothing is wrong.")


_MARKS: Final = {"ok": "✓", "note": "!", "wrong": "✗"}
