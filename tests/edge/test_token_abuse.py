"""Forged, borrowed, stale and crooked tokens over HTTP: one answer for them all, and nothing comes of them."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infrastructure import signing_keys
from infrastructure.settings import Settings
from infrastructure.signing_keys import Keyring, SigningKey
from tests.journals import on_a_loop
from tests.service import Service, User, running_service

Json = dict[str, Any]
Sign = Callable[[bytes], bytes]

COUNTS = """
SELECT (SELECT count(*) FROM commands), (SELECT count(*) FROM ledger_reservations),
    (SELECT count(*) FROM sessions WHERE ended_at IS NULL)
"""


def spelled(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def shared(key: bytes, digest: str = "sha256") -> Sign:
    return lambda text: hmac.digest(key, text, digest)


@dataclass
class Forger:
    """Knows a good token's content, the public keys, and, to show what else is looked at, the secret ones."""

    header: Json
    claims: Json
    ring: Keyring
    session: UUID
    refresh_token: str

    @property
    def pair(self) -> SigningKey:
        return self.ring.signing

    @property
    def older(self) -> SigningKey:
        return next(key for key in self.ring.verifying.values() if key.algorithm == "HS256")

    @property
    def public(self) -> Ed25519PublicKey:
        assert isinstance(self.pair.verifier, Ed25519PublicKey)
        return self.pair.verifier

    def genuine(self, text: bytes) -> bytes:
        assert isinstance(self.pair.signer, Ed25519PrivateKey)
        return self.pair.signer.sign(text)

    def token(self, header: Json | None = None, sign: Sign | None = None, **claims: Any) -> bytes:
        """Genuine but for what is given; a member of None is left out."""
        parts = ({**self.header, **(header or {})}, {**self.claims, **claims})
        kept = [{name: value for name, value in part.items() if value is not None} for part in parts]
        text = b".".join(spelled(json.dumps(part).encode()) for part in kept)
        return text + b"." + spelled((sign or self.genuine)(text))

    def by_older(self, header: Json | None = None, **claims: Any) -> bytes:
        return self.token(
            {"alg": "HS256", "kid": self.older.kid, **(header or {})}, shared(self.older.private), **claims
        )


MINE = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
MY_RSA = rsa.generate_private_key(65_537, 2_048)
MY_JWK = {"kty": "OKP", "crv": "Ed25519", "x": spelled(MINE.public_key().public_bytes_raw()).decode()}
PEM, INFO = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
ELSEWHERE = "https://keys.example/jwks.json"


def by_rsa(text: bytes) -> bytes:
    return MY_RSA.sign(text, padding.PKCS1v15(), hashes.SHA256())


def nothing(_: bytes) -> bytes:
    return b""


def now() -> int:
    return int(time.time())


