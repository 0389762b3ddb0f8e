"""Compares what is kept of a ledger with the books that its journal makes: the heart of `daybook verify`.

Everything is read from one snapshot. What never changes once it is written (postings, captures) is compared stretch by
stretch while the journal is read; what later events may change, at the end, walking both side by side.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
from asyncpg import Record

from cli.audit_books import Books
from cli.audit_grants import compare_grants
from cli.audit_shelf import Account, Transaction
from cli.chain import Json, compare_head, pages
from cli.findings import Counts, Findings
from infrastructure.postgres import Db

Connection: TypeAlias = "asyncpg.Connection[Record] | asyncpg.pool.PoolConnectionProxy[Record]"

K = TypeVar("K", int, str, tuple[int, int], tuple[str, int])

AT_ONCE: Final = 1_000
"""Rows that are read together."""
BEYOND: Final = 1_000
"""Rows behind the journal's end that are named."""

LEDGERS: Final = """
SELECT coalesce(ledgers.id, substr(actors.actor, 8)) AS ledger, coalesce(actors.seq, 0) AS seq
FROM ledgers FULL JOIN (SELECT * FROM actors WHERE actor LIKE 'ledger:%') AS actors
    ON actors.actor = 'ledger:' || ledgers.id
WHERE $1::text IS NULL OR ledgers.id = $1 OR actors.actor = 'ledger:' || $1
ORDER BY 1
"""
LEDGER: Final = "SELECT name, owner, metadata, accounts, version, created_at, closed_before FROM ledgers WHERE id = $1"
CURRENCIES: Final = "SELECT code, scale FROM currencies WHERE ledger = $1"
POSTINGS: Final = """
SELECT seq, posting, debit, credit, currency, scale, amount, effective_at
FROM postings WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq, posting
"""
POSTINGS_BEYOND: Final = f"""
SELECT seq, posting, debit, credit, currency, scale, amount, effective_at
FROM postings WHERE ledger = $1 AND seq > $2 ORDER BY seq, posting LIMIT {BEYOND}
"""
CAPTURES: Final = """
SELECT seq, id, transaction, amounts, effective_at, recorded_at
FROM captures WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq
"""
PERIODS: Final = "SELECT seq, before, closed_at FROM periods WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq"
TURNS: Final = "SELECT seq, recorded_at FROM turns WHERE actor = $1 AND seq > $2 AND seq <= $3 ORDER BY seq"

SCHEDULES: Final = """
SELECT id, seq, principal, command, every, rrule, starts_at, missed, created_at, status, version
FROM schedules WHERE ledger = $1
"""

# Read through cursors, in the order of what they are compared with.
TRANSACTIONS: Final = """
SELECT seq, id, status, reference, description, metadata, effective_at, recorded_at, version, expires_at, expired,
    reverses, reversed_by
FROM transactions WHERE ledger = $1 ORDER BY seq
"""
HOLDS: Final = """
SELECT seq, posting, debit, credit, currency, scale, amount, posted, held
FROM holds WHERE ledger = $1 ORDER BY seq, posting
"""
ACCOUNTS: Final = """
SELECT name, currency, scale, type, status, min_balance, max_balance, posted_debits, posted_credits, pending_debits,
    pending_credits, metadata, opened_at, opened_seq, version
FROM accounts WHERE ledger = $1 ORDER BY name
"""
PENDING_SUMS: Final = """
SELECT account, seq, pending_debits, pending_credits
FROM pending_sums WHERE ledger = $1 ORDER BY account COLLATE "C", seq
"""
CHANGES: Final = """
SELECT account, seq, status, metadata FROM account_changes WHERE ledger = $1 ORDER BY account COLLATE "C", seq
"""

