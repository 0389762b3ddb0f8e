"""Keeps the books a second time, from the journal's bytes alone, and compares: the heart of `daybook verify`.

It reads events as plain JSON and adds up by itself. None of the product's appliers, codecs or money functions are used,
so that a mistake in those is found and not repeated. Everything is read from one snapshot, in pages; the accounts are
kept in a temporary SQLite file, so that memory stays bounded however long the journal and however many the accounts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import Record

from cli.audit_grants import Register, compare_grants
from cli.chain import LINES, Chain, Json, Wrong, compare_head, pages
from cli.findings import Counts, Findings
from infrastructure.postgres import Db

ACCOUNTS_AT_ONCE: Final = 2_000
LOADED: Final = 20_000
"""Accounts held in memory."""

LEDGERS: Final = """
SELECT coalesce(ledgers.id, substr(actors.actor, 8)) AS ledger, coalesce(actors.seq, 0) AS seq
FROM ledgers FULL JOIN (SELECT * FROM actors WHERE actor LIKE 'ledger:%') AS actors
    ON actors.actor = 'ledger:' || ledgers.id
WHERE $1::text IS NULL OR ledgers.id = $1 OR actors.actor = 'ledger:' || $1
ORDER BY 1
"""
LEDGER: Final = "SELECT name, owner, metadata, accounts, version, created_at FROM ledgers WHERE id = $1"
CURRENCIES: Final = "SELECT code, scale FROM currencies WHERE ledger = $1"
TRANSACTIONS: Final = """
SELECT id, seq, status, reference, description, metadata, effective_at, recorded_at, version
FROM transactions WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4
"""
POSTINGS: Final = """
SELECT seq, posting, debit, credit, currency, scale, amount
FROM postings WHERE ledger = $1 AND seq > $2 AND seq <= $3 ORDER BY seq, posting
"""
ACCOUNTS: Final = """
SELECT name, currency, scale, type, status, min_balance, max_balance, posted_debits, posted_credits, pending_debits,
    pending_credits, metadata, opened_at, version
FROM accounts WHERE ledger = $1 AND name > $2 ORDER BY name LIMIT $3
"""

_KEEP: Final = """
CREATE TABLE accounts (
    name TEXT PRIMARY KEY, currency TEXT, scale INTEGER, type TEXT, minimum TEXT, maximum TEXT, debits TEXT,
    credits TEXT, metadata TEXT, opened_at TEXT, version INTEGER
) WITHOUT ROWID
"""
_PUT: Final = "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIND: Final = "SELECT * FROM accounts WHERE name = ?"
_ALL: Final = "SELECT * FROM accounts ORDER BY name"
_COUNT: Final = "SELECT count(*) FROM accounts"

_NEWEST: Final = 2**63 - 1
_DEBIT_NORMAL: Final = ("asset", "expense")


@dataclass(slots=True)
class Account:
    """An account as the journal makes it, in minor units."""

    name: str
    currency: str
    scale: int
    type: str
    minimum: int | None
    maximum: int | None
    debits: int
    credits: int
    metadata: str
    opened_at: str
    version: int

    @property
    def balance(self) -> int:
        return self.debits - self.credits if self.type in _DEBIT_NORMAL else self.credits - self.debits

    def figures(self) -> Json:
        """The account as an event's `balances` must show it. Nothing is pending."""
        shown = {
            "posted_debits": self.debits,
            "posted_credits": self.credits,
            "pending_debits": 0,
            "pending_credits": 0,
        }
        shown |= {"balance": self.balance, "available": self.balance}
        texts = {name: _text(minor, self.scale) for name, minor in shown.items()}
        return {"account": self.name, "currency": self.currency, **texts}


class Shelf:
    """The accounts of one ledger, on disk but for those in use."""

    def __init__(self) -> None:
        # an empty name is SQLite's for a temporary file, held in memory while it is small
        self._db = sqlite3.connect("")
        self._db.execute(_KEEP)
        self._loaded: dict[str, Account] = {}

    def find(self, name: str) -> Account | None:
        account = self._loaded.get(name)
        if account is None:
            row = self._db.execute(_FIND, (name,)).fetchone()
            if row is None:
                return None
            account = self._loaded[name] = _from_shelf(row)
        return account

    def put(self, account: Account) -> None:
        self._loaded[account.name] = account

    def tidy(self, most: int = LOADED) -> None:
        """Writes everything down, if more than `most` accounts are in memory."""
        if len(self._loaded) > most:
            self._db.executemany(_PUT, map(_to_shelf, self._loaded.values()))
            self._loaded.clear()

    def count(self) -> int:
        self.tidy(0)
        counted: int = self._db.execute(_COUNT).fetchone()[0]
        return counted

    def all(self) -> Iterator[Account]:
        """Every account, by name."""
        self.tidy(0)
        return map(_from_shelf, self._db.execute(_ALL))

    def close(self) -> None:
        self._db.close()


