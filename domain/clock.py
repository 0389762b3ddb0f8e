"""Times as the contract writes them: RFC 3339, UTC, six decimals, `Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

_encode = msgspec.json.Encoder().encode

EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
"""No moment is before. The very first of Python's stands for Postgres's `-infinity`."""
LATEST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(microseconds=1)
"""No moment that is kept is after. The very last of Python's stands for Postgres's `infinity`."""


_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def is_rfc3339(text: str) -> bool:
    """Whether `text` is written as RFC 3339 has its times. Whether there is such a time is another question."""
    return _RFC3339.fullmatch(text) is not None


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC; the first or the last there is, where UTC would need another year."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return (datetime.min if moment.year == 1 else datetime.max).replace(tzinfo=UTC)


def unkept(moment: datetime) -> str | None:
    """What is wrong with a moment that is too early or too late to be kept; None for all others."""
    found = in_utc(moment)
    if found < EARLIEST:
        return f"must not be before {format_time(EARLIEST)}"
    return f"must not be after {format_time(LATEST)}" if found > LATEST else None


def format_time(moment: datetime) -> str:
    """Writes an aware datetime, e.g. `2026-11-22T09:30:00.000000Z`."""
    if moment.tzinfo is not UTC:
        moment = in_utc(moment)
    # a tenth of isoformat's time; it leaves out the decimals of a full second
    written = _encode(moment)[1:-2].decode()
    return (written if moment.microsecond else written + ".000000") + "Z"
