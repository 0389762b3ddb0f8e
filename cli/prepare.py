"""`daybook migrate` and `daybook prepare`: what an installation needs before its processes start."""

from __future__ import annotations

from infrastructure import settings
from infrastructure.migrations import upgrade


def migrate() -> None:
    """Bring the database's schema to the newest version. Several may run at once."""
    upgrade(settings.load().database_url)
