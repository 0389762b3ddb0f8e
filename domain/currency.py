"""Currencies of a ledger: a code and how many decimals its amounts have."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Currency(msgspec.Struct, frozen=True):
    """A currency as a ledger keeps it. The scale is copied into the ledger at first use and never changes."""

    code: str
    scale: int


class Currencies:
    """What a ledger knows: its own currencies first, else the ISO 4217 ones, whose table the caller hands in."""

    __slots__ = ("_own", "_standard", "first_used")

    def __init__(self, own: Mapping[str, int], standard: Mapping[str, int]) -> None:
        self._own = dict(own)
        self._standard = standard
        self.first_used: dict[str, int] = {}

    def scale_of(self, code: str) -> int | None:
        """The number of decimals, or None for a currency nobody knows."""
        scale = self._own.get(code)
        return self._standard.get(code) if scale is None else scale

    def keep(self, code: str, scale: int) -> None:
        """Copies a currency into the ledger, when it is registered or used for the first time."""
        if code not in self._own:
            self._own[code] = scale
            self.first_used[code] = scale

    def copy(self) -> Currencies:
        """As they are now; what is kept in one is not in the other."""
        copied = Currencies(self._own, self._standard)
        copied.first_used = dict(self.first_used)
        return copied
