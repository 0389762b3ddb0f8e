"""What the layers in front of the router know about a request, and what route handlers may read of it.

One `Edge` a request, made by CorrelationID and kept in `scope["state"]["edge"]`; handlers get it by `edge_of(request)`:

- `principal`: who is asking. Set whenever the path is protected (`/v1/…`, `/auth/me`, …). Handlers call
  `caller(request)`, which raises 401 without one, so that a path which slipped past the layer stays shut, and 403 for
  an API key. Those that are open to keys call `principal_of(request)` and ask what it `reaches` and `has`.
- `grant`: the role in `view:{ledger}:grant:{user}` as RateLimit's one trip to Redis found it, for `authorise`.
- `target`: what path and query are about (`api.targets.Target`), and where the answer of a GET belongs in Redis:
    - `target.view`: the slot of a single thing, `view:{ledger}:account:{name}` or `view:{ledger}:transaction:{id}`,
      when there are no query parameters but `min_version`;
    - `target.tail`: for anything else below `/v1/ledgers/{ledger}` the end of a list's key: path and query, sorted,
      without `min_version`. The key is `cache.list_key(ledger, seq, tail)` with `seq` = `{epoch}.{seq}` of the snapshot
      that answered;
    - both empty: the answer is not to be cached.
- `cached`: what Redis held there. For a view its slot `V:{epoch}.{version}.{seq}\\n{json}` (leases and tombstones come
  as None), for a list the stored bytes. None: ask Postgres, and fill.
- `ledger_seq`: `{epoch}.{seq}` from the slot `seq:{ledger}`, for lists only; None when it is absent or being written.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from domain.errors import AuthError
from infrastructure.principals import Principal as Principal
from infrastructure.principals import SessionPrincipal

if TYPE_CHECKING:
    from litestar import Request

    from api.targets import Target
    from infrastructure.api_keys import KnownKey
    from infrastructure.tokens import Verified


class Edge:
    """One request as the layers see it. Mutable: each layer adds what it found out."""

    __slots__ = (
        "address",
        "bearer",
        "cached",
        "correlation_id",
        "grant",
        "grant_key",
        "headers",
        "ledger_seq",
        "limits",
        "method",
        "path",
        "principal",
        "session",
        "started_at",
        "target",
        "token",
    )

    def __init__(
        self, correlation_id: str, method: str, path: str, target: Target, headers: dict[bytes, bytes]
    ) -> None:
        self.correlation_id = correlation_id
        self.method = method
        self.path = path
        self.target = target
        self.headers = headers
        self.started_at = perf_counter()
        self.address = ""
        # what the answer says about the limit that the request counted against
        self.limits: tuple[tuple[bytes, bytes], ...] = ()
        self.bearer: bytes | None = None
        # the bearer token once this process has verified it, or the API key that it knows: whether the session still
        # lives, or the key is still good, is yet to be checked
        self.token: Verified | KnownKey | None = None
        # the slot that says so, if Redis had it
        self.session: bytes | None = None
        self.principal: Principal | None = None
        self.grant_key = ""
        self.grant: str | None = None
        self.cached: bytes | None = None
        self.ledger_seq: str | None = None


def edge_of(request: Request[Any, Any, Any]) -> Edge:
    """What the layers know about `request`."""
    edge: Edge = request.scope["state"]["edge"]
    return edge


def caller(request: Request[Any, Any, Any]) -> SessionPrincipal:
    """Who is asking, having logged in. For whatever is closed to API keys, which is all that does not say otherwise.

    Raises AuthError: 401 for a request without a login, 403 for one with an API key.
    """
    principal = principal_of(request)
    if not isinstance(principal, SessionPrincipal):
        raise AuthError("forbidden", "API keys are not good for this; log in.")
    return principal


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who is asking, logged in or with an API key: for handlers that heed what the credential is good for.

    Raises AuthError (401) for a request that has neither.
    """
    principal = edge_of(request).principal
    if principal is None:
        raise unauthorized()
    return principal


def unauthorized() -> AuthError:
    """401 `unauthorized`, in the same words whatever is wrong with the token."""
    return AuthError("unauthorized", "This needs a valid access token.")
