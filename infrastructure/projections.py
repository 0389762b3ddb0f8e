"""The projections as queries read them. Each function is one statement, and so one snapshot: what it answers and the
ledger's epoch and seq beside it belong together, whatever turns commit meanwhile.

Every statement is bounded by a limit or by the accounts of one ledger, and in time by its connection. Functions about
one ledger answer None when the ledger is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Final, TypeVar
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.clock import format_time
from domain.ledger.model import DEBIT_NORMAL
from domain.money import format_minor
from infrastructure.postgres import Connection, Db
from infrastructure.read_models import (
    AccountView,
    BalanceView,
    CaptureView,
    CurrencyView,
    GrantView,
    JournalLine,
    LedgerView,
    Page,
    PeriodView,
    PostingView,
    Snapshot,
    TransactionView,
    TrialView,
    TypeView,
)

T = TypeVar("T")

PAGE_POSTINGS: Final = 20_000
"""Postings on a page of transactions. A page ends early rather than hold more, but has one transaction at least."""
PAGE_BYTES: Final = 8 << 20
"""Bytes of events on a page of the journal; again it has one event at least."""
NEWEST: Final = 2**63 - 1

# What every answer about a ledger begins with. With nothing below it, the ledger's row comes alone, its item null.
_IN_LEDGER: Final = """
FROM ledgers JOIN actors ON actors.actor = 'ledger:' || ledgers.id
"""

SEQ: Final = "SELECT epoch, seq FROM actors WHERE actor = 'ledger:' || $1"

LEDGER: Final = f"""
SELECT actors.epoch, actors.seq AS head, ledgers.id, name, metadata, owner, accounts, created_at
{_IN_LEDGER} WHERE ledgers.id = $1
"""

_LEDGERS: Final = f"""
SELECT actors.epoch, actors.seq AS head, ledgers.id, name, metadata, owner, accounts, created_at
{_IN_LEDGER} WHERE ($1::timestamptz IS NULL OR (created_at, ledgers.id) < ($1, $2))
    AND ($4::text[] IS NULL OR ledgers.id = ANY ($4))
"""

ALL_LEDGERS: Final = f"{_LEDGERS} ORDER BY created_at DESC, ledgers.id DESC LIMIT $3"

GRANTED_LEDGERS: Final = f"""
{_LEDGERS} AND EXISTS (SELECT FROM grants WHERE grants.ledger = ledgers.id AND grants.user_id = $5)
ORDER BY created_at DESC, ledgers.id DESC LIMIT $3
"""

_GRANT: Final = "grants.user_id, users.username, grants.role, grants.granted_at, grants.seq"

GRANTS: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT {_GRANT} FROM grants JOIN users ON users.id = grants.user_id
    WHERE grants.ledger = $1 AND grants.seq < $2 ORDER BY grants.seq DESC LIMIT $3
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.seq DESC
"""

GRANT: Final = f"""
SELECT actors.epoch, actors.seq AS head, {_GRANT}
{_IN_LEDGER} JOIN grants ON grants.ledger = ledgers.id JOIN users ON users.id = grants.user_id
WHERE ledgers.id = $1 AND grants.user_id = $2
"""

CURRENCIES: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT code, scale FROM currencies WHERE ledger = $1 AND code > $2 ORDER BY code LIMIT $3
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.code
"""

CURRENCY: Final = f"""
SELECT actors.epoch, actors.seq AS head, code, scale
{_IN_LEDGER} JOIN currencies ON currencies.ledger = ledgers.id
WHERE ledgers.id = $1 AND code = $2
"""

PERIODS: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT seq, before, closed_at FROM periods WHERE ledger = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.seq DESC
"""

PERIOD: Final = f"""
SELECT actors.epoch, actors.seq AS head, periods.seq, before, closed_at
{_IN_LEDGER} JOIN periods ON periods.ledger = ledgers.id
WHERE ledgers.id = $1 AND before = $2
"""

_ACCOUNT: Final = """
    name, currency, scale, type, status, min_balance, max_balance, posted_debits, posted_credits, pending_debits,
    pending_credits, metadata, opened_at, version
"""

ACCOUNT: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT {_ACCOUNT} FROM accounts WHERE ledger = $1 AND name = $2
) AS item ON true
WHERE ledgers.id = $1
"""

# A prefix is a range: no name has a character above 'z', and names sort by bytes.
ACCOUNTS: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT {_ACCOUNT} FROM accounts
    WHERE ledger = $1 AND name > $2 AND name >= $3 AND name < $3 || '~'
        AND ($4::text IS NULL OR currency = $4)
    ORDER BY name LIMIT $5
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.name
"""

