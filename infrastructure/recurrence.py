"""When a schedule's next times are: so much later each time, or by a recurrence rule of RFC 5545, in UTC.

The rules are evaluated by dateutil, which searches for a rule's next time until the year 9999, however many steps that
takes. So only rules are let through whose steps are few: parts where RFC 5545 has them, none beside a frequency below
a day. And as the calendar repeats itself every 400 years, the search is done in the last of them. A search goes on from
the last time found, which gives the same times as one from the very first: what a rule does not say (a weekday, a
minute) is the same for all of its times. COUNT and UNTIL are therefore looked after here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from dateutil.rrule import rrulestr

from domain.clock import LATEST
from domain.ledger.schedules import duration_of

MOST_COUNT: Final = 1_000_000
CYCLE_YEARS: Final = 400
_DAYS: Final = "MO|TU|WE|TH|FR|SA|SU"
_BELOW_A_DAY: Final = ("HOURLY", "MINUTELY", "SECONDLY")
_ALL: Final = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
_NUMBERED_DAY: Final = re.compile(r"[+-]?[0-9]")


def _upto(most: int, *, least: int = 1, signed: bool = False) -> tuple[str, int, int]:
    return (r"[+-]?[0-9]{1,3}" if signed else r"[0-9]{1,2}", least, most)


# Lists of numbers, by which frequencies they may come with.
_NUMBERS: Final[Mapping[str, tuple[str, int, int]]] = {
    "BYSECOND": _upto(59, least=0),
    "BYMINUTE": _upto(59, least=0),
    "BYHOUR": _upto(23, least=0),
    "BYMONTH": _upto(12),
    "BYMONTHDAY": _upto(31, signed=True),
    "BYYEARDAY": _upto(366, signed=True),
    "BYWEEKNO": _upto(53, signed=True),
    "BYSETPOS": _upto(366, signed=True),
}
_WITHIN: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("BYSECOND", "BYMINUTE", "BYHOUR", "BYDAY", "BYMONTH"), _ALL),
    "BYMONTHDAY": ("YEARLY", "MONTHLY"),
    "BYYEARDAY": ("YEARLY",),
    "BYWEEKNO": ("YEARLY",),
    "BYSETPOS": ("YEARLY", "MONTHLY", "WEEKLY"),
}
_TEXTS: Final[Mapping[str, re.Pattern[str]]] = {
    "FREQ": re.compile("|".join((*_ALL, *_BELOW_A_DAY))),
    "INTERVAL": re.compile(r"[1-9][0-9]{0,4}"),
    "COUNT": re.compile(r"[1-9][0-9]{0,6}"),
    "UNTIL": re.compile(r"[0-9]{8}(T[0-9]{6}Z)?"),
    "WKST": re.compile(_DAYS),
    "BYDAY": re.compile(rf"([+-]?[1-9][0-9]?)?({_DAYS})(,([+-]?[1-9][0-9]?)?({_DAYS}))*"),
}


class Rule(msgspec.Struct, frozen=True):
    """A recurrence rule: `text` without its end, and the end."""

    text: str
    count: int | None
    until: datetime | None


class Occurrence(NamedTuple):
    """One of a schedule's times, and which it is: the first is number 1."""

    at: datetime
    number: int


@lru_cache(maxsize=1_024)
def read_rule(text: str) -> Rule:
    """The rule. Raises ValueError, saying what is wrong with it."""
    parts = _parts(text.upper().removeprefix("RRULE:"))
    frequency = parts.get("FREQ")
    if frequency is None:
        raise ValueError("must have a FREQ")
    for name, value in parts.items():
        _check_part(name, value, frequency)
    if "COUNT" in parts and "UNTIL" in parts:
        raise ValueError("must not have both COUNT and UNTIL")
    count = int(parts.pop("COUNT", "0")) or None
    if count is not None and count > MOST_COUNT:
        raise ValueError(f"must have a COUNT of at most {MOST_COUNT}")
    until = _until(parts.pop("UNTIL", ""))
    return Rule(";".join(f"{name}={value}" for name, value in parts.items()), count, until)


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if name in parts:
            raise ValueError(f"must not have {name} twice")
        if name not in _TEXTS and name not in _NUMBERS:
            raise ValueError(f"must have no part {name[:20]!a}")
        parts[name] = value
    return parts


def _check_part(name: str, value: str, frequency: str) -> None:
    if name in _WITHIN and frequency not in _WITHIN[name]:
        raise ValueError(f"must not have {name} with FREQ={frequency[:10]}")
    if name in _TEXTS:
        if _TEXTS[name].fullmatch(value) is None:
            raise ValueError(f"must have a {name} as RFC 5545 has it")
        if name == "BYDAY" and frequency in ("WEEKLY", "DAILY") and _NUMBERED_DAY.search(value):
            raise ValueError(f"must not number days with FREQ={frequency}")
        return
    pattern, least, most = _NUMBERS[name]
    for number in value.split(","):
        if re.fullmatch(pattern, number) is None or not least <= abs(int(number)) <= most:
            raise ValueError(f"must have a {name} of {least} to {most}")


def _until(text: str) -> datetime | None:
    """The last moment that counts; of a day without a time, the end."""
    if not text:
        return None
    try:
        if "T" in text:
            return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return datetime.strptime(text, "%Y%m%d").replace(hour=23, minute=59, second=59, tzinfo=UTC)
    except ValueError:
        raise ValueError("must have an UNTIL that there is") from None


def occurrences(every: str | None, rrule: str | None, start: datetime, number: int = 1) -> Iterator[Occurrence]:
    """A schedule's times from `start` on, of which the first has this number. Found as they are asked for."""
    if every is not None:
        yield from _regular(duration_of(every), start, number)
    elif rrule is not None:
        yield from _recurring(read_rule(rrule), start, number)


def first(every: str | None, rrule: str | None, starts_at: datetime) -> Occurrence | None:
    """A schedule's very first time, None if it has none."""
    return next(occurrences(every, rrule, starts_at), None)


def leap(every: str | None, at: Occurrence, moment: datetime) -> Occurrence:
    """The last time up to `moment`, where that takes no search; else `at`, which is one of the times."""
    if every is None or moment < at.at:
        return at
    span = duration_of(every)
    steps = (moment - at.at) // span
    return Occurrence(at.at + steps * span, at.number + steps)


def _regular(span: timedelta, start: datetime, number: int) -> Iterator[Occurrence]:
    moment = start
    while moment <= LATEST:
        yield Occurrence(moment, number)
        try:
            moment += span
        except OverflowError:
            return
        number += 1


def _recurring(rule: Rule, start: datetime, number: int) -> Iterator[Occurrence]:
    years = (datetime.max.year - start.year) // CYCLE_YEARS * CYCLE_YEARS
    shifted = start.replace(year=start.year + years, microsecond=0, tzinfo=None)
    for found in rrulestr(rule.text, dtstart=shifted):
        moment = found.replace(year=found.year - years, tzinfo=UTC)
        if (rule.count is not None and number > rule.count) or (rule.until is not None and moment > rule.until):
            return
        yield Occurrence(moment, number)
        number += 1
