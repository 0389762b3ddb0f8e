"""The floor: the leanest row-locked SQL function a transfer, sixteen connections of pgbench, a database of its own.

It keeps less than any ledger does (no events, no idempotency, no foreign keys), so it bounds what a ledger of SQL
functions could reach on this machine. The reference of the targets is a ledger: tests/benchmarks/pgledger.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from infrastructure.embedded import postgres_binaries

CONNECTIONS: Final = 16
_NAME: Final = "benchmark_reference"
_SCHEMA: Final = Path(__file__).with_name("reference.sql")
_FUNDS: Final = 10**12
_ONE_OF_TWO: Final = r"""
\set debited random(1, :accounts)
\set credited random(1, :accounts - 1)
\set other :credited + CASE WHEN :credited >= :debited THEN 1 ELSE 0 END
SELECT transfer('wallets:' || :debited, 'wallets:' || :other, 100);
"""


def psql(url: str, sql: str) -> str:
    command = [str(postgres_binaries() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Reference:
    """The database of the reference, on the server that Daybook uses."""

    def __init__(self, url: str) -> None:
        self.url: Final = url

    def fund(self, accounts: int) -> None:
        """Starts afresh with so many accounts, each with funds and a minimum of zero."""
        psql(
            self.url,
            "TRUNCATE accounts, transfers, entries; INSERT INTO accounts (name, credits, min_balance) "
            f"SELECT 'wallets:' || number, {_FUNDS}, 0 FROM generate_series(1, {accounts}) AS number; ANALYZE accounts",
        )

    def rate(self, accounts: int, seconds: int) -> dict[str, float]:
        """Transfers a second, and their mean latency in milliseconds."""
        self.fund(accounts)
        return rate(self.url, _ONE_OF_TWO, accounts, seconds)


@contextmanager
def reference(server_url: str) -> Iterator[Reference]:
    """Makes the database on the server, and drops it at the end."""
    with database(server_url, _NAME, _SCHEMA.read_text()) as url:
        yield Reference(url)


@contextmanager
def database(server_url: str, name: str, *schemas: str) -> Iterator[str]:
    """A database on the server, with these schemas, for the length of a `with`; its address."""
    psql(server_url, f"CREATE DATABASE {name}")
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    try:
        for schema in schemas:
            psql(url, schema)
        yield url
    finally:
        psql(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def rate(url: str, transaction: str, accounts: int, seconds: int) -> dict[str, float]:
    """Runs a pgbench script against the database: transactions a second, and their mean latency in milliseconds.

    Raises RuntimeError when one of them failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(transaction)
        script.flush()
        command = [str(postgres_binaries() / "pgbench"), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", "1"]
        command += ["-T", str(seconds), "-D", f"accounts={accounts}", "-f", script.name, url]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment()).stdout
    failed = int(_found(r"number of failed transactions: (\d+)", printed))
    if failed:
        raise RuntimeError(f"{failed} transfers of {transaction} failed")
    return {
        "rate": _found(r"tps = ([\d.]+) \(without", printed),
        "mean_ms": _found(r"latency average = ([\d.]+) ms", printed),
    }


def _found(pattern: str, printed: str) -> float:
    match = re.search(pattern, printed)
    if match is None:
        raise RuntimeError(f"pgbench printed no {pattern!r}:\n{printed}")
    return float(match[1])


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
