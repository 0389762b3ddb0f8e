"""Journal events as rows: what tables and bookkeeping programs are given.

Events are read as the journal's bytes say, whatever has been added to them since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

Json = dict[str, Any]

COLUMNS: Final = (
    *("seq", "type", "recorded_at", "effective_at", "transaction", "entry", "posting", "debit", "credit", "amount"),
    *("currency", "reference", "description", "metadata", "data", "command", "correlation_id"),
)
"""Of the journal as a table: a row for each amount that moved, or was held; one for any other event."""

_KEPT: Final = ("seq", "type", "recorded_at", "command", "correlation_id")
_LINES: Final = ("debit", "credit", "amount", "currency")

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_text: Final = msgspec.json.Encoder(order="sorted").encode


def rows_of(event: bytes) -> Iterator[Json]:
    """The rows of one event, each with all of `COLUMNS`, None where it has nothing to say."""
    entry = _decode(event)
    data = entry["data"]
    kept = dict.fromkeys(COLUMNS) | {name: entry[name] for name in _KEPT}
    lines = data.get("postings")
    if lines is None:
        yield kept | {"data": _text(data).decode()}
        return
    kept |= {
        "effective_at": data.get("effective_at"),
        "transaction": data["transaction"],
        "entry": data.get("capture", data["transaction"]),
        "reference": data.get("reference"),
        "description": data.get("description"),
        "metadata": _text(data["metadata"]).decode() if "metadata" in data else None,
    }
    for number, line in enumerate(lines):
        yield kept | {"posting": number} | {name: line[name] for name in _LINES}


class Movement(msgspec.Struct, frozen=True):
    """What one event moved, as bookkeeping programs write it down: an amount a posting, none of them zero."""

    capture: bool
    transaction: str
    effective_at: str
    reference: str | None
    description: str | None
    lines: tuple[tuple[str, str, str, str], ...]
    """Debit, credit, amount, currency."""


MOVES: Final = frozenset({"TransactionPosted", "TransactionReversed", "TransactionCaptured"})


class Opened(msgspec.Struct, frozen=True):
    """An account that was opened."""

    name: str
    currency: str
    scale: int
    type: str


def read(event: bytes) -> Movement | Opened | None:
    """What an event means to a bookkeeping program: None for what such programs have no word for.

    A capture names neither reference nor description: they are its transaction's.
    """
    entry = _decode(event)
    kind, data = entry["type"], entry["data"]
    if kind == "AccountOpened":
        return Opened(data["name"], data["currency"], data["scale"], data["type"])
    if kind not in MOVES:
        return None
    lines = tuple(_moved(data["postings"]))
    if not lines:
        return None
    named = data.get("reference"), data.get("description")
    return Movement(kind == "TransactionCaptured", data["transaction"], data["effective_at"], *named, lines)


def _moved(lines: Iterable[Json]) -> Iterator[tuple[str, str, str, str]]:
    for line in lines:
        if line["amount"].strip("0."):
            yield line["debit"], line["credit"], line["amount"], line["currency"]
