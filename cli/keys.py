"""`daybook keys`: the keys that sign access tokens."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from cyclopts import App
from rich.console import Console
from rich.table import Table

from cli import surroundings
from infrastructure import signing_keys
from infrastructure.key_watch import LOOK_S
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings
from infrastructure.signing_keys import Algorithm, SigningKey, Stored, UnknownKey

app = App(name="keys", help="Keys that sign access tokens: list, rotate, retire.")

_HEARD: Final = f"Every API process knows within {LOOK_S:.0f} s."


@app.command(name="list")
def list_keys() -> None:
    """List the keys, the one that signs first."""
    table = Table("kid", "algorithm", "made", "state")
    for key in asyncio.run(_stored(surroundings.load())):
        table.add_row(key.kid, key.algorithm, _made(key), _state(key))
    Console().print(table)


@app.command
def rotate(*, algorithm: Algorithm | None = None) -> None:
    """Make a new key, which signs from now on. Those before verify until the last token they signed has expired.

    Parameters
    ----------
    algorithm
        EdDSA can be verified by others, who find the public key at /.well-known/jwks.json; HS256 by Daybook alone.
        The same as before when not given.
    """
    print(f"{_named(asyncio.run(_rotate(surroundings.load(), algorithm)))} {_HEARD}")


@app.command
def retire(kid: str) -> None:
    """Take back a key that somebody else may have: what it signed is worthless at once, and clients have to refresh.

    Parameters
    ----------
    kid
        Which, as `daybook keys list` shows it. If it is the one that signs, a new one takes its place.
    """
    try:
        another = asyncio.run(_retire(surroundings.load(), kid))
    except UnknownKey:
        sys.exit(f"There is no key {kid}.")
    print(f"Retired {kid}." + (f" {_named(another)}" if another is not None else "") + f" {_HEARD}")


async def _stored(chosen: Settings) -> list[Stored]:
    async with await open_pool(chosen, application="keys", size=1) as pool:
        return await signing_keys.stored(pool, chosen)


async def _rotate(chosen: Settings, algorithm: Algorithm | None) -> SigningKey:
    async with await open_pool(chosen, application="keys", size=1) as pool, pool.acquire() as db, db.transaction():
        return await signing_keys.rotate(db, chosen, algorithm)


async def _retire(chosen: Settings, kid: str) -> SigningKey | None:
    async with await open_pool(chosen, application="keys", size=1) as pool, pool.acquire() as db, db.transaction():
        return await signing_keys.retire(db, chosen, kid)


def _named(key: SigningKey) -> str:
    return f"Key {key.kid} ({key.algorithm}) signs now."


def _made(key: Stored) -> str:
    return "from the secret" if key.created_at is None else f"{key.created_at:%Y-%m-%d %H:%M:%S}Z"


def _state(key: Stored) -> str:
    if not key.opens:
        return "sealed under another secret"
    if key.signs:
        return "signs"
    return "verifies" + (f" until {key.retired_at:%Y-%m-%d %H:%M:%S}Z" if key.retired_at is not None else "")
