"""Who may touch a ledger. What was not granted answers exactly as what does not exist.

A request with an API key may do what the key's owner may and the key is good for, both. A ledger that the key does not
name is not there for it; in others it needs `ledger:read` to read and `ledger:write` to command. One does not bring the
other, but who may command is shown what has come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from api.context import services_of
from api.edge import edge_of, principal_of
from domain.errors import AuthError, NotFoundError
from domain.ledger.model import CREATORS, RANKS
from infrastructure.grants import grant_key
from infrastructure.principals import KeyPrincipal, Principal, Scope

if TYPE_CHECKING:
    from uuid import UUID

    from litestar import Request

Role = Literal["reader", "writer", "owner"]


async def authorise(request: Request[Any, Any, Any], ledger: str, need: Role, scope: Scope | None = None) -> None:
    """Returns when the caller has at least the role `need` in the ledger; admins own every ledger there is.

    An API key must have the scope: by default that of reading where a reader will do, else that of commanding.
    Raises AuthError: 401, or 403 for too low a role or a scope that is missing; NotFoundError (404) without any role.
    """
    edge = edge_of(request)
    principal = principal_of(request)
    if not principal.reaches(ledger):
        raise NotFoundError
    role = edge.grant
    if role is None or edge.grant_key != grant_key(ledger, principal.user_id, principal.is_admin):
        role = await services_of(request).grants.find(ledger, principal.user_id, principal.is_admin)
        if role is None:
            raise NotFoundError
    if RANKS[role] < RANKS[need]:
        raise AuthError("forbidden", f"This needs the role {need}.")
    require(principal, scope or ("ledger:read" if need == "reader" else "ledger:write"))


def require(principal: Principal, scope: Scope) -> None:
    """Raises AuthError (403) for an API key without the scope."""
    if not principal.has(scope):
        raise AuthError("forbidden", f"This needs an API key with the scope {scope}.")


def authorise_creation(principal: Principal) -> None:
    """Raises AuthError (403) for who may not create ledgers: operators, and keys that are limited to some ledgers."""
    if CREATORS.isdisjoint(principal.roles):
        raise AuthError("forbidden", "This needs the role user.")
    require(principal, "ledger:write")
    if isinstance(principal, KeyPrincipal) and principal.ledgers is not None:
        raise AuthError("forbidden", "This needs an API key that is not limited to some ledgers.")


def may_replay(principal: Principal, actor: str) -> bool:
    """Whether the caller's credential is good for commands to an actor, and with that for what its keys stand for."""
    return principal.has("ledger:write") and principal.reaches_actor(actor)


def sees_job(principal: Principal, actor: str, submitter: UUID) -> bool:
    """Whether the credential shows a job, or a batch, that its user may see: those of others only if it is to read."""
    return principal.reaches_actor(actor) and (principal.has("ledger:read") or submitter == principal.user_id)
