"""What the layers in front of the router know about a request, and what route handlers may read of it.

One `Edge` a request, made by CorrelationID and kept in `scope["state"]["edge"]`; handlers get it by `edge_of(request)`:

- `principal`: who is asking. Set whenever the path is protected (`/v1/…`, `/auth/me`, …); `caller(request)` gives it
  or raises 401, and is what handlers call, so that a path which slipped past the layer stays shut.
- `grant`: the raw slot of `grant:{ledger}:{user}` as RateLimit's one Redis trip found it; read it by `api.access.authorise`.
- `cache_key`: for a GET below `/v1/ledgers/{ledger}` that is cacheable, where its answer belongs in Redis:
    - `view:{ledger}:account:{name}` or `view:{ledger}:transaction:{id}` for a single thing without query parameters;
    - for everything else the tail of a list key: the path and the query, sorted, without `min_version`. The whole key is
      `cache.list_key(ledger, seq, tail)`, where `seq` is `{epoch}.{seq}` of the snapshot that answered.
  `is_list` tells which. None when the request is not cacheable or its names are malformed.
- `cached`: what Redis held for that: a single thing's slot `V:{epoch}.{version}.{seq}\\n{json}` (leases and tombstones come
  as None), or a list's stored bytes. None: ask Postgres, and fill.
- `ledger_seq`: `{epoch}.{seq}` from the slot `seq:{ledger}`, for lists only; None when it is absent or being written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from domain.errors import AuthError

if TYPE_CHECKING:
    from litestar import Request

ROLES: Final = ("admin", "operator", "user")


class Principal(msgspec.Struct, frozen=True):
    """The user behind a request, and the session the access token belongs to."""

    user_id: UUID
    username: str
    roles: tuple[str, ...]
    session_id: UUID

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles


class Edge:
    """One request as the layers see it. Mutable: each layer adds what it found out."""

    __slots__ = (
        "address",
        "bucket",
        "cache_key",
        "cached",
        "correlation_id",
        "grant",
        "grant_key",
        "headers",
        "is_list",
        "ledger",
        "ledger_seq",
        "principal",
        "session",
        "started_at",
        "token",
    )

    def __init__(self, correlation_id: str, headers: dict[bytes, bytes], started_at: float) -> None:
        self.correlation_id = correlation_id
        self.headers = headers
        self.started_at = started_at
        self.address = ""
        self.bucket = ""
        self.principal: Principal | None = None
        # a token that this process verified before (infrastructure.tokens.Verified), not yet checked for its session
        self.token: Any = None
        self.session: bytes | None = None
        self.ledger: str | None = None
        self.grant: bytes | None = None
        self.grant_key: str | None = None
        self.cache_key: str | None = None
        self.is_list = False
        self.cached: bytes | None = None
        self.ledger_seq: str | None = None


def edge_of(request: Request[Any, Any, Any]) -> Edge:
    """What the layers know about `request`."""
    edge: Edge = request.scope["state"]["edge"]
    return edge


def caller(request: Request[Any, Any, Any]) -> Principal:
    """Who is asking. Raises AuthError (401) for a request that is not logged in."""
    principal = edge_of(request).principal
    if principal is None:
        raise AuthError("unauthorized", "This needs a valid access token.")
    return principal
