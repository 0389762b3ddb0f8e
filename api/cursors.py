"""Cursors: what `next` of a page says, and how it is read again."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from domain.errors import Fault, ValidationError
from infrastructure.projections import NEWEST
from infrastructure.read_models import Page


class Position(msgspec.Struct, frozen=True, array_like=True):
    """What a cursor holds: the epoch it was given out in, the digest of its query, and the last item seen."""

    epoch: int
    digest: str
    last: tuple[str | int, ...]

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


_read_position: Final = msgspec.json.Decoder(Position).decode


def bad_cursor() -> ValidationError:
    fault = Fault("#/cursor", "is none that was given out for this query")
    return ValidationError("The cursor can't be used.", (fault,), code="malformed_request")


def read_cursor(text: str, digest: str, types: tuple[type, ...]) -> Position:
    """The position in a cursor. Raises ValidationError (400) for one that was not made for this very query."""
    try:
        padded = text + "=" * (-len(text) % 4)
        position = _read_position(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise bad_cursor() from None
    last = position.last
    if position.digest != digest or len(last) != len(types) or not all(map(isinstance, last, types)):
        raise bad_cursor()
    if any("\0" in part if isinstance(part, str) else not 0 <= part <= NEWEST for part in last):
        raise bad_cursor()
    return position


def check_epoch(after: Position | None, epoch: int) -> None:
    """A cursor does not outlive a restored backup: what it points behind may have been undone."""
    if after is not None and after.epoch != epoch:
        raise bad_cursor()


def next_of(digest: str, epoch: int, page: Page[Any], *pinned: int) -> str | None:
    """The cursor of what follows a page, if anything does; `pinned` is what holds for the pages behind it, too."""
    return None if page.last is None else Position(epoch, digest, (*page.last, *pinned)).text()
