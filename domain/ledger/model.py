"""The ledger as a turn holds it in memory: the accounts and facts that its commands touch, in minor units."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from domain.currency import Currencies
from domain.messages import Balance
from domain.money import format_minor

DEBIT_NORMAL: Final = frozenset({"asset", "expense"})
SERVICE: Final = UUID(int=0)
"""Who asks for what nobody asks for: the service itself. Nothing was granted to it."""
RANKS: Final = {"reader": 1, "writer": 2, "owner": 3}
"""Grants on a ledger; each includes the weaker ones."""
CREATORS: Final = frozenset({"admin", "user"})
"""Whoever has one of these roles may create ledgers."""


_ZEROS: Final = tuple(format_minor(0, scale) for scale in range(19))


class Written(msgspec.Struct, gc=False):
    """Sums as they were last written out as text."""

    debits: int = -1
    credits: int = -1
    debits_text: str = ""
    credits_text: str = ""


class Account(msgspec.Struct):
    """An account: four sums in minor units that only grow, and the limits on what they amount to."""

    name: str
    currency: str
    scale: int
    type: str
    min_balance: int | None
    max_balance: int | None
    metadata: dict[str, str]
    opened_at: datetime
    version: int
    status: str = "open"
    posted_debits: int = 0
    posted_credits: int = 0
    pending_debits: int = 0
    pending_credits: int = 0
    written: Written = msgspec.field(default_factory=Written)

    @property
    def debit_normal(self) -> bool:
        return self.type in DEBIT_NORMAL

    @property
    def balance(self) -> int:
        """Posted debits less credits, or the reverse for liability, equity and income accounts."""
        net = self.posted_debits - self.posted_credits
        return net if self.type in DEBIT_NORMAL else -net

    @property
    def available(self) -> int:
        """The balance less what outgoing holds reserve. Incoming holds never raise it."""
        return self.balance - (self.pending_credits if self.type in DEBIT_NORMAL else self.pending_debits)

    def money(self, minor: int) -> str:
        return format_minor(minor, self.scale)

    def snapshot(self) -> Balance:
        """The account's figures as an event carries them."""
        money, scale = format_minor, self.scale
        debits, credits = self.posted_debits, self.posted_credits
        balance = money(debits - credits if self.type in DEBIT_NORMAL else credits - debits, scale)
        if self.pending_debits or self.pending_credits:
            held, reserved = money(self.pending_debits, scale), money(self.pending_credits, scale)
            available = money(self.available, scale)
        else:
            held = reserved = _ZEROS[scale]
            available = balance
        # a posting changes one of the two sums: the other is written already
        written = self.written
        if debits != written.debits:
            written.debits, written.debits_text = debits, money(debits, scale)
        if credits != written.credits:
            written.credits, written.credits_text = credits, money(credits, scale)
        return Balance(
            self.name,
            self.currency,
            written.debits_text,
            written.credits_text,
            held,
            reserved,
            balance,
            available,
        )


class Touches(msgspec.Struct):
    """What a run of commands needs to be loaded before it can be decided in memory."""

    accounts: set[str]
    currencies: set[str]
    references: set[str]
    users: set[UUID]
    transactions: set[UUID]
    """Those that commands change or reverse. With each, the accounts of its postings are needed too."""
    schedules: set[UUID] = msgspec.field(default_factory=set)

    @classmethod
    def none(cls) -> Touches:
        return cls(set(), set(), set(), set(), set())


class Profile(msgspec.Struct, frozen=True):
    """The ledger's own record."""

    id: str
    name: str
    owner: UUID
    metadata: dict[str, str]
    created_at: datetime
    version: int


class Member(msgspec.Struct):
    """A user as the ledger knows them: their roles in the service, and what was granted to them here."""

    active: bool
    roles: frozenset[str]
    grant: str | None

    @property
    def rank(self) -> int:
        """What it comes to. Administrators own every ledger; who is disabled has nothing, whatever was granted."""
        if not self.active:
            return 0
        return RANKS["owner"] if "admin" in self.roles else RANKS.get(self.grant or "", 0)


class Grant(msgspec.Struct, frozen=True):
    """What an event of the turn has left a user with, None after revoking, and when."""

    role: str | None
    seq: int
    granted_at: datetime


class Line(msgspec.Struct, gc=False):
    """A posting of a transaction, in minor units: what it is about, and what of it was posted and is still held."""

    debit: str
    credit: str
    amount: int
    posted: int
    held: int


