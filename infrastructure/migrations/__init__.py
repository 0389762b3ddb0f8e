"""The schema's history. `daybook migrate` applies it; the newest state is infrastructure/schema.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import asyncpg

VERSION: Final = "SELECT version_num FROM alembic_version"


def newest() -> str:
    """The newest migration's number, which starts its file's name."""
    return max(path.name.partition("_")[0] for path in (Path(__file__).parent / "versions").glob("[0-9]*_*.py"))


def is_current(database_url: str) -> bool:
    """Whether the database is at the newest version already. To be called where no event loop runs."""

    async def version() -> str | None:
        connection = await asyncpg.connect(database_url, timeout=10)
        try:
            found: str | None = await connection.fetchval(VERSION)
            return found
        except asyncpg.UndefinedTableError:
            return None
        finally:
            await connection.close()

    return asyncio.run(version()) == newest()


def upgrade(database_url: str) -> None:
    """Brings the database to the newest version. Safe to call from several processes at once.

    To be called where no event loop runs.
    """
    # imported only when there is something to do: Alembic and SQLAlchemy take longer than most migrations
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "infrastructure:migrations")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    command.upgrade(config, "head")
