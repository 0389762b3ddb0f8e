"""The rules on users, in the contract's order of precedence: the first that is broken names the refusal."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from domain.errors import DomainError, Fault, NotFoundError
from domain.identity.model import User
from domain.specification import Rule, Specification


class Asked(msgspec.Struct, frozen=True):
    """The user, and who asks something of them."""

    user: User
    principal: UUID


exists: Specification[Asked] = Specification(lambda asked: asked.user.profile is not None)
by_admin: Specification[Asked] = Specification(lambda asked: asked.user.is_admin(asked.principal))
by_oneself: Specification[Asked] = Specification(
    lambda asked: asked.principal == asked.user.id and asked.user.is_active(asked.principal)
)


def _nobody(asked: Asked) -> DomainError:
    return NotFoundError(f"There is no user {asked.user.id}.")


# Only who can write to the database itself accepts a command by a user who does not exist yet: that is the first one.
by_itself: Specification[Asked] = Specification(lambda asked: asked.principal == asked.user.id)
REGISTRAR: Final = Rule(
    by_admin | by_itself, lambda _: NotFoundError("Whoever asked for this user is no administrator any more.")
)
ADMINISTERED: Final = Rule(exists & by_admin, _nobody)
PASSWORD: Final = Rule(exists & (by_admin | by_oneself), _nobody)


class Naming(msgspec.Struct, frozen=True):
    """A name that the user is to have."""

    user: User
    username: str


# `Ada` and `ada` are two names to log in with, and one to people.
name_is_free: Specification[Naming] = Specification(lambda n: n.username.lower() not in n.user.taken)
USERNAME: Final = Rule(
    name_is_free,
    lambda n: DomainError(
        "username_taken", f"There is a user {n.username} already.", (Fault("#/username", n.username),)
    ),
)


class Leaving(msgspec.Struct, frozen=True):
    """A user, and whether they will be an administrator from now on."""

    user: User
    stays_admin: bool


was_admin: Specification[Leaving] = Specification(lambda c: c.user.profile is not None and c.user.profile.is_admin)
stays_admin: Specification[Leaving] = Specification(lambda c: c.stays_admin)
is_replaced: Specification[Leaving] = Specification(lambda c: c.user.other_admins)
# without one, nobody could ever make another
LAST_ADMIN: Final = Rule(
    ~was_admin | stays_admin | is_replaced,
    lambda c: DomainError(
        "precondition_failed", f"{c.user.id} is the last administrator: make somebody else one first."
    ),
)
