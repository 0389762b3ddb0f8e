"""What happened to a ledger: the `data` of its journal entries. Amounts are decimal strings of the full scale."""

from __future__ import annotations

from uuid import UUID

import msgspec

from domain.messages import Event


class LedgerCreated(Event, frozen=True):
    id: str
    name: str
    owner: UUID
    metadata: dict[str, str]


class MetadataChanged(Event, frozen=True):
    """`metadata` is all of the ledger's, as it is from now on."""

    metadata: dict[str, str]


class AccessGranted(Event, frozen=True):
    """`role` replaces any that the user had. The creator's grant has no event of its own: LedgerCreated makes it."""

    user: UUID
    role: str


class AccessRevoked(Event, frozen=True):
    user: UUID


class CurrencyRegistered(Event, frozen=True):
    code: str
    scale: int


class AccountOpened(Event, frozen=True):
    name: str
    currency: str
    scale: int
    type: str
    min_balance: str | None
    max_balance: str | None
    metadata: dict[str, str]


class PostedLine(msgspec.Struct, frozen=True, gc=False):
    """One posting as it was applied."""

    debit: str
    credit: str
    amount: str
    currency: str


class TransactionPosted(Event, frozen=True):
    transaction: UUID
    postings: tuple[PostedLine, ...]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: str
