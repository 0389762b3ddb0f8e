"""What a ledger does with each command: check the rules, answer events. Pure: no clock, no I/O, no change of state.

Appliers, below, are the only code that changes a `Ledger`; they trust the events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from domain.clock import format_time
from domain.decision import Stamp
from domain.ledger import specifications as rules
from domain.ledger.commands import (
    CreateLedger,
    GrantAccess,
    OpenAccount,
    PostTransaction,
    RegisterCurrency,
    RevokeAccess,
    UpdateLedger,
)
from domain.ledger.events import (
    AccessGranted,
    AccessRevoked,
    AccountOpened,
    CurrencyRegistered,
    LedgerCreated,
    MetadataChanged,
    PostedLine,
    TransactionPosted,
)
from domain.ledger.model import Account, Grant, Ledger, Profile, Touches
from domain.messages import Command, Event, Recorded
from domain.money import format_minor, parse_minor

# -- handlers: command → events, or a DomainError ---------------------------------------------------------------------


def create_ledger(command: CreateLedger, ledger: Ledger, recorded: Recorded) -> list[Event]:
    # The id was reserved for this command when it was accepted, so only its principal can stand in its way.
    rules.CREATION.check((rules.Asked(ledger, ledger.may_create(recorded.principal)),))
    return [
        LedgerCreated(id=ledger.id, name=command.name, owner=recorded.principal, metadata=dict(command.metadata or {}))
    ]


def update_ledger(command: UpdateLedger, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "owner")
    merged = dict(ledger.profile.metadata) if ledger.profile is not None else {}
    for key, value in command.metadata.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    rules.METADATA.check((merged,))
    # sorted, since Postgres gives members back in an order of its own
    return [MetadataChanged(metadata=dict(sorted(merged.items())))]


def grant_access(command: GrantAccess, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "owner")
    admission = (rules.Admission(ledger, command.user, command.role),)
    rules.GRANTABLE.check(admission)
    rules.OWNED.check(admission)
    return [AccessGranted(user=command.user, role=command.role)]


def revoke_access(command: RevokeAccess, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "owner")
    admission = (rules.Admission(ledger, command.user, None),)
    rules.REVOCABLE.check(admission)
    rules.OWNED.check(admission)
    return [AccessRevoked(user=command.user)]


def register_currency(command: RegisterCurrency, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "writer")
    registering = (rules.Registering(command, ledger),)
    for rule in rules.REGISTER_CURRENCY:
        rule.check(registering)
    return [CurrencyRegistered(code=command.code, scale=command.scale)]


def open_account(command: OpenAccount, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "writer")
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


def post_transaction(command: PostTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    _admit(ledger, recorded, "writer")
    rules.REFERENCE.check((rules.Referring(command.reference, ledger),))
    accounts = ledger.accounts
    legs = [
        rules.Leg(index, posting, accounts.get(posting.debit), accounts.get(posting.credit))
        for index, posting in enumerate(command.postings)
    ]
    for rule in rules.POSTING:
        rule.check(legs)
    movements = _movements(legs).values()
    for limit in rules.MOVEMENT:
        limit.check(movements)
    return [
        TransactionPosted(
            transaction=recorded.id,
            postings=tuple(_line(leg) for leg in legs),
            reference=command.reference,
            description=command.description,
            metadata=dict(command.metadata or {}),
            effective_at=format_time(command.effective_at or recorded.accepted_at),
        )
    ]


def _admit(ledger: Ledger, recorded: Recorded, role: str) -> None:
    rules.ACCESS.check((rules.Asked(ledger, ledger.may(recorded.principal, role)),))


def _movements(legs: list[rules.Leg]) -> dict[str, rules.Movement]:
    movements: dict[str, rules.Movement] = {}
    for leg in legs:
        if leg.debit is None or leg.credit is None:
            raise AssertionError("the rules on postings were not checked")
        leg.minor = parse_minor(leg.posting.amount, leg.debit.scale)
        _movement(movements, leg.debit, leg.index).debit(leg.minor)
        _movement(movements, leg.credit, leg.index).credit(leg.minor)
    return movements


def _movement(movements: dict[str, rules.Movement], account: Account, index: int) -> rules.Movement:
    movement = movements.get(account.name)
    if movement is None:
        movement = movements[account.name] = rules.Movement(account, index)
    return movement


def _line(leg: rules.Leg) -> PostedLine:
    if leg.debit is None:
        raise AssertionError("the rules on postings were not checked")
    account = leg.debit
    return PostedLine(leg.posting.debit, leg.posting.credit, format_minor(leg.minor, account.scale), account.currency)


def _full_scale(text: str | None, scale: int) -> str | None:
    return None if text is None else format_minor(parse_minor(text, scale), scale)


# -- appliers: event → the ledger changed, and the names of the accounts it touched ------------------------------------


def ledger_created(event: LedgerCreated, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.profile = Profile(event.id, event.name, event.owner, event.metadata, stamp.recorded_at, stamp.seq)
    return _keep_grant(event.owner, "owner", ledger, stamp)


def metadata_changed(event: MetadataChanged, ledger: Ledger, stamp: Stamp) -> list[str]:
    if ledger.profile is not None:
        ledger.profile = replace(ledger.profile, metadata=event.metadata, version=stamp.seq)
    return []


def access_granted(event: AccessGranted, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep_grant(event.user, event.role, ledger, stamp)


def access_revoked(event: AccessRevoked, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _keep_grant(event.user, None, ledger, stamp)


def _keep_grant(user: UUID, role: str | None, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.members[user].grant = role
    ledger.granted[user] = Grant(role, stamp.seq, stamp.recorded_at)
    return []


def currency_registered(event: CurrencyRegistered, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.currencies.keep(event.code, event.scale)
    return []


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


def transaction_posted(event: TransactionPosted, ledger: Ledger, stamp: Stamp) -> list[str]:
    touched: dict[str, None] = {}
    for line in event.postings:
        debit, credit = ledger.accounts[line.debit], ledger.accounts[line.credit]
        minor = parse_minor(line.amount, debit.scale)
        debit.posted_debits += minor
        credit.posted_credits += minor
        touched[line.debit] = touched[line.credit] = None
    for name in touched:
        ledger.accounts[name].version = stamp.seq
    ledger.changed.update(touched)
    if event.reference is not None:
        ledger.references.add(event.reference)
    return list(touched)


# -- what each command needs to have loaded ---------------------------------------------------------------------------


def touches(command: Command, into: Touches) -> None:
    """Adds to `into` what `command` will ask of the ledger."""
    if isinstance(command, PostTransaction):
        for posting in command.postings:
            into.accounts.add(posting.debit)
            into.accounts.add(posting.credit)
        if command.reference is not None:
            into.references.add(command.reference)
    elif isinstance(command, OpenAccount):
        into.accounts.add(command.name)
        into.currencies.add(command.currency)
    elif isinstance(command, RegisterCurrency):
        into.currencies.add(command.code)
    elif isinstance(command, (GrantAccess, RevokeAccess)):
        into.users.add(command.user)


def weight(command: Command) -> int:
    """How many postings a command counts for when a turn is bounded."""
    return len(command.postings) if isinstance(command, PostTransaction) else 1


KINDS: Final[Mapping[str, type[Command]]] = {
    "create_ledger": CreateLedger,
    "update_ledger": UpdateLedger,
    "grant_access": GrantAccess,
    "revoke_access": RevokeAccess,
    "register_currency": RegisterCurrency,
    "open_account": OpenAccount,
    "post_transaction": PostTransaction,
}
HANDLERS: Final[Mapping[type[Command], Callable[..., list[Event]]]] = {
    CreateLedger: create_ledger,
    UpdateLedger: update_ledger,
    GrantAccess: grant_access,
    RevokeAccess: revoke_access,
    RegisterCurrency: register_currency,
    OpenAccount: open_account,
    PostTransaction: post_transaction,
}
APPLIERS: Final[Mapping[type[Event], Callable[..., list[str]]]] = {
    LedgerCreated: ledger_created,
    MetadataChanged: metadata_changed,
    AccessGranted: access_granted,
    AccessRevoked: access_revoked,
    CurrencyRegistered: currency_registered,
    AccountOpened: account_opened,
    TransactionPosted: transaction_posted,
}