_TRANSACTION: Final = """
    id, seq, status, reference, description, metadata, effective_at, recorded_at, version, expires_at, reverses,
    reversed_by
"""

# What was pending once has its postings among the holds; all else has moved what its postings say.
_LINES: Final = """
    CASE WHEN item.status = 'posted' THEN (
        SELECT json_agg(json_build_array(debit, credit, amount::text, currency, scale) ORDER BY posting)
        FROM postings WHERE postings.ledger = $1 AND postings.seq = item.seq
    ) ELSE (
        SELECT json_agg(
            json_build_array(debit, credit, amount::text, currency, scale, posted::text, held::text) ORDER BY posting
        )
        FROM holds WHERE holds.ledger = $1 AND holds.seq = item.seq
    ) END AS lines,
    CASE WHEN item.status <> 'posted' THEN (
        SELECT json_agg(json_build_array(
            captures.id, amounts::text[], captures.effective_at, captures.recorded_at, captures.seq
        ) ORDER BY captures.seq)
        FROM captures WHERE captures.ledger = $1 AND captures.transaction = item.id
    ) END AS captures
"""

TRANSACTION: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*, {_LINES}
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT {_TRANSACTION} FROM transactions WHERE ledger = $1 AND id = $2
) AS item ON true
WHERE ledgers.id = $1
"""

_FILTER: Final = """
    transactions.ledger = $1 AND transactions.seq < $2
    AND ($3::text IS NULL OR transactions.status = $3)
    AND ($4::timestamptz IS NULL OR transactions.effective_at >= $4)
    AND ($5::timestamptz IS NULL OR transactions.effective_at < $5)
"""


def _transactions(found: str) -> str:
    """A page of the transactions that `found` selects, newest first, cut where its postings become too many.

    What a capture took of a posting counts as one more.
    """
    return f"""
SELECT actors.epoch, actors.seq AS head, item.*, {_LINES}
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT measured.*, sum(size) OVER (ORDER BY seq DESC) - size AS postings_before, count(*) OVER () AS found
    FROM (
        SELECT found.*, CASE WHEN found.status = 'posted' THEN (
            SELECT count(*) FROM postings WHERE postings.ledger = $1 AND postings.seq = found.seq
        ) ELSE (
            SELECT count(*) FROM holds WHERE holds.ledger = $1 AND holds.seq = found.seq
        ) + (
            SELECT coalesce(sum(cardinality(amounts)), 0) FROM captures
            WHERE captures.ledger = $1 AND captures.transaction = found.id
        ) END AS size
        FROM ({found} ORDER BY seq DESC LIMIT $6) AS found
    ) AS measured
) AS item ON item.postings_before < {PAGE_POSTINGS}
WHERE ledgers.id = $1 ORDER BY item.seq DESC
"""


def _of_account(fitting: str) -> str:
    """A page of the transactions with a posting to $7, held or moved. `fitting` joins the transaction of a `line`.

    Each side walks its own index backwards and stops at the limit, so that a busy account costs no more than a quiet
    one. What captures have moved lies among the postings, too, at seqs that are no transaction's: it is passed over,
    and where there are many captures there are many holds, of which the page's oldest ends that walk.
    """

    def _sides(table: str, condition: str) -> str:
        return " UNION ".join(
            f"(SELECT DISTINCT line.seq FROM {table} AS line {fitting} WHERE line.ledger = $1 AND line.{side} = $7"
            f" AND line.seq < $2 AND {condition} ORDER BY seq DESC LIMIT $6)"
            for side in ("debit", "credit")
        )

    held = _sides("holds", "($3::text IS NULL OR $3 <> 'posted')")
    moved = _sides(
        "postings",
        "($3::text IS NULL OR $3 = 'posted')"
        " AND line.seq >= (SELECT CASE WHEN count(*) = $6 THEN min(seq) ELSE 0 END FROM held)",
    )
    return _transactions(f"""
    WITH held AS MATERIALIZED (SELECT seq FROM ({held}) AS sides ORDER BY seq DESC LIMIT $6)
    SELECT {_TRANSACTION} FROM transactions
    WHERE ledger = $1 AND seq IN (SELECT seq FROM held UNION ALL {moved})
    """)


TRANSACTIONS: Final = _transactions(f"SELECT {_TRANSACTION} FROM transactions WHERE {_FILTER}")

# Once more in so many words as the index of those has: of all transactions they are few.
TRANSACTIONS_HELD: Final = _transactions(
    f"SELECT {_TRANSACTION} FROM transactions WHERE {_FILTER} AND status = $3 AND status <> 'posted'"
)

TRANSACTIONS_OF_REFERENCE: Final = _transactions(f"""
    SELECT {_TRANSACTION} FROM transactions WHERE {_FILTER} AND reference = $7 AND ($8::text IS NULL OR EXISTS (
        SELECT FROM postings WHERE postings.ledger = $1 AND postings.seq = transactions.seq AND $8 IN (debit, credit)
    ) OR EXISTS (
        SELECT FROM holds WHERE holds.ledger = $1 AND holds.seq = transactions.seq AND $8 IN (debit, credit)
    ))