FORGED: dict[str, Callable[[Forger], bytes]] = {
    "an empty token": lambda _: b"",
    "no token at all": lambda _: b"let.me.in",
    **{
        f"alg {alg!r}, {how}": lambda forger, alg=alg, sign=sign: forger.token({"alg": alg}, sign)
        for alg in ("none", "None", "NONE", "", None)
        for how, sign in (("unsigned", nothing), ("signed", None))
    },
    "HS256 with the public key's bytes": lambda f: f.token({"alg": "HS256"}, shared(f.public.public_bytes_raw())),
    "HS256 with the public key as PEM": lambda f: f.token({"alg": "HS256"}, shared(f.public.public_bytes(PEM, INFO))),
    "HS256 with the key set": lambda f: f.token({"alg": "HS256"}, shared(f.ring.jwks())),
    "RS256 for a key of EdDSA": lambda f: f.token({"alg": "RS256"}, by_rsa),
    "RS256 for a key of HS256": lambda f: f.token({"alg": "RS256", "kid": f.older.kid}, by_rsa),
    "EdDSA for a key of HS256": lambda f: f.token({"kid": f.older.kid}, MINE.sign),
    "the one key's token in the other's name": lambda f: f.by_older({"kid": f.pair.kid}),
    "HS512 for a key of HS256": lambda f: f.token(
        {"alg": "HS512", "kid": f.older.kid}, shared(f.older.private, "sha512")
    ),
    **{
        f"kid {kid!r:.40}": lambda forger, kid=kid: forger.token({"alg": "HS256", "kid": kid}, shared(b""))
        for kid in (
            *("../../../../dev/null", "/proc/self/environ", "file:///dev/null", "%00", "a\0b", "", "*", "k" * 1_400),
            *("' OR '1'='1", "x' UNION SELECT '\\x00' --", "'; DROP TABLE signing_keys; --", "0" * 16),
            *(None, 7, True, ["a"], {"a": 1}),
        )
    },
    "a key of its own": lambda f: f.token(None, MINE.sign),
    "jwk": lambda f: f.token({"jwk": MY_JWK}, MINE.sign),
    "jwk without kid": lambda f: f.token({"jwk": MY_JWK, "kid": None}, MINE.sign),
    **{
        f"{member}{'' if signed else ' and a key of its own'}": lambda f, member=member, signed=signed: f.token(
            {member: [ELSEWHERE] if member == "x5c" else ELSEWHERE}, None if signed else MINE.sign
        )
        for member in ("jku", "x5u", "x5c", "x5t")
        for signed in (True, False)
    },
    "crit unknown": lambda f: f.token({"crit": ["exp"], "exp": 9}),
    "crit known to libraries": lambda f: f.token({"crit": ["b64"], "b64": True}),
    "crit detached": lambda f: f.token({"crit": ["b64"], "b64": False}),
    "crit empty": lambda f: f.token({"crit": []}),
    "crit no list": lambda f: f.token({"crit": "b64"}),
    "expired": lambda f: f.token(exp=now() - 60),
    "expired, of the older key": lambda f: f.by_older(exp=now() - 60),
    "not valid yet": lambda f: f.token(nbf=now() + 60),
    "issued in the future": lambda f: f.token(iat=now() + 60),
    "exp no number": lambda f: f.token(exp="tomorrow"),
    "for others": lambda f: f.token(aud="daybook-web"),
    "for a part of us": lambda f: f.token(aud="daybook"),
    "for us and others": lambda f: f.token(aud=["daybook-api", "daybook-web"]),
    "for a list of us": lambda f: f.token(aud=["daybook-api"]),
    "by others": lambda f: f.token(iss="evil"),
    "by a part of us": lambda f: f.token(iss="day"),
    "by more than us": lambda f: f.token(iss="daybook.evil"),
    "by a list of us": lambda f: f.token(iss=["daybook"]),
    "typ refresh": lambda f: f.token(typ="refresh"),
    "typ of the header": lambda f: f.token({"typ": "JWT"}),
    "a refresh token": lambda f: f.refresh_token.encode(),
    "a user that is no id": lambda f: f.token(sub="admin"),
    "somebody else's session": lambda f: f.token(sub=str(UUID(int=7))),
    "no session": lambda f: f.token(sid=str(UUID(int=7))),
    **{
        f"without {claim}": lambda f, claim=claim: f.token(**{claim: None})
        for claim in ("iss", "aud", "sub", "sid", "jti", "typ", "iat", "nbf", "exp")
    },
    "with padding": lambda f: f.token() + b"=",
    "with a comment": lambda f: f.token() + b"!",
    "in two parts": lambda f: f.token().rpartition(b".")[0],
    "in four parts": lambda f: f.token() + b".e30",
    "endless": lambda f: f.token(jti="j" * 20_000),
}


async def a_forger(service: Service, user: User) -> Forger:
    """With keys of both kinds in force: the derived one, and one of EdDSA that replaced it."""
    settings = service.services.settings
    async with service.pool.acquire() as connection, connection.transaction():
        await signing_keys.rotate(connection, settings, "EdDSA")
    ring = await signing_keys.load(service.pool, settings)
    service.services.tokens.use(ring)
    session = await service.pool.fetchval("SELECT id FROM sessions WHERE user_id = $1", user.id)
    token = service.services.tokens.issue(user.id, session, 900)
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return Forger(header, claims, ring, session, service.services.tokens.refresh_token(session, 0))


async def create_ledger(service: Service, name: str, authorization: bytes | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return await service.client.post("/v1/ledgers", json={"id": name, "name": "Mine"}, headers=headers)


@on_a_loop
async def test_one_answer_for_all(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        user = await service.user()
        forger = await a_forger(service, user)
        before = await service.pool.fetchrow(COUNTS)
        without = await create_ledger(service, "stolen", None)
        assert (without.status_code, without.json()["code"]) == (401, "unauthorized")
        assert without.headers["www-authenticate"] == "Bearer"
        expected = {**without.json(), "correlation_id": None}
        for name, forge in FORGED.items():
            answer = await create_ledger(service, "stolen", b"Bearer " + forge(forger))
            assert answer.status_code == 401, name
            assert {**answer.json(), "correlation_id": None} == expected, name
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"', name
            assert answer.headers["content-type"] == "application/problem+json", name
            assert answer.headers["cache-control"] == "no-store", name
        for scheme in (b"", b"Basic YWRhOmFkYQ==", b"Bearer", b"Token " + forger.token()):
            answer = await create_ledger(service, "stolen", scheme)
            assert {**answer.json(), "correlation_id": None} == expected, scheme
        assert await service.pool.fetchrow(COUNTS) == before

        # the forger's own craft is good: what it does not spoil gets in, by either key
        for number, token in enumerate((forger.token(), forger.by_older(), user.headers["authorization"][7:].encode())):
            answer = await create_ledger(service, f"mine-{number}", b"Bearer " + token)
            assert answer.status_code == 202, answer.text
