"""Labels: how a command of a bulk request names the transaction that an earlier one of it makes.

`"transaction": "#label"` stands for the id of the command that has the label. Ids are given out on receipt, so the
command is written down with the id itself, and is then the same request as if it had been sent with that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from domain.errors import Fault

MAKING: Final = frozenset({"post_transaction", "reverse_transaction"})
NAMING: Final = frozenset({"capture_transaction", "void_transaction", "reverse_transaction"})
_MARK: Final = "#"


class Labels(msgspec.Struct, frozen=True):
    """Which commands name which other one of the request, by index, and the faults of those that name none."""

    named: Mapping[int, int]
    faults: tuple[Fault, ...]
    all: tuple[int, ...]
    """Every command with a label for its transaction, whether there is such a label or not."""


NONE: Final = Labels({}, (), ())


def find_labels(items: Sequence[Any]) -> Labels:
    """The labels among commands as they were sent."""
    wanted = {index: item["transaction"][1:] for index, item in enumerate(items) if _names_a_label(item)}
    if not wanted:
        return NONE
    places = _places(items, "label")
    keys = _places(items, "idempotency_key")
    found, faults = {}, []
    for index, label in wanted.items():
        detail = _fault(items, index, places.get(label, ()), keys)
        if detail is None:
            found[index] = places[label][0]
        else:
            faults.append(Fault(f"#/commands/{index}/transaction", detail))
    return Labels(found, tuple(faults), tuple(wanted))


def with_ids(items: Sequence[Any], ids: Mapping[int, str]) -> list[Any]:
    """The commands with these ids as their `transaction`, by index."""
    return [{**item, "transaction": ids[index]} if index in ids else item for index, item in enumerate(items)]


def _names_a_label(item: object) -> bool:
    if not isinstance(item, dict) or "transaction" not in item or str(item.get("kind")) not in NAMING:
        return False
    named = item["transaction"]
    return isinstance(named, str) and named.startswith(_MARK)


def _places(items: Sequence[Any], member: str) -> dict[str, list[int]]:
    """Which commands have which value of a member."""
    places: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        value = item.get(member) if isinstance(item, dict) else None
        if isinstance(value, str):
            places.setdefault(value, []).append(index)
    return places


def _fault(items: Sequence[Any], index: int, places: Sequence[int], keys: Mapping[str, Sequence[int]]) -> str | None:
    if not places:
        return "names a label that no command of the request has"
    if len(places) > 1:
        return "names a label that several commands have"
    if places[0] >= index:
        return "must name an earlier command"
    if str(items[places[0]].get("kind")) not in MAKING:
        return "names a command that makes no transaction"
    if len(keys.get(str(items[places[0]].get("idempotency_key")), ())) > 1:
        return "names a command that shares its key with another one"
    return None
