"""A ledger's books as `daybook verify` keeps them: accounts, transactions, changes; on disk but for what is in use.

SQLite's temporary file holds them, so that memory stays bounded however long the journal is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from cli.chain import Json, Wrong

LOADED: Final = 20_000
"""Accounts, transactions and changes of each kind held in memory."""
LINES_LOADED: Final = 50_000
"""Postings of the transactions held in memory."""

DEBIT_NORMAL: Final = ("asset", "expense")

_KEEP: Final = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, state TEXT) WITHOUT ROWID;
CREATE TABLE transactions (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, state TEXT);
CREATE TABLE pending_sums (account TEXT, seq INTEGER, debits TEXT, credits TEXT, PRIMARY KEY (account, seq))
    WITHOUT ROWID;
CREATE TABLE changes (account TEXT, seq INTEGER, status TEXT, metadata TEXT, PRIMARY KEY (account, seq)) WITHOUT ROWID;
"""
_PUT_ACCOUNT: Final = "INSERT OR REPLACE INTO accounts VALUES (?, ?)"
_FIND_ACCOUNT: Final = "SELECT state FROM accounts WHERE name = ?"
_ALL_ACCOUNTS: Final = "SELECT state FROM accounts ORDER BY name"
_COUNT_ACCOUNTS: Final = "SELECT count(*) FROM accounts"
_PUT_TRANSACTION: Final = "INSERT OR REPLACE INTO transactions VALUES (?, ?, ?)"
_FIND_TRANSACTION: Final = "SELECT state FROM transactions WHERE id = ?"
_ALL_TRANSACTIONS: Final = "SELECT state FROM transactions ORDER BY seq"
_PUT_SUMS: Final = "INSERT OR REPLACE INTO pending_sums VALUES (?, ?, ?, ?)"
_ALL_SUMS: Final = "SELECT * FROM pending_sums ORDER BY account, seq"
_PUT_CHANGE: Final = "INSERT OR REPLACE INTO changes VALUES (?, ?, ?, ?)"
_ALL_CHANGES: Final = "SELECT * FROM changes ORDER BY account, seq"


@dataclass(slots=True)
class Account:
    """An account as the journal makes it, in minor units."""

    name: str
    currency: str
    scale: int
    type: str
    minimum: int | None
    maximum: int | None
    metadata: Json
    opened_at: str
    opened_seq: int
    version: int
    status: str = "open"
    debits: int = 0
    credits: int = 0
    pending_debits: int = 0
    pending_credits: int = 0

    @property
    def debit_normal(self) -> bool:
        return self.type in DEBIT_NORMAL

    @property
    def balance(self) -> int:
        return self.debits - self.credits if self.debit_normal else self.credits - self.debits

    @property
    def reserved(self) -> int:
        """What holds are to take away."""
        return self.pending_credits if self.debit_normal else self.pending_debits

    @property
    def announced(self) -> int:
        """What holds are to bring."""
        return self.pending_debits if self.debit_normal else self.pending_credits

    def figures(self) -> Json:
        """The account as an event's `balances` must show it."""
        shown = {
            "posted_debits": self.debits,
            "posted_credits": self.credits,
            "pending_debits": self.pending_debits,
            "pending_credits": self.pending_credits,
            "balance": self.balance,
            "available": self.balance - self.reserved,
        }
        texts = {name: text_of(minor, self.scale) for name, minor in shown.items()}
        return {"account": self.name, "currency": self.currency, **texts}


@dataclass(slots=True)
class Line:
    """A posting of a transaction, in minor units."""

    debit: str
    credit: str
    currency: str
    scale: int
    amount: int
    posted: int
    held: int


@dataclass(slots=True)
class Transaction:
    """A transaction as the journal makes it. `pending`: it was one once."""

    id: str
    seq: int
    version: int
    status: str
    pending: bool
    reference: str | None
    description: str | None
    metadata: Json
    effective_at: str
    recorded_at: str
    lines: list[Line]
    expires_at: str | None = None
    expired: bool = False
    reverses: str | None = None
    reversed_by: str | None = None


