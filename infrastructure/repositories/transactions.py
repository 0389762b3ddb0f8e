"""A ledger's transactions, as far as a turn needs them: loaded where its commands name them, saved in bulk.

What moved is in `postings`, at the seq of the event that moved it. What was pending once has its own postings in
`holds`, and what was taken of them in `captures`. Tables that a turn has nothing for cost it nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.decision import Link
from domain.ledger.events import (
    HeldLine,
    PostedLine,
    TransactionCaptured,
    TransactionExpired,
    TransactionHeld,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.ledger.model import Account, Ledger, Line, Transaction
from domain.money import parse_minor
from infrastructure.postgres import Db

REFERENCES: Final = "SELECT reference FROM transactions WHERE ledger = $1 AND reference = ANY ($2::text[])"

TRANSACTIONS: Final = """
SELECT id, seq, version, status, metadata, effective_at, expires_at, expired, reverses, reversed_by
FROM transactions WHERE ledger = $1 AND id = ANY ($2::uuid[])
"""

# Of each transaction its own: what captures moved lies at other seqs.
POSTED_LINES: Final = """
SELECT seq, debit, credit, amount::text, amount::text AS posted, '0' AS held
FROM postings WHERE ledger = $1 AND seq = ANY ($2::bigint[]) ORDER BY seq, posting
"""

HELD_LINES: Final = """
SELECT seq, debit, credit, amount::text, posted::text, held::text
FROM holds WHERE ledger = $1 AND seq = ANY ($2::bigint[]) ORDER BY seq, posting
"""

WAITING: Final = """
SELECT id FROM commands
WHERE id = ANY ($2::uuid[]) AND actor = $1 AND status IN ('accepted', 'scheduled')
    AND kind IN ('post_transaction', 'reverse_transaction')
"""

ALTER_TRANSACTIONS: Final = """
UPDATE transactions SET status = altered.status, metadata = altered.metadata, version = altered.version,
    expired = altered.expired, reversed_by = altered.reversed_by
FROM unnest($2::uuid[], $3::text[], $4::jsonb[], $5::bigint[], $6::boolean[], $7::uuid[])
    AS altered (id, status, metadata, version, expired, reversed_by)
WHERE transactions.ledger = $1 AND transactions.id = altered.id
"""

ALTER_HOLDS: Final = """
UPDATE holds SET posted = altered.posted::numeric, held = altered.held::numeric
FROM unnest($2::bigint[], $3::smallint[], $4::text[], $5::text[]) AS altered (seq, posting, posted, held)
WHERE holds.ledger = $1 AND holds.seq = altered.seq AND holds.posting = altered.posting
"""

_TRANSACTION = (
    "ledger", "id", "seq", "status", "reference", "description", "metadata", "effective_at", "recorded_at", "version",
)  # fmt: skip
_POSTING = ("ledger", "seq", "posting", "debit", "credit", "currency", "scale", "amount", "effective_at")
_HOLD = ("ledger", "seq", "posting", "debit", "credit", "currency", "scale", "amount", "held")
_CAPTURE = ("ledger", "seq", "id", "transaction", "amounts", "effective_at", "recorded_at")

_json = msgspec.json.Encoder().encode
_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode

Row = tuple[object, ...]
Made = TransactionPosted | TransactionHeld | TransactionReversed
"""What makes a transaction."""
_SETTLING: Final = (TransactionCaptured, TransactionVoided, TransactionExpired)
"""After these a transaction holds another amount than before."""


# -- loading ----------------------------------------------------------------------------------------------------------


async def references(db: Db, ledger_id: str, wanted: Collection[str]) -> set[str]:
    """Those of the references that name a transaction already."""
    if not wanted:
        return set()
    return {row["reference"] for row in await db.fetch(REFERENCES, ledger_id, sorted(wanted))}


async def load(db: Db, ledger_id: str, named: Collection[UUID]) -> dict[UUID, Transaction]:
    """Those of the named transactions that were applied, each with its lines."""
    if not named:
        return {}
    rows = await db.fetch(TRANSACTIONS, ledger_id, sorted(named))
    lines: dict[int, list[Line]] = {}
    posted = [row["seq"] for row in rows if row["status"] == "posted"]
    if posted:
        _sort(await db.fetch(POSTED_LINES, ledger_id, posted), lines)
    held = [row["seq"] for row in rows if row["status"] != "posted"]
    if held:
        _sort(await db.fetch(HELD_LINES, ledger_id, held), lines)
    return {row["id"]: _transaction(row, lines[row["seq"]]) for row in rows}


async def waiting(
    db: Db, ledger_id: str, named: Collection[UUID], positions: Mapping[UUID, int]
) -> dict[UUID, int | None]:
    """Those of the named transactions that a command is still to make, with its place among `positions`: the turn's."""
    if not named:
        return {}
    rows = await db.fetch(WAITING, f"ledger:{ledger_id}", sorted(named))
    return {row["id"]: positions.get(row["id"]) for row in rows}


def _sort(rows: Iterable[Record], into: dict[int, list[Line]]) -> None:
    for row in rows:
        line = Line(row["debit"], row["credit"], int(row["amount"]), int(row["posted"]), int(row["held"]))
        into.setdefault(row["seq"], []).append(line)


