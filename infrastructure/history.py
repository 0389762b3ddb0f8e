"""Ledgers as they were: what was recorded up to a seq, effective up to a time, or both; and statements of accounts.

`recorded_at` is a seq in the end (`find_moment`), and what an account was at a seq stands in the last event up to it
that touched the account. With an effective time its movements are added up: run by run, as far as they are sealed
(`infrastructure.snapshots`), and one by one behind the last run. So neither costs more as history grows.

What was recorded up to a seq never changes. The statements of one answer need no common snapshot: they name its seq.
"""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.clock import format_time
from domain.ledger.model import DEBIT_NORMAL
from domain.money import format_minor
from infrastructure.postgres import Db
from infrastructure.projections import trial_of
from infrastructure.read_models import AccountAtView, BalanceView, LineView, Page, TrialView

# $2: recorded up to then; $3: up to this seq. Null is any.
MOMENT: Final = """
SELECT actors.epoch, actors.seq AS head, least(actors.seq, $3::bigint, CASE WHEN $2::timestamptz IS NOT NULL THEN
    coalesce((
        SELECT turns.seq FROM turns WHERE turns.actor = actors.actor AND turns.recorded_at <= $2
        ORDER BY turns.recorded_at DESC, turns.seq DESC LIMIT 1
    ), 0) END) AS seq
FROM ledgers JOIN actors ON actors.actor = 'ledger:' || ledgers.id
WHERE ledgers.id = $1
"""

# -- sums up to a seq and a time --------------------------------------------------------------------------------------


def _runs(account: str, seq: str) -> str:
    """FROM items: `long` and `short`, how far runs of either length reach up to a seq, and `run`, the least of them."""
    ends = (
        f"(SELECT coalesce(max(last_seq), 0) AS seq FROM sealed_runs"
        f" WHERE ledger = $1 AND account = {account} AND level = {level} AND last_seq <= {seq}) AS {name}"
        for level, name in ((1, "long"), (0, "short"))
    )
    return f"""
    {" CROSS JOIN LATERAL ".join(ends)} CROSS JOIN LATERAL (
        SELECT * FROM sealed_runs WHERE ledger = $1 AND account = {account} AND level = 1 AND last_seq <= {seq}
        UNION ALL
        SELECT * FROM sealed_runs
        WHERE ledger = $1 AND account = {account} AND level = 0 AND last_seq > long.seq AND last_seq <= {seq}
    ) AS run
    """


def _unsealed(account: str, seq: str) -> str:
    """The condition of movements up to a seq that no run has."""
    return f"""
    postings.seq <= {seq} AND postings.seq > (
        SELECT coalesce(max(last_seq), 0) FROM sealed_runs
        WHERE ledger = $1 AND account = {account} AND level = 0 AND last_seq <= {seq}
    )
    """


def _moved(account: str, seq: str, moment: str) -> str:
    """What moved up to a seq and a time, both included. A run's last chunk but those wholly behind the time tells."""
    return f"""
    SELECT coalesce(sum(debited), 0) AS debits, coalesce(sum(credited), 0) AS credits FROM (
        SELECT coalesce(part.debits, run.debits) AS debited, coalesce(part.credits, run.credits) AS credited
        FROM {_runs(account, seq)} LEFT JOIN LATERAL (
            SELECT CASE place WHEN 0 THEN debits_before ELSE debits[place] END AS debits,
                CASE place WHEN 0 THEN credits_before ELSE credits[place] END AS credits
            FROM (
                SELECT sealed_chunks.*, width_bucket({moment}, times) AS place FROM sealed_chunks
                WHERE ledger = $1 AND account = {account} AND level = run.level AND sealed_chunks.run = run.last_seq
                    AND last_at > {moment}
                ORDER BY last_at, last_seq, last_posting LIMIT 1
            ) AS chunk
        ) AS part ON run.last_at > {moment}
        WHERE run.first_at <= {moment}
        UNION ALL
        SELECT amount, 0 FROM postings
        WHERE ledger = $1 AND debit = {account} AND effective_at <= {moment} AND {_unsealed(account, seq)}
        UNION ALL
        SELECT 0, amount FROM postings
        WHERE ledger = $1 AND credit = {account} AND effective_at <= {moment} AND {_unsealed(account, seq)}
    ) AS movements
    """