class Shelf:
    """What the journal makes of one ledger."""

    def __init__(self) -> None:
        # an empty name is SQLite's for a temporary file, held in memory while it is small
        self._db = sqlite3.connect("")
        self._db.executescript(_KEEP)
        self._accounts: dict[str, Account] = {}
        self._transactions: dict[str, Transaction] = {}
        self._lines = 0
        self._sums: list[tuple[str, int, str, str]] = []
        self._changes: list[tuple[str, int, str, str]] = []

    def account(self, name: str) -> Account | None:
        account = self._accounts.get(name)
        if account is None:
            row = self._db.execute(_FIND_ACCOUNT, (name,)).fetchone()
            if row is None:
                return None
            account = self._accounts[name] = Account(**json.loads(row[0]))
        return account

    def put_account(self, account: Account) -> None:
        self._accounts[account.name] = account

    def transaction(self, name: str) -> Transaction | None:
        transaction = self._transactions.get(name)
        if transaction is None:
            row = self._db.execute(_FIND_TRANSACTION, (name,)).fetchone()
            if row is None:
                return None
            transaction = _transaction(row[0])
            self.put_transaction(transaction)
        return transaction

    def put_transaction(self, transaction: Transaction) -> None:
        """Keeps one that is not in memory yet."""
        self._transactions[transaction.id] = transaction
        self._lines += len(transaction.lines)

    def note_sums(self, seq: int, account: Account) -> None:
        """What the account has pending from the event at `seq` on."""
        self._sums.append((account.name, seq, str(account.pending_debits), str(account.pending_credits)))

    def note_change(self, seq: int, account: Account) -> None:
        """What the account was until the event at `seq`."""
        self._changes.append((account.name, seq, account.status, json.dumps(account.metadata)))

    def tidy(self, most: int = LOADED, lines: int = LINES_LOADED) -> None:
        """Writes everything down, if there is more than `most` of anything in memory, or of postings than `lines`."""
        loaded = max(len(self._accounts), len(self._transactions), len(self._sums), len(self._changes))
        if loaded <= most and self._lines <= lines:
            return
        self._db.executemany(_PUT_ACCOUNT, ((one.name, json.dumps(asdict(one))) for one in self._accounts.values()))
        transactions = ((one.seq, one.id, json.dumps(_written(one))) for one in self._transactions.values())
        self._db.executemany(_PUT_TRANSACTION, transactions)
        self._db.executemany(_PUT_SUMS, self._sums)
        self._db.executemany(_PUT_CHANGE, self._changes)
        for kept in (self._accounts, self._transactions, self._sums, self._changes):
            kept.clear()
        self._lines = 0

    def count_accounts(self) -> int:
        self.tidy(0)
        counted: int = self._db.execute(_COUNT_ACCOUNTS).fetchone()[0]
        return counted

    def accounts(self) -> Iterator[Account]:
        """Every account, by name."""
        self.tidy(0)
        return (Account(**json.loads(state)) for (state,) in self._db.execute(_ALL_ACCOUNTS))

    def transactions(self) -> Iterator[Transaction]:
        """Every transaction, by seq."""
        self.tidy(0)
        return (_transaction(state) for (state,) in self._db.execute(_ALL_TRANSACTIONS))

    def pending_sums(self) -> Iterator[tuple[str, int, int, int]]:
        """Account, seq, debits and credits, in the order of the first two."""
        self.tidy(0)
        rows = self._db.execute(_ALL_SUMS)
        return ((account, seq, int(debits), int(credits)) for account, seq, debits, credits in rows)

    def changes(self) -> Iterator[tuple[str, int, str, Json]]:
        """Account, seq, status and metadata before, in the order of the first two."""
        self.tidy(0)
        rows = self._db.execute(_ALL_CHANGES)
        return ((account, seq, status, json.loads(metadata)) for account, seq, status, metadata in rows)

    def close(self) -> None:
        self._db.close()


def _written(transaction: Transaction) -> list[Any]:
    fields = (getattr(transaction, name) for name in Transaction.__slots__ if name != "lines")
    lines = [[getattr(line, name) for name in Line.__slots__] for line in transaction.lines]
    return [lines, *fields]


def _transaction(state: str) -> Transaction:
    lines, *fields = json.loads(state)
    names = (name for name in Transaction.__slots__ if name != "lines")
    return Transaction(**dict(zip(names, fields, strict=True)), lines=[Line(*line) for line in lines])


def minor_of(text: str, scale: int) -> int:
    """Minor units of a decimal string that must have exactly `scale` decimals."""
    whole, point, fraction = text.partition(".")
    if len(fraction) != scale or bool(point) is not bool(scale) or not (whole.lstrip("-") + fraction).isdigit():
        raise Wrong(f"{text} is no amount with {scale} decimals")
    return int(whole + fraction)


def text_of(minor: int, scale: int) -> str:
    digits = f"{abs(minor):0{scale + 1}d}"
    cut = len(digits) - scale
    return ("-" if minor < 0 else "") + digits[:cut] + ("." + digits[cut:] if scale else "")
