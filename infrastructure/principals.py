"""Principals: who is behind a request, and what the credential it came with lets them do.

A session lets its user do everything that user may. An API key lets a machine do a part of it: what its scopes name, in
the ledgers it names. Whatever a key is asked for is checked against both, its owner's authority and its own bounds.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

Scope = Literal["ledger:read", "ledger:write"]
"""What an API key is good for: reads of ledgers, or commands to them."""


class Principal(msgspec.Struct, frozen=True):
    """The user behind a request."""

    user_id: UUID
    username: str
    roles: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def reaches(self, ledger: str) -> bool:
        """Whether the credential is good for this ledger at all; if it is, the user's grant decides."""
        return True

    def reaches_actor(self, actor: str) -> bool:
        """The same of an actor by its name, `ledger:acme`: keys reach no other kind."""
        return True

    def has(self, scope: Scope) -> bool:
        """Whether the credential is good for such requests."""
        return True


class SessionPrincipal(Principal, frozen=True):
    """A user who has logged in, and the session that the access token belongs to."""

    session_id: UUID


class KeyPrincipal(Principal, frozen=True):
    """A machine that has an API key of a user's. `ledgers` None is every ledger of the user's."""

    key_id: UUID
    prefix: str
    scopes: frozenset[Scope]
    ledgers: frozenset[str] | None

    def reaches(self, ledger: str) -> bool:
        return self.ledgers is None or ledger in self.ledgers

    def reaches_actor(self, actor: str) -> bool:
        kind, _, name = actor.partition(":")
        return kind == "ledger" and self.reaches(name)

    def has(self, scope: Scope) -> bool:
        return scope in self.scopes
