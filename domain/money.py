"""Money: integers of the currency's minor unit inside, exact decimal strings outside.

Conversions are integer and string arithmetic only: Decimal would round at 28 digits, floats anywhere.
"""

from __future__ import annotations

from typing import Final

LIMIT_MINOR: Final = 10**38
"""Every total of an account stays below this many minor units, in either direction."""

_UNITS: Final = tuple(10**scale for scale in range(19))
_PATTERNS: Final = tuple(f"%d.%0{scale}d" for scale in range(19))


def decimals_of(text: str) -> int:
    """How many digits `text` (a decimal string) has after its point."""
    _, _, fraction = text.partition(".")
    return len(fraction)


def parse_minor(text: str, scale: int) -> int:
    """Turns a decimal string like `-12.5` into minor units of a currency with `scale` decimals.

    Raises ValueError when `text` has more decimals than the currency.
    """
    whole, _, fraction = text.partition(".")
    if len(fraction) > scale:
        raise ValueError(f"{text} has {len(fraction)} decimals; the currency has {scale}")
    return int(whole + fraction.ljust(scale, "0"))


def format_minor(minor: int, scale: int) -> str:
    """Writes minor units as a decimal string with all `scale` decimals: 1250 at scale 2 is `12.50`."""
    if scale == 0:
        return str(minor)
    if minor < 0:
        return "-" + format_minor(-minor, scale)
    text: str = _PATTERNS[scale] % divmod(minor, _UNITS[scale])
    return text
