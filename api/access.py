"""Who may touch a ledger. What was not granted answers exactly as what does not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from api.context import services_of
from api.edge import edge_of, principal_of
from domain.errors import AuthError, NotFoundError
from infrastructure.grants import grant_key

if TYPE_CHECKING:
    from litestar import Request

Role = Literal["reader", "writer", "owner"]

_RANKS: Final[dict[bytes | str, int]] = {
    b"V:reader": 1,
    b"V:writer": 2,
    b"V:owner": 3,
    "reader": 1,
    "writer": 2,
    "owner": 3,
}


async def authorise(request: Request[Any, Any, Any], ledger: str, need: Role) -> None:
    """Returns when the caller has at least the role `need` in the ledger; admins own every ledger there is.

    Raises AuthError: 401, or 403 for too low a role; NotFoundError (404) without any.
    """
    edge = edge_of(request)
    principal = principal_of(request)
    slot = edge.grant
    if slot is None or edge.grant_key != grant_key(ledger, principal.user_id, principal.is_admin):
        slot = await services_of(request).grants.find(ledger, principal.user_id, principal.is_admin)
        if slot is None:
            raise NotFoundError
    if _RANKS[slot] < _RANKS[need]:
        raise AuthError("forbidden", f"This needs the role {need}.")
