"""Times as the contract writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.clock import format_time


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 22, 9, 30, tzinfo=UTC), "2026-11-22T09:30:00.000000Z"),
        (datetime(2026, 11, 22, 9, 30, 0, 1, tzinfo=UTC), "2026-11-22T09:30:00.000001Z"),
        (datetime(2026, 11, 22, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2026-11-21T23:30:00.000000Z"),
        (
            datetime(2026, 11, 22, 9, 30, tzinfo=timezone(-timedelta(hours=5, minutes=30))),
            "2026-11-22T15:00:00.000000Z",
        ),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00.000000Z"),
        (datetime.max.replace(tzinfo=UTC), "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_writes_utc_with_six_decimals(moment: datetime, text: str) -> None:
    assert format_time(moment) == text


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-24 * 60 + 1, 24 * 60 - 1))
def test_the_zone_a_time_comes_in_changes_nothing(moment: datetime, offset_minutes: int) -> None:
    zone = timezone(timedelta(minutes=offset_minutes))
    try:
        elsewhere = moment.astimezone(zone)
    except OverflowError:
        return
    assert format_time(elsewhere) == format_time(moment)
    assert datetime.fromisoformat(format_time(moment)) == moment