class Transaction(msgspec.Struct):
    """A transaction as far as later commands may ask of it.

    `status` is `posted`, `pending`, `captured`, `voided` or `expired`; `expired` says whether it was the expiry that
    ended it, which `captured` does not tell.
    """

    id: UUID
    seq: int
    version: int
    status: str
    metadata: dict[str, str]
    effective_at: datetime
    lines: list[Line]
    expires_at: datetime | None = None
    expired: bool = False
    reverses: UUID | None = None
    reversed_by: UUID | None = None

    @property
    def has_posted(self) -> bool:
        return any(line.posted for line in self.lines)


class PendingSums(msgspec.Struct, frozen=True, gc=False):
    """What an account has pending from the event at `seq` on, in minor units."""

    account: str
    seq: int
    debits: int
    credits: int


class AccountBefore(msgspec.Struct, frozen=True):
    """What an account was until the event at `seq` changed its status or its metadata."""

    account: str
    seq: int
    status: str
    metadata: dict[str, str]


class Ledger(msgspec.Struct):
    """The aggregate, loaded as far as `Touches` asked. Handlers read it, appliers change it.

    To load:
    - `members` holds the principals of the turn and the users that its commands name, as far as they exist; and of the
      ledger's other owners enough to tell whether one is left when all of those are gone.
    - `named` are the transactions that the turn's commands name, whether there are any such or not: one that is posted
      in this turn is kept in memory only if it is among them.
    - `transactions` are those of them that were applied; `accounts` has the accounts of their lines too.
    - `waiting` are those of them which a command is still to make: its position if it is one of the turn's, None if it
      is scheduled or a later turn's. (A later turn's position may be lower: it was drawn, but not yet to be seen.)
    - `closed_before` is the end of the last closed period.
    - `schedules` are those that the commands name, as far as they exist, by their status.

    To save, beside what the events themselves say:
    - `opened` and `changed` accounts: sums (pending ones too), status, metadata and version may be new;
    - `pending_sums`, one an event and account whose holds it changed, and `accounts_before`, one an event that
      changed an account's status or metadata, both in order of seq;
    - `altered` transactions, which an event other than their first changed: status, metadata, version, `expired`,
      `reversed_by`, and of each line `posted` and `held` may be new. All of them are in `transactions`.
    """

    id: str
    profile: Profile | None
    currencies: Currencies
    accounts: dict[str, Account]
    references: set[str]
    members: dict[UUID, Member]
    changed: set[str] = msgspec.field(default_factory=set)
    opened: set[str] = msgspec.field(default_factory=set)
    granted: dict[UUID, Grant] = msgspec.field(default_factory=dict)
    named: set[UUID] = msgspec.field(default_factory=set)
    transactions: dict[UUID, Transaction] = msgspec.field(default_factory=dict)
    waiting: dict[UUID, int | None] = msgspec.field(default_factory=dict)
    closed_before: datetime | None = None
    schedules: dict[UUID, str] = msgspec.field(default_factory=dict)
    altered: set[UUID] = msgspec.field(default_factory=set)
    pending_sums: list[PendingSums] = msgspec.field(default_factory=list)
    accounts_before: list[AccountBefore] = msgspec.field(default_factory=list)

    def awaits(self, transaction: UUID, position: int) -> bool:
        """Whether a transaction is still to be made by a command that comes after the one at `position`."""
        if transaction not in self.waiting:
            return False
        place = self.waiting[transaction]
        return place is None or place > position

    def touch(self, names: Iterable[str], seq: int, *, holds: bool = False) -> list[str]:
        """Notes that the event at `seq` changed sums of these accounts, pending ones if it is about `holds`."""
        touched = list(names)
        for name in touched:
            account = self.accounts[name]
            account.version = seq
            if holds:
                self.pending_sums.append(PendingSums(name, seq, account.pending_debits, account.pending_credits))
        self.changed.update(touched)
        return touched

    def alter(self, transaction: UUID, seq: int) -> Transaction:
        """The transaction, for the event at `seq` to change."""
        altered = self.transactions[transaction]
        altered.version = seq
        self.altered.add(transaction)
        return altered

    def may(self, principal: UUID, role: str) -> bool:
        member = self.members.get(principal)
        return member is not None and member.rank >= RANKS[role]

    def may_create(self, principal: UUID) -> bool:
        member = self.members.get(principal)
        return member is not None and member.active and not CREATORS.isdisjoint(member.roles)

    def has_owner_besides(self, user: UUID) -> bool:
        """Whether somebody else was granted to own it who can still log in."""
        return any(
            other != user and member.active and member.grant == "owner" for other, member in self.members.items()
        )

    def snapshots(self, names: Iterable[str]) -> tuple[Balance, ...]:
        return tuple(self.accounts[name].snapshot() for name in names)