# What a run says it moved, beside what the postings it covers come to.
RUNS: Final = """
SELECT run.account, run.level, run.last_seq, run.debits, run.credits,
    (SELECT coalesce(sum(amount), 0) FROM postings WHERE ledger = $1 AND debit = run.account
        AND seq > run.behind AND seq <= run.last_seq) AS moved_debits,
    (SELECT coalesce(sum(amount), 0) FROM postings WHERE ledger = $1 AND credit = run.account
        AND seq > run.behind AND seq <= run.last_seq) AS moved_credits,
    last.debits AS told_debits, last.credits AS told_credits
FROM (
    SELECT *, lag(last_seq, 1, 0::bigint) OVER (PARTITION BY account, level ORDER BY last_seq) AS behind
    FROM sealed_runs WHERE ledger = $1
) AS run CROSS JOIN LATERAL (
    SELECT sealed_chunks.debits[cardinality(sealed_chunks.debits)] AS debits,
        sealed_chunks.credits[cardinality(sealed_chunks.credits)] AS credits
    FROM sealed_chunks
    WHERE ledger = $1 AND account = run.account AND level = run.level AND sealed_chunks.run = run.last_seq
    ORDER BY last_at DESC, last_seq DESC, last_posting DESC LIMIT 1
) AS last
"""


async def list_ledgers(db: Db, ledger: str | None) -> list[tuple[str, int]]:
    """Names of the ledgers there are (or of the one), and how many events each should have."""
    return [(row["ledger"], row["seq"]) for row in await db.fetch(LEDGERS, ledger)]


async def audit(
    db: Connection, ledger: str, findings: Findings, counts: Counts, advance: Callable[[int], None]
) -> None:
    """Compares all that is kept of one ledger with its journal. `db` must be in a REPEATABLE READ transaction."""
    books = Books(ledger, findings)
    turns = _Turns(books)
    with closing(books.shelf), closing(books.register):
        counts.ledgers += 1
        async for rows in pages(db, books.chain.actor):
            before = books.chain.seq
            for row in rows:
                books.enter(row)
                books.shelf.tidy()
            await _compare_stretch(db, books, before, rows[-1]["seq"], counts)
            await turns.compare(db, before, rows[-1]["seq"])
            books.turn_page()
            counts.events += len(rows)
            advance(len(rows))
        turns.end()
        await _compare_beyond(db, books)
        await compare_head(db, books.chain)
        await _compare_ledger(db, books)
        await _compare_schedules(db, books)
        await compare_grants(db, ledger, books.register, findings, counts, created=books.profile is not None)
        for compare in (_compare_transactions, _compare_holds, _compare_accounts):
            await compare(db, books, counts)
        for compare_rows in (_compare_sums, _compare_changes, _compare_runs):
            await compare_rows(db, books)


# -- what never changes, stretch by stretch ---------------------------------------------------------------------------


async def _compare_stretch(db: Db, books: Books, after: int, until: int, counts: Counts) -> None:
    """The postings, captures and periods of a stretch of the journal, each in every field."""
    postings = await db.fetch(POSTINGS, books.ledger, after, until)
    counts.postings += len(postings)
    found = {(row["seq"], row["posting"]): _whole(row, "amount") for row in postings}
    _compare_all(books, "posting", books.postings, found, lambda key: f"{key[0]}#{key[1]}")
    captures = await db.fetch(CAPTURES, books.ledger, after, until)
    taken = {row["seq"]: {**row, "amounts": [int(amount) for amount in row["amounts"]]} for row in captures}
    _compare_all(books, "capture", books.captures, taken, str)
    periods = await db.fetch(PERIODS, books.ledger, after, until)
    _compare_all(books, "period", books.periods, {row["seq"]: dict(row) for row in periods}, str)


async def _compare_beyond(db: Db, books: Books) -> None:
    """What lies behind the journal's end."""
    for row in await db.fetch(POSTINGS_BEYOND, books.ledger, books.chain.seq):
        books.findings.add("posting", f"{books.ledger}/{row['seq']}#{row['posting']}: is there, but not in the journal")


def _compare_all(
    books: Books, kind: str, expected: Mapping[K, Json], found: Mapping[K, Json], name: Callable[[K], str]
) -> None:
    for key, wanted in expected.items():
        place = f"{books.ledger}/{name(key)}"
        if key not in found:
            books.findings.add(kind, f"{place}: is missing")
        else:
            books.findings.compare(kind, place, wanted, found[key])
    for key in found.keys() - expected.keys():
        books.findings.add(kind, f"{books.ledger}/{name(key)}: is there, but not in the journal")


