"""The ISO 4217 table: the decimals of every currency that has a minor unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from iso4217 import Currency

# Codes without a minor unit (gold, test codes, …) are left out: a ledger registers them with a scale of its choice.
ISO_SCALES: Final[Mapping[str, int]] = {
    currency.code: currency.exponent for currency in Currency if currency.exponent is not None
}
