"""What an atomic entry may change of a ledger in memory, kept so that all of it can be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from copy import copy
from typing import TypeVar

from msgspec.structs import replace

from domain.ledger.handlers import touches
from domain.ledger.model import Ledger, Touches, Transaction
from domain.messages import Recorded

K = TypeVar("K")
V = TypeVar("V")


def savepoint(ledger: Ledger, entry: Sequence[Recorded]) -> Callable[[], None]:
    """Answers what puts `ledger` back to what it is now, after some of the entry's commands were applied.

    They change nothing beyond what would have been loaded for them, and what they make themselves; so only of that
    copies are kept, however much the turn holds in memory.
    """
    needed = _needed(ledger, entry)
    made = {recorded.id for recorded in entry}
    accounts = _some(ledger.accounts, needed.accounts, copy)
    transactions = _some(ledger.transactions, needed.transactions | made, _copied)
    members = _some(ledger.members, needed.users, copy)
    currencies = ledger.currencies.copy()
    profile, closed_before, references = ledger.profile, ledger.closed_before, set(ledger.references)
    changed, opened, altered = set(ledger.changed), set(ledger.opened), set(ledger.altered)
    granted = dict(ledger.granted)
    sums, before = len(ledger.pending_sums), len(ledger.accounts_before)

    def put_back() -> None:
        _put(ledger.accounts, needed.accounts, accounts)
        _put(ledger.transactions, needed.transactions | made, transactions)
        _put(ledger.members, needed.users, members)
        ledger.currencies = currencies
        ledger.profile, ledger.closed_before, ledger.references = profile, closed_before, references
        ledger.changed, ledger.opened, ledger.altered = changed, opened, altered
        ledger.granted = granted
        del ledger.pending_sums[sums:]
        del ledger.accounts_before[before:]

    return put_back


def _needed(ledger: Ledger, entry: Iterable[Recorded]) -> Touches:
    """What the repository loads for these commands, and the accounts of transactions that this turn has made."""
    needed = Touches.none()
    for recorded in entry:
        touches(recorded.command, needed)
    for name in needed.transactions:
        if (transaction := ledger.transactions.get(name)) is not None:
            needed.accounts.update(account for line in transaction.lines for account in (line.debit, line.credit))
    return needed


def _copied(transaction: Transaction) -> Transaction:
    return replace(transaction, lines=[copy(line) for line in transaction.lines])


def _some(whole: Mapping[K, V], keys: Iterable[K], copied: Callable[[V], V]) -> dict[K, V]:
    return {key: copied(whole[key]) for key in keys if key in whole}


def _put(whole: MutableMapping[K, V], keys: Iterable[K], kept: Mapping[K, V]) -> None:
    for key in keys:
        if key in kept:
            whole[key] = kept[key]
        else:
            whole.pop(key, None)
