"""The user as a turn holds it in memory, and what it must know of the others."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from domain.messages import Balance


class Profile(msgspec.Struct, frozen=True):
    """The user's own record. `version` is the last seq that changed it, 0 for one who is older than users' journals."""

    username: str
    roles: tuple[str, ...]
    active: bool
    created_at: datetime
    version: int

    @property
    def is_admin(self) -> bool:
        return self.active and "admin" in self.roles


class User(msgspec.Struct):
    """The aggregate. Handlers read it, appliers change it.

    `others` holds the active users among the principals of the turn, with their roles, but for this user itself;
    `taken` the names, in small letters, that commands of the turn ask for and others have. `other_admins`: whether
    anybody else is an active administrator. `sessions` are the logins that carry the user's roles, and `api_keys` the
    hashes of the keys that do.
    """

    id: UUID
    profile: Profile | None
    others: dict[UUID, frozenset[str]]
    taken: frozenset[str]
    other_admins: bool
    sessions: tuple[UUID, ...] = ()
    api_keys: tuple[bytes, ...] = ()

    def is_active(self, principal: UUID) -> bool:
        """Whether the principal can still log in."""
        if principal == self.id:
            return self.profile is not None and self.profile.active
        return principal in self.others

    def is_admin(self, principal: UUID) -> bool:
        """Whether the principal is an administrator who can still log in."""
        if principal == self.id:
            return self.profile is not None and self.profile.is_admin
        return "admin" in self.others.get(principal, ())

    def snapshots(self, names: Iterable[str]) -> tuple[Balance, ...]:
        """A user has no accounts."""
        return ()
