"""What can be asked of a user. The password that some of these bring travels beside them, hashed."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from domain.messages import Command

LEAST_PASSWORD = 12
MOST_PASSWORD = 1_024

# ASCII alone: no two names look alike but by their case, and in that they may not differ (see `specifications`).
Username = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}\Z",
        description="must be 1 to 64 of A-Z, a-z, 0-9 and ._@+-, and begin with a letter or digit",
    ),
]
Password = Annotated[
    str,
    Meta(
        min_length=LEAST_PASSWORD,
        max_length=MOST_PASSWORD,
        description=f"must be {LEAST_PASSWORD} to {MOST_PASSWORD} characters",
    ),
]
Role = Literal["admin", "operator", "user"]
Roles = Annotated[
    tuple[Role, ...],
    Meta(
        min_length=1,
        max_length=3,
        description="must be one to three of admin, operator and user",
        extra_json_schema={"uniqueItems": True},
    ),
]


class RegisterUser(Command, frozen=True):
    """Make a user. Its id is the command's."""

    username: Username
    roles: Roles


class UpdateUser(Command, frozen=True):
    """Give a user other roles."""

    roles: Roles


class ChangePassword(Command, frozen=True):
    """Give a user another password."""


class DisableUser(Command, frozen=True):
    """Shut a user out, for good."""
