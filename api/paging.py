"""Pages of lists that are ordered by id, newest first: `?limit=` and `?cursor=`."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from api.decoding import invalid, malformed, query_of
from domain.errors import Fault

if TYPE_CHECKING:
    from litestar import Request

PARAMETERS: Final = ("cursor", "limit")
MOST_ITEMS: Final = 1_000
ITEMS: Final = 100


class Page(NamedTuple):
    """At most `limit` items, of those whose ids are below `before`."""

    limit: int
    before: UUID | None


def page_of(request: Request[Any, Any, Any]) -> Page:
    """The page that is asked for. Raises ValidationError: 400 for a cursor that is none, 422 for all else."""
    given = query_of(request)
    query = dict(given)
    before = _position(query["cursor"]) if "cursor" in query else None
    faults = [Fault(f"#/{name}", "is no parameter of this address") for name in query if name not in PARAMETERS]
    if len(given) != len(query):
        faults.append(Fault("#", "a parameter is given more than once"))
    limit = query.get("limit", str(ITEMS))
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= MOST_ITEMS):
        faults.append(Fault("#/limit", f"must be a whole number from 1 to {MOST_ITEMS}"))
    if faults:
        raise invalid(faults)
    return Page(int(limit), before)


def cursor(last: UUID) -> str:
    """What continues behind an item."""
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def _position(text: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(text + "==", altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        fault = Fault("#/cursor", "is none that was given out for this query")
        raise malformed("The cursor can't be used.", (fault,)) from None