""")

# The inner LIMIT keeps the planner from joining all transactions to the walk. Within a range of time they may be fewer
# than the account's postings: there the planner chooses.
TRANSACTIONS_OF_ACCOUNT: Final = _of_account(
    f"CROSS JOIN LATERAL (SELECT FROM transactions WHERE transactions.seq = line.seq AND {_FILTER} LIMIT 1) AS fitting"
)
TRANSACTIONS_OF_ACCOUNT_IN_RANGE: Final = _of_account(f"JOIN transactions ON transactions.seq = line.seq AND {_FILTER}")

# What is pending now is little beside all that an account has ever held.
TRANSACTIONS_PENDING_OF_ACCOUNT: Final = _transactions(f"""
    SELECT {_TRANSACTION} FROM transactions WHERE {_FILTER} AND status = 'pending' AND status <> 'posted' AND EXISTS (
        SELECT FROM holds WHERE holds.ledger = $1 AND holds.seq = transactions.seq AND $7 IN (debit, credit)
    )
""")

# How much lies within a range of time only its values tell. Planned once for any of them, a page of a day would look at
# all that an account has.
PLAN_ANEW: Final = "SET LOCAL plan_cache_mode = force_custom_plan"

BALANCES: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT currency, type, min(scale) AS scale, count(*) AS accounts, sum(posted_debits) AS posted_debits,
        sum(posted_credits) AS posted_credits, sum(pending_debits) AS pending_debits,
        sum(pending_credits) AS pending_credits
    FROM accounts WHERE ledger = $1 AND name >= $2 AND name < $2 || '~' AND (currency, type) > ($3, $4)
    GROUP BY currency, type ORDER BY currency, type LIMIT $5
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.currency, item.type
"""

TRIAL_BALANCE: Final = f"""
SELECT actors.epoch, actors.seq AS head, item.*
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT currency, type, min(scale) AS scale, sum(greatest(posted_debits - posted_credits, 0)) AS debits,
        sum(greatest(posted_credits - posted_debits, 0)) AS credits
    FROM accounts WHERE ledger = $1 GROUP BY currency, type
) AS item ON true
WHERE ledgers.id = $1 ORDER BY item.currency, item.type
"""

JOURNAL: Final = f"""
SELECT actors.epoch AS current_epoch, actors.seq AS head, item.*, previous.hash AS first_previous
{_IN_LEDGER} LEFT JOIN LATERAL (
    SELECT seq, epoch, hash, event, sum(octet_length(event)) OVER (ORDER BY seq) - octet_length(event) AS bytes_before
    FROM (
        SELECT seq, epoch, hash, event FROM journal
        WHERE journal.actor = actors.actor AND seq > $2 ORDER BY seq LIMIT $3
    ) AS following
) AS item ON item.bytes_before < {PAGE_BYTES}
LEFT JOIN journal AS previous ON previous.actor = actors.actor AND previous.seq = $2
WHERE ledgers.id = $1 ORDER BY item.seq
"""

_GENESIS: Final = bytes(32)
_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode
_lines: Final = msgspec.json.Decoder(list[tuple[str, str, str, str, int]]).decode
_held_lines: Final = msgspec.json.Decoder(list[tuple[str, str, str, str, int, str, str]]).decode
_captures: Final = msgspec.json.Decoder(list[tuple[UUID, list[str], datetime, datetime, int]]).decode


# -- ledgers ----------------------------------------------------------------------------------------------------------


async def find_seq(db: Db, ledger: str) -> tuple[int, int] | None:
    """Epoch and seq of the ledger's journal; None where nothing was ever accepted for it."""
    row = await db.fetchrow(SEQ, ledger)
    return None if row is None else (row["epoch"], row["seq"])


