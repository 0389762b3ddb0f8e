"""The schema's history. `daybook migrate` applies it; the newest state is infrastructure/schema.py."""

from __future__ import annotations

from alembic import command
from alembic.config import Config


def upgrade(database_url: str) -> None:
    """Brings the database to the newest version. Safe to call from several processes at once."""
    config = Config()
    config.set_main_option("script_location", "infrastructure:migrations")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    command.upgrade(config, "head")
