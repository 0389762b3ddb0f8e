"""Deciding a run of commands in memory: the heart of a turn, and pure.

Splitting the same commands into other runs gives the same journal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Protocol
from uuid import UUID

import msgspec

from domain.clock import format_time
from domain.errors import DomainError
from domain.messages import Balance, Command, Entry, Event, Recorded, Refusal

GENESIS = bytes(32)
"""What stands before the first hash of a journal."""

_encode = msgspec.json.Encoder().encode


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Where and when an event is recorded."""

    seq: int
    recorded_at: datetime


class Aggregate(Protocol):
    """What a turn holds in memory of an actor."""

    def snapshots(self, names: Iterable[str]) -> tuple[Balance, ...]:
        """The figures of the named accounts, as an event carries them."""


class Link(msgspec.Struct, frozen=True, gc=False):
    """An entry beside its exact bytes and its hash: SHA-256 of the previous hash and the bytes."""

    entry: Entry
    event: bytes
    hash: bytes


class Head(msgspec.Struct, frozen=True, gc=False):
    """The end of an actor's journal: the last seq and its hash."""

    actor: str
    epoch: int
    seq: int
    hash: bytes


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of a command: the seq of its last event, or the refusal."""

    command: UUID
    seq: int | None = None
    refusal: Refusal | None = None


class Decision(msgspec.Struct, frozen=True):
    """What a run of commands comes to."""

    links: list[Link]
    outcomes: list[Outcome]
    head: Head


def _no_entries(_state: Aggregate, _commands: Sequence[Recorded]) -> Callable[[], None]:
    raise AssertionError("there are no atomic entries here")


class Rulebook(msgspec.Struct, frozen=True):
    """Who handles a command and who applies an event, by type.

    `savepoint` is told which commands are about to change the state; what it answers puts the state back.
    """

    handlers: Mapping[type[Command], Callable[..., list[Event]]]
    appliers: Mapping[type[Event], Callable[..., list[str]]]
    savepoint: Callable[..., Callable[[], None]] = _no_entries


def decide(
    state: Aggregate, head: Head, commands: Sequence[Recorded], recorded_at: datetime, rulebook: Rulebook
) -> Decision:
    """Decides `commands` in order against `state`, which it changes, and chains their events behind `head`.

    A DomainError is that command's outcome and undoes nothing else, but in an atomic entry, of which all commands
    succeed or none. Any other exception is a fault of the command or of the code: it leaves `state` unusable, and the
    caller throws everything away.
    """
    chain = _Chain(state, head, recorded_at, rulebook)
    outcomes: list[Outcome] = []
    last = len(commands) - 1
    for place, recorded in enumerate(commands):
        if recorded.line is not None:
            # decided when its last one comes
            if place == last or commands[place + 1].position != recorded.position:
                outcomes += _all_or_none(chain, _entry_up_to(commands, place))
            continue
        try:
            chain.add(recorded)
        except DomainError as refusal:
            outcomes.append(Outcome(recorded.id, None, Refusal.of(refusal)))
        else:
            outcomes.append(Outcome(recorded.id, chain.head.seq))
    return Decision(chain.links, outcomes, chain.head)


class _Chain:
    """The state, and how far the journal has grown."""

    __slots__ = ("_appliers", "_handlers", "_recorded_at", "_recorded_text", "head", "links", "savepoint", "state")

    def __init__(self, state: Aggregate, head: Head, recorded_at: datetime, rulebook: Rulebook) -> None:
        self.state = state
        self.head = head
        self.links: list[Link] = []
        self.savepoint = rulebook.savepoint
        self._handlers = rulebook.handlers
        self._appliers = rulebook.appliers
        self._recorded_at = recorded_at
        self._recorded_text = format_time(recorded_at)

    def add(self, recorded: Recorded) -> None:
        """Decides one command and applies its events. Raises its refusal, having changed nothing."""
        state = self.state
        for event in self._handlers[type(recorded.command)](recorded.command, state, recorded):
            head = self.head
            seq = head.seq + 1
            touched = self._appliers[type(event)](event, state, Stamp(seq, self._recorded_at))
            link = _link(head, self._recorded_text, recorded, event, state.snapshots(touched))
            self.links.append(link)
            self.head = Head(head.actor, head.epoch, seq, link.hash)


def _entry_up_to(commands: Sequence[Recorded], last: int) -> Sequence[Recorded]:
    first = last
    while first and commands[first - 1].position == commands[last].position:
        first -= 1
    return commands[first : last + 1]


def _all_or_none(chain: _Chain, entry: Sequence[Recorded]) -> list[Outcome]:
    put_back = chain.savepoint(chain.state, entry)
    head, length = chain.head, len(chain.links)
    outcomes = []
    for recorded in entry:
        try:
            chain.add(recorded)
        except DomainError as refusal:
            put_back()
            chain.head = head
            del chain.links[length:]
            return _rejected(entry, recorded.id, Refusal.of(refusal))
        outcomes.append(Outcome(recorded.id, chain.head.seq))
    return outcomes


def _rejected(entry: Sequence[Recorded], culprit: UUID, refusal: Refusal) -> list[Outcome]:
    taken_along = Refusal("batch_rejected", f"{culprit} of the same atomic batch was refused.", caused_by=culprit)
    return [Outcome(recorded.id, None, refusal if recorded.id == culprit else taken_along) for recorded in entry]


def _link(head: Head, recorded_at: str, recorded: Recorded, event: Event, balances: tuple[Balance, ...]) -> Link:
    seq = head.seq + 1
    entry = Entry(
        head.actor,
        head.epoch,
        seq,
        f"{head.actor}/{head.epoch}/{seq}",
        type(event).__name__,
        recorded_at,
        recorded.id,
        recorded.correlation_id,
        event,
        balances,
    )
    written = _encode(entry)
    return Link(entry, written, sha256(head.hash + written).digest())
