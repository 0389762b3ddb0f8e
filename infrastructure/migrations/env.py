"""What Alembic runs: the migrations on one connection, in one transaction, one process at a time."""

from __future__ import annotations

import asyncio
import os

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from infrastructure.schema import metadata

# Several processes may migrate at one moment, as when a deployment starts: the others wait, then have nothing to do.
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('daybook migrations'))")


def migrate(connection: Connection) -> None:
    """Brings the schema to the newest version and commits."""
    with connection.begin():
        connection.execute(LOCK)
        context.configure(connection=connection, target_metadata=metadata)
        context.run_migrations()


async def main(url: str) -> None:
    # asyncpg itself reads the address, so that it means the same here as in the service
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


asyncio.run(main(context.config.get_main_option("sqlalchemy.url") or os.environ["DAYBOOK_DATABASE_URL"]))
