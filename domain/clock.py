"""Times as the contract writes them: RFC 3339, UTC, six decimals, `Z`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
"""No moment is before. The very first of Python's stands for Postgres's `-infinity`."""


def in_utc(moment: datetime) -> datetime:
    """The same moment in UTC; the first or the last there is, where UTC would need another year."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return (datetime.min if moment.year == 1 else datetime.max).replace(tzinfo=UTC)


def format_time(moment: datetime) -> str:
    """Writes an aware datetime, e.g. `2026-11-22T09:30:00.000000Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"
