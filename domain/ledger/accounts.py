"""Accounts: opened, described, frozen, closed."""

from __future__ import annotations

from collections.abc import Iterable

from domain.decision import Stamp
from domain.ledger import specifications as rules
from domain.ledger.admission import admit, merged
from domain.ledger.commands import CloseAccount, FreezeAccount, OpenAccount, UnfreezeAccount, UpdateAccount
from domain.ledger.events import (
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountUnfrozen,
)
from domain.ledger.model import Account, AccountBefore, Ledger
from domain.messages import Event, Recorded
from domain.money import format_minor, parse_minor
from domain.specification import Rule

# -- handlers ---------------------------------------------------------------------------------------------------------


def open_account(command: OpenAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    opening = rules.Opening(command, ledger)
    for rule in rules.OPENING:
        rule.check((opening,))
    scale = opening.scale or 0
    for limit in rules.LIMIT:
        limit.check(opening.limits(scale))
    return [
        AccountOpened(
            name=command.name,
            currency=command.currency,
            scale=scale,
            type=command.type,
            min_balance=_full_scale(command.min_balance, scale),
            max_balance=_full_scale(command.max_balance, scale),
            metadata=dict(command.metadata or {}),
        )
    ]


def update_account(command: UpdateAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    account = _find(command.account, ledger, recorded, rules.UPDATING)
    return [AccountMetadataChanged(name=account.name, metadata=merged(account.metadata, command.metadata))]


def freeze_account(command: FreezeAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    return [AccountFrozen(name=_find(command.account, ledger, recorded, rules.FREEZING).name)]


def unfreeze_account(command: UnfreezeAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    return [AccountUnfrozen(name=_find(command.account, ledger, recorded, rules.UNFREEZING).name)]


def close_account(command: CloseAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    return [AccountClosed(name=_find(command.account, ledger, recorded, rules.CLOSING).name)]


def _find(name: str, ledger: Ledger, recorded: Recorded, those: Iterable[Rule[rules.Named]]) -> Account:
    admit(ledger, recorded, "writer")
    named = rules.Named(name, ledger.accounts.get(name))
    for rule in those:
        rule.check((named,))
    if named.account is None:
        raise AssertionError("the rules on accounts were not checked")
    return named.account


def _full_scale(text: str | None, scale: int) -> str | None:
    return None if text is None else format_minor(parse_minor(text, scale), scale)


# -- appliers ---------------------------------------------------------------------------------------------------------


def account_opened(event: AccountOpened, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.currencies.keep(event.currency, event.scale)
    ledger.accounts[event.name] = Account(
        name=event.name,
        currency=event.currency,
        scale=event.scale,
        type=event.type,
        min_balance=None if event.min_balance is None else parse_minor(event.min_balance, event.scale),
        max_balance=None if event.max_balance is None else parse_minor(event.max_balance, event.scale),
        metadata=event.metadata,
        opened_at=stamp.recorded_at,
        version=stamp.seq,
    )
    ledger.opened.add(event.name)
    return [event.name]


def account_metadata_changed(event: AccountMetadataChanged, ledger: Ledger, stamp: Stamp) -> list[str]:
    account = _changing(event.name, ledger, stamp)
    account.metadata = event.metadata
    return [event.name]


def account_frozen(event: AccountFrozen, ledger: Ledger, stamp: Stamp) -> list[str]:
    _changing(event.name, ledger, stamp).status = "frozen"
    return [event.name]


def account_unfrozen(event: AccountUnfrozen, ledger: Ledger, stamp: Stamp) -> list[str]:
    _changing(event.name, ledger, stamp).status = "open"
    return [event.name]


def account_closed(event: AccountClosed, ledger: Ledger, stamp: Stamp) -> list[str]:
    _changing(event.name, ledger, stamp).status = "closed"
    return [event.name]


def _changing(name: str, ledger: Ledger, stamp: Stamp) -> Account:
    """The account, with what it was until now kept."""
    account = ledger.accounts[name]
    ledger.accounts_before.append(AccountBefore(name, stamp.seq, account.status, account.metadata))
    ledger.changed.add(name)
    account.version = stamp.seq
    return account
