"""What commands weigh with the transactions that they name: how many fit into one turn, and how many into a request.

What is accepted weighs what stands in it, so `void it` weighs 1, whatever is voided. Commands that name nothing don't
come here, and a few of them, which fit anyway, are not looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.ledger.commands import MAX_POSTINGS
from infrastructure.postgres import Db

# Postings are numbered without gaps: one step in an index for each transaction, however many it has. One that is still
# to come has its command's id, and weighs what that does.
WIDTHS: Final = """
SELECT id, 1 + coalesce(
    (SELECT max(posting) FROM holds WHERE holds.ledger = $1 AND holds.seq = transactions.seq),
    (SELECT max(posting) FROM postings WHERE postings.ledger = $1 AND postings.seq = transactions.seq),
    0
) AS width
FROM transactions WHERE ledger = $1 AND id = ANY ($2::uuid[])
UNION ALL
SELECT id, weight FROM commands
WHERE id = ANY ($2::uuid[]) AND actor = 'ledger:' || $1 AND status IN ('accepted', 'scheduled')
"""

NAMING: Final = frozenset(
    {
        "capture_transaction",
        "void_transaction",
        "expire_transaction",
        "reverse_transaction",
        "update_transaction",
    }
)


class Weighed(NamedTuple):
    """A command, what stands in it weighs, and the transaction that it names."""

    id: UUID
    kind: str
    weight: int
    transaction: UUID | None


class Fit(NamedTuple):
    """The first commands of a mailbox, and what the first entry of them weighs."""

    rows: list[Record]
    first: int


class _Naming(msgspec.Struct):
    transaction: UUID


_decode: Final = msgspec.json.Decoder(_Naming).decode


def weighed(id: UUID, kind: str, weight: int, payload: bytes) -> Weighed:
    """A command as it is written down."""
    return Weighed(id, kind, weight, _name(payload) if kind in NAMING else None)


async def fitting(db: Db, ledger_id: str, rows: list[Record], most: int) -> Fit:
    """The first of the rows, of at most `most` postings together.

    There is always one of them, and of an atomic entry all or none: all, if it comes first, however many those are.
    """
    commands = [weighed(row["id"], row["kind"], row["weight"], row["payload"]) for row in rows]
    first = total = 0
    weights = await weigh(db, ledger_id, commands, most)
    heaviest = sum(weight for row, weight in zip(rows, weights, strict=True) if row["position"] == rows[0]["position"])
    for place, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        if row["position"] != rows[first]["position"]:
            first = place
        total += weight
        if total > most and first:
            return Fit(rows[:first], heaviest)
    return Fit(rows, heaviest)


async def weigh(db: Db, ledger_id: str, commands: Sequence[Weighed], enough: int) -> list[int]:
    """What each weighs with what it names. All as they stand, if they can't come to more than `enough` together."""
    naming = [command for command in commands if command.transaction is not None]
    if not naming or sum(command.weight for command in commands) + MAX_POSTINGS * len(naming) <= enough:
        return [command.weight for command in commands]
    own = {command.id for command in commands}
    named = {command.transaction for command in naming if command.transaction is not None}
    return list(_weights(commands, await _stored(db, ledger_id, named - own)))


def _name(payload: bytes) -> UUID | None:
    try:
        return _decode(payload).transaction
    except ValueError:
        # the turn that takes it finds out what is wrong with it
        return None


async def _stored(db: Db, ledger_id: str, named: Collection[UUID]) -> dict[UUID, int]:
    if not named:
        return {}
    return {row["id"]: row["width"] for row in await db.fetch(WIDTHS, ledger_id, sorted(named))}


def _weights(commands: Iterable[Weighed], stored: Mapping[UUID, int]) -> Iterable[int]:
    """What each weighs with what it names. What an earlier one of them makes is as wide as that is heavy."""
    widths, loaded = dict(stored), set()
    for command in commands:
        weight, name = command.weight, command.transaction
        if name is not None:
            # metadata has no postings: its transaction is loaded, and that once
            if command.kind != "update_transaction" or name not in loaded:
                weight = max(weight, widths.get(name, 1))
            loaded.add(name)
        widths[command.id] = weight
        yield weight
