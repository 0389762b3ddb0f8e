"""pgledger, the reference the targets are stated against: measured beside Daybook when its checkout is at hand.

Nothing of it is part of this repository. `git clone https://github.com/pgr0ss/pgledger`, then
`make bench ARGS="--pgledger pgledger"`. Its PostgreSQL functions are called as its documentation says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.benchmarks.reference import database, psql, rate

_FILES: Final = (
    "vendor/scoville-pgsql-ulid/ulid-to-uuid.sql",
    "vendor/scoville-pgsql-ulid/uuid-to-ulid.sql",
    "pgledger.sql",
)
_FUNDS: Final = 10**10
_ONE_OF_TWO: Final = r"""
\set debited random(1, :accounts)
\set credited random(1, :accounts - 1)
\set other :credited + CASE WHEN :credited >= :debited THEN 1 ELSE 0 END
SELECT id FROM pgledger_create_transfer(
    (SELECT id FROM numbered WHERE number = :debited), (SELECT id FROM numbered WHERE number = :other), 1.00);
"""


class Pgledger:
    """A database of its own on the server that Daybook uses."""

    def __init__(self, url: str) -> None:
        self.url: Final = url

    def fund(self, accounts: int) -> None:
        """Starts afresh with so many accounts, each with funds and none of which may go below zero."""
        psql(
            self.url,
            f"""
            TRUNCATE pgledger_accounts, pgledger_transfers, pgledger_entries;
            DROP TABLE IF EXISTS numbered;
            CREATE TABLE numbered (number int PRIMARY KEY, id text NOT NULL);
            INSERT INTO numbered SELECT number, (pgledger_create_account('wallets:' || number, 'USD', false)).id
              FROM generate_series(1, {accounts}) AS number;
            SELECT count(*) FROM numbered, (SELECT id FROM pgledger_create_account('bank', 'USD')) AS bank,
              pgledger_create_transfer(bank.id, numbered.id, {_FUNDS});
            ANALYZE
            """,
        )

    def rate(self, accounts: int, seconds: int) -> dict[str, float]:
        """Transfers a second, and their mean latency in milliseconds."""
        self.fund(accounts)
        return rate(self.url, _ONE_OF_TWO, accounts, seconds)


@contextmanager
def pgledger(server_url: str, checkout: Path) -> Iterator[Pgledger]:
    """Makes the database on the server from a checkout of pgledger, and drops it at the end."""
    missing = [name for name in _FILES if not (checkout / name).is_file()]
    if missing:
        raise SystemExit(f"{checkout} is no checkout of pgledger: it has no {', '.join(missing)}.")
    with database(server_url, "benchmark_pgledger", *((checkout / name).read_text() for name in _FILES)) as url:
        yield Pgledger(url)
