"""Queries about what a ledger was: a moment becomes a seq, which the answer names, and all that follows is as of it.

A page's cursor carries that seq on, so that later pages belong to the first whatever has been recorded meanwhile.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from api.cursors import Position, bad_cursor, check_epoch, next_of
from domain.clock import format_time
from infrastructure import history
from infrastructure.history import Behind, Moment, Range
from infrastructure.postgres import Db
from infrastructure.read_models import AccountsAtView, BalancesView, Page, StatementView, TrialBalanceView

if TYPE_CHECKING:
    from api.queries import GetAccount, GetBalances, GetStatement, GetTrialBalance, ListAccounts

MOST_POSTINGS: Final = 1 << 15
"""No transaction has a posting of that number."""


class AsOf(msgspec.Struct, frozen=True):
    """What an answer counts: effective up to a time, recorded up to a time and up to a seq. None is without an end."""

    effective_at: datetime | None = None
    recorded_at: datetime | None = None
    seq: int | None = None

    @property
    def times(self) -> tuple[str | None, str | None]:
        """Effective and recorded time, as answers repeat them."""
        return _text(self.effective_at), _text(self.recorded_at)


NOW: Final = AsOf()


class Found(NamedTuple):
    """What was read, and the epoch and seq at which the ledger's journal stood then."""

    epoch: int
    head: int
    view: Any


async def account_at(db: Db, query: GetAccount, at: AsOf) -> Found | None:
    moment = await _moment(db, query.ledger, at)
    if moment is None:
        return None
    view = await history.find_account(db, query.ledger, query.name, moment.seq, at.effective_at)
    return None if view is None else Found(moment.epoch, moment.head, view)


async def accounts_at(db: Db, query: ListAccounts, at: AsOf) -> Found | None:
    moment = await _moment(db, query.ledger, at, query.after)
    if moment is None:
        return None
    after = "" if query.after is None else str(query.after.last[0])
    page = await history.list_accounts(
        db, query.ledger, query.prefix, query.currency, after, query.limit, moment.seq, at.effective_at
    )
    view = AccountsAtView(moment.seq, *at.times, page.items, next_of(query.digest, moment.epoch, page, moment.seq))
    return Found(moment.epoch, moment.head, view)


async def balances_at(db: Db, query: GetBalances, at: AsOf) -> Found | None:
    moment = await _moment(db, query.ledger, at, query.after)
    if moment is None:
        return None
    code, kind = ("", "") if query.after is None else map(str, query.after.last[:2])
    page = await history.list_balances(
        db, query.ledger, query.prefix, (code, kind), query.limit, moment.seq, at.effective_at
    )
    view = BalancesView(moment.seq, *at.times, page.items, next_of(query.digest, moment.epoch, page, moment.seq))
    return Found(moment.epoch, moment.head, view)


async def trial_balance_at(db: Db, query: GetTrialBalance, at: AsOf) -> Found | None:
    moment = await _moment(db, query.ledger, at)
    if moment is None:
        return None
    items = await history.find_trial_balance(db, query.ledger, moment.seq, at.effective_at)
    return Found(moment.epoch, moment.head, TrialBalanceView(moment.seq, *at.times, items))


async def statement_of(db: Db, query: GetStatement) -> Found | None:
    moment = await _moment(db, query.ledger, query.at, query.after)
    if moment is None:
        return None
    within = Range(query.start, query.end)
    behind = None if query.after is None else _behind(query.after)
    found = await history.find_statement(db, query.ledger, query.account, within, moment.seq, behind, query.limit)
    if found is None:
        return None
    last = None if found.last is None else (format_time(found.last.effective_at), *found.last[1:])
    cursor = next_of(query.digest, moment.epoch, Page([], last), moment.seq)
    view = StatementView(
        query.account,
        found.currency,
        _text(query.start),
        _text(query.end),
        moment.seq,
        found.opening,
        found.closing,
        found.items,
        cursor,
    )
    return Found(moment.epoch, moment.head, view)


async def _moment(db: Db, ledger: str, at: AsOf, after: Position | None = None) -> Moment | None:
    """How much of the ledger counts: for a page behind another one as much as for that."""
    moment = await history.find_moment(db, ledger, at.recorded_at, at.seq)
    if moment is None or after is None:
        return moment
    check_epoch(after, moment.epoch)
    pinned = int(after.last[-1])
    if pinned > moment.seq:
        raise bad_cursor()
    return moment._replace(seq=pinned)


def _behind(after: Position) -> Behind:
    moment, seq, posting, _ = after.last
    try:
        line = Behind(datetime.fromisoformat(str(moment)), int(seq), int(posting))
    except ValueError:
        raise bad_cursor() from None
    if line.effective_at.tzinfo is None or line.posting >= MOST_POSTINGS:
        raise bad_cursor()
    return line


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
