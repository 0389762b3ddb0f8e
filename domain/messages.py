"""Messages: commands ask an actor to change, events state what changed, queries ask what is."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from domain.errors import DomainError, Fault


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request to change an actor, as its route decodes it and as the daybook keeps it."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to an actor: the `data` of a journal entry."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the projections. Answering it changes nothing."""


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a rule refused a command, as the daybook keeps it with the command.

    `caused_by` is the command whose refusal took this one along, in an entry that is all or nothing.
    """

    code: str
    detail: str
    faults: tuple[Fault, ...] = ()
    caused_by: UUID | None = None

    @classmethod
    def of(cls, error: DomainError) -> Refusal:
        return cls(error.code, error.detail, error.faults)


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """A command as a turn takes it from the mailbox.

    Those of an atomic entry share its position; `line` is their order there, None for a command that is by itself.
    """

    id: UUID
    position: int
    kind: str
    command: Command
    principal: UUID
    correlation_id: str
    accepted_at: datetime
    line: int | None = None


class Balance(msgspec.Struct, frozen=True, gc=False):
    """An account's sums and balances after an event, decimal strings of the currency's full scale."""

    account: str
    currency: str
    posted_debits: str
    posted_credits: str
    pending_debits: str
    pending_credits: str
    balance: str
    available: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One journal entry. Its JSON encoding, once made, is the event: hashed, stored and published as these bytes."""

    actor: str
    epoch: int
    seq: int
    id: str
    type: str
    recorded_at: str
    command: UUID
    correlation_id: str
    data: Event
    balances: tuple[Balance, ...]
