"""What queries answer: the contract's shapes, every field present, null when unset. Money is decimal strings."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

T = TypeVar("T")

# What the description of the API says of texts, which are made to be so and are not looked at again.
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Money = Annotated[str, Meta(extra_json_schema={"pattern": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$"})]
# Before a transaction is applied, what was asked for may be "available".
AskedMoney = Annotated[str, Meta(extra_json_schema={"pattern": r"^(available|-?(0|[1-9][0-9]*)(\.[0-9]+)?)$"})]
Role = Annotated[str, Meta(extra_json_schema={"enum": ["owner", "writer", "reader"]})]
UserStatus = Annotated[str, Meta(extra_json_schema={"enum": ["active", "disabled"]})]
AccountType = Annotated[str, Meta(extra_json_schema={"enum": ["asset", "expense", "liability", "equity", "income"]})]
AccountStatus = Annotated[str, Meta(extra_json_schema={"enum": ["open", "frozen", "closed"]})]
Side = Annotated[str, Meta(extra_json_schema={"enum": ["debit", "credit"]})]
TransactionStatus = Annotated[
    str,
    Meta(
        extra_json_schema={
            "enum": ["accepted", "scheduled", "posted", "pending", "captured", "voided", "expired"],
        }
    ),
]


class Snapshot(msgspec.Struct, Generic[T], frozen=True):
    """Something read from a ledger, and where the ledger's journal stood at that very moment."""

    epoch: int
    seq: int
    value: T


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list, and the position behind its last item if there is more."""

    items: list[T]
    last: tuple[str | int, ...] | None


class LedgerView(msgspec.Struct, frozen=True):
    """`seq` is the journal's newest. Every event changes the ledger, so `version` is the same number."""

    id: str
    name: str
    metadata: dict[str, str]
    owner: UUID
    accounts: int
    epoch: int
    seq: int
    version: int
    created_at: Time


class GrantView(msgspec.Struct, frozen=True):
    """What a user was granted in a ledger."""

    user: UUID
    username: str
    role: Role
    granted_at: Time


class UserView(msgspec.Struct, frozen=True):
    """Somebody who can, or could, log in."""

    id: UUID
    username: str
    roles: tuple[str, ...]
    status: UserStatus
    created_at: Time
    version: int


class CurrencyView(msgspec.Struct, frozen=True):
    code: str
    scale: int


class AccountView(msgspec.Struct, frozen=True):
    ledger: str
    name: str
    currency: str
    type: AccountType
    normal_balance: Side
    status: AccountStatus
    min_balance: Money | None
    max_balance: Money | None
    posted_debits: Money
    posted_credits: Money
    pending_debits: Money
    pending_credits: Money
    balance: Money
    available: Money
    metadata: dict[str, str]
    opened_at: Time
    version: int


class AccountAtView(msgspec.Struct, frozen=True):
    """An account as it was at `seq`. By effective time nothing is pending or available: holds have none."""

    ledger: str
    name: str
    currency: str
    type: AccountType
    normal_balance: Side
    status: AccountStatus
    min_balance: Money | None
    max_balance: Money | None
    posted_debits: Money
    posted_credits: Money
    pending_debits: Money | None
    pending_credits: Money | None
    balance: Money
    available: Money | None
    metadata: dict[str, str]
    opened_at: Time
    version: int
    seq: int


class AccountsAtView(msgspec.Struct, frozen=True):
    """Accounts as they were at `seq`."""

    seq: int
    effective_at: Time | None
    recorded_at: Time | None
    items: list[AccountAtView]
    next: str | None


class PostingView(msgspec.Struct, frozen=True):
    """`posted` and `held` say what became of `amount`. All but the amount, as it was asked for, are null before."""

    debit: str
    credit: str
    amount: AskedMoney
    currency: str | None
    posted: Money | None
    held: Money | None


class CaptureView(msgspec.Struct, frozen=True):
    id: UUID
    amounts: tuple[Money, ...]
    effective_at: Time
    recorded_at: Time
    seq: int


class TransactionView(msgspec.Struct, frozen=True):
    """`recorded_at`, `seq` and `version` are null before it is applied."""

    id: UUID
    ledger: str
    status: TransactionStatus
    postings: list[PostingView]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: Time
    recorded_at: Time | None
    expires_at: Time | None
    captures: tuple[CaptureView, ...]
    reverses: UUID | None
    reversed_by: UUID | None
    seq: int | None
    version: int | None


class PeriodView(msgspec.Struct, frozen=True):
    """Nothing takes effect before `before` any more."""

    before: Time
    closed_at: Time
    seq: int


class BalanceView(msgspec.Struct, frozen=True):
    """The sums of all accounts of one type in one currency. By effective time nothing is pending or available."""

    currency: str
    type: AccountType
    accounts: int
    posted_debits: Money
    posted_credits: Money
    pending_debits: Money | None
    pending_credits: Money | None
    balance: Money
    available: Money | None


class TypeView(msgspec.Struct, frozen=True):
    type: AccountType
    debits: Money
    credits: Money


class TrialView(msgspec.Struct, frozen=True):
    """One currency of a trial balance: each account's net balance stands in its debit or its credit column."""

    currency: str
    debits: Money
    credits: Money
    difference: Money
    types: list[TypeView]


class ListView(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]
    next: str | None


class BalancesView(msgspec.Struct, frozen=True):
    seq: int
    effective_at: Time | None
    recorded_at: Time | None
    items: list[BalanceView]
    next: str | None


class TrialBalanceView(msgspec.Struct, frozen=True):
    seq: int
    effective_at: Time | None
    recorded_at: Time | None
    items: list[TrialView]


class LineView(msgspec.Struct, frozen=True):
    """What a posting moved on an account, and its balance then. `entry` is the capture if it was one."""

    transaction: UUID
    entry: UUID
    posting: int
    counterparty: str
    direction: Side
    amount: Money
    balance: Money
    reference: str | None
    description: str | None
    effective_at: Time
    recorded_at: Time
    seq: int


class StatementView(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """What moved an account from a time on and before another. Opening and closing are of all of it, on every page."""

    account: str
    currency: str
    start: Time | None
    end: Time | None
    seq: int
    opening: Money
    closing: Money
    items: list[LineView]
    next: str | None


class JournalLine(msgspec.Struct, frozen=True):
    """One event of the journal: `event` holds its exact bytes; hash = SHA-256 of the previous hash and those."""

    epoch: int
    seq: int
    previous_hash: str
    hash: str
    event: str