async def find_ledger(db: Db, ledger: str) -> Snapshot[LedgerView] | None:
    row = await db.fetchrow(LEDGER, ledger)
    return None if row is None else Snapshot(row["epoch"], row["head"], _ledger(row))


async def list_ledgers(
    db: Db, principal: UUID | None, within: Collection[str] | None, after: tuple[datetime, str] | None, limit: int
) -> Page[LedgerView]:
    """The ledgers granted to `principal` (None: all), newest first, behind creation time and id `after`.

    Of these only those `within`, if it is given.
    """
    moment, name = after or (None, None)
    only = None if within is None else list(within)
    if principal is None:
        rows = await db.fetch(ALL_LEDGERS, moment, name, limit + 1, only)
    else:
        rows = await db.fetch(GRANTED_LEDGERS, moment, name, limit + 1, only, principal)
    items = [_ledger(row) for row in rows[:limit]]
    return Page(items, (items[-1].created_at, items[-1].id) if len(rows) > limit else None)


def _ledger(row: Record) -> LedgerView:
    head = row["head"]
    return LedgerView(
        row["id"],
        row["name"],
        _metadata(row["metadata"]),
        row["owner"],
        row["accounts"],
        row["epoch"],
        head,
        head,
        format_time(row["created_at"]),
    )


# -- grants -----------------------------------------------------------------------------------------------------------


async def list_grants(db: Db, ledger: str, before: int, limit: int) -> Snapshot[Page[GrantView]] | None:
    """What was granted in the ledger, newest first, before the seq `before`."""
    rows = await db.fetch(GRANTS, ledger, before, limit + 1)
    if not rows:
        return None
    present = _present(rows, "seq")
    items = [_grant(row) for row in present[:limit]]
    return _at(rows[0], Page(items, (present[limit - 1]["seq"],) if len(present) > limit else None))


async def find_grant(db: Db, ledger: str, user: UUID) -> Snapshot[GrantView] | None:
    row = await db.fetchrow(GRANT, ledger, user)
    return None if row is None else _at(row, _grant(row))


def _grant(row: Record) -> GrantView:
    return GrantView(row["user_id"], row["username"], row["role"], format_time(row["granted_at"]))


# -- currencies and accounts ------------------------------------------------------------------------------------------


async def list_currencies(db: Db, ledger: str, after: str, limit: int) -> Snapshot[Page[CurrencyView]] | None:
    """Currencies that the ledger registered or has used, by code, behind the code `after`."""
    rows = await db.fetch(CURRENCIES, ledger, after, limit + 1)
    if not rows:
        return None
    items = [CurrencyView(row["code"], row["scale"]) for row in _present(rows, "code")[:limit]]
    return _at(rows[0], Page(items, (items[-1].code,) if len(rows) > limit else None))


async def find_currency(db: Db, ledger: str, code: str) -> Snapshot[CurrencyView] | None:
    row = await db.fetchrow(CURRENCY, ledger, code)
    return None if row is None else _at(row, CurrencyView(row["code"], row["scale"]))


async def list_periods(db: Db, ledger: str, before: int, limit: int) -> Snapshot[Page[PeriodView]] | None:
    """What was closed in the ledger, newest first, before the seq `before`."""
    rows = await db.fetch(PERIODS, ledger, before, limit + 1)
    if not rows:
        return None
    items = [_period(row) for row in _present(rows, "seq")]
    return _at(rows[0], Page(items[:limit], (items[limit - 1].seq,) if len(items) > limit else None))


async def find_period(db: Db, ledger: str, before: datetime) -> Snapshot[PeriodView] | None:
    """The period that was closed with this end."""
    row = await db.fetchrow(PERIOD, ledger, before)
    if row is None:
        return None
    return _at(row, _period(row))


def _period(row: Record) -> PeriodView:
    return PeriodView(format_time(row["before"]), format_time(row["closed_at"]), row["seq"])


async def find_account(db: Db, ledger: str, name: str) -> Snapshot[AccountView | None] | None:
    row = await db.fetchrow(ACCOUNT, ledger, name)
    if row is None:
        return None
    return Snapshot(row["epoch"], row["head"], None if row["name"] is None else _account(ledger, row))


async def list_accounts(
    db: Db, ledger: str, prefix: str, currency: str | None, after: str, limit: int
) -> Snapshot[Page[AccountView]] | None:
    """Accounts by name, behind the name `after`."""
    rows = await db.fetch(ACCOUNTS, ledger, after, prefix, currency, limit + 1)
    if not rows:
        return None
    items = [_account(ledger, row) for row in _present(rows, "name")[:limit]]
    return _at(rows[0], Page(items, (items[-1].name,) if len(rows) > limit else None))