_LIMITS: Final = ("min_balance", "max_balance")
_TOTALS: Final = ("posted_debits", "posted_credits", "pending_debits", "pending_credits")

# The last event up to $2 that touched the account, and what it says of it.
_LAST_TOUCH: Final = """
LEFT JOIN LATERAL (
    SELECT greatest(
        (SELECT max(seq) FROM postings WHERE ledger = $1 AND debit = found.account AND seq <= $2),
        (SELECT max(seq) FROM postings WHERE ledger = $1 AND credit = found.account AND seq <= $2),
        (SELECT max(seq) FROM pending_sums WHERE ledger = $1 AND account = found.account AND seq <= $2)
    ) AS seq
) AS touch ON found.version > $2
"""

_AS_MINOR: Final = ", ".join(f"replace(line ->> '{name}', '.', '')::numeric AS {name}" for name in _TOTALS)
_SHOWN: Final = f"""
LEFT JOIN LATERAL (
    SELECT {_AS_MINOR}
    FROM journal, json_array_elements(convert_from(journal.event, 'UTF8')::json -> 'balances') AS line
    WHERE journal.actor = 'ledger:' || $1 AND journal.seq = touch.seq AND line ->> 'account' = found.account
) AS shown ON found.version > $2
"""


def _as_of(found: str, moment: str | None) -> str:
    """The accounts that `found` selects, as recorded up to $2, their figures as effective up to `moment` if given."""
    if moment is None:
        figures = ", ".join(
            f"CASE WHEN found.version <= $2 THEN found.{name} ELSE coalesce(shown.{name}, 0) END AS {name}"
            for name in _TOTALS
        )
        source = _SHOWN
    else:
        figures = (
            "moved.debits AS posted_debits, moved.credits AS posted_credits,"
            " NULL::numeric AS pending_debits, NULL::numeric AS pending_credits"
        )
        source = f"CROSS JOIN LATERAL ({_moved('found.account', '$2', moment)}) AS moved"
    return f"""
SELECT found.name, found.currency, found.scale, found.type, found.min_balance, found.max_balance, found.opened_at,
    coalesce(former.status, found.status) AS status, coalesce(former.metadata, found.metadata) AS metadata,
    CASE WHEN found.version <= $2 THEN found.version ELSE greatest(found.opened_seq, touch.seq, (
        SELECT max(seq) FROM account_changes WHERE ledger = $1 AND account = found.account AND seq <= $2
    )) END AS version,
    {figures}
FROM (
    SELECT accounts.*, name COLLATE "default" AS account FROM accounts
    WHERE ledger = $1 AND opened_seq <= $2 AND {found}
) AS found
{_LAST_TOUCH}
LEFT JOIN LATERAL (
    SELECT status, metadata FROM account_changes
    WHERE ledger = $1 AND account = found.account AND seq > $2 ORDER BY seq LIMIT 1
) AS former ON found.version > $2
{source}
"""


_ONE: Final = "name = $3"
_SOME: Final = """
name > $3 AND name >= $4 AND name < $4 || '~' AND ($5::text IS NULL OR currency = $5) ORDER BY name LIMIT $6
"""
_PREFIXED: Final = "name >= $3 AND name < $3 || '~'"

ACCOUNT: Final = _as_of(_ONE, None)
ACCOUNT_EFFECTIVE: Final = _as_of(_ONE, "$4")
ACCOUNTS: Final = f"{_as_of(_SOME, None)} ORDER BY name"
ACCOUNTS_EFFECTIVE: Final = f"{_as_of(_SOME, '$7')} ORDER BY name"


def _balances(accounts: str) -> str:
    return f"""
SELECT currency, type, min(scale) AS scale, count(*) AS accounts, {", ".join(f"sum({n}) AS {n}" for n in _TOTALS)}
FROM ({accounts}) AS item WHERE (currency, type) > ($4, $5)
GROUP BY currency, type ORDER BY currency, type LIMIT $6
"""


BALANCES: Final = _balances(_as_of(_PREFIXED, None))
BALANCES_EFFECTIVE: Final = _balances(_as_of(_PREFIXED, "$7"))


def _trial_balance(accounts: str) -> str:
    return f"""
SELECT currency, type, min(scale) AS scale, sum(greatest(posted_debits - posted_credits, 0)) AS debits,
    sum(greatest(posted_credits - posted_debits, 0)) AS credits
FROM ({accounts}) AS item GROUP BY currency, type ORDER BY currency, type
"""


