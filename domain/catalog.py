"""Every aggregate's commands, handlers, events and appliers, merged: what the bus, the turn and `verify` look up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from domain.decision import Rulebook
from domain.identity import handlers as identity
from domain.ledger import handlers as ledger
from domain.ledger.savepoint import savepoint
from domain.messages import Command, Event

KINDS: Final[Mapping[str, type[Command]]] = {**ledger.KINDS, **identity.KINDS}
HANDLERS: Final[Mapping[type[Command], Callable[..., list[Event]]]] = {**ledger.HANDLERS, **identity.HANDLERS}
APPLIERS: Final[Mapping[type[Event], Callable[..., list[str]]]] = {**ledger.APPLIERS, **identity.APPLIERS}
# commands of users make no atomic entries
RULES: Final = Rulebook(HANDLERS, APPLIERS, savepoint)
EVENTS: Final[Mapping[str, type[Event]]] = {event.__name__: event for event in APPLIERS}
KIND_OF: Final[Mapping[type[Command], str]] = {command: kind for kind, command in KINDS.items()}
