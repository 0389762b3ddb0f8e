"""Tokens: access tokens (JWT, HS256) that any process can verify, and refresh tokens that are derived, never stored.

Keys come from the secret by HMAC, one for each purpose. An access token names its key by `kid`, which only looks up a
map, so that a former secret's tokens stay good until they expire.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from typing import Final
from uuid import UUID

import jwt
import msgspec

from infrastructure.principals import SessionPrincipal
from infrastructure.sessions import session_key
from infrastructure.settings import Settings

ISSUER: Final = "daybook"
AUDIENCE: Final = "daybook-api"
ALGORITHM: Final = "HS256"
LEEWAY_S: Final = 5
"""Clocks of machines that make and verify tokens may differ by so much."""

MOST_VERIFIED: Final = 10_000
LONGEST_TOKEN: Final = 2_048

_REFRESH_PREFIX: Final = "dbr_"
_MAC_BYTES: Final = 32
_CLAIMS: Final = ["iss", "aud", "sub", "sid", "jti", "typ", "iat", "nbf", "exp"]


class Verified(msgspec.Struct):
    """An access token whose signature and claims hold. Whether its session still lives is another question."""

    user_id: UUID
    session_id: UUID
    expires_at: float
    # what the token's session and principal are called in Redis
    session_key: str
    bucket: str
    # the session's slot in Redis as last seen, and what was made of it: equal bytes need no second decoding
    seen: bytes | None = None
    principal: SessionPrincipal | None = None


class RefreshToken(msgspec.Struct, frozen=True):
    """What a refresh token says, once its authenticity is proven: the session and the token's number in it."""

    session_id: UUID
    generation: int


class Tokens:
    """Makes and verifies both kinds of tokens."""

    def __init__(self, settings: Settings) -> None:
        secrets_in_use = [settings.secret_key, *([settings.former_secret_key] if settings.former_secret_key else [])]
        keys = [_derive(secret, "access token") for secret in secrets_in_use]
        self._keys: Final = {_name(key): key for key in keys}
        self._kid: Final = _name(keys[0])
        self._refresh_keys: Final = [_derive(secret, "refresh token") for secret in secrets_in_use]
        self._verified: Final[OrderedDict[bytes, Verified]] = OrderedDict()

    def issue(self, user_id: UUID, session_id: UUID, lifetime_s: int) -> str:
        """An access token for `lifetime_s` seconds."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": secrets.token_hex(8),
            "typ": "access",
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_s,
        }
        return jwt.encode(claims, self._keys[self._kid], ALGORITHM, headers={"kid": self._kid, "typ": "at+jwt"})

    def recall(self, token: bytes) -> Verified | None:
        """The token if this process verified it before and its time is not over. No cryptography."""
        verified = self._verified.get(token)
        if verified is None:
            return None
        if verified.expires_at <= time.time():
            del self._verified[token]
            return None
        self._verified.move_to_end(token)
        return verified

    def verify(self, token: bytes) -> Verified | None:
        """What the access token says; None when it is not ours, not for us, not an access token or not in its time."""
        verified = self._decode(token)
        if verified is not None:
            self._verified[token] = verified
            if len(self._verified) > MOST_VERIFIED:
                self._verified.popitem(last=False)
        return verified

    def _decode(self, token: bytes) -> Verified | None:
        if len(token) > LONGEST_TOKEN:
            return None
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid", ""))
            if key is None or header.get("typ") != "at+jwt":
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                leeway=LEEWAY_S,
                options={"require": _CLAIMS, "strict_aud": True},
            )
            if claims["typ"] != "access":
                return None
            user_id, session_id = UUID(claims["sub"]), UUID(claims["sid"])
            expires_at = claims["exp"] + LEEWAY_S
            return Verified(user_id, session_id, expires_at, session_key(session_id), f"principal:{user_id}")
        except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
            return None

    def refresh_token(self, session_id: UUID, generation: int) -> str:
        """Refresh token number `generation` of a session."""
        said = session_id.bytes + generation.to_bytes(4, "big")
        return _REFRESH_PREFIX + urlsafe_b64encode(said + _mac(self._refresh_keys[0], said)).decode().rstrip("=")

    def read_refresh_token(self, token: str) -> RefreshToken | None:
        """What a refresh token says; None when we never made it."""
        if not token.startswith(_REFRESH_PREFIX) or not token.isascii() or len(token) > LONGEST_TOKEN:
            return None
        encoded = token[len(_REFRESH_PREFIX) :]
        try:
            raw = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
        except ValueError:
            return None
        said, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        genuine = [hmac.compare_digest(mac, _mac(key, said)) for key in self._refresh_keys]
        if len(said) != 20 or not any(genuine):
            return None
        return RefreshToken(UUID(bytes=said[:16]), int.from_bytes(said[16:], "big"))


def _derive(secret: str, purpose: str) -> bytes:
    return hmac.digest(secret.encode(), f"daybook {purpose} 1".encode(), "sha256")


def _name(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:8]


def _mac(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, said, "sha256")