TRIAL_BALANCE: Final = _trial_balance(_as_of("true", None))
TRIAL_BALANCE_EFFECTIVE: Final = _trial_balance(_as_of("true", "$3"))

# -- statements -------------------------------------------------------------------------------------------------------

OPENED: Final = "SELECT currency, scale, type FROM accounts WHERE ledger = $1 AND name = $2 AND opened_seq <= $3"

_MOVED: Final = _moved("$2", "asked.seq", "until.time")

# The ends of infinity have no dates in Python: null is the last moment there is.
MOVED: Final = f"""
SELECT moved.debits, moved.credits
FROM unnest($3::timestamptz[], $4::boolean[], $5::bigint[]) WITH ORDINALITY AS asked (time, included, seq, number)
CROSS JOIN LATERAL (
    SELECT coalesce(CASE WHEN included THEN time ELSE time - interval '1 microsecond' END, 'infinity') AS time
) AS until
CROSS JOIN LATERAL ({_MOVED}) AS moved
ORDER BY number
"""

MOVED_BY: Final = """
SELECT coalesce(sum(amount) FILTER (WHERE debit = $2), 0) AS debits,
    coalesce(sum(amount) FILTER (WHERE credit = $2), 0) AS credits
FROM postings WHERE ledger = $1 AND seq = $3 AND posting <= $4 AND $2 IN (debit, credit)
"""


def _lines_of(side: str) -> str:
    return f"""
    SELECT effective_at, seq, posting::int FROM postings
    WHERE ledger = $1 AND {side} = $2 AND {_unsealed("$2", "$3")}
        AND effective_at < coalesce($4, 'infinity') AND (effective_at, seq, posting::int) > (behind.time, $6, $7)
    """


_RUNS: Final = _runs("$2", "$3::bigint")
_DEBITED: Final = _lines_of("debit")
_CREDITED: Final = _lines_of("credit")

# Behind ($5, $6, $7), a time, a seq and a posting, and before $4. Of each run chunks are read until there are enough.
LINES: Final = f"""
WITH behind AS (SELECT coalesce($5::timestamptz, '-infinity') AS time),
chosen AS (
    SELECT line.time, line.seq, line.posting
    FROM behind CROSS JOIN {_RUNS} CROSS JOIN LATERAL (
        SELECT line.time, line.seq, line.posting::int
        FROM (
            SELECT last_at, last_seq, last_posting, times, seqs, postings FROM sealed_chunks
            WHERE ledger = $1 AND account = $2 AND level = run.level AND sealed_chunks.run = run.last_seq
                AND (last_at, last_seq, last_posting::int) > (behind.time, $6::bigint, $7::int)
            ORDER BY last_at, last_seq, last_posting LIMIT $8
        ) AS chunk, unnest(times, seqs, postings) AS line (time, seq, posting)
        WHERE (line.time, line.seq, line.posting::int) > (behind.time, $6, $7)
            AND line.time < coalesce($4::timestamptz, 'infinity')
        ORDER BY last_at, last_seq, last_posting, line.time, line.seq, line.posting LIMIT $8
    ) AS line
    WHERE run.last_at >= behind.time AND run.first_at < coalesce($4, 'infinity')
    UNION ALL
    SELECT unsealed.* FROM behind CROSS JOIN LATERAL ({_DEBITED} UNION ALL {_CREDITED}) AS unsealed
    ORDER BY 1, 2, 3 LIMIT $8
)
SELECT chosen.time AS effective_at, chosen.seq, chosen.posting, postings.debit, postings.credit,
    postings.amount::text AS amount, made.id AS transaction, made.reference, made.description,
    coalesce(captures.id, made.id) AS entry, coalesce(captures.recorded_at, made.recorded_at) AS recorded_at
FROM chosen
JOIN postings ON postings.ledger = $1 AND postings.seq = chosen.seq AND postings.posting = chosen.posting
LEFT JOIN captures ON captures.ledger = $1 AND captures.seq = chosen.seq
CROSS JOIN LATERAL (
    SELECT id, reference, description, recorded_at FROM transactions WHERE ledger = $1 AND seq = chosen.seq
    UNION ALL
    SELECT id, reference, description, recorded_at FROM transactions WHERE ledger = $1 AND id = captures.transaction
) AS made
ORDER BY 1, 2, 3
"""