def _to_shelf(account: Account) -> tuple[object, ...]:
    limits = (None if limit is None else str(limit) for limit in (account.minimum, account.maximum))
    head = (account.name, account.currency, account.scale, account.type, *limits)
    sums = (str(account.debits), str(account.credits))
    return (*head, *sums, account.metadata, account.opened_at, account.version)


def _from_shelf(row: tuple[Any, ...]) -> Account:
    name, currency, scale, kind, minimum, maximum, debits, credits, *rest = row
    low, high = (None if limit is None else int(limit) for limit in (minimum, maximum))
    return Account(name, currency, scale, kind, low, high, int(debits), int(credits), *rest)


class Books:
    """One ledger's books, kept event by event."""

    def __init__(self, ledger: str, findings: Findings) -> None:
        self.ledger = ledger
        self.findings = findings
        self.shelf = Shelf()
        self.register = Register()
        self.profile: Json | None = None
        self.currencies: dict[str, int] = {}
        self.chain = Chain(f"ledger:{ledger}", ledger, findings)
        self.transactions: dict[int, tuple[Json, list[Json]]] = {}
        self._kinds: Mapping[str, Callable[[int, Json, Json], list[Account]]] = {
            "LedgerCreated": self._ledger_created,
            "MetadataChanged": self._metadata_changed,
            "AccessGranted": self._access_granted,
            "AccessRevoked": self._access_revoked,
            "CurrencyRegistered": self._currency_registered,
            "AccountOpened": self._account_opened,
            "TransactionPosted": self._transaction_posted,
        }

    def enter(self, row: Record) -> None:
        """Takes the next line of the journal."""
        self.chain.enter(row, self._read)

    def _read(self, seq: int, event: Json) -> None:
        place = f"{self.ledger}/{seq}"
        kind = self._kinds.get(event["type"])
        if kind is None:
            raise Wrong(f"{event['type']} is of no kind that is known here")
        touched = kind(seq, event["data"], event)
        shown = {figures["account"]: figures for figures in event["balances"]}
        for account in touched:
            self._compare_figures(place, account, shown.pop(account.name, None))
        for name in shown:
            self.findings.add("event balance", f"{place} {name}: is shown, but was not touched")

    def _compare_figures(self, place: str, account: Account, shown: Json | None) -> None:
        if shown is None:
            self.findings.add("event balance", f"{place} {account.name}: is not shown")
        else:
            self.findings.compare("event balance", f"{place} {account.name}", account.figures(), shown)

    def _ledger_created(self, seq: int, data: Json, event: Json) -> list[Account]:
        if self.profile is not None or seq != 1:
            raise Wrong("creates the ledger again")
        if data["id"] != self.ledger:
            raise Wrong(f"creates the ledger {data['id']}")
        self.profile = {
            "name": data["name"],
            "owner": UUID(data["owner"]),
            "metadata": data["metadata"],
            "version": seq,
            "created_at": datetime.fromisoformat(event["recorded_at"]),
        }
        self.register.give(data["owner"], "owner", event["recorded_at"], seq)
        return []

    def _metadata_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        if self.profile is None:
            raise Wrong("changes a ledger that was not created")
        self.profile |= {"metadata": data["metadata"], "version": seq}
        return []

    def _access_granted(self, seq: int, data: Json, event: Json) -> list[Account]:
        self.register.give(data["user"], data["role"], event["recorded_at"], seq)
        return []

    def _access_revoked(self, seq: int, data: Json, event: Json) -> list[Account]:
        self.register.take(data["user"])
        return []

    def _currency_registered(self, seq: int, data: Json, event: Json) -> list[Account]:
        if data["code"] in self.currencies:
            raise Wrong(f"registers {data['code']} again")
        self.currencies[data["code"]] = data["scale"]
        return []

    def _account_opened(self, seq: int, data: Json, event: Json) -> list[Account]:
        name, scale = data["name"], data["scale"]
        if self.shelf.find(name) is not None:
            raise Wrong(f"opens {name} again")
        if self.currencies.setdefault(data["currency"], scale) != scale:
            raise Wrong(f"{data['currency']} has another scale")
        low, high = (
            None if text is None else _minor(text, scale) for text in (data["min_balance"], data["max_balance"])
        )
        metadata = json.dumps(data["metadata"], sort_keys=True)
        head = (name, data["currency"], scale, data["type"], low, high)
        account = Account(*head, 0, 0, metadata, event["recorded_at"], seq)
        self.shelf.put(account)
        return [account]

    def _transaction_posted(self, seq: int, data: Json, event: Json) -> list[Account]:
        postings: list[Json] = []
        moves: dict[str, int] = {}
        touched: dict[str, Account] = {}
        for line in data["postings"]:
            debit, credit = (self._party(line[side], line["currency"]) for side in ("debit", "credit"))
            amount = _minor(line["amount"], debit.scale)
            if amount <= 0 or debit is credit:
                raise Wrong(f"{line} is no posting")
            debit.debits += amount
            credit.credits += amount
            for account, up in ((debit, debit.type in _DEBIT_NORMAL), (credit, credit.type not in _DEBIT_NORMAL)):
                touched[account.name] = account
                moves[account.name] = moves.get(account.name, 0) + (amount if up else -amount)
            named = {"debit": debit.name, "credit": credit.name, "currency": debit.currency}
            postings.append({**named, "scale": debit.scale, "amount": amount})
        for account in touched.values():
            account.version = seq
            self._check_limits(seq, account, moves[account.name])
        self.transactions[seq] = (self._transaction(seq, data, event), postings)
        return list(touched.values())

    def _party(self, name: str, currency: str) -> Account:
        account = self.shelf.find(name)
        if account is None:
            raise Wrong(f"names {name}, which is not open")
        if account.currency != currency:
            raise Wrong(f"moves {currency} in {name}, which is in {account.currency}")
        return account

    def _check_limits(self, seq: int, account: Account, move: int) -> None:
        """A transaction may not leave an account beyond the limit it moved it towards."""
        low, high = account.minimum, account.maximum
        if (move < 0 and low is not None and account.balance < low) or (
            move > 0 and high is not None and account.balance > high
        ):
            balance = _text(account.balance, account.scale)
            self.findings.add("limit", f"{self.ledger}/{seq} {account.name}: {balance} is beyond its limit")

    def _transaction(self, seq: int, data: Json, event: Json) -> Json:
        return {
            "id": UUID(data["transaction"]),
            "status": "posted",
            "reference": data["reference"],
            "description": data["description"],
            "metadata": data["metadata"],
            "effective_at": datetime.fromisoformat(data["effective_at"]),
            "recorded_at": datetime.fromisoformat(event["recorded_at"]),
            "version": seq,
        }


