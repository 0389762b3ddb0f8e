"""Which installation a command is about: the environment's, or the `daybook up` that runs in this folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from infrastructure import settings
from infrastructure.settings import Settings

STATE: Final = Path(".daybook")


def load() -> Settings:
    """The settings; where the environment names no database, those of the `daybook up` in this folder.

    They go into the environment, where what is imported later looks for them, too. Never a mixture: a secret of one
    installation would do harm to another's database. Raises what `infrastructure.settings.load` raises.
    """
    if not os.environ.get("DAYBOOK_DATABASE_URL"):
        os.environ.update(surroundings(os.environ, STATE))
    return settings.load()


def surroundings(environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The environment, with what is missing in it taken from a `daybook up` that runs in the folder."""
    try:
        connection = json.loads((directory / "connection.json").read_text())
        kept = json.loads((directory / "secrets.json").read_text())
    except (OSError, ValueError):
        return dict(environ)
    made = {
        "DAYBOOK_DATABASE_URL": connection["database_url"],
        "DAYBOOK_REDIS_URL": connection["redis_url"],
        "DAYBOOK_BROKER_URL": connection["broker_url"],
        "DAYBOOK_KAFKA_SERVERS": connection["kafka_servers"],
        "DAYBOOK_SECRET_KEY": kept["secret_key"],
        "DAYBOOK_PORT": str(urlsplit(connection["api"]).port),
        "DAYBOOK_FLOWER_PORT": str(urlsplit(connection["flower"]).port),
        "DAYBOOK_FLOWER_PASSWORD": connection["flower_password"],
        "DAYBOOK_STATE_DIR": str(directory),
    }
    return {**made, **{name: value for name, value in environ.items() if value}}