_metadata: Final = msgspec.json.Decoder(dict[str, str]).decode


class Moment(NamedTuple):
    """A ledger's journal: its epoch, where it ends, and up to where an answer counts it."""

    epoch: int
    head: int
    seq: int


async def find_moment(db: Db, ledger: str, recorded_at: datetime | None, seq: int | None) -> Moment | None:
    """How much of the ledger was recorded up to a time and up to a seq; None where there is no such ledger."""
    row = await db.fetchrow(MOMENT, ledger, recorded_at, seq)
    return None if row is None else Moment(row["epoch"], row["head"], row["seq"])


# -- accounts ---------------------------------------------------------------------------------------------------------


async def find_account(db: Db, ledger: str, name: str, seq: int, effective_at: datetime | None) -> AccountAtView | None:
    """An account as it was at `seq`; None if it was not opened by then."""
    if effective_at is None:
        row = await db.fetchrow(ACCOUNT, ledger, seq, name)
    else:
        row = await db.fetchrow(ACCOUNT_EFFECTIVE, ledger, seq, name, effective_at)
    return None if row is None else _account(ledger, seq, row)


async def list_accounts(
    db: Db,
    ledger: str,
    prefix: str,
    currency: str | None,
    after: str,
    limit: int,
    seq: int,
    effective_at: datetime | None,
) -> Page[AccountAtView]:
    """Accounts by name, behind the name `after`, as they were at `seq`."""
    common = (ledger, seq, after, prefix, currency, limit + 1)
    if effective_at is None:
        rows = await db.fetch(ACCOUNTS, *common)
    else:
        rows = await db.fetch(ACCOUNTS_EFFECTIVE, *common, effective_at)
    items = [_account(ledger, seq, row) for row in rows[:limit]]
    return Page(items, (items[-1].name,) if len(rows) > limit else None)


def _account(ledger: str, seq: int, row: Record) -> AccountAtView:
    scale, kind, figures = row["scale"], row["type"], _figures(row)
    least, most = (None if row[name] is None else format_minor(int(row[name]), scale) for name in _LIMITS)
    return AccountAtView(
        ledger,
        row["name"],
        row["currency"],
        kind,
        "debit" if kind in DEBIT_NORMAL else "credit",
        row["status"],
        least,
        most,
        *figures,
        _metadata(row["metadata"]),
        format_time(row["opened_at"]),
        row["version"],
        seq,
    )


class _Figures(NamedTuple):
    posted_debits: str
    posted_credits: str
    pending_debits: str | None
    pending_credits: str | None
    balance: str
    available: str | None


def _figures(row: Record) -> _Figures:
    """What sums of accounts of one type come to; without anything pending where that is not known."""
    scale, kind = row["scale"], row["type"]
    debits, credits = int(row["posted_debits"]), int(row["posted_credits"])
    balance = _net(kind, debits, credits)
    posted = format_minor(debits, scale), format_minor(credits, scale)
    if row["pending_debits"] is None:
        return _Figures(*posted, None, None, format_minor(balance, scale), None)
    coming, going = int(row["pending_debits"]), int(row["pending_credits"])
    available = balance - (going if kind in DEBIT_NORMAL else coming)
    pending = format_minor(coming, scale), format_minor(going, scale)
    return _Figures(*posted, *pending, format_minor(balance, scale), format_minor(available, scale))


def _net(kind: str, debits: int, credits: int) -> int:
    return debits - credits if kind in DEBIT_NORMAL else credits - debits


# -- sums -------------------------------------------------------------------------------------------------------------


async def list_balances(
    db: Db, ledger: str, prefix: str, after: tuple[str, str], limit: int, seq: int, effective_at: datetime | None
) -> Page[BalanceView]:
    """Sums of the accounts by currency and type, behind the currency and type `after`, as they were at `seq`."""
    common = (ledger, seq, prefix, *after, limit + 1)
    if effective_at is None:
        rows = await db.fetch(BALANCES, *common)
    else:
        rows = await db.fetch(BALANCES_EFFECTIVE, *common, effective_at)
    items = [_sum(row) for row in rows[:limit]]
    return Page(items, (items[-1].currency, items[-1].type) if len(rows) > limit else None)


