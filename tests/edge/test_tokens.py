"""Tokens that are not ours, not for us or not of now get the one answer: no."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any
from uuid import uuid4

import jwt
import pytest

from infrastructure import tokens as module
from infrastructure.settings import Settings, parse
from infrastructure.signing_keys import derived_ring
from infrastructure.tokens import Tokens

SECRET, OTHER = "first " * 6, "other " * 6


def settings(secret: str = SECRET, former: str = "") -> Settings:
    return parse(
        {
            "DAYBOOK_DATABASE_URL": "postgresql://nowhere/x",
            "DAYBOOK_REDIS_URL": "redis://nowhere",
            "DAYBOOK_KAFKA_SERVERS": "nowhere:1",
            "DAYBOOK_SECRET_KEY": secret,
            "DAYBOOK_FORMER_SECRET_KEY": former,
        }
    )


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


RING = derived_ring(settings())
KEY = RING.signing.private
TOKENS = Tokens(settings(), RING)
USER, SESSION = uuid4(), uuid4()
HEADER, CLAIMS = parts(TOKENS.issue(USER, SESSION, 900))


def forged(header: dict[str, Any] | None = None, key: bytes = KEY, **claims: Any) -> bytes:
    """A token signed with our own key, but for what is changed; a claim of None is left out."""
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(said, key, "HS256", headers={**HEADER, **(header or {})}).encode()


def test_a_token_of_ours() -> None:
    found = TOKENS.verify(forged())
    assert found is not None
    assert (found.user_id, found.session_id) == (USER, SESSION)


def signed_with_sha512() -> bytes:
    """With our key, whose length PyJWT would object to."""
    said = (json.dumps({**HEADER, "alg": "HS512"}), json.dumps(CLAIMS))
    text = b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in said)
    return text + b"." + base64.urlsafe_b64encode(hmac.digest(KEY, text, "sha512")).rstrip(b"=")


NOW = int(time.time())

REFUSED = {
    "empty": b"",
    "no JWT": b"abc",
    "three dots": b"...",
    "algorithm none": jwt.encode(CLAIMS, None, "none", headers={"kid": HEADER["kid"]}).encode(),
    "another algorithm": signed_with_sha512(),
    "another key": forged(key=b"k" * 32),
    "unknown kid": forged({"kid": "nobody"}),
    "kid that is a path": forged({"kid": "../../dev/null"}),
    "kid that is no text": base64.urlsafe_b64encode(b'{"alg":"HS256","kid":[]}').rstrip(b"=") + b".e30.x",
    "critical extension": forged({"crit": ["b64"], "b64": True}),
    "another header typ": forged({"typ": "JWT"}),
    "another audience": forged(aud="daybook-web"),
    "several audiences": forged(aud=["daybook-api", "other"]),
    "another issuer": forged(iss="day"),
    "expired": forged(exp=NOW - 60),
    "not yet": forged(nbf=NOW + 600),
    "from the future": forged(iat=NOW + 600),
    "a refresh token": forged(typ="refresh"),
    "user that is no id": forged(sub="root"),
    "session that is no id": forged(sid="1"),
    "endless": b"a" * 100_000,
    **{f"without {claim}": forged(None, KEY, **{claim: None}) for claim in CLAIMS},
}


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
def test_refused(token: bytes) -> None:
    assert TOKENS.verify(token) is None
    assert TOKENS.recall(token) is None


def test_what_was_verified_is_recalled_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(settings(), RING)
    token = tokens.issue(USER, SESSION, 60).encode()
    assert tokens.recall(token) is None
    verified = tokens.verify(token)
    assert tokens.recall(token) is verified
    later = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: later)
    assert tokens.recall(token) is None


def test_what_is_recalled_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VERIFIED", 2)
    tokens = Tokens(settings(), RING)
    first, second, third = (tokens.issue(USER, uuid4(), 60).encode() for _ in range(3))
    tokens.verify(first)
    tokens.verify(second)
    assert tokens.recall(first) is not None
    tokens.verify(third)
    assert [tokens.recall(token) is not None for token in (first, second, third)] == [True, False, True]


def with_derived_keys(chosen: Settings) -> Tokens:
    return Tokens(chosen, derived_ring(chosen))


def test_the_secret_changes() -> None:
    before, during, after = map(with_derived_keys, (settings(), settings(OTHER, SECRET), settings(OTHER)))
    access, refresh = before.issue(USER, SESSION, 60).encode(), before.refresh_token(SESSION, 3)
    assert during.verify(access) is not None
    assert during.read_refresh_token(refresh) is not None
    assert after.verify(access) is None
    assert after.read_refresh_token(refresh) is None
    assert after.verify(during.issue(USER, SESSION, 60).encode()) is not None


def test_refresh_tokens() -> None:
    token = TOKENS.refresh_token(SESSION, 7)
    read = TOKENS.read_refresh_token(token)
    assert read is not None
    assert (read.session_id, read.generation) == (SESSION, 7)
    raw = bytearray(base64.urlsafe_b64decode(token[4:] + "=="))
    for index in range(len(raw)):
        raw[index] ^= 1
        assert TOKENS.read_refresh_token("dbr_" + base64.urlsafe_b64encode(raw).decode()) is None
        raw[index] ^= 1
    for other in ("", "dbr_", "dbr_!", token[4:], token[:-8], token + "AAAA", "dbr_é", TOKENS.issue(USER, SESSION, 60)):
        assert TOKENS.read_refresh_token(other) is None
