"""What a ledger does with each command: check the rules, answer events. Pure: no clock, no I/O, no change of state.

Appliers, below, are the only code that changes a `Ledger`; they trust the events. Those of accounts, transactions and
holds have modules of their own; at the end of this one are the tables of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from domain.clock import format_time
from domain.decision import Stamp
from domain.ledger import accounts, holds, schedules, transactions
from domain.ledger import specifications as rules
from domain.ledger.admission import admit, merged
from domain.ledger.commands import (
    CaptureTransaction,
    CloseAccount,
    ClosePeriod,
    CreateLedger,
    ExpireTransaction,
    FreezeAccount,
    GrantAccess,
    OpenAccount,
    PostTransaction,
    RegisterCurrency,
    ReverseTransaction,
    RevokeAccess,
    UnfreezeAccount,
    UpdateAccount,
    UpdateLedger,
    UpdateTransaction,
    VoidTransaction,
)
from domain.ledger.events import (
    AccessGranted,
    AccessRevoked,
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountUnfrozen,
    CurrencyRegistered,
    LedgerCreated,
    MetadataChanged,
    PeriodClosed,
    ScheduleCancelled,
    ScheduleCreated,
    SchedulePaused,
    ScheduleResumed,
    TransactionCaptured,
    TransactionExpired,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.ledger.model import Grant, Ledger, Profile, Touches
from domain.ledger.schedules import CancelSchedule, CreateSchedule, PauseSchedule, ResumeSchedule
from domain.messages import Command, Event, Recorded

# -- handlers: command → events, or a DomainError ---------------------------------------------------------------------


def create_ledger(command: CreateLedger, ledger: Ledger, recorded: Recorded) -> list[Event]:
    # The id was reserved for this command when it was accepted, so only its principal can stand in its way.
    rules.CREATION.check((rules.Asked(ledger, ledger.may_create(recorded.principal)),))
    return [
        LedgerCreated(id=ledger.id, name=command.name, owner=recorded.principal, metadata=dict(command.metadata or {}))
    ]


def update_ledger(command: UpdateLedger, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "owner")
    metadata = {} if ledger.profile is None else ledger.profile.metadata
    return [MetadataChanged(metadata=merged(metadata, command.metadata))]


def grant_access(command: GrantAccess, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "owner")
    admission = (rules.Admission(ledger, command.user, command.role),)
    rules.GRANTABLE.check(admission)
    rules.OWNED.check(admission)
    return [AccessGranted(user=command.user, role=command.role)]


def revoke_access(command: RevokeAccess, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "owner")
    admission = (rules.Admission(ledger, command.user, None),)
    rules.REVOCABLE.check(admission)
    rules.OWNED.check(admission)
    return [AccessRevoked(user=command.user)]


def register_currency(command: RegisterCurrency, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    registering = (rules.Registering(command, ledger),)
    for rule in rules.REGISTER_CURRENCY:
        rule.check(registering)
    return [CurrencyRegistered(code=command.code, scale=command.scale)]


def close_period(command: ClosePeriod, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "owner")
    rules.FORWARD.check((rules.Dated(command.before, ledger),))
    return [PeriodClosed(before=format_time(command.before))]


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


def period_closed(event: PeriodClosed, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.closed_before = datetime.fromisoformat(event.before)
    return []


# -- what each command needs to have loaded ---------------------------------------------------------------------------


def touches(command: Command, into: Touches) -> None:
    """Adds to `into` what `command` will ask of the ledger."""
    if isinstance(command, PostTransaction):
        _touches_of_posting(command, into)
    elif isinstance(command, _OF_TRANSACTIONS):
        into.transactions.add(command.transaction)
        if isinstance(command, ReverseTransaction) and command.reference is not None:
            into.references.add(command.reference)
    elif isinstance(command, OpenAccount):
        into.accounts.add(command.name)
        into.currencies.add(command.currency)
    elif isinstance(command, _OF_ACCOUNTS):
        into.accounts.add(command.account)
    elif isinstance(command, RegisterCurrency):
        into.currencies.add(command.code)
    elif isinstance(command, (GrantAccess, RevokeAccess)):
        into.users.add(command.user)
    elif isinstance(command, _OF_SCHEDULES):
        into.schedules.add(command.schedule)
    elif isinstance(command, CreateSchedule) and command.id is not None:
        into.schedules.add(command.id)


def _touches_of_posting(command: PostTransaction, into: Touches) -> None:
    for posting in command.postings:
        into.accounts.add(posting.debit)
        into.accounts.add(posting.credit)
    for precondition in command.preconditions or ():
        into.accounts.add(precondition.account)
    if command.reference is not None:
        into.references.add(command.reference)


def weight(command: Command) -> int:
    """How many postings a command counts for when a turn is bounded."""
    if isinstance(command, PostTransaction):
        return len(command.postings)
    if isinstance(command, CaptureTransaction) and command.amounts is not None:
        return len(command.amounts)
    return 1


_OF_TRANSACTIONS: Final = (
    CaptureTransaction,
    VoidTransaction,
    ExpireTransaction,
    ReverseTransaction,
    UpdateTransaction,
)
_OF_SCHEDULES: Final = (PauseSchedule, ResumeSchedule, CancelSchedule)
_OF_ACCOUNTS: Final = (UpdateAccount, FreezeAccount, UnfreezeAccount, CloseAccount)

KINDS: Final[Mapping[str, type[Command]]] = {
    "create_ledger": CreateLedger,
    "update_ledger": UpdateLedger,
    "grant_access": GrantAccess,
    "revoke_access": RevokeAccess,
    "register_currency": RegisterCurrency,
    "open_account": OpenAccount,
    "update_account": UpdateAccount,
    "freeze_account": FreezeAccount,
    "unfreeze_account": UnfreezeAccount,
    "close_account": CloseAccount,
    "post_transaction": PostTransaction,
    "update_transaction": UpdateTransaction,
    "capture_transaction": CaptureTransaction,
    "void_transaction": VoidTransaction,
    "expire_transaction": ExpireTransaction,
    "reverse_transaction": ReverseTransaction,
    "close_period": ClosePeriod,
    "create_schedule": CreateSchedule,
    "pause_schedule": PauseSchedule,
    "resume_schedule": ResumeSchedule,
    "cancel_schedule": CancelSchedule,
}
HANDLERS: Final[Mapping[type[Command], Callable[..., list[Event]]]] = {
    CreateLedger: create_ledger,
    UpdateLedger: update_ledger,
    GrantAccess: grant_access,
    RevokeAccess: revoke_access,
    RegisterCurrency: register_currency,
    OpenAccount: accounts.open_account,
    UpdateAccount: accounts.update_account,
    FreezeAccount: accounts.freeze_account,
    UnfreezeAccount: accounts.unfreeze_account,
    CloseAccount: accounts.close_account,
    PostTransaction: transactions.post_transaction,
    UpdateTransaction: transactions.update_transaction,
    CaptureTransaction: holds.capture_transaction,
    VoidTransaction: holds.void_transaction,
    ExpireTransaction: holds.expire_transaction,
    ReverseTransaction: transactions.reverse_transaction,
    ClosePeriod: close_period,
    CreateSchedule: schedules.create_schedule,
    PauseSchedule: schedules.pause_schedule,
    ResumeSchedule: schedules.resume_schedule,
    CancelSchedule: schedules.cancel_schedule,
}
APPLIERS: Final[Mapping[type[Event], Callable[..., list[str]]]] = {
    LedgerCreated: ledger_created,
    MetadataChanged: metadata_changed,
    AccessGranted: access_granted,
    AccessRevoked: access_revoked,
    CurrencyRegistered: currency_registered,
    AccountOpened: accounts.account_opened,
    AccountMetadataChanged: accounts.account_metadata_changed,
    AccountFrozen: accounts.account_frozen,
    AccountUnfrozen: accounts.account_unfrozen,
    AccountClosed: accounts.account_closed,
    TransactionPosted: transactions.transaction_posted,
    TransactionHeld: transactions.transaction_held,
    TransactionMetadataChanged: transactions.transaction_metadata_changed,
    TransactionCaptured: holds.transaction_captured,
    TransactionVoided: holds.transaction_voided,
    TransactionExpired: holds.transaction_expired,
    TransactionReversed: transactions.transaction_reversed,
    PeriodClosed: period_closed,
    ScheduleCreated: schedules.schedule_created,
    SchedulePaused: schedules.schedule_paused,
    ScheduleResumed: schedules.schedule_resumed,
    ScheduleCancelled: schedules.schedule_cancelled,
}
