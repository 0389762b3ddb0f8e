"""Commands that look after an installation find the one that runs in their folder, and never mix two."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import surroundings
from infrastructure import settings

CONNECTION = {
    "api": "http://127.0.0.1:8000",
    "database_url": "postgresql://daybook@127.0.0.1:5432/daybook",
    "redis_url": "redis://127.0.0.1:6379/0",
    "broker_url": "redis://127.0.0.1:6379/0",
    "kafka_servers": "127.0.0.1:9092",
    "flower": "http://127.0.0.1:5555",
    "flower_password": "f" * 40,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which `daybook up` runs, as it looks to a command; nothing in the environment."""
    state = tmp_path / ".daybook"
    state.mkdir()
    (state / "connection.json").write_text(json.dumps(CONNECTION))
    (state / "secrets.json").write_text(json.dumps({"secret_key": "s" * 48}))
    monkeypatch.chdir(tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    monkeypatch.setattr(os, "environ", kept)
    settings.load.cache_clear()
    yield state
    settings.load.cache_clear()


def test_what_runs_in_the_folder_is_found(folder: Path) -> None:
    found = surroundings.load()
    assert (found.database_url, found.kafka_servers) == (CONNECTION["database_url"], CONNECTION["kafka_servers"])
    # for what reads the environment when it is imported
    assert os.environ["DAYBOOK_SECRET_KEY"] == "s" * 48


def test_an_environment_with_a_database_is_not_completed(folder: Path) -> None:
    os.environ["DAYBOOK_DATABASE_URL"] = "postgresql://elsewhere/books"
    with pytest.raises(settings.SettingsError, match="DAYBOOK_SECRET_KEY is missing"):
        surroundings.load()


def test_without_either_the_message_says_what_is_missing(folder: Path) -> None:
    (folder / "connection.json").unlink()
    with pytest.raises(settings.SettingsError, match="DAYBOOK_DATABASE_URL is missing"):
        surroundings.load()
