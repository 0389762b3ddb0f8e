"""What most commands of a ledger begin with."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from domain.ledger import specifications as rules
from domain.ledger.commands import LedgerCommand
from domain.ledger.model import Ledger
from domain.messages import Recorded


def admit(ledger: Ledger, recorded: Recorded, role: str) -> None:
    """Raises NotFoundError where there is no such ledger, or the one who asks has no longer that role in it."""
    rules.ACCESS.check((rules.Asked(ledger, ledger.may(recorded.principal, role)),))


def asked_at(command: LedgerCommand, recorded: Recorded) -> datetime:
    """When a command counts as asked for: when it was accepted, or later if it was to be executed later."""
    return max(recorded.accepted_at, command.execute_at or recorded.accepted_at)


def merged(metadata: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """`metadata` with `changes`, of which null takes a key away. Raises the refusal of more keys than there may be."""
    made = dict(metadata)
    for key, value in changes.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = value
    rules.METADATA.check((made,))
    # sorted, since Postgres gives members back in an order of its own
    return dict(sorted(made.items()))
