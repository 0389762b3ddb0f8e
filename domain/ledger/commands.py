"""What can be asked of a ledger. Routes decode request bodies straight into these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from domain.messages import Command
from domain.text import LINE

_SEGMENT = r"(?!\.{1,2}(?::|\Z))[a-z0-9_.-]{1,64}"

LedgerId = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z",
        description="must be 1 to 63 of a-z, 0-9 and -, and not start with -",
    ),
]
AccountName = Annotated[
    str,
    Meta(
        pattern=rf"\A{_SEGMENT}(?::{_SEGMENT}){{0,7}}\Z",
        description="must be 1 to 8 segments of [a-z0-9_.-]{1,64} joined by ':'",
    ),
]
CurrencyCode = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Z][A-Z0-9]{2,15}\Z",
        description="must be 3 to 16 of A-Z and 0-9, and start with a letter",
    ),
]
Scale = Annotated[int, Meta(ge=0, le=18, description="must be a whole number from 0 to 18")]
Amount = Annotated[
    str,
    Meta(
        pattern=r"\A(?=[0-9.]*[1-9])(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?\Z",
        description="must be a decimal string above zero",
    ),
]
SignedAmount = Annotated[
    str,
    Meta(
        pattern=r"\A(?!-[0.]*\Z)-?(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?\Z",
        description="must be a decimal string, with a minus sign if it is below zero",
    ),
]
# Of a posting: how much, or all that can be had.
PostedAmount = Annotated[
    str,
    Meta(
        pattern=r"\A(available|(?=[0-9.]*[1-9])(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?)\Z",
        description="must be a decimal string above zero",
    ),
]
# Of a capture, posting by posting: zero where nothing is taken.
CapturedAmount = Annotated[
    str,
    Meta(
        pattern=r"\A(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?\Z",
        description="must be a decimal string of zero or above",
    ),
]
Moment = Annotated[datetime, Meta(tz=True, description="must be an RFC 3339 time with its offset")]
Reference = Annotated[
    str, Meta(pattern=LINE, min_length=1, max_length=255, description="must be a line of 1 to 255 characters")
]
Description = Annotated[str, Meta(max_length=1000, description="must be at most 1000 characters")]
MinBalance = Annotated[
    str,
    Meta(
        pattern=r"\A(0(\.0{1,18})?|-(?=[0-9.]*[1-9])(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?)\Z",
        description="must be a decimal string of zero or below",
    ),
]
MaxBalance = Annotated[
    str,
    Meta(
        pattern=r"\A(0|[1-9][0-9]{0,37})(\.[0-9]{1,18})?\Z",
        description="must be a decimal string of zero or above",
    ),
]
MAX_METADATA = 50
_MetadataKey = Annotated[
    str, Meta(pattern=LINE, min_length=1, max_length=40, description="must be named by a line of 1 to 40 characters")
]
_MetadataValue = Annotated[str, Meta(max_length=500)]
Metadata = Annotated[
    dict[_MetadataKey, _MetadataValue],
    Meta(max_length=MAX_METADATA, description="must be at most 50 keys of 40, with values of at most 500 characters"),
]
# Fifty keys that go and fifty that come.
MetadataChanges = Annotated[
    dict[_MetadataKey, _MetadataValue | None],
    Meta(
        max_length=2 * MAX_METADATA,
        description="must be at most 100 keys of 40, with null or values of at most 500 characters",
    ),
]
Role = Literal["owner", "writer", "reader"]
AccountType = Literal["asset", "expense", "liability", "equity", "income"]
MAX_POSTINGS = 1_000
MAX_PRECONDITIONS = 100
AVAILABLE = "available"
"""The amount of a posting that moves all that its account has available."""


class LedgerCommand(Command, frozen=True):
    """Something asked of a ledger that is there. With `execute_at` it joins the mailbox at that time, not at once."""

    execute_at: Moment | None = None


class CreateLedger(Command, frozen=True):
    """Open a new set of books, owned by the one who asks."""

    id: LedgerId
    name: Annotated[
        str, Meta(pattern=LINE, min_length=1, max_length=200, description="must be a line of 1 to 200 characters")
    ]
    metadata: Metadata | None = None


class UpdateLedger(LedgerCommand, frozen=True, kw_only=True):
    """Merge `metadata` into the ledger's: what is null goes, the rest is added or replaced."""

    metadata: MetadataChanges


class GrantAccess(LedgerCommand, frozen=True, kw_only=True):
    """Let a user into the ledger, or change what they may do there."""

    user: UUID
    role: Role


