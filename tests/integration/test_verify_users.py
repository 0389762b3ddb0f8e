"""`daybook verify` finds nothing wrong with true users, and every kind of tampering with them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from cli.verify import verify
from infrastructure import settings as configuration
from infrastructure.embedded import Addresses
from infrastructure.settings import Settings
from tests.conftest import database_url, run_sql
from tests.service import User, running_service

Patch = pytest.MonkeyPatch
PASSWORD = "long enough for anybody"


async def fill(admin: User) -> str:
    """Users of every kind. The one whose id is answered was registered, changed twice and disabled: seqs 1 to 4."""
    people = []
    for number, roles in enumerate((["user"], ["operator", "user"], ["admin"])):
        body = {"username": f"user-{number}", "password": PASSWORD, "roles": roles}
        made = await admin.client.post("/v1/users", json=body, headers={**admin.headers, "prefer": "wait=10"})
        assert made.status_code == 201, made.text
        people.append(made.json()["id"])
    taken = await admin.client.post(
        "/v1/users", json={"username": "user-0", "password": PASSWORD}, headers={**admin.headers, "prefer": "wait=10"}
    )
    assert taken.status_code == 409
    for method, path, body in (
        ("PATCH", f"/v1/users/{people[1]}", {"roles": ["user", "admin"]}),
        ("POST", f"/v1/users/{people[1]}/password", {"password": f"{PASSWORD}!"}),
        ("POST", f"/v1/users/{people[1]}/disable", {}),
        # somebody older than journals, of whom only what has changed since is known
        ("PATCH", f"/v1/users/{admin.id}", {"roles": ["admin", "operator"]}),
    ):
        headers = {**admin.headers, "prefer": "wait=10"}
        answer = await admin.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
    return str(people[1])


@pytest.fixture(scope="module")
def filled(servers: Addresses, template: str) -> Iterator[tuple[Settings, str, str]]:
    async def make() -> tuple[str, str]:
        async with running_service(chosen, monkeypatch) as service:
            admin = await service.user("admin")
            await service.user()
            return await fill(admin), str(admin.id)

    name = f"people_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    chosen = Settings(
        database_url=database_url(servers, name), redis_url=servers.redis_url, secret_key=secrets.token_urlsafe(48)
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        user, older = asyncio.run(make())
    yield chosen, user, older
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def people(filled: tuple[Settings, str, str], servers: Addresses, monkeypatch: Patch) -> Iterator[tuple[str, str]]:
    """The ids of two users, in a database of this test's own, which `verify` and `tamper` find."""
    chosen, user, older = filled
    name = f"test_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {chosen.database_url.rpartition('/')[2]}")
    own = replace(chosen, database_url=database_url(servers, name))
    monkeypatch.setattr(configuration, "load", lambda: own)
    yield user, older
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def run(capsys: pytest.CaptureFixture[str]) -> tuple[int, Any, Any]:
    """Status, what was read, and differences."""
    capsys.readouterr()
    status = 0
    try:
        verify(as_json=True)
    except SystemExit as ended:
        status = int(str(ended.code))
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is (status == 0)
    return status, found["read"], found["differences"]


def tamper(statement: str) -> None:
    """Runs a statement as a superuser whom no trigger holds back."""

    async def execute() -> None:
        db = await asyncpg.connect(configuration.load().database_url)
        await db.execute("SET session_replication_role = replica")
        assert (await db.execute(statement)).split()[-1] != "0", statement
        await db.close()

    asyncio.run(execute())


def test_true_users_agree(people: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    status, read, differences = run(capsys)
    assert (status, differences) == (0, {})
    assert (read["users"], read["events"]) == (5, 7)


OWN = "WHERE id = '{user}'"
IN_JOURNAL = "WHERE actor = 'user:{user}'"


@pytest.mark.parametrize(
    ("statement", "kind", "said"),
    [
        (f"UPDATE users SET roles = '{{admin}}' {OWN}", "user", "roles is ['admin'], the journal makes it"),
        (f"UPDATE users SET status = 'active' {OWN}", "user", "status is active, the journal makes it disabled"),
        (f"UPDATE users SET username = 'root' {OWN}", "user", "username is root, the journal makes it user-1"),
        (f"UPDATE users SET version = 3 {OWN}", "user", "version is 3, the journal makes it 4"),
        (f"UPDATE users SET created_at = now() {OWN}", "user", "created_at is"),
        (f"DELETE FROM users {OWN}", "user", "is missing"),
        ("UPDATE users SET roles = '{admin}' WHERE id = '{older}'", "user", "roles is ['admin'], the journal makes it"),
        ("UPDATE users SET status = 'disabled' WHERE id = '{older}'", "user", "the journal makes it active"),
        ("UPDATE users SET version = 1 WHERE version = 0", "user", "version is 1, the journal makes it 0"),
        (f"UPDATE journal SET event = event || ' '::bytea {IN_JOURNAL} AND seq = 2", "hash", "/2: "),
        (f"UPDATE journal SET hash = sha256(hash) {IN_JOURNAL} AND seq = 2", "hash", "/2: "),
        (f"DELETE FROM journal {IN_JOURNAL} AND seq = 2", "seq", "/3: follows 1"),
        (f"DELETE FROM journal {IN_JOURNAL} AND seq = 4", "actor", "seq is 4, the journal makes it 3"),
        (f"DELETE FROM journal {IN_JOURNAL}", "actor", "seq is 4, the journal makes it 0"),
        (f"UPDATE actors SET head = sha256(head) {IN_JOURNAL}", "actor", "head is"),
        (f"UPDATE journal SET epoch = 2 {IN_JOURNAL} AND seq = 2", "event", "epoch is 1, the journal makes it 2"),
        (
            "UPDATE journal SET event = convert_to(replace(convert_from(event, 'UTF8'), 'Disabled', 'Raised'), 'UTF8')"
            f" {IN_JOURNAL} AND seq = 4",
            "event",
            "UserRaised is of no kind that is known here",
        ),
    ],
)
def test_what_was_tampered_with_is_found(
    people: tuple[str, str], capsys: pytest.CaptureFixture[str], statement: str, kind: str, said: str
) -> None:
    user, older = people
    tamper(statement.replace("{user}", user).replace("{older}", older))
    status, _, differences = run(capsys)
    assert status == 1
    assert any(said in words for words in differences[kind]["first"]), differences
