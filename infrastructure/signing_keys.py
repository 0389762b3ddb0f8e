"""Keys that sign access tokens: rows in Postgres, their private part sealed under the secret key.

Of an installation that never rotated there are no rows: its key is derived from the secret, the same in every process,
and nobody had to make it. The first rotation writes that one down, too, and from then on only rows count. Of those
without `retired_at` the newest signs. A key that was rotated out verifies until `retired_at`, when the last token it
signed has expired; one that was retired, because somebody else may have it, verifies nothing from then on.

A row is sealed by AES-GCM together with its kid and algorithm, so that none can be passed off as another. The former
secret opens what it sealed; each rotation seals all rows under the secret of now.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from asyncpg import Record
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infrastructure.postgres import Db
from infrastructure.settings import Settings

Algorithm = Literal["HS256", "EdDSA"]

SLACK_S: Final = 60
"""Processes that did not hear of a rotation yet go on signing with the key before, but not for so long."""

_MOST_KEYS: Final = 1_000
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12

# Rotations come one after the other. Reading goes on.
LOCK: Final = "LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"

KEYS: Final = """
SELECT kid, algorithm, sealed, created_at, retired_at FROM signing_keys
WHERE retired_at IS NULL OR retired_at > clock_timestamp() ORDER BY created_at DESC, kid LIMIT $1
"""

INSERT_KEY: Final = """
INSERT INTO signing_keys (kid, algorithm, sealed, public_key, created_at) VALUES ($1, $2, $3, $4, clock_timestamp())
"""

ROTATE_OUT: Final = """
UPDATE signing_keys SET retired_at = clock_timestamp() + make_interval(secs => $2)
WHERE kid <> $1 AND retired_at IS NULL
"""

SEAL_AGAIN: Final = "UPDATE signing_keys SET sealed = $2 WHERE kid = $1"

RETIRE: Final = "UPDATE signing_keys SET retired_at = clock_timestamp() WHERE kid = $1"

PRUNE: Final = "DELETE FROM signing_keys WHERE retired_at <= clock_timestamp()"


class UnknownKey(Exception):
    """There is no key of that kid, or not any more."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs or once signed. `private` is 32 bytes: the shared secret of HS256, the seed of EdDSA."""

    kid: str
    algorithm: Algorithm
    private: bytes = field(repr=False)
    # what PyJWT signs and verifies with
    signer: bytes | Ed25519PrivateKey = field(init=False, repr=False, compare=False)
    verifier: bytes | Ed25519PublicKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        signer: bytes | Ed25519PrivateKey = self.private
        verifier: bytes | Ed25519PublicKey = self.private
        if self.algorithm == "EdDSA":
            signer = Ed25519PrivateKey.from_private_bytes(self.private)
            verifier = signer.public_key()
        object.__setattr__(self, "signer", signer)
        object.__setattr__(self, "verifier", verifier)

    @property
    def public(self) -> bytes | None:
        """What others may verify with; None where they would have to know the secret."""
        return self.verifier.public_bytes_raw() if isinstance(self.verifier, Ed25519PublicKey) else None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The key that signs, and by kid all that verify."""

    signing: SigningKey
    verifying: Mapping[str, SigningKey]

    def jwks(self) -> bytes:
        """The public keys as a JWK Set (RFC 7517, RFC 8037)."""
        keys = [_jwk(key.kid, key.public) for key in self.verifying.values() if key.public is not None]
        return msgspec.json.encode({"keys": keys})


@dataclass(frozen=True, slots=True)
class Stored:
    """A key as it is listed. `signs`: new tokens are signed with it; else it verifies until `retired_at`."""

    kid: str
    algorithm: str
    created_at: datetime | None
    retired_at: datetime | None
    signs: bool
    opens: bool


def derive(secret: str, purpose: str) -> bytes:
    """A key of 32 bytes from a secret, another one for each purpose."""
    return hmac.digest(secret.encode(), f"daybook {purpose} 1".encode(), "sha256")


def derived_ring(settings: Settings) -> Keyring:
    """The keys of an installation that never rotated."""
    keys = [_derived(secret) for secret in _secrets(settings)]
    return Keyring(keys[0], {key.kid: key for key in keys})


async def load(db: Db, settings: Settings) -> Keyring:
    """The keys as they are now. Raises what asyncpg raises."""
    return _ring(await db.fetch(KEYS, _MOST_KEYS), settings)


async def stored(db: Db, settings: Settings) -> list[Stored]:
    """All keys, the one that signs first."""
    rows = await db.fetch(KEYS, _MOST_KEYS)
    ring = _ring(rows, settings)
    known = {row["kid"] for row in rows}
    listed = [
        Stored(
            row["kid"],
            row["algorithm"],
            row["created_at"],
            row["retired_at"],
            row["kid"] == ring.signing.kid,
            row["kid"] in ring.verifying,
        )
        for row in rows
    ]
    derived = [
        Stored(key.kid, key.algorithm, None, None, key is ring.signing, True)
        for kid, key in ring.verifying.items()
        if kid not in known
    ]
    return sorted([*derived, *listed], key=lambda key: not key.signs)


async def rotate(db: Db, settings: Settings, algorithm: Algorithm | None = None) -> SigningKey:
    """Makes a new key that signs from now on, of the same algorithm unless another is wanted. In a transaction, please.

    Those before verify until the last token they signed has expired.
    """
    await db.execute(LOCK)
    rows = await db.fetch(KEYS, _MOST_KEYS)
    before = _ring(rows, settings)
    key = _new(algorithm or before.signing.algorithm)
    for old in before.verifying.values():
        await _keep(db, settings, old, is_new=all(row["kid"] != old.kid for row in rows))
    await _keep(db, settings, key, is_new=True)
    await db.execute(ROTATE_OUT, key.kid, float(settings.access_token_s + SLACK_S))
    await prune(db)
    return key


async def retire(db: Db, settings: Settings, kid: str) -> SigningKey | None:
    """Has a key verify nothing any more, at once. If it was the one that signs, the new one. In a transaction, please.

    Raises UnknownKey.
    """
    await db.execute(LOCK)
    rows = await db.fetch(KEYS, _MOST_KEYS)
    before = _ring(rows, settings)
    if kid not in before.verifying and all(row["kid"] != kid for row in rows):
        raise UnknownKey(kid)
    # a derived key, which is in no row, is retired by not being the last one
    needs_another = kid == before.signing.kid or all(row["kid"] != kid for row in rows)
    another = await rotate(db, settings) if needs_another else None
    await db.execute(RETIRE, kid)
    await prune(db)
    return another


async def prune(db: Db) -> None:
    """Deletes keys whose time is over."""
    await db.execute(PRUNE)


def _ring(rows: Iterable[Record], settings: Settings) -> Keyring:
    opened = [(key, row["retired_at"] is None) for row in rows if (key := _open(row, settings)) is not None]
    verifying = {key.kid: key for key, _ in opened}
    signing = next((key for key, signs in opened if signs), None)
    if signing is not None:
        return Keyring(signing, verifying)
    # no rotation yet, or none that can be read with these secrets
    derived = derived_ring(settings)
    return Keyring(derived.signing, {**derived.verifying, **verifying})


async def _keep(db: Db, settings: Settings, key: SigningKey, *, is_new: bool) -> None:
    sealed = _seal(key, settings.secret_key)
    if is_new:
        await db.execute(INSERT_KEY, key.kid, key.algorithm, sealed, key.public)
    else:
        await db.execute(SEAL_AGAIN, key.kid, sealed)


def _new(algorithm: Algorithm) -> SigningKey:
    return SigningKey(secrets.token_hex(8), algorithm, secrets.token_bytes(_KEY_BYTES))


def _derived(secret: str) -> SigningKey:
    private = derive(secret, "access token")
    return SigningKey(hashlib.sha256(private).hexdigest()[:16], "HS256", private)


def _secrets(settings: Settings) -> Sequence[str]:
    return [secret for secret in (settings.secret_key, settings.former_secret_key) if secret]


def _seal(key: SigningKey, secret: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(derive(secret, "sealing")).encrypt(nonce, key.private, _label(key.kid, key.algorithm))


def _open(row: Record | Mapping[str, Any], settings: Settings) -> SigningKey | None:
    sealed, label = bytes(row["sealed"]), _label(row["kid"], row["algorithm"])
    for secret in _secrets(settings):
        try:
            private = AESGCM(derive(secret, "sealing")).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], label)
        except (InvalidTag, ValueError):
            continue
        return SigningKey(row["kid"], row["algorithm"], private)
    return None


def _label(kid: str, algorithm: str) -> bytes:
    return f"{algorithm} {kid}".encode()


def _jwk(kid: str, public: bytes) -> dict[str, str]:
    x = urlsafe_b64encode(public).decode().rstrip("=")
    return {"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA", "use": "sig"}
