"""How Postgres would run the statements of turns and requests in a new database: by an index, whatever it is.

Statements are prepared while tables are small, and their plans kept. One that reads a whole table would still do so
when that has grown to millions of rows, until somebody analyzes it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import infrastructure
from infrastructure import command_log, journal, mailbox
from infrastructure.postgres import Db, open_pool
from infrastructure.repositories import ledger, transactions, widths
from infrastructure.settings import Settings
from tests.journals import on_a_loop

ROOMS = ("api", "cli", "domain", "infrastructure", "tasks", "workers")
VERBS = ("SELECT", "UPDATE", "DELETE", "WITH")
GROWING = ("commands", "journal", "transactions", "postings", "holds", "captures", "accounts", "turns", "batches")
# what a new subscriber, or who replays, asks once
RARE = {journal.FROM_THE_START, journal.REPLAYABLE}


def statements(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Those of the module's constants that are statements, by name."""
    for name, value in vars(module).items():
        if name.isupper() and isinstance(value, str) and value.split()[0] in VERBS and value not in RARE:
            yield name, value


async def plan_of(db: Db, name: str, statement: str) -> str:
    """The plan that is kept for a statement, whatever its arguments."""
    await db.execute(f'PREPARE "{name}" AS {statement}')
    count = max((int(number) for number in re.findall(r"\$(\d+)", statement)), default=0)
    arguments = f"({', '.join(['NULL'] * count)})" if count else ""
    return "\n".join(row[0] for row in await db.fetch(f'EXPLAIN EXECUTE "{name}"{arguments}'))


@pytest.mark.parametrize("module", [command_log, journal, mailbox, ledger, transactions, widths])
@on_a_loop
async def test_no_statement_reads_a_whole_table_that_grows(settings: Settings, module: ModuleType) -> None:
    read = {}
    async with await open_pool(settings, application="test", size=1) as pool, pool.acquire() as db:
        await db.execute("SET plan_cache_mode = force_generic_plan")
        for name, statement in statements(module):
            plan = await plan_of(db, name, statement)
            read[name] = [table for table in GROWING if f"Seq Scan on {table}" in plan]
    assert read
    assert {name: tables for name, tables in read.items() if tables} == {}


def settings_of_sessions(source: str) -> list[str]:
    """Statements within a program that change how all later ones on their connection are run."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.match(r"\s*SET (?!LOCAL )[a-z_. ]+(=|TO)", text)]


def test_no_statement_changes_a_setting_for_whoever_has_the_connection_next() -> None:
    assert settings_of_sessions('MODE = "SET plan_cache_mode = force_custom_plan"')
    assert not settings_of_sessions('WAIT = "SET LOCAL lock_timeout = 1000"')
    root = Path(infrastructure.__file__).parents[1]
    files = [file for room in ROOMS for file in (root / room).rglob("*.py")]
    assert len(files) > len(ROOMS)
    assert {file.name: found for file in files if (found := settings_of_sessions(file.read_text()))} == {}
