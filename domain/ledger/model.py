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

    @classmethod
    def none(cls) -> Touches:
        return cls(set(), set(), set(), set())


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


class Ledger(msgspec.Struct):
    """The aggregate, loaded as far as `Touches` asked. Handlers read it, appliers change it.

    `members` holds the principals of the turn and the users that its commands name, as far as they exist; and of the
    ledger's other owners enough to tell whether one is left when all of those are gone.
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