class RevokeAccess(LedgerCommand, frozen=True, kw_only=True):
    """Take away what was granted to a user."""

    user: UUID


class RegisterCurrency(LedgerCommand, frozen=True, kw_only=True):
    """Make a currency of one's own known to the ledger, with `scale` decimals."""

    code: CurrencyCode
    scale: Scale


class OpenAccount(LedgerCommand, frozen=True, kw_only=True):
    """Open an account. Limits are decimal strings in `currency`; None is no limit."""

    name: AccountName
    currency: CurrencyCode
    type: AccountType
    min_balance: MinBalance | None = None
    max_balance: MaxBalance | None = None
    metadata: Metadata | None = None


class UpdateAccount(LedgerCommand, frozen=True, kw_only=True):
    """Merge `metadata` into an account's: what is null goes, the rest is added or replaced."""

    account: AccountName
    metadata: MetadataChanges


class FreezeAccount(LedgerCommand, frozen=True, kw_only=True):
    """Let no new posting, hold or reversal touch the account; what is held may still be captured, voided or expire."""

    account: AccountName


class UnfreezeAccount(LedgerCommand, frozen=True, kw_only=True):
    """Let the account be used again."""

    account: AccountName


class CloseAccount(LedgerCommand, frozen=True, kw_only=True):
    """Close an empty account for ever; its name stays taken."""

    account: AccountName


class Posting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, omit_defaults=True):
    """Debit one account and credit another by the same amount.

    The amount `available` stands for all that the account which pays has available, at most `up_to`.
    """

    debit: AccountName
    credit: AccountName
    amount: PostedAmount
    up_to: Amount | None = None

    def __post_init__(self) -> None:
        if self.debit == self.credit:
            raise ValueError("debit and credit must name two accounts")
        if self.up_to is not None and self.amount != AVAILABLE:
            raise ValueError('up_to needs the amount "available"')


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a figure must be: exactly, at least, at most. Decimal strings in the account's currency."""

    eq: SignedAmount | None = None
    gte: SignedAmount | None = None
    lte: SignedAmount | None = None

    def __post_init__(self) -> None:
        if self.eq is None and self.gte is None and self.lte is None:
            raise ValueError("must have eq, gte or lte")


class Precondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an account must be like when the command applies, before it does anything."""

    account: AccountName
    version: Annotated[int, Meta(ge=1, description="must be a whole number above zero")] | None = None
    balance: Bounds | None = None
    available: Bounds | None = None

    def __post_init__(self) -> None:
        if self.version is None and self.balance is None and self.available is None:
            raise ValueError("must have version, balance or available")


class PostTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Apply 1 to 1,000 postings together, or none of them; `pending`, hold them until they are captured or voided."""

    postings: Annotated[
        tuple[Posting, ...],
        Meta(min_length=1, max_length=MAX_POSTINGS, description="must be 1 to 1000 postings"),
    ]
    reference: Reference | None = None
    description: Description | None = None
    effective_at: Moment | None = None
    metadata: Metadata | None = None
    pending: bool = False
    expires_at: Moment | None = None
    preconditions: (
        Annotated[
            tuple[Precondition, ...],
            Meta(max_length=MAX_PRECONDITIONS, description=f"must be at most {MAX_PRECONDITIONS} preconditions"),
        ]
        | None
    ) = None


class UpdateTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Merge `metadata` into a transaction's: what is null goes, the rest is added or replaced."""

    transaction: UUID
    metadata: MetadataChanges


class CaptureTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Post what a pending transaction holds: all of it, an `amount` of its only posting, or `amounts`, one a posting.

    Unless it is `final`, the rest stays held.
    """

    transaction: UUID
    amount: Amount | None = None
    amounts: (
        Annotated[
            tuple[CapturedAmount, ...],
            Meta(min_length=1, max_length=MAX_POSTINGS, description="must be 1 to 1000 amounts"),
        ]
        | None
    ) = None
    final: bool = True
    effective_at: Moment | None = None


class VoidTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Release what a pending transaction still holds."""

    transaction: UUID


class ExpireTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Release what a pending transaction still holds, since its time is over. Nobody asks for it but the service."""

    transaction: UUID


class ReverseTransaction(LedgerCommand, frozen=True, kw_only=True):
    """Undo all that a transaction has posted, by a new transaction with debit and credit swapped."""

    transaction: UUID
    effective_at: Moment | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata | None = None


class ClosePeriod(LedgerCommand, frozen=True, kw_only=True):
    """Refuse from now on whatever would take effect before a moment."""

    before: Moment