def _transaction(row: Record, lines: list[Line]) -> Transaction:
    return Transaction(
        id=row["id"],
        seq=row["seq"],
        version=row["version"],
        status=row["status"],
        metadata=_metadata(row["metadata"]),
        effective_at=row["effective_at"],
        lines=lines,
        expires_at=row["expires_at"],
        expired=row["expired"],
        reverses=row["reverses"],
        reversed_by=row["reversed_by"],
    )


# -- saving -----------------------------------------------------------------------------------------------------------


async def append(db: Db, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
    """Writes the transactions that `links` made, and what they moved."""
    made = _Rows(ledger.id, ledger.accounts, now)
    for link in links:
        made.enter(link)
    for table, columns, records in made.tables():
        if records:
            await db.copy_records_to_table(table, records=records, columns=columns)


async def save(db: Db, ledger: Ledger, links: Sequence[Link]) -> None:
    """Writes what became of transactions after their first event."""
    if not ledger.altered:
        return
    await _alter(db, ledger)
    settled = {link.entry.data.transaction for link in links if isinstance(link.entry.data, _SETTLING)}
    if settled:
        await _settle(db, ledger, sorted(settled))


class _Rows:
    """What events add to the tables."""

    def __init__(self, ledger_id: str, accounts: Mapping[str, Account], now: datetime) -> None:
        self._ledger = ledger_id
        self._accounts = accounts
        self._now = now
        self._transactions: list[Row] = []
        self._held: list[Row] = []
        self._reversing: list[Row] = []
        self._postings: list[Row] = []
        self._holds: list[Row] = []
        self._captures: list[Row] = []

    def tables(self) -> Sequence[tuple[str, Sequence[str], Sequence[Row]]]:
        """Name, columns and rows."""
        return (
            ("transactions", _TRANSACTION, self._transactions),
            ("transactions", (*_TRANSACTION, "expires_at"), self._held),
            ("transactions", (*_TRANSACTION, "reverses"), self._reversing),
            ("postings", _POSTING, self._postings),
            ("holds", _HOLD, self._holds),
            ("captures", _CAPTURE, self._captures),
        )

    def enter(self, link: Link) -> None:
        """Takes the next event."""
        event, seq = link.entry.data, link.entry.seq
        if isinstance(event, TransactionPosted):
            moment = datetime.fromisoformat(event.effective_at)
            self._transactions.append(self._row(event, seq, "posted", moment))
            self._move(seq, event.postings, moment)
        elif isinstance(event, TransactionHeld):
            expires_at = None if event.expires_at is None else datetime.fromisoformat(event.expires_at)
            row = self._row(event, seq, "pending", datetime.fromisoformat(event.effective_at))
            self._held.append((*row, expires_at))
            self._hold(seq, event.postings)
        elif isinstance(event, TransactionReversed):
            moment = datetime.fromisoformat(event.effective_at)
            self._reversing.append((*self._row(event, seq, "posted", moment), event.reverses))
            self._move(seq, event.postings, moment)
        elif isinstance(event, TransactionCaptured):
            self._capture(seq, event)

    def _row(self, event: Made, seq: int, status: str, effective_at: datetime) -> Row:
        return (
            self._ledger,
            event.transaction,
            seq,
            status,
            event.reference,
            event.description,
            _json(event.metadata).decode(),
            effective_at,
            self._now,
            seq,
        )

    def _move(self, seq: int, lines: Sequence[PostedLine | HeldLine], effective_at: datetime) -> None:
        for index, line in enumerate(lines):
            scale = self._accounts[line.debit].scale
            amount = parse_minor(line.amount, scale)
            # a capture may take nothing of some postings
            if amount:
                self._postings.append(
                    (self._ledger, seq, index, line.debit, line.credit, line.currency, scale, amount, effective_at)
                )

    def _hold(self, seq: int, lines: Sequence[PostedLine]) -> None:
        for index, line in enumerate(lines):
            scale = self._accounts[line.debit].scale
            amount = parse_minor(line.amount, scale)
            self._holds.append(
                (self._ledger, seq, index, line.debit, line.credit, line.currency, scale, amount, amount)
            )

    def _capture(self, seq: int, event: TransactionCaptured) -> None:
        moment = datetime.fromisoformat(event.effective_at)
        amounts = [parse_minor(line.amount, self._accounts[line.debit].scale) for line in event.postings]
        self._captures.append((self._ledger, seq, event.capture, event.transaction, amounts, moment, self._now))
        self._move(seq, event.postings, moment)


async def _alter(db: Db, ledger: Ledger) -> None:
    altered = [ledger.transactions[transaction] for transaction in sorted(ledger.altered)]
    await db.execute(
        ALTER_TRANSACTIONS,
        ledger.id,
        [transaction.id for transaction in altered],
        [transaction.status for transaction in altered],
        [_json(transaction.metadata).decode() for transaction in altered],
        [transaction.version for transaction in altered],
        [transaction.expired for transaction in altered],
        [transaction.reversed_by for transaction in altered],
    )


async def _settle(db: Db, ledger: Ledger, settled: Sequence[UUID]) -> None:
    """What of their holds was posted, and what is left of them."""
    lines = [
        (ledger.transactions[transaction].seq, index, str(line.posted), str(line.held))
        for transaction in settled
        for index, line in enumerate(ledger.transactions[transaction].lines)
    ]
    await db.execute(ALTER_HOLDS, ledger.id, *map(list, zip(*lines, strict=True)))
