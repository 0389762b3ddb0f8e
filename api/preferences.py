"""What a request prefers and repeats: `Prefer: wait=N` (RFC 7240) and `Idempotency-Key`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from litestar import Request

from domain.errors import Fault

MOST_WAIT_S: Final = 30
MOST_KEY: Final = 255

# What stands between commas that are not part of a quoted string; one that does not end takes all the rest.
_ITEM: Final = re.compile(rb'(?:"(?:[^"\\]|\\.?)*(?:"|\Z)|[^",])+')
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")

BAD_KEY: Final = Fault("Idempotency-Key", f"must be 1 to {MOST_KEY} characters")


def wait_of(request: Request[Any, Any, Any]) -> int | None:
    """The seconds the client wants to wait, at most 30; None when it does not say, or not so that it makes sense."""
    for preference in _preferences(request):
        name, _, value = preference.partition(b"=")
        if name.strip().lower() == b"wait":
            seconds = value.partition(b";")[0].strip().strip(b'"')
            # More digits than this would be more than the most anyway
            return min(int(seconds[:20]), MOST_WAIT_S) if seconds.isdigit() else None
    return None


def key_of(request: Request[Any, Any, Any]) -> str | None:
    """The idempotency key as it was sent, of whatever length."""
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value.decode("latin-1")
    return None


def key_faults(key: str | None) -> tuple[Fault, ...]:
    return () if key is None or is_key(key) else (BAD_KEY,)


def is_key(key: str) -> bool:
    """Whether a text can be a key: of some length, and without what no text column takes."""
    return 1 <= len(key) <= MOST_KEY and _UNSTORABLE.search(key) is None


def _preferences(request: Request[Any, Any, Any]) -> Iterator[bytes]:
    for name, value in request.scope["headers"]:
        if name == b"prefer":
            yield from (match[0] for match in _ITEM.finditer(value))
