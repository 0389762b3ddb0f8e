"""Templates: texts with column names in braces, filled in from each row of a CSV file.

bank:{account}                      the column `account`
{operation or purpose or 'other'}   the first of these that is not blank; a quoted one is a text of its own
{operation|slug}                    filtered: see FILTERS
{booked|date %d.%m.%Y}T00:00:00Z    a filter with an argument
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

Filter = Callable[[str, str], str]

_HOLE: Final = re.compile(r"\{([^{}]*)\}")
_OR: Final = re.compile(r"\s+or\s+")
_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9_.-]+")
# A segment of an account's name holds at most this many characters.
_SEGMENT: Final = 64


class TemplateError(Exception):
    """A template that can't be read, or that names a column or filter there is not."""


def _slug(text: str, _: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return _NOT_IN_NAMES.sub("-", plain).strip("-.")[:_SEGMENT]


def _number(text: str, _: str) -> str:
    return re.sub(r"[\s,'’]", "", text)


def _comma(text: str, _: str) -> str:
    return re.sub(r"[\s.'’]", "", text).replace(",", ".")


def _date(text: str, form: str) -> str:
    return datetime.strptime(text, form).date().isoformat()


def _time(text: str, form: str) -> str:
    moment = datetime.strptime(text, form)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


FILTERS: Final[Mapping[str, tuple[Filter, str]]] = {
    "slug": (_slug, "fit for an account's name: `VYBER KARTOU` is `vyber-kartou`"),
    "lower": (lambda text, _: text.lower(), "in small letters"),
    "upper": (lambda text, _: text.upper(), "in capitals"),
    "number": (_number, "an amount written 1,234.50"),
    "comma": (_comma, "an amount written 1.234,50"),
    "date": (_date, "a day written as the argument says (strptime), as YYYY-MM-DD"),
    "time": (_time, "a moment written as the argument says (strptime), in UTC unless it has %z"),
}


@dataclass(frozen=True, slots=True)
class _Hole:
    # column names, and texts of their own, which have no column
    choices: tuple[tuple[str | None, str], ...]
    filters: tuple[tuple[Filter, str], ...]

    def fill(self, row: Mapping[str, str]) -> str:
        text = ""
        for column, literal in self.choices:
            text = literal if column is None else row[column].strip()
            if text:
                break
        if text:
            for apply, argument in self.filters:
                text = apply(text, argument)
        return text


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: texts with holes between them."""

    parts: tuple[str | _Hole, ...]

    @classmethod
    def parse(cls, text: str, columns: Sequence[str]) -> Template:
        """Raises TemplateError, naming what is wrong and what there is."""
        pieces = _HOLE.split(text)
        if any("{" in piece or "}" in piece for piece in pieces[::2]):
            raise TemplateError(f"{text!r} has an unmatched brace.")
        made = [_parse_hole(piece, columns) if number % 2 else piece for number, piece in enumerate(pieces)]
        return cls(tuple(part for part in made if part != ""))

    def fill(self, row: Mapping[str, str]) -> str:
        """The text for one row. A blank column is a blank text. Raises ValueError where a filter can't read it."""
        return "".join(part if isinstance(part, str) else part.fill(row) for part in self.parts).strip()


def _parse_hole(inside: str, columns: Sequence[str]) -> _Hole:
    alternatives, *filters = inside.split("|")
    choices = tuple(_parse_choice(choice.strip(), columns) for choice in _OR.split(alternatives.strip()))
    return _Hole(choices, tuple(_parse_filter(text.strip()) for text in filters))


def _parse_choice(text: str, columns: Iterable[str]) -> tuple[str | None, str]:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return None, text[1:-1]
    if text not in columns:
        raise TemplateError(f"There is no column {text!r}; the file has {', '.join(columns)}.")
    return text, ""


def _parse_filter(text: str) -> tuple[Filter, str]:
    name, _, argument = text.partition(" ")
    if name not in FILTERS:
        raise TemplateError(f"There is no filter {name!r}; there are {', '.join(FILTERS)}.")
    return FILTERS[name][0], argument
