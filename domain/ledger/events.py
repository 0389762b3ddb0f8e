"""What happened to a ledger: the `data` of its journal entries. Amounts are decimal strings of the full scale."""

from __future__ import annotations

from uuid import UUID

import msgspec

from domain.ledger.templates import Template
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


class TransactionHeld(Event, frozen=True):
    """What `TransactionPosted` says of one that moves nothing yet and reserves its amounts."""

    transaction: UUID
    postings: tuple[PostedLine, ...]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: str
    expires_at: str | None


class HeldLine(msgspec.Struct, frozen=True, gc=False):
    """One posting of a pending transaction: how much of it was posted or released now, and how much is still held.

    `amount` and `released` are zero where nothing was.
    """

    debit: str
    credit: str
    amount: str
    released: str
    held: str
    currency: str


class TransactionCaptured(Event, frozen=True):
    """`status` is the transaction's from now on; `capture` the id of this capture, which is its command's."""

    transaction: UUID
    capture: UUID
    status: str
    postings: tuple[HeldLine, ...]
    effective_at: str


class TransactionVoided(Event, frozen=True):
    """`status` is `captured` where something was captured before, else `voided`."""

    transaction: UUID
    status: str
    postings: tuple[HeldLine, ...]


class TransactionExpired(Event, frozen=True):
    """`status` is `captured` where something was captured before, else `expired`."""

    transaction: UUID
    status: str
    postings: tuple[HeldLine, ...]


class TransactionReversed(Event, frozen=True):
    """A new transaction that undoes `reverses`, which is changed by it too."""

    transaction: UUID
    reverses: UUID
    postings: tuple[PostedLine, ...]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: str


class TransactionMetadataChanged(Event, frozen=True):
    """`metadata` is all of the transaction's, as it is from now on."""

    transaction: UUID
    metadata: dict[str, str]


class AccountMetadataChanged(Event, frozen=True):
    """`metadata` is all of the account's, as it is from now on."""

    name: str
    metadata: dict[str, str]


class AccountFrozen(Event, frozen=True):
    name: str


class AccountUnfrozen(Event, frozen=True):
    name: str


class AccountClosed(Event, frozen=True):
    name: str


class PeriodClosed(Event, frozen=True):
    """Nothing takes effect before `before` any more."""

    before: str


class ScheduleCreated(Event, frozen=True):
    """`command` is what it repeats, on behalf of `principal`.

    Its times begin at `starts_at`; those up to `created_at` had passed already.
    """

    schedule: UUID
    principal: UUID
    command: Template
    every: str | None
    rrule: str | None
    starts_at: str
    missed: str
    created_at: str


class SchedulePaused(Event, frozen=True):
    schedule: UUID


class ScheduleResumed(Event, frozen=True):
    """Times of the pause are passed over."""

    schedule: UUID


class ScheduleCancelled(Event, frozen=True):
    schedule: UUID
