"""What queries answer: the contract's shapes, every field present, null when unset. Money is decimal strings."""

from __future__ import annotations

from typing import Generic, TypeVar
from uuid import UUID

import msgspec

T = TypeVar("T")


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
    created_at: str


class GrantView(msgspec.Struct, frozen=True):
    """What a user was granted in a ledger."""

    user: UUID
    username: str
    role: str
    granted_at: str


class UserView(msgspec.Struct, frozen=True):
    """Somebody who can, or could, log in."""

    id: UUID
    username: str
    roles: tuple[str, ...]
    status: str
    created_at: str
    version: int


class CurrencyView(msgspec.Struct, frozen=True):
    code: str
    scale: int


class AccountView(msgspec.Struct, frozen=True):
    ledger: str
    name: str
    currency: str
    type: str
    normal_balance: str
    status: str
    min_balance: str | None
    max_balance: str | None
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balance: str
    available: str
    metadata: dict[str, str]
    opened_at: str
    version: int


class PostingView(msgspec.Struct, frozen=True):
    """`posted` and `held` say what became of `amount`. All three but the amount are null before it is applied."""

    debit: str
    credit: str
    amount: str
    currency: str | None
    posted: str | None
    held: str | None


class CaptureView(msgspec.Struct, frozen=True):
    id: UUID
    amounts: tuple[str, ...]
    effective_at: str
    recorded_at: str
    seq: int


class TransactionView(msgspec.Struct, frozen=True):
    """`recorded_at`, `seq` and `version` are null before it is applied."""

    id: UUID
    ledger: str
    status: str
    postings: list[PostingView]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: str
    recorded_at: str | None
    expires_at: str | None
    captures: tuple[CaptureView, ...]
    reverses: UUID | None
    reversed_by: UUID | None
    seq: int | None
    version: int | None


class BalanceView(msgspec.Struct, frozen=True):
    """The sums of all accounts of one type in one currency."""

    currency: str
    type: str
    accounts: int
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balance: str
    available: str


class TypeView(msgspec.Struct, frozen=True):
    type: str
    debits: str
    credits: str


class TrialView(msgspec.Struct, frozen=True):
    """One currency of a trial balance: each account's net balance stands in its debit or its credit column."""

    currency: str
    debits: str
    credits: str
    difference: str
    types: list[TypeView]


class ListView(msgspec.Struct, Generic[T], frozen=True):
    items: list[T]
    next: str | None


class BalancesView(msgspec.Struct, frozen=True):
    seq: int
    effective_at: str | None
    recorded_at: str | None
    items: list[BalanceView]
    next: str | None


class TrialBalanceView(msgspec.Struct, frozen=True):
    seq: int
    effective_at: str | None
    recorded_at: str | None
    items: list[TrialView]


class JournalLine(msgspec.Struct, frozen=True):
    """One event of the journal: `event` holds its exact bytes; hash = SHA-256 of the previous hash and those."""

    epoch: int
    seq: int
    previous_hash: str
    hash: str
    event: str
