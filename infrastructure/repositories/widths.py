"""How many of a ledger's waiting commands fit into one turn, where they name transactions of many postings.

What is accepted weighs what stands in it, so `void it` weighs 1, whatever is voided. Turns that have no such command
don't come here, and those that have a few of them, which fit anyway, are not looked up.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from uuid import UUID

import msgspec
from asyncpg import Record

from domain.ledger.commands import MAX_POSTINGS
from infrastructure.postgres import Db

# Postings are numbered without gaps: one step in an index for each transaction, however many it has.
WIDTHS: Final = """
SELECT id, 1 + coalesce(
    (SELECT max(posting) FROM holds WHERE holds.ledger = $1 AND holds.seq = transactions.seq),
    (SELECT max(posting) FROM postings WHERE postings.ledger = $1 AND postings.seq = transactions.seq),
    0
) AS width
FROM transactions WHERE ledger = $1 AND id = ANY ($2::uuid[])
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


class _Naming(msgspec.Struct):
    transaction: UUID


_decode: Final = msgspec.json.Decoder(_Naming).decode


async def fitting(db: Db, ledger_id: str, rows: list[Record], most: int) -> list[Record]:
    """The first of the rows, of at most `most` postings together.

    There is always one of them, and of an atomic entry all or none: all, if it comes first, however many those are.
    """
    named = {row["id"]: name for row in rows if row["kind"] in NAMING and (name := _name(row)) is not None}
    if not named or sum(row["weight"] for row in rows) + MAX_POSTINGS * len(named) <= most:
        return rows
    weights = _weights(rows, named, await _stored(db, ledger_id, set(named.values()) - {row["id"] for row in rows}))
    first = total = 0
    for place, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        if row["position"] != rows[first]["position"]:
            first = place
        total += weight
        if total > most and first:
            return rows[:first]
    return rows


def _name(row: Record) -> UUID | None:
    try:
        return _decode(row["payload"]).transaction
    except ValueError:
        # the turn that takes it finds out what is wrong with it
        return None


async def _stored(db: Db, ledger_id: str, named: Collection[UUID]) -> dict[UUID, int]:
    if not named:
        return {}
    return {row["id"]: row["width"] for row in await db.fetch(WIDTHS, ledger_id, sorted(named))}


def _weights(rows: list[Record], named: Mapping[UUID, UUID], stored: Mapping[UUID, int]) -> list[int]:
    """What each row weighs with what it names. What an earlier one of them makes is as wide as that is heavy."""
    widths, loaded = dict(stored), set()
    weights = []
    for row in rows:
        weight, name = row["weight"], named.get(row["id"])
        if name is not None:
            # metadata has no postings: its transaction is loaded, and that once
            if row["kind"] != "update_transaction" or name not in loaded:
                weight = max(weight, widths.get(name, 1))
            loaded.add(name)
        widths[row["id"]] = weight
        weights.append(weight)
    return weights