class _Turns:
    """Whether the turns that are kept end where the journal's times change: from them comes what was known when."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._last: tuple[int, str] | None = None
        self._known: set[int] = set()

    async def compare(self, db: Db, after: int, until: int) -> None:
        books = self._books
        rows = await db.fetch(TURNS, books.chain.actor, after, until)
        self._known.update(row["seq"] for row in rows)
        for row in rows:
            said = books.times.get(row["seq"])
            if said is not None and datetime.fromisoformat(said) != row["recorded_at"]:
                self._add(row["seq"], f"was recorded at {said}, not at {row['recorded_at'].isoformat()}")
        for seq, time in books.times.items():
            if self._last is not None and self._last[1] != time:
                self._check(self._last[0])
            self._last = seq, time
        self._known = {seq for seq in self._known if self._last is not None and seq >= self._last[0]}

    def end(self) -> None:
        """The journal's last turn."""
        if self._last is not None:
            self._check(self._last[0])

    def _check(self, seq: int) -> None:
        if seq not in self._known:
            self._add(seq, "ends a turn that is missing")

    def _add(self, seq: int, words: str) -> None:
        self._books.findings.add("turn", f"{self._books.ledger}/{seq}: {words}")


# -- what may have changed, side by side ------------------------------------------------------------------------------


async def _compare_ledger(db: Db, books: Books) -> None:
    row = await db.fetchrow(LEDGER, books.ledger)
    if row is None or books.profile is None:
        if row is not None or books.profile is not None:
            books.findings.add("ledger", f"{books.ledger}: is {'missing' if row is None else 'not in the journal'}")
    else:
        closed = None if books.closed_before is None else datetime.fromisoformat(books.closed_before)
        expected = {**books.profile, "accounts": books.shelf.count_accounts(), "closed_before": closed}
        books.findings.compare("ledger", books.ledger, expected, {**row, "metadata": json.loads(row["metadata"])})
    found = {row["code"]: row["scale"] for row in await db.fetch(CURRENCIES, books.ledger)}
    for code in sorted(found.keys() | books.currencies.keys()):
        expected = {"scale": books.currencies.get(code)}
        books.findings.compare("currency", f"{books.ledger} {code}", expected, {"scale": found.get(code)})


async def _compare_schedules(db: Db, books: Books) -> None:
    """What they repeat and when; how far they have come is not in the journal."""
    rows = await db.fetch(SCHEDULES, books.ledger)
    found = {str(row["id"]): {**row, "command": json.loads(row["command"])} for row in rows}
    _compare_all(books, "schedule", books.schedules, found, str)


async def _compare_transactions(db: Connection, books: Books, counts: Counts) -> None:
    async def found() -> AsyncIterator[tuple[int, Json]]:
        async for row in db.cursor(TRANSACTIONS, books.ledger, prefetch=AT_ONCE):
            counts.transactions += 1
            yield row["seq"], {**row, "metadata": json.loads(row["metadata"])}

    kept = ((one.seq, _kept_transaction(one)) for one in books.shelf.transactions())
    await _walk(books, "transaction", kept, found(), lambda seq: f"{books.ledger}/{seq}")


async def _compare_holds(db: Connection, books: Books, counts: Counts) -> None:
    async def found() -> AsyncIterator[tuple[tuple[int, int], Json]]:
        async for row in db.cursor(HOLDS, books.ledger, prefetch=AT_ONCE):
            counts.holds += 1
            yield (row["seq"], row["posting"]), _whole(row, "amount", "posted", "held")

    await _walk(books, "hold", _kept_holds(books), found(), lambda key: f"{books.ledger}/{key[0]}#{key[1]}")


async def _compare_accounts(db: Connection, books: Books, counts: Counts) -> None:
    async def found() -> AsyncIterator[tuple[str, Json]]:
        async for row in db.cursor(ACCOUNTS, books.ledger, prefetch=AT_ONCE):
            counts.accounts += 1
            yield row["name"], {**_whole(row, *_MONEY), "metadata": json.loads(row["metadata"])}

    kept = ((account.name, _kept_account(account)) for account in books.shelf.accounts())
    await _walk(books, "account", kept, found(), lambda name: f"{books.ledger} {name}")


async def _compare_sums(db: Connection, books: Books) -> None:
    async def found() -> AsyncIterator[tuple[tuple[str, int], Json]]:
        async for row in db.cursor(PENDING_SUMS, books.ledger, prefetch=AT_ONCE):
            yield (row["account"], row["seq"]), _whole(row, "pending_debits", "pending_credits")

    kept = (
        ((account, seq), {"pending_debits": debits, "pending_credits": credits})
        for account, seq, debits, credits in books.shelf.pending_sums()
    )
    await _walk(books, "pending sum", kept, found(), lambda key: f"{books.ledger}/{key[1]} {key[0]}")


