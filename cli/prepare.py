"""`daybook migrate` and `daybook prepare`: what an installation needs before its processes start."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from domain.errors import DomainError
from infrastructure import settings
from infrastructure.migrations import is_current, upgrade
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings

# Held while the first user is made, so that two at once make one.
LOCK: Final = "SELECT pg_advisory_lock(hashtext('daybook prepare'))"
HAS_USERS: Final = "SELECT EXISTS (SELECT FROM users)"


def migrate() -> None:
    """Bring the database's schema to the newest version. Several may run at once."""
    url = settings.load().database_url
    if not is_current(url):
        upgrade(url)


def prepare() -> None:
    """Migrate, create what is missing in Kafka, and the first user if there is none. Safe to repeat."""
    migrate()
    asyncio.run(_prepare(settings.load()))


async def _prepare(chosen: Settings) -> None:
    from infrastructure.journal import register_subscribers
    from infrastructure.topics import ensure_topics
    from workers.subscribers import names

    async with await open_pool(chosen, application="prepare", size=4) as pool, pool.acquire() as connection:
        await connection.execute(LOCK)
        await register_subscribers(connection, names(chosen))
        if await ensure_topics(connection, chosen):
            print("Created the topics in Kafka; every event is published again.")
        if chosen.admin_password:
            await _create_first_user(pool, connection, chosen)


async def _create_first_user(pool: asyncpg.Pool, connection: PoolConnectionProxy, chosen: Settings) -> None:
    from cli.registration import register

    if not await connection.fetchval(HAS_USERS):
        try:
            await register(chosen, pool, chosen.admin_username, chosen.admin_password, ["admin"])
        except DomainError as error:
            sys.exit(f"The first user can't be made. {error.detail}")
        print(f"Created the user {chosen.admin_username}.")
