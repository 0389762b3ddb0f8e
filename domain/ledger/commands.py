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


class CreateLedger(Command, frozen=True):
    """Open a new set of books, owned by the one who asks."""

    id: LedgerId
    name: Annotated[
        str, Meta(pattern=LINE, min_length=1, max_length=200, description="must be a line of 1 to 200 characters")
    ]
    metadata: Metadata | None = None


class UpdateLedger(Command, frozen=True):
    """Merge `metadata` into the ledger's: what is null goes, the rest is added or replaced."""

    metadata: MetadataChanges


class GrantAccess(Command, frozen=True):
    """Let a user into the ledger, or change what they may do there."""

    user: UUID
    role: Role


class RevokeAccess(Command, frozen=True):
    """Take away what was granted to a user."""

    user: UUID


class RegisterCurrency(Command, frozen=True):
    """Make a currency of one's own known to the ledger, with `scale` decimals."""

    code: CurrencyCode
    scale: Scale


class OpenAccount(Command, frozen=True):
    """Open an account. Limits are decimal strings in `currency`; None is no limit."""

    name: AccountName
    currency: CurrencyCode
    type: AccountType
    min_balance: MinBalance | None = None
    max_balance: MaxBalance | None = None
    metadata: Metadata | None = None


class Posting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Debit one account and credit another by the same amount."""

    debit: AccountName
    credit: AccountName
    amount: Amount

    def __post_init__(self) -> None:
        if self.debit == self.credit:
            raise ValueError("debit and credit must name two accounts")


class PostTransaction(Command, frozen=True):
    """Apply 1 to 1,000 postings together, or none of them."""

    postings: Annotated[
        tuple[Posting, ...],
        Meta(min_length=1, max_length=MAX_POSTINGS, description="must be 1 to 1000 postings"),
    ]
    reference: (
        Annotated[
            str, Meta(pattern=LINE, min_length=1, max_length=255, description="must be a line of 1 to 255 characters")
        ]
        | None
    ) = None
    description: Annotated[str, Meta(max_length=1000, description="must be at most 1000 characters")] | None = None
    effective_at: Annotated[datetime, Meta(tz=True, description="must be an RFC 3339 time with its offset")] | None = (
        None
    )
    metadata: Metadata | None = None
