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


class Rulebook(msgspec.Struct, frozen=True):
    """Who handles a command and who applies an event, by type."""

    handlers: Mapping[type[Command], Callable[..., list[Event]]]
    appliers: Mapping[type[Event], Callable[..., list[str]]]


def decide(
    state: Aggregate, head: Head, commands: Sequence[Recorded], recorded_at: datetime, rulebook: Rulebook
) -> Decision:
    """Decides `commands` in order against `state`, which it changes, and chains their events behind `head`.

    A DomainError is that command's outcome and undoes nothing else. Any other exception is a fault of the
    command or of the code: it leaves `state` unusable, and the caller throws everything away.
    """
    recorded_text = format_time(recorded_at)
    links: list[Link] = []
    outcomes: list[Outcome] = []
    for recorded in commands:
        try:
            events = rulebook.handlers[type(recorded.command)](recorded.command, state, recorded)
        except DomainError as refusal:
            outcomes.append(Outcome(recorded.id, None, Refusal.of(refusal)))
            continue
        for event in events:
            stamp = Stamp(head.seq + 1, recorded_at)
            touched = rulebook.appliers[type(event)](event, state, stamp)
            link = _link(head, recorded_text, recorded, event, state.snapshots(touched))
            links.append(link)
            head = Head(head.actor, head.epoch, stamp.seq, link.hash)
        outcomes.append(Outcome(recorded.id, head.seq))
    return Decision(links, outcomes, head)


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