def _account(ledger: str, row: Record) -> AccountView:
    scale, kind = row["scale"], row["type"]
    debits, credits = int(row["posted_debits"]), int(row["posted_credits"])
    coming, going = int(row["pending_debits"]), int(row["pending_credits"])
    balance, available = _balances(kind, debits, credits, coming, going)
    return AccountView(
        ledger,
        row["name"],
        row["currency"],
        kind,
        "debit" if kind in DEBIT_NORMAL else "credit",
        row["status"],
        _money_or_none(row["min_balance"], scale),
        _money_or_none(row["max_balance"], scale),
        format_minor(debits, scale),
        format_minor(credits, scale),
        format_minor(coming, scale),
        format_minor(going, scale),
        format_minor(balance, scale),
        format_minor(available, scale),
        _metadata(row["metadata"]),
        format_time(row["opened_at"]),
        row["version"],
    )


def _balances(kind: str, debits: int, credits: int, pending_debits: int, pending_credits: int) -> tuple[int, int]:
    """Balance and available of an account, or of many of one type together."""
    if kind in DEBIT_NORMAL:
        return debits - credits, debits - credits - pending_credits
    return credits - debits, credits - debits - pending_debits


def _money_or_none(value: Decimal | None, scale: int) -> str | None:
    return None if value is None else format_minor(int(value), scale)


# -- transactions -----------------------------------------------------------------------------------------------------


async def find_transaction(db: Db, ledger: str, transaction: UUID) -> Snapshot[TransactionView | None] | None:
    row = await db.fetchrow(TRANSACTION, ledger, transaction)
    if row is None:
        return None
    return Snapshot(row["epoch"], row["head"], None if row["id"] is None else _transaction(ledger, row))


class TransactionFilter(msgspec.Struct, frozen=True):
    """Which transactions: None is any. `start` ≤ effective_at < `end`."""

    account: str | None = None
    reference: str | None = None
    status: str | None = None
    start: datetime | None = None
    end: datetime | None = None


async def list_transactions(
    db: Connection, ledger: str, wanted: TransactionFilter, before: int, limit: int
) -> Snapshot[Page[TransactionView]] | None:
    """Transactions with a seq below `before`, newest first. A page may end early: see PAGE_POSTINGS."""
    if wanted.start is None and wanted.end is None:
        rows = await _fetch_transactions(db, ledger, wanted, before, limit + 1)
    else:
        async with db.transaction(readonly=True):
            await db.execute(PLAN_ANEW)
            rows = await _fetch_transactions(db, ledger, wanted, before, limit + 1)
    if not rows:
        return None
    shown = _present(rows, "id")[:limit]
    more = bool(shown) and shown[0]["found"] > len(shown)
    items = [_transaction(ledger, row) for row in shown]
    return _at(rows[0], Page(items, (shown[-1]["seq"],) if more else None))


async def _fetch_transactions(db: Db, ledger: str, wanted: TransactionFilter, before: int, most: int) -> list[Record]:
    common = (ledger, before, wanted.status, wanted.start, wanted.end, most)
    if wanted.reference is not None:
        return await db.fetch(TRANSACTIONS_OF_REFERENCE, *common, wanted.reference, wanted.account)
    if wanted.account is None:
        held = wanted.status not in (None, "posted")
        return await db.fetch(TRANSACTIONS_HELD if held else TRANSACTIONS, *common)
    if wanted.status == "pending":
        return await db.fetch(TRANSACTIONS_PENDING_OF_ACCOUNT, *common, wanted.account)
    if wanted.start is None and wanted.end is None:
        return await db.fetch(TRANSACTIONS_OF_ACCOUNT, *common, wanted.account)
    return await db.fetch(TRANSACTIONS_OF_ACCOUNT_IN_RANGE, *common, wanted.account)


def _transaction(ledger: str, row: Record) -> TransactionView:
    if row["status"] == "posted":
        scales: list[int] = []
        postings = [_posting(*line) for line in _lines(row["lines"])]
    else:
        held = _held_lines(row["lines"])
        scales = [line[4] for line in held]
        postings = [_held_posting(*line) for line in held]
    return TransactionView(
        id=row["id"],
        ledger=ledger,
        status=row["status"],
        postings=postings,
        reference=row["reference"],
        description=row["description"],
        metadata=_metadata(row["metadata"]),
        effective_at=format_time(row["effective_at"]),
        recorded_at=format_time(row["recorded_at"]),
        expires_at=None if row["expires_at"] is None else format_time(row["expires_at"]),
        captures=_captured(row["captures"], scales),
        reverses=row["reverses"],
        reversed_by=row["reversed_by"],
        seq=row["seq"],
        version=row["version"],
    )


