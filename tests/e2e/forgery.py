"""Access tokens as a forger would make them who has even stolen the key that signs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from dataclasses import dataclass
from typing import Any

import asyncpg
import jwt

from infrastructure.settings import parse
from infrastructure.signing_keys import SigningKey, load, rotate
from tests.e2e.client import Json
from tests.stack import Stack


def connection_settings(stack: Stack, secret_key: str) -> dict[str, str]:
    """The running product's settings, as environment variables."""
    names = ("database_url", "redis_url", "kafka_servers")
    return {f"DAYBOOK_{name.upper()}": stack.connection[name] for name in names} | {"DAYBOOK_SECRET_KEY": secret_key}


def signing_key(stack: Stack, *, make: str | None = None) -> SigningKey:
    """The key that the running product signs with; a new one if an algorithm is named."""
    settings = parse(connection_settings(stack, json.loads((stack.state / "secrets.json").read_text())["secret_key"]))

    async def find() -> SigningKey:
        async with asyncpg.create_pool(settings.database_url, min_size=1, max_size=1) as pool:
            if make is None:
                return (await load(pool, settings)).signing
            async with pool.acquire() as db, db.transaction():
                return await rotate(db, settings, make)  # type: ignore[arg-type]

    return asyncio.run(find())


@dataclass(frozen=True)
class Genuine:
    """A token that is let in, and what one needs to make another."""

    key: SigningKey
    header: Json
    claims: Json

    def forged(self, header: Json | None = None, key: bytes | None = None, how: str = "sha256", **claims: Any) -> str:
        """The same but for what is changed; a claim of None is left out. Signed with the product's own key by default.

        By hand: a library would refuse to make most of these.
        """
        said = {name: value for name, value in {**self.claims, **claims}.items() if value is not None}
        text = f"{encoded({'alg': 'HS256', **self.header, **(header or {})})}.{encoded(said)}"
        signature = hmac.digest(self.key.private if key is None else key, text.encode(), how)
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"

    def signed(self, key: Any, algorithm: str, **header: str) -> str:
        """The same claims under another key."""
        return jwt.encode(self.claims, key, algorithm, headers={**self.header, **header})


def _decoded(part: str) -> Json:
    content: Json = json.loads(base64.urlsafe_b64decode(part + "=="))
    return content


def encoded(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def genuine_token(stack: Stack, token: str) -> Genuine:
    """The parts of a token that the running product has just made."""
    header, claims = (_decoded(part) for part in token.split(".")[:2])
    found = Genuine(signing_key(stack), {name: header[name] for name in ("kid", "typ")}, claims)
    assert header["kid"] == found.key.kid
    return found