async def list_ledgers(db: Db, ledger: str | None) -> list[tuple[str, int]]:
    """Names of the ledgers there are (or of the one), and how many events each should have."""
    return [(row["ledger"], row["seq"]) for row in await db.fetch(LEDGERS, ledger)]


async def audit(db: Db, ledger: str, findings: Findings, counts: Counts, advance: Callable[[int], None]) -> None:
    """Compares all that is kept of one ledger with its journal. `db` must be in a REPEATABLE READ transaction."""
    books = Books(ledger, findings)
    with closing(books.shelf), closing(books.register):
        counts.ledgers += 1
        async for rows in pages(db, books.chain.actor):
            before = books.chain.seq
            for row in rows:
                books.enter(row)
            await _compare_transactions(db, books, before, rows[-1]["seq"], counts)
            books.shelf.tidy()
            counts.events += len(rows)
            advance(len(rows))
        await _compare_transactions(db, books, books.chain.seq, _NEWEST, counts)
        await compare_head(db, books.chain)
        await _compare_ledger(db, books)
        await compare_grants(db, ledger, books.register, findings, counts, created=books.profile is not None)
        await _compare_accounts(db, books, counts)


async def _compare_transactions(db: Db, books: Books, after: int, until: int, counts: Counts) -> None:
    """The transactions and postings of a stretch of the journal, each in every field."""
    expected, books.transactions = books.transactions, {}
    findings = books.findings
    while rows := await db.fetch(TRANSACTIONS, books.ledger, after, until, LINES):
        last = rows[-1]["seq"]
        lines: dict[int, list[Record]] = {}
        for line in await db.fetch(POSTINGS, books.ledger, after, last):
            lines.setdefault(line["seq"], []).append(line)
        counts.transactions += len(rows)
        for row in rows:
            place = f"{books.ledger}/{row['seq']}"
            made = expected.pop(row["seq"], None)
            found = lines.pop(row["seq"], [])
            counts.postings += len(found)
            if made is None:
                findings.add("transaction", f"{place}: {row['id']} is there, but not in the journal")
                continue
            findings.compare("transaction", place, made[0], {**row, "metadata": json.loads(row["metadata"])})
            _compare_postings(findings, place, made[1], found)
        for seq, stray in lines.items():
            findings.add("posting", f"{books.ledger}/{seq}: {len(stray)} without a transaction")
        after = last
    for line in await db.fetch(POSTINGS, books.ledger, after, until):
        findings.add("posting", f"{books.ledger}/{line['seq']}: is without a transaction")
    for seq, (transaction, _) in expected.items():
        findings.add("transaction", f"{books.ledger}/{seq}: {transaction['id']} is missing")


