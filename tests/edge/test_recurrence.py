"""When schedules are due: durations, and rules as dateutil has them, however they are gone through."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from dateutil.rrule import rrulestr
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clock import LATEST
from domain.ledger.schedules import duration_of
from infrastructure.recurrence import Occurrence, first, leap, occurrences, read_rule

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
RULES = [
    "FREQ=SECONDLY;INTERVAL=7",
    "FREQ=MINUTELY",
    "FREQ=HOURLY;INTERVAL=5",
    "FREQ=DAILY;BYHOUR=9,17;BYMINUTE=0,30",
    "FREQ=DAILY;INTERVAL=3;BYDAY=MO,TU,WE,TH,FR",
    "FREQ=WEEKLY",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=SU",
    "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,MO;WKST=MO",
    "FREQ=MONTHLY",
    "FREQ=MONTHLY;BYMONTHDAY=-1",
    "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1",
    "FREQ=MONTHLY;INTERVAL=5;BYDAY=2FR",
    "FREQ=YEARLY",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29",
    "FREQ=YEARLY;INTERVAL=2;BYWEEKNO=1,53;BYDAY=MO,SU",
    "FREQ=YEARLY;BYYEARDAY=1,-1",
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.datetimes(datetime(2000, 1, 1), datetime(2300, 1, 1)))
def test_going_on_from_any_time_gives_those_that_follow(rule: str, start: datetime) -> None:
    begin = start.replace(microsecond=0, tzinfo=UTC)
    expected = list(islice(rrulestr(rule, dtstart=begin), 6))
    assert [each.at for each in islice(occurrences(None, rule, begin), 6)] == expected
    stepwise, at = [], first(None, rule, begin)
    while at is not None and len(stepwise) < 6:
        stepwise.append(at)
        at = next(islice(occurrences(None, rule, *at), 1, None), None)
    assert stepwise == [Occurrence(moment, number) for number, moment in enumerate(expected, 1)]


def test_count_and_until_end_a_rule_wherever_one_goes_on() -> None:
    days = [START + timedelta(days=number) for number in range(4)]
    for rule in ("FREQ=DAILY;COUNT=4", "FREQ=DAILY;UNTIL=20261125T100000Z", "RRULE:freq=daily;until=20261125"):
        assert [each.at for each in occurrences(None, rule, START)] == days
        assert [each.at for each in occurrences(None, rule, days[2], 3)] == days[2:]


@pytest.mark.parametrize(
    "rule",
    [
        *("", "FREQ", "FREQ=", "INTERVAL=2", "FREQ=SOMETIMES", "FREQ=DAILY;FREQ=DAILY", "FREQ=DAILY;X-A=1"),
        *("FREQ=DAILY;INTERVAL=0", "FREQ=DAILY;INTERVAL=-1", "FREQ=DAILY;COUNT=0", "FREQ=DAILY;COUNT=1000001"),
        *("FREQ=DAILY;COUNT=1;UNTIL=20270101", "FREQ=DAILY;UNTIL=20271301", "FREQ=DAILY;UNTIL=20270101T000000"),
        *("FREQ=DAILY;BYHOUR=24", "FREQ=DAILY;BYMINUTE=60", "FREQ=DAILY;BYMONTH=0", "FREQ=DAILY;BYDAY=1MO"),
        *("FREQ=HOURLY;BYDAY=MO", "FREQ=SECONDLY;BYSECOND=1", "FREQ=DAILY;BYMONTHDAY=1", "FREQ=DAILY;BYSETPOS=1"),
        *("FREQ=WEEKLY;BYWEEKNO=1", "FREQ=MONTHLY;BYYEARDAY=1", "FREQ=YEARLY;BYEASTER=0", "FREQ=MONTHLY;BYDAY=0MO"),
        *("FREQ=DAILY;BYHOUR=9 ", "FREQ=DAILY\nCOUNT=1", "FREQ=DAILY;BYHOUR=٩", "FREQ=DAILY;"),
    ],
)
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="must"):
        read_rule(rule)


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=MONTHLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=DAILY;INTERVAL=7;BYDAY=SA",
        "FREQ=WEEKLY;BYDAY=MO;BYSETPOS=300",
        "FREQ=MONTHLY;BYDAY=+6MO",
        "FREQ=YEARLY;BYWEEKNO=20;BYMONTH=1",
        "FREQ=DAILY;UNTIL=20261121",
    ],
)
def test_rules_without_a_time_are_found_out_in_little_time(rule: str) -> None:
    began = time.process_time()
    assert first(None, rule, START) is None
    assert time.process_time() - began < 1


def test_durations_go_on_at_the_same_distance_and_leap() -> None:
    found = list(islice(occurrences("PT90M", None, START, 5), 3))
    assert found == [Occurrence(START + number * timedelta(minutes=90), 5 + number) for number in range(3)]
    assert leap("PT90M", found[0], START + timedelta(minutes=179)) == found[1]
    assert leap("PT90M", found[0], START + timedelta(minutes=180)) == found[2]
    assert leap("PT90M", found[1], START) == found[1]
    assert leap(None, found[0], LATEST) == found[0]
    assert len(list(occurrences("P36525D", None, LATEST - timedelta(days=40_000)))) == 2


@pytest.mark.parametrize(
    ("every", "seconds"), [("PT1S", 1), ("PT15M", 900), ("P1D", 86_400), ("P1W", 604_800), ("P1DT1H1M1S", 90_061)]
)
def test_durations(every: str, seconds: int) -> None:
    assert duration_of(every) == timedelta(seconds=seconds)


@pytest.mark.parametrize("every", ["", "P", "PT", "P1M", "P1Y", "PT0S", "P36526D", "PT0.5S", "1D", "P1W1D", "-P1D"])
def test_other_durations_are_refused(every: str) -> None:
    with pytest.raises(ValueError, match="must"):
        duration_of(every)
