"""`GET /.well-known/jwks.json`: what other services verify access tokens with, where keys of EdDSA sign them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response, get

from api.context import services_of

CACHED_S: Final = 60
"""How long others may go on with what they fetched, and so how long they may believe in a key that was retired."""


class Jwk(msgspec.Struct, frozen=True):
    """A public key (RFC 8037). Find it by a token's `kid`, and take no other algorithm than `alg`."""

    kty: str
    crv: str
    x: str
    kid: str
    alg: str
    use: str


class JwkSet(msgspec.Struct, frozen=True):
    """The public keys (RFC 7517); none where tokens are signed by HS256, whose keys are secret."""

    keys: list[Jwk]


@get("/.well-known/jwks.json", answers={200: JwkSet})
async def jwks(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Public keys of access tokens."""
    ring = await services_of(request).key_watch.ring()
    headers = {"cache-control": f"public, max-age={CACHED_S}"}
    return Response(ring.jwks(), media_type="application/json", headers=headers)


ROUTES: Final = [jwks]