async def _compare_changes(db: Connection, books: Books) -> None:
    async def found() -> AsyncIterator[tuple[tuple[str, int], Json]]:
        async for row in db.cursor(CHANGES, books.ledger, prefetch=AT_ONCE):
            yield (row["account"], row["seq"]), {**row, "metadata": json.loads(row["metadata"])}

    kept = (
        ((account, seq), {"status": status, "metadata": metadata})
        for account, seq, status, metadata in books.shelf.changes()
    )
    await _walk(books, "account change", kept, found(), lambda key: f"{books.ledger}/{key[1]} {key[0]}")


async def _compare_runs(db: Connection, books: Books) -> None:
    """The sums that answers about the past start from."""
    async for row in db.cursor(RUNS, books.ledger, prefetch=AT_ONCE):
        moved = {"debits": row["moved_debits"], "credits": row["moved_credits"]}
        place = f"{books.ledger} {row['account']} up to {row['last_seq']}, level {row['level']}"
        books.findings.compare("run", place, moved, dict(row))
        books.findings.compare("run", place, moved, {"debits": row["told_debits"], "credits": row["told_credits"]})


async def _walk(
    books: Books,
    kind: str,
    expected: Iterator[tuple[K, Json]],
    found: AsyncIterator[tuple[K, Json]],
    name: Callable[[K], str],
) -> None:
    """Walks what should be and what is, both in the order of their keys."""
    wanted = next(expected, None)
    async for key, actual in found:
        while wanted is not None and wanted[0] < key:
            books.findings.add(kind, f"{name(wanted[0])}: is missing")
            wanted = next(expected, None)
        if wanted is None or wanted[0] != key:
            books.findings.add(kind, f"{name(key)}: is there, but not in the journal")
            continue
        books.findings.compare(kind, name(key), wanted[1], actual)
        wanted = next(expected, None)
    while wanted is not None:
        books.findings.add(kind, f"{name(wanted[0])}: is missing")
        wanted = next(expected, None)


# -- as the journal makes them, in the columns of the tables ----------------------------------------------------------

_MONEY: Final = (
    *("min_balance", "max_balance", "posted_debits", "posted_credits", "pending_debits", "pending_credits"),
)


def _kept_account(account: Account) -> Json:
    return {
        "currency": account.currency,
        "scale": account.scale,
        "type": account.type,
        "status": account.status,
        "min_balance": account.minimum,
        "max_balance": account.maximum,
        "posted_debits": account.debits,
        "posted_credits": account.credits,
        "pending_debits": account.pending_debits,
        "pending_credits": account.pending_credits,
        "metadata": account.metadata,
        "opened_at": datetime.fromisoformat(account.opened_at),
        "opened_seq": account.opened_seq,
        "version": account.version,
    }


def _kept_transaction(transaction: Transaction) -> Json:
    return {
        "id": UUID(transaction.id),
        "status": transaction.status,
        "reference": transaction.reference,
        "description": transaction.description,
        "metadata": transaction.metadata,
        "effective_at": datetime.fromisoformat(transaction.effective_at),
        "recorded_at": datetime.fromisoformat(transaction.recorded_at),
        "version": transaction.version,
        "expires_at": None if transaction.expires_at is None else datetime.fromisoformat(transaction.expires_at),
        "expired": transaction.expired,
        "reverses": None if transaction.reverses is None else UUID(transaction.reverses),
        "reversed_by": None if transaction.reversed_by is None else UUID(transaction.reversed_by),
    }


def _kept_holds(books: Books) -> Iterator[tuple[tuple[int, int], Json]]:
    for transaction in books.shelf.transactions():
        if not transaction.pending:
            continue
        for number, line in enumerate(transaction.lines):
            yield (
                (transaction.seq, number),
                {
                    "debit": line.debit,
                    "credit": line.credit,
                    "currency": line.currency,
                    "scale": line.scale,
                    "amount": line.amount,
                    "posted": line.posted,
                    "held": line.held,
                },
            )


def _whole(row: Record, *money: str) -> Json:
    """The row with its money as whole numbers."""
    whole: dict[str, Any] = {name: None if row[name] is None else int(row[name]) for name in money}
    return {**row, **whole}
