"""Fixtures for everybody: real servers from wheels, a database a test, the whole product as `daybook up` runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from infrastructure.embedded import Addresses, postgres_binaries, running
from infrastructure.migrations import upgrade
from infrastructure.settings import Settings, parse

TEMPLATE = "daybook_template"
MEMORY = Path("/dev/shm")
ROOM = 6 * 1024**3
"""Bytes: several times what all servers of a whole run hold at once."""


# They run a product of their own; all others of tests/e2e share one.
ALONE = ("e2e/test_openapi", "e2e/test_crashes", "e2e/test_secrets")

# What takes longest begins first: what begins last is waited for by everybody.
LONGEST = (
    *("e2e/test_openapi", "e2e/test_crashes", "e2e/test_secrets", "e2e/"),
    *("model/", "integration/test_celery_worker", "integration/test_up"),
    *("integration/test_queries", "integration/test_turns", "integration/test_verify", "integration/test_deliveries"),
)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A file is one process's, and so is all that shares the running product: another one costs more than waiting."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        alone = not file.startswith("tests/e2e/") or file.removeprefix("tests/").removesuffix(".py") in ALONE
        return file if alone else "tests/e2e"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((place for place, name in enumerate(LONGEST) if f"tests/{name}" in item.nodeid), len(LONGEST))

    items.sort(key=place)


def _in_memory() -> Path | None:
    """Where tests keep what servers write, if there is room: they kill servers, but not the machine beneath.

    Benchmarks and long games of the model, which run without pytest, write where the product does. TMPDIR is obeyed.
    """
    if "PYTEST_VERSION" not in os.environ or "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return None
    place = os.statvfs(MEMORY)
    figures = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(figures["MemAvailable"].removesuffix("kB")) * 1024
    return MEMORY if min(place.f_bavail * place.f_frsize, available) >= ROOM else None


@contextmanager
def temporary_state() -> Iterator[Path]:
    """A folder for servers, gone at the end. Not pytest's: those are closed to the user root gives Postgres to."""
    folder = Path(tempfile.mkdtemp(prefix="daybook-", dir=_in_memory()))
    try:
        yield folder
    finally:
        shutil.rmtree((folder / "postgres").resolve(), ignore_errors=True)
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def plain_logs() -> Iterator[None]:
    """What is logged before anything configures logging: short. structlog's own choice draws frames, slowly.

    An application that a test makes configures logging for the process, onto the output of that test; what comes
    after it must not write there.
    """
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.reset_defaults()
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def servers() -> Iterator[Addresses]:
    """Postgres, Valkey and the embedded Kafka broker, on free ports, for the whole session."""
    with temporary_state() as state, running(state) as addresses:
        yield addresses


def run_sql(url: str, sql: str) -> str:
    """Runs SQL through psql, without an event loop; what it printed. Raises CalledProcessError."""
    command = [str(postgres_binaries() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def database_url(addresses: Addresses, name: str) -> str:
    """The address of another database of the session's server."""
    return urlsplit(addresses.database_url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
def template(servers: Addresses) -> str:
    """The name of a migrated, empty database that others are cloned from."""
    run_sql(servers.database_url, f"CREATE DATABASE {TEMPLATE}")
    upgrade(database_url(servers, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database(servers: Addresses, template: str) -> Iterator[str]:
    """The address of a fresh, migrated database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield database_url(servers, name)
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(servers: Addresses) -> Iterator[Callable[[], str]]:
    """Makes fresh databases without any table, and drops them at the end."""
    names: list[str] = []

    def make() -> str:
        names.append(f"test_{secrets.token_hex(6)}")
        run_sql(servers.database_url, f"CREATE DATABASE {names[-1]}")
        return database_url(servers, names[-1])

    yield make
    for name in names:
        run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(servers: Addresses, database: str) -> Settings:
    """Settings for a fresh database and an emptied Valkey. Topics in Kafka are shared: name actors apart."""
    asyncio.run(_flush(servers.redis_url))
    return _settings(servers, database)


@pytest.fixture(scope="module")
def shared_settings(servers: Addresses, template: str) -> Iterator[Settings]:
    """Settings for a database of the module's own, whose tests keep apart by ledgers and users of their own."""
    name = f"test_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _settings(servers, database_url(servers, name))
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def _settings(servers: Addresses, database: str) -> Settings:
    return parse(
        {
            "DAYBOOK_DATABASE_URL": database,
            "DAYBOOK_REDIS_URL": servers.redis_url,
            "DAYBOOK_KAFKA_SERVERS": servers.kafka_servers,
            "DAYBOOK_SECRET_KEY": secrets.token_urlsafe(48),
        }
    )


async def _flush(url: str) -> None:
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(url) as client:
        await client.flushall()