def _posting(debit: str, credit: str, minor: str, currency: str, scale: int) -> PostingView:
    amount = format_minor(int(minor), scale)
    return PostingView(debit, credit, amount, currency, amount, format_minor(0, scale))


def _held_posting(
    debit: str, credit: str, minor: str, currency: str, scale: int, posted: str, held: str
) -> PostingView:
    amount, moved, kept = (format_minor(int(text), scale) for text in (minor, posted, held))
    return PostingView(debit, credit, amount, currency, moved, kept)


def _captured(rows: str | None, scales: Sequence[int]) -> tuple[CaptureView, ...]:
    return tuple(
        CaptureView(
            capture,
            tuple(format_minor(int(minor), scale) for minor, scale in zip(amounts, scales, strict=True)),
            format_time(effective_at),
            format_time(recorded_at),
            seq,
        )
        for capture, amounts, effective_at, recorded_at, seq in _captures(rows or "[]")
    )


# -- sums -------------------------------------------------------------------------------------------------------------


async def list_balances(
    db: Db, ledger: str, prefix: str, after: tuple[str, str], limit: int
) -> Snapshot[Page[BalanceView]] | None:
    """Sums of the accounts by currency and type, behind the currency and type `after`."""
    rows = await db.fetch(BALANCES, ledger, prefix, *after, limit + 1)
    if not rows:
        return None
    items = [_sum(row) for row in _present(rows, "currency")[:limit]]
    return _at(rows[0], Page(items, (items[-1].currency, items[-1].type) if len(rows) > limit else None))


def _sum(row: Record) -> BalanceView:
    scale, kind = row["scale"], row["type"]
    sums = [int(row[name]) for name in ("posted_debits", "posted_credits", "pending_debits", "pending_credits")]
    figures = (*sums, *_balances(kind, *sums))
    return BalanceView(row["currency"], kind, row["accounts"], *(format_minor(figure, scale) for figure in figures))


async def find_trial_balance(db: Db, ledger: str) -> Snapshot[list[TrialView]] | None:
    """Per currency: the sums of the accounts that stand in debit and of those that stand in credit."""
    rows = await db.fetch(TRIAL_BALANCE, ledger)
    if not rows:
        return None
    by_currency = groupby(_present(rows, "currency"), key=lambda row: str(row["currency"]))
    return _at(rows[0], [trial_of(currency, list(types)) for currency, types in by_currency])


def trial_of(currency: str, rows: Sequence[Record]) -> TrialView:
    """One currency of a trial balance, of its types' `scale`, `debits` and `credits`."""
    scale = rows[0]["scale"]
    debits, credits = (sum(int(row[column]) for row in rows) for column in ("debits", "credits"))
    types = [
        TypeView(row["type"], format_minor(int(row["debits"]), scale), format_minor(int(row["credits"]), scale))
        for row in rows
    ]
    left, right, difference = (format_minor(figure, scale) for figure in (debits, credits, debits - credits))
    return TrialView(currency, left, right, difference, types)


# -- the journal ------------------------------------------------------------------------------------------------------


async def read_journal(db: Db, ledger: str, after: int, limit: int) -> Snapshot[list[JournalLine]] | None:
    """The events behind seq `after`, oldest first. A page may end early (see PAGE_BYTES); an empty one is the end."""
    rows = await db.fetch(JOURNAL, ledger, after, limit)
    if not rows:
        return None
    lines, previous = [], rows[0]["first_previous"] or _GENESIS
    for row in _present(rows, "seq"):
        lines.append(
            JournalLine(row["epoch"], row["seq"], previous.hex(), row["hash"].hex(), row["event"].decode("utf-8"))
        )
        previous = row["hash"]
    return Snapshot(rows[0]["current_epoch"], rows[0]["head"], lines)


# -- what they share --------------------------------------------------------------------------------------------------


def _present(rows: Sequence[Record], column: str) -> list[Record]:
    """The rows without the one that stands alone for a ledger that has none of what was asked for."""
    return [row for row in rows if row[column] is not None]


def _at(row: Record, value: T) -> Snapshot[T]:
    return Snapshot(row["epoch"], row["head"], value)
