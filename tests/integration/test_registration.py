"""Users made from the command line: by the same command, without any worker; and what `verify` makes of users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infrastructure.settings import Settings
from tests.conftest import run_sql

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "long enough for anybody"


def daybook(settings: Settings, *arguments: str, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    for name in ("database_url", "redis_url", "kafka_servers", "secret_key"):
        environment[f"DAYBOOK_{name.upper()}"] = str(getattr(settings, name))
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, env={**environment, **more}, cwd=ROOT, check=False
    )


def rows(settings: Settings, sql: str) -> list[str]:
    return run_sql(settings.database_url, sql).splitlines()


EVENTS = "SELECT convert_from(event, 'UTF8') FROM journal ORDER BY actor, seq"
USERS = "SELECT username || ' ' || array_to_string(roles, '+') || ' ' || status || ' ' || version FROM users ORDER BY 1"


def test_a_user_is_added_with_a_journal(settings: Settings) -> None:
    added = daybook(settings, "users", "add", "olga", "--role", "operator", "--role", "user", typed=PASSWORD)
    assert (added.returncode, added.stdout, added.stderr) == (0, "Added olga.\n", "")
    assert rows(settings, USERS) == ["olga operator+user active 1"]
    (event,) = map(json.loads, rows(settings, EVENTS))
    assert (event["type"], event["seq"]) == ("UserRegistered", 1)
    assert event["data"] == {"username": "olga", "roles": ["operator", "user"]}
    assert rows(settings, "SELECT status FROM commands") == ["succeeded"]
    assert rows(settings, "SELECT left(password_hash, 9) FROM credentials") == ["$argon2id"]
    assert rows(settings, "SELECT command FROM pending_credentials") == []
    again = daybook(settings, "users", "add", "Olga", typed=PASSWORD)
    assert (again.returncode, again.stderr) == (1, "There is a user Olga already.\n")
    assert rows(settings, USERS) == ["olga operator+user active 1"]


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("olga", "", "A password must be 12 to 1024 characters."),
        ("olga", "elevenchars", "A password must be 12 to 1024 characters."),
        ("оlga", PASSWORD, "A user name must be 1 to 64 of"),  # a Cyrillic о
    ],
)
def test_what_is_no_user_is_not_added(settings: Settings, name: str, password: str, said: str) -> None:
    added = daybook(settings, "users", "add", name, typed=password)
    assert added.returncode == 1
    assert said in added.stderr
    assert rows(settings, "SELECT id FROM commands") == rows(settings, USERS) == []


def test_the_first_user_is_made_once(settings: Settings) -> None:
    short = daybook(settings, "prepare", DAYBOOK_ADMIN_PASSWORD="short")
    assert short.returncode == 1
    assert short.stderr == "The first user can't be made. A password must be 12 to 1024 characters.\n"
    for said in ("Created the user root.\n", ""):
        made = daybook(settings, "prepare", DAYBOOK_ADMIN_USERNAME="root", DAYBOOK_ADMIN_PASSWORD=PASSWORD)
        assert made.returncode == 0, made.stderr
        assert made.stdout.replace("Created the topics in Kafka; every event is published again.\n", "") == said
    assert rows(settings, USERS) == ["root admin active 1"]
    assert len(rows(settings, EVENTS)) == 1
