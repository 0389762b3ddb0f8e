"""The migrations make exactly the schema that infrastructure/schema.py declares, and the journal keeps what it has."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from infrastructure.embedded import postgres_binaries
from infrastructure.migrations import newest, upgrade
from infrastructure.schema import metadata
from tests.conftest import run_sql


def dump(url: str) -> str:
    """The schema as pg_dump writes it, without Alembic's own table and the marks that differ at each run."""
    command = [str(postgres_binaries() / "pg_dump"), "-s", "-O", "-T", "alembic_version", "-d", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)


def create_all(url: str) -> None:
    async def run() -> None:
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
        )
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    asyncio.run(run())


def test_migrations_reproduce_the_schema(empty_database: Callable[[], str]) -> None:
    migrated, declared = empty_database(), empty_database()
    upgrade(migrated)
    create_all(declared)
    assert dump(migrated) == dump(declared)


@pytest.mark.parametrize(
    "drift",
    [
        "ALTER TABLE journal ADD COLUMN note text",
        "ALTER TABLE postings DROP CONSTRAINT postings_amount_check",
        "DROP INDEX commands_mailbox",
        "DROP TRIGGER journal_keeps_all ON journal",
        "ALTER TABLE accounts SET (fillfactor = 100)",
        "ALTER TABLE users ALTER COLUMN created_at DROP DEFAULT",
    ],
)
def test_the_comparison_sees_every_kind_of_drift(empty_database: Callable[[], str], drift: str) -> None:
    declared = empty_database()
    create_all(declared)
    before = dump(declared)
    run_sql(declared, drift)
    assert dump(declared) != before


def test_several_may_migrate_at_once(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    program = f"from infrastructure.migrations import upgrade; upgrade({url!r})"
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: _python(program), range(3)))
    assert [run.returncode for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    assert run_sql(url, "SELECT version_num FROM alembic_version") == newest()


def _python(program: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("sql", ["UPDATE journal SET seq = 2", "DELETE FROM journal", "TRUNCATE journal"])
def test_the_journal_is_append_only(database: str, sql: str) -> None:
    run_sql(database, "INSERT INTO journal VALUES ('ledger:a', 1, 1, '', '')")
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        run_sql(database, sql)
    assert "the journal is append-only" in refusal.value.stderr
    assert run_sql(database, "SELECT seq FROM journal") == "1"
