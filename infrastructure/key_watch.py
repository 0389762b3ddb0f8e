"""What this process knows of the signing keys: read at its start, every two seconds, and when a token names another.

So no request costs a statement, a rotation is known everywhere before anybody could miss it, and a retired key is
trusted for two seconds more at the most. With Postgres down the keys stay as they were last read: none can be retired
meanwhile. A process that never read them can't tell who is who, and says so (503).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import asyncpg
import structlog
from asyncpg import Record

from domain.errors import InfrastructureError
from infrastructure.postgres import OUTSIDE
from infrastructure.redis import end_tasks
from infrastructure.settings import Settings
from infrastructure.signing_keys import Keyring, load, prune
from infrastructure.tokens import Tokens, Verified

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
LEAST_S: Final = 1.0
"""However many tokens name unknown keys, the keys are read no more often for them."""

PATIENCE_S: Final = 2.0
PRUNE_S: Final = 60.0


class KeyWatch:
    """Keeps the keys of `tokens` current, and verifies with them."""

    def __init__(self, settings: Settings, tokens: Tokens, pool: asyncpg.Pool[Record]) -> None:
        self._settings = settings
        self._tokens = tokens
        self._pool = pool
        self._looked_at = 0.0
        self._next_look: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Reads the keys, if Postgres is there, and begins to watch them."""
        await self._try_to_look()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Ends watching."""
        await end_tasks(*(task for task in (self._watching, self._next_look) if task is not None))

    async def verify(self, token: bytes) -> Verified | None:
        """As `Tokens.verify`; a key that this process does not know yet is looked for first.

        Raises InfrastructureError when that can't be done.
        """
        if not self._tokens.knows_key_of(token):
            await self._look_again()
        return self._tokens.verify(token)

    async def ring(self) -> Keyring:
        """The keys as last read. Raises InfrastructureError when they never were, and can't be."""
        if self._tokens.ring is None:
            await self._look_again()
        return self._tokens.keys

    async def _look_again(self) -> None:
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look_soon())
            # one may fail that nobody waits for any more
            self._next_look.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.shield(self._next_look)
        except OUTSIDE as error:
            raise InfrastructureError("The signing keys can't be read.") from error

    async def _look_soon(self) -> None:
        try:
            await asyncio.sleep(self._looked_at + LEAST_S - time.monotonic())
        finally:
            # who comes from now on may want a key that is not there yet when this one looks
            self._next_look = None
        await self._look()

    async def _watch(self) -> None:
        pruned_at = 0.0
        while True:
            await asyncio.sleep(LOOK_S)
            await self._try_to_look()
            if time.monotonic() - pruned_at > PRUNE_S:
                pruned_at = time.monotonic()
                await self._try_to_prune()

    async def _try_to_look(self) -> None:
        try:
            await self._look()
        except OUTSIDE as error:
            log.warning("signing_keys_not_read", error=repr(error))

    async def _try_to_prune(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await prune(self._pool)
        except OUTSIDE as error:
            log.warning("signing_keys_not_pruned", error=repr(error))

    async def _look(self) -> None:
        self._looked_at = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            ring = await load(self._pool, self._settings)
        if self._tokens.use(ring):
            log.info("signing_keys_changed", signing=ring.signing.kid, verifying=sorted(ring.verifying))
