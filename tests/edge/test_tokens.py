"""Tokens that are not ours, not for us or not of now get the one answer: no."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from domain.errors import InfrastructureError
from infrastructure import tokens as module
from infrastructure.settings import Settings, parse
from infrastructure.signing_keys import Algorithm, Keyring, SigningKey, derived_ring
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


def spelled(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def forged(header: dict[str, Any] | None = None, key: bytes = KEY, **claims: Any) -> bytes:
    """A token signed with our own key, but for what is changed; a claim of None is left out."""
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    text = b".".join(spelled(json.dumps(part).encode()) for part in ({**HEADER, **(header or {})}, said))
    return text + b"." + spelled(hmac.digest(key, text, "sha256"))


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
    "a list of the audience": forged(aud=["daybook-api"]),
    "another issuer": forged(iss="evil"),
    "part of the issuer": forged(iss="day"),
    "more than the issuer": forged(iss="daybook-2"),
    "several issuers": forged(iss=["daybook"]),
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


def ring_of(algorithm: Algorithm) -> Keyring:
    key = SigningKey("0123456789abcdef", algorithm, bytes(range(32)))
    return Keyring(key, {key.kid: key})


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
RINGS: dict[str, Keyring] = {"HS256": ring_of("HS256"), "EdDSA": ring_of("EdDSA")}
ISSUED = {name: Tokens(settings(), ring).issue(USER, SESSION, 900).encode() for name, ring in RINGS.items()}
# how long an example takes depends on who else is at work
patiently = hypothesis_settings(deadline=None)
both_algorithms = pytest.mark.parametrize("algorithm", RINGS)


@both_algorithms
@patiently
@given(user=st.uuids(), session=st.uuids(), lifetime_s=st.integers(30, 86_400))
def test_what_was_issued_is_verified(algorithm: str, user: UUID, session: UUID, lifetime_s: int) -> None:
    tokens = Tokens(settings(), RINGS[algorithm])
    token = tokens.issue(user, session, lifetime_s).encode()
    found = tokens.verify(token)
    assert found is not None
    assert (found.user_id, found.session_id) == (user, session)
    assert 0 <= found.expires_at - time.time() - lifetime_s + 1 <= module.LEEWAY_S + 1
    assert tokens.recall(token) is found


@both_algorithms
def test_no_character_of_a_token_can_be_another(algorithm: str) -> None:
    token, tokens = ISSUED[algorithm], Tokens(settings(), RINGS[algorithm])
    assert tokens.verify(token) is not None
    for index, byte in enumerate(token):
        for other in {byte ^ 1, byte ^ 32, 0, 255, ord("="), ord("."), ord("A")} - {byte}:
            assert tokens.verify(token[:index] + bytes([other]) + token[index + 1 :]) is None
    # the last character's low bits are nobody's: decoders that are not strict overlook them
    last = [tokens.verify(token[:-1] + other.encode()) for other in ALPHABET if ord(other) != token[-1]]
    assert set(last) == {None}
    assert [tokens.verify(token + more) for more in (b"=", b"==", b"A", b"!", b"\n")] == [None] * 5


@both_algorithms
@patiently
@given(data=st.data())
def test_no_mutation_of_a_token_is_one(algorithm: str, data: st.DataObject) -> None:
    token, tokens = ISSUED[algorithm], Tokens(settings(), RINGS[algorithm])
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 8)))
    mutated = token[:start] + data.draw(st.binary(max_size=8)) + token[end:]
    assert tokens.verify(mutated) is None or mutated == token


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@both_algorithms
@patiently
@given(data=st.data())
def test_nobody_else_can_sign(algorithm: str, data: st.DataObject) -> None:
    """Whatever header and claims say, and whatever they are signed with, if it is not our key."""
    ring, tokens = RINGS[algorithm], Tokens(settings(), RINGS[algorithm])
    names = st.sampled_from(["alg", "kid", "typ", "crit", "jku", "jwk", "x5u", "b64", "zip", "cty"])
    given_header, given_claims = parts(ISSUED[algorithm].decode())
    header = {**given_header, **data.draw(st.dictionaries(names, JSON, max_size=3))}
    header["alg"] = data.draw(st.sampled_from(["HS256", "HS512", "EdDSA", "RS256", "none", header["alg"]]))
    claims = {**given_claims, **data.draw(st.dictionaries(st.sampled_from(list(given_claims)), JSON, max_size=3))}
    text = b".".join(spelled(json.dumps(part).encode()) for part in (header, claims))
    public = ring.signing.public or b"\0" * 32
    key = data.draw(st.sampled_from([b"", public, ring.signing.kid.encode()]) | st.binary(max_size=64))
    digest = data.draw(st.sampled_from(["sha256", "sha512"]))
    signature = data.draw(st.sampled_from([hmac.digest(key, text, digest), b"", ISSUED[algorithm].rpartition(b".")[2]]))
    assert tokens.verify(text + b"." + spelled(signature)) is None


def test_a_key_is_for_its_algorithm_alone() -> None:
    """With both kinds in use, a token of one kind that names the key of the other is nobody's."""
    shared, pair = SigningKey("a" * 16, "HS256", b"s" * 32), SigningKey("b" * 16, "EdDSA", b"p" * 32)
    tokens = Tokens(settings(), Keyring(pair, {key.kid: key for key in (shared, pair)}))
    for signer, named in ((shared, pair), (pair, shared)):
        crossed = jwt.encode(CLAIMS, signer.signer, signer.algorithm, {"kid": named.kid, "typ": "at+jwt"}).encode()
        straight = jwt.encode(CLAIMS, signer.signer, signer.algorithm, {"kid": signer.kid, "typ": "at+jwt"}).encode()
        assert tokens.verify(crossed) is None
        assert tokens.verify(straight) is not None


def test_other_keys_forget_what_was_verified() -> None:
    tokens = Tokens(settings(), RING)
    token = tokens.issue(USER, SESSION, 60).encode()
    assert tokens.verify(token) is not None
    assert not tokens.use(derived_ring(settings()))
    assert tokens.recall(token) is not None
    assert tokens.use(RINGS["HS256"])
    assert tokens.recall(token) is None
    assert tokens.verify(token) is None


def test_without_keys_there_is_no_answer() -> None:
    tokens = Tokens(settings())
    for attempt in (lambda: tokens.verify(forged()), lambda: tokens.issue(USER, SESSION, 60)):
        with pytest.raises(InfrastructureError):
            attempt()


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
    for index in range(len(token)):
        for other in {*ALPHABET, "=", "!", ""} - {token[index]}:
            assert TOKENS.read_refresh_token(token[:index] + other + token[index + 1 :]) is None
    for other in ("", "dbr_", "dbr_!", token[4:], token[:-8], token + "AAAA", "dbr_é", TOKENS.issue(USER, SESSION, 60)):
        assert TOKENS.read_refresh_token(other) is None