def _sum(row: Record) -> BalanceView:
    return BalanceView(row["currency"], row["type"], row["accounts"], *_figures(row))


async def find_trial_balance(db: Db, ledger: str, seq: int, effective_at: datetime | None) -> list[TrialView]:
    """Per currency: the sums of the accounts that stood in debit and of those that stood in credit."""
    if effective_at is None:
        rows = await db.fetch(TRIAL_BALANCE, ledger, seq)
    else:
        rows = await db.fetch(TRIAL_BALANCE_EFFECTIVE, ledger, seq, effective_at)
    return [trial_of(code, list(types)) for code, types in groupby(rows, key=lambda row: str(row["currency"]))]


# -- statements -------------------------------------------------------------------------------------------------------


class Behind(NamedTuple):
    """A line of a statement: what follows comes behind it."""

    effective_at: datetime
    seq: int
    posting: int


class Range(NamedTuple):
    """`start` ≤ effective_at < `end`; None is without an end."""

    start: datetime | None
    end: datetime | None


class Statement(msgspec.Struct, frozen=True):
    """A page of an account's statement, and the last line on it if there are more."""

    currency: str
    opening: str
    closing: str
    items: list[LineView]
    last: Behind | None


async def find_statement(
    db: Db, ledger: str, account: str, within: Range, seq: int, behind: Behind | None, limit: int
) -> Statement | None:
    """What moved the account `within` a range, of what was recorded up to `seq`; None if it was not opened by then.

    In the order of effective time, seq and posting. Opening and closing are those of the whole range.
    """
    opened = await db.fetchrow(OPENED, ledger, account, seq)
    if opened is None:
        return None
    kind, scale = opened["type"], opened["scale"]
    opening, closing, balance = await _balances_at(db, ledger, account, kind, within, seq, behind)
    place = (within.start, -1, -1) if behind is None else behind
    rows = await db.fetch(LINES, ledger, account, seq, within.end, *place, limit + 1)
    items = []
    for row in rows[:limit]:
        amount, debited = int(row["amount"]), row["debit"] == account
        balance += amount if debited is (kind in DEBIT_NORMAL) else -amount
        items.append(_line(row, debited, format_minor(amount, scale), format_minor(balance, scale)))
    last = rows[limit - 1] if len(rows) > limit else None
    return Statement(
        opened["currency"],
        format_minor(opening, scale),
        format_minor(closing, scale),
        items,
        None if last is None else Behind(last["effective_at"], last["seq"], last["posting"]),
    )


async def _balances_at(
    db: Db, ledger: str, account: str, kind: str, within: Range, seq: int, behind: Behind | None
) -> tuple[int, int, int]:
    """The balance before the range, at its end, and behind the line that the page follows."""
    # no date is before the first
    asked: list[tuple[datetime | None, bool, int]] = [(within.end, False, seq)]
    if within.start is not None:
        asked.append((within.start, False, seq))
    if behind is not None:
        moment, upto, _ = behind
        asked += [(moment, False, seq), (moment, True, upto - 1), (moment, False, upto - 1)]
    rows = await db.fetch(MOVED, ledger, account, *map(list, zip(*asked, strict=True)))
    nets = [_net(kind, int(row["debits"]), int(row["credits"])) for row in rows]
    closing, opening = nets[0], nets[1] if within.start is not None else 0
    if behind is None:
        return opening, closing, opening
    # before the line's time, at its time in earlier events, and in its own event up to it
    before, with_its_time, without = nets[-3:]
    own = await db.fetchrow(MOVED_BY, ledger, account, behind.seq, behind.posting)
    if own is None:
        raise AssertionError("a statement without FROM has one row")
    return opening, closing, before + with_its_time - without + _net(kind, int(own["debits"]), int(own["credits"]))


def _line(row: Record, debited: bool, amount: str, balance: str) -> LineView:
    transaction: UUID = row["transaction"]
    return LineView(
        transaction,
        row["entry"],
        row["posting"],
        row["credit"] if debited else row["debit"],
        "debit" if debited else "credit",
        amount,
        balance,
        row["reference"],
        row["description"],
        format_time(row["effective_at"]),
        format_time(row["recorded_at"]),
        row["seq"],
    )
