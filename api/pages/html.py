"""HTML, escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

_EMPTY: Final = frozenset(("input", "link", "meta"))


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str) -> Html:
    """An element. Plain text in it is escaped; a trailing underscore of an attribute's name is left out (`class_`)."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>" if name in _EMPTY else f"<{name}{given}>{joined(*content)}</{name}>")


def joined(*content: str, between: str = "") -> Html:
    """One after the other."""
    return Html(between.join(part if isinstance(part, Html) else escape(part) for part in content))


def link(address: str, *content: str) -> Html:
    """A link within this service."""
    return element("a", *content, href=address)


def code(text: str) -> Html:
    return element("code", text)


def marked(text: str) -> Html:
    """Text with `code` between backquotes."""
    return joined(*(code(part) if index % 2 else part for index, part in enumerate(text.split("`"))))


def table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Html:
    """Rows below their headings; nothing at all without rows."""
    if not rows:
        return Html("")
    head = element("tr", *(element("th", heading) for heading in headings))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    return element("table", element("thead", head), element("tbody", *body))
