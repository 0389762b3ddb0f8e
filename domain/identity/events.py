"""What happened to a user: the `data` of its journal entries."""

from __future__ import annotations

from domain.messages import Event


class UserRegistered(Event, frozen=True):
    username: str
    roles: tuple[str, ...]


class UserUpdated(Event, frozen=True):
    roles: tuple[str, ...]


class PasswordChanged(Event, frozen=True):
    pass


class UserDisabled(Event, frozen=True):
    pass
