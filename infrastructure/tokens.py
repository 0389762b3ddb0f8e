"""Tokens: access tokens (JWT) that any process can verify, and refresh tokens that are derived, never stored.

An access token names its key by `kid`, which only looks up a map; the key says which algorithm it is for. A header with
anything else in it (another key, where to find one, extensions) is none of ours. Refresh tokens are good for this
service alone: their key is derived from the secret, and the former secret's are read as well.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from typing import Final
from uuid import UUID

import jwt
import msgspec

from domain.errors import InfrastructureError
from infrastructure.principals import SessionPrincipal
from infrastructure.sessions import session_key
from infrastructure.settings import Settings
from infrastructure.signing_keys import Keyring, derive

ISSUER: Final = "daybook"
AUDIENCE: Final = "daybook-api"
LEEWAY_S: Final = 5
"""Clocks of machines that make and verify tokens may differ by so much."""

MOST_VERIFIED: Final = 10_000
LONGEST_TOKEN: Final = 2_048

_REFRESH_PREFIX: Final = "dbr_"
_MAC_BYTES: Final = 32
_HEADER: Final = {"alg", "kid", "typ"}
_KID: Final = re.compile("[0-9a-f]{16}")
_CLAIMS: Final = ["iss", "aud", "sub", "sid", "jti", "typ", "iat", "nbf", "exp"]


class Verified(msgspec.Struct):
    """An access token whose signature and claims hold. Whether its session still lives is another question."""

    user_id: UUID
    session_id: UUID
    expires_at: float
    # what the token's session and principal are called in Redis
    slot_key: str
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

    def __init__(self, settings: Settings, ring: Keyring | None = None) -> None:
        secrets_in_use = [secret for secret in (settings.secret_key, settings.former_secret_key) if secret]
        self._refresh_keys: Final = [derive(secret, "refresh token") for secret in secrets_in_use]
        self._verified: Final[OrderedDict[bytes, Verified]] = OrderedDict()
        self.ring = ring

    @property
    def keys(self) -> Keyring:
        """The keys to sign and verify with. Raises InfrastructureError while they are not known."""
        if self.ring is None:
            raise InfrastructureError("The signing keys are not known yet.")
        return self.ring

    def use(self, ring: Keyring) -> bool:
        """Signs and verifies with these keys from now on. If they are others, forgets what it verified; tells so."""
        if ring == self.ring:
            return False
        self.ring = ring
        self._verified.clear()
        return True

    def issue(self, user_id: UUID, session_id: UUID, lifetime_s: int) -> str:
        """An access token for `lifetime_s` seconds. Raises InfrastructureError while there is no key."""
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
        key = self.keys.signing
        return jwt.encode(claims, key.signer, key.algorithm, headers={"kid": key.kid, "typ": "at+jwt"})

    def knows_key_of(self, token: bytes) -> bool:
        """False if the token names a key that might be one of ours, but is not known here."""
        if self.ring is None:
            return False
        kid = _kid_of(token)
        return kid is None or kid in self.ring.verifying

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
        """What the access token says; None when it is not ours, not for us, not an access token or not in its time.

        Raises InfrastructureError while the keys are not known.
        """
        verified = self._decode(token)
        if verified is not None:
            self._verified[token] = verified
            if len(self._verified) > MOST_VERIFIED:
                self._verified.popitem(last=False)
        return verified

    def _decode(self, token: bytes) -> Verified | None:
        kid = _kid_of(token)
        key = self.keys.verifying.get(kid) if kid is not None else None
        if key is None or not _is_canonical(token):
            return None
        try:
            claims = jwt.decode(
                token,
                key.verifier,
                algorithms=[key.algorithm],
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
        return _REFRESH_PREFIX + _encode(said + _mac(self._refresh_keys[0], said))

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
        if len(said) != 20 or not any(genuine) or _encode(raw) != encoded:
            return None
        return RefreshToken(UUID(bytes=said[:16]), int.from_bytes(said[16:], "big"))


def _kid_of(token: bytes) -> str | None:
    """The key that a token names, unverified; None when it is no access token of anybody's."""
    if len(token) > LONGEST_TOKEN:
        return None
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, ValueError, TypeError):
        return None
    kid = header.get("kid")
    ours = header.keys() == _HEADER and header["typ"] == "at+jwt" and isinstance(kid, str) and _KID.fullmatch(kid)
    return kid if ours else None


def _is_canonical(token: bytes) -> bool:
    """Whether the signature is spelled as we spell it: base64 has several ways, and a token shall have one."""
    signature = token.rpartition(b".")[2]
    try:
        return _encode(urlsafe_b64decode(signature + b"=" * (-len(signature) % 4))).encode() == signature
    except ValueError:
        return False


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _mac(key: bytes, said: bytes) -> bytes:
    return hmac.digest(key, said, "sha256")
