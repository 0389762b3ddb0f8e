"""What a user does with each command: check the rules, answer events. Pure: no clock, no I/O, no change of state.

Appliers, below, are the only code that changes a `User`; they trust the events. What a command asks for and is so
already makes no event: the command succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from domain.decision import Stamp
from domain.identity import specifications as rules
from domain.identity.commands import ChangePassword, DisableUser, RegisterUser, UpdateUser
from domain.identity.events import PasswordChanged, UserDisabled, UserRegistered, UserUpdated
from domain.identity.model import Profile, User
from domain.messages import Command, Event, Recorded

# -- handlers: command → events, or a DomainError ---------------------------------------------------------------------


def register_user(command: RegisterUser, user: User, recorded: Recorded) -> list[Event]:
    rules.REGISTRAR.check((rules.Asked(user, recorded.principal),))
    rules.USERNAME.check((rules.Naming(user, command.username),))
    return [UserRegistered(username=command.username, roles=command.roles)]


def update_user(command: UpdateUser, user: User, recorded: Recorded) -> list[Event]:
    profile = _administered(user, recorded)
    rules.LAST_ADMIN.check((rules.Leaving(user, "admin" in command.roles),))
    return [] if command.roles == profile.roles else [UserUpdated(roles=command.roles)]


def change_password(command: ChangePassword, user: User, recorded: Recorded) -> list[Event]:
    rules.PASSWORD.check((rules.Asked(user, recorded.principal),))
    return [PasswordChanged()]


def disable_user(command: DisableUser, user: User, recorded: Recorded) -> list[Event]:
    profile = _administered(user, recorded)
    rules.LAST_ADMIN.check((rules.Leaving(user, False),))
    return [UserDisabled()] if profile.active else []


def _administered(user: User, recorded: Recorded) -> Profile:
    rules.ADMINISTERED.check((rules.Asked(user, recorded.principal),))
    if user.profile is None:
        raise AssertionError("the rule on who may ask was not checked")
    return user.profile


# -- appliers: event → the user changed; no accounts are touched ------------------------------------------------------


def user_registered(event: UserRegistered, user: User, stamp: Stamp) -> list[str]:
    user.profile = Profile(event.username, event.roles, True, stamp.recorded_at, stamp.seq)
    return []


def user_updated(event: UserUpdated, user: User, stamp: Stamp) -> list[str]:
    if user.profile is not None:
        user.profile = replace(user.profile, roles=event.roles, version=stamp.seq)
    return []


def password_changed(event: PasswordChanged, user: User, stamp: Stamp) -> list[str]:
    if user.profile is not None:
        user.profile = replace(user.profile, version=stamp.seq)
    return []


def user_disabled(event: UserDisabled, user: User, stamp: Stamp) -> list[str]:
    if user.profile is not None:
        user.profile = replace(user.profile, active=False, version=stamp.seq)
    return []


KINDS: Final[Mapping[str, type[Command]]] = {
    "register_user": RegisterUser,
    "update_user": UpdateUser,
    "change_password": ChangePassword,
    "disable_user": DisableUser,
}
HANDLERS: Final[Mapping[type[Command], Callable[..., list[Event]]]] = {
    RegisterUser: register_user,
    UpdateUser: update_user,
    ChangePassword: change_password,
    DisableUser: disable_user,
}
APPLIERS: Final[Mapping[type[Event], Callable[..., list[str]]]] = {
    UserRegistered: user_registered,
    UserUpdated: user_updated,
    PasswordChanged: password_changed,
    UserDisabled: user_disabled,
}