def _compare_postings(findings: Findings, place: str, expected: list[Json], actual: Iterable[Record]) -> None:
    rows = {row["posting"]: row for row in actual}
    for number, posting in enumerate(expected):
        row = rows.pop(number, None)
        if row is None:
            findings.add("posting", f"{place}#{number}: is missing")
        else:
            findings.compare("posting", f"{place}#{number}", posting, {**row, "amount": int(row["amount"])})
    for number in rows:
        findings.add("posting", f"{place}#{number}: is there, but not in the journal")


async def _compare_ledger(db: Db, books: Books) -> None:
    row = await db.fetchrow(LEDGER, books.ledger)
    if row is None or books.profile is None:
        if row is not None or books.profile is not None:
            books.findings.add("ledger", f"{books.ledger}: is {'missing' if row is None else 'not in the journal'}")
    else:
        expected = {**books.profile, "accounts": books.shelf.count()}
        books.findings.compare("ledger", books.ledger, expected, {**row, "metadata": json.loads(row["metadata"])})
    found = {row["code"]: row["scale"] for row in await db.fetch(CURRENCIES, books.ledger)}
    for code in sorted(found.keys() | books.currencies.keys()):
        expected = {"scale": books.currencies.get(code)}
        books.findings.compare("currency", f"{books.ledger} {code}", expected, {"scale": found.get(code)})


async def _compare_accounts(db: Db, books: Books, counts: Counts) -> None:
    """Walks both lists by name, side by side."""
    findings, kept = books.findings, books.shelf.all()
    expected = next(kept, None)
    async for row in _accounts(db, books.ledger):
        counts.accounts += 1
        while expected is not None and expected.name < row["name"]:
            findings.add("account", f"{books.ledger} {expected.name}: is missing")
            expected = next(kept, None)
        if expected is None or expected.name != row["name"]:
            findings.add("account", f"{books.ledger} {row['name']}: is there, but not in the journal")
            continue
        findings.compare("account", f"{books.ledger} {expected.name}", _kept(expected), _stored(row))
        expected = next(kept, None)
    for missing in ([] if expected is None else [expected]), kept:
        for account in missing:
            findings.add("account", f"{books.ledger} {account.name}: is missing")


async def _accounts(db: Db, ledger: str) -> AsyncIterator[Record]:
    after = ""
    while rows := await db.fetch(ACCOUNTS, ledger, after, ACCOUNTS_AT_ONCE):
        for row in rows:
            yield row
        after = rows[-1]["name"]


def _kept(account: Account) -> Json:
    return {
        "currency": account.currency,
        "scale": account.scale,
        "type": account.type,
        "status": "open",
        "min_balance": account.minimum,
        "max_balance": account.maximum,
        "posted_debits": account.debits,
        "posted_credits": account.credits,
        "pending_debits": 0,
        "pending_credits": 0,
        "metadata": json.loads(account.metadata),
        "opened_at": datetime.fromisoformat(account.opened_at),
        "version": account.version,
    }


def _stored(row: Record) -> Json:
    money = ("min_balance", "max_balance", "posted_debits", "posted_credits", "pending_debits", "pending_credits")
    whole = {name: None if row[name] is None else int(row[name]) for name in money}
    return {**row, **whole, "metadata": json.loads(row["metadata"])}


def _minor(text: str, scale: int) -> int:
    """Minor units of a decimal string that must have exactly `scale` decimals."""
    whole, point, fraction = text.partition(".")
    if len(fraction) != scale or bool(point) is not bool(scale) or not (whole.lstrip("-") + fraction).isdigit():
        raise Wrong(f"{text} is no amount with {scale} decimals")
    return int(whole + fraction)


def _text(minor: int, scale: int) -> str:
    digits = f"{abs(minor):0{scale + 1}d}"
    cut = len(digits) - scale
    return ("-" if minor < 0 else "") + digits[:cut] + ("." + digits[cut:] if scale else "")
