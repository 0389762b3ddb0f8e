"""The table of docs/permissions.md is complete and true: every route is asked as everyone in it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

import httpx
import msgspec
import pytest

from domain.clock import format_time
from tests.conftest import run_sql
from tests.e2e.client import ROOT, Client, Json, open_books, posting, yearly
from tests.e2e.digests import digest
from tests.e2e.operations import BODIES, Operation, operations, sent
from tests.e2e.people import Person, Town, a_town, log_in
from tests.stack import Stack

TABLE = ROOT / "docs" / "permissions.md"
EVERYBODY = ("nobody", "stranger", "reader", "writer", "owner", "read key", "write key", "operator", "admin")
KEYS = {"read key": "ledger:read", "write key": "ledger:write"}
ROLES = {"operator": "operator", "admin": "admin"}
BURY = """
UPDATE commands SET status = 'failed', position = nextval('daybook_position'), finished_at = clock_timestamp(),
    problem = '{{"code":"command_failed","detail":"Set aside."}}'
WHERE id = '{job}'
"""
CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found"}


class Row(NamedTuple):
    """A line of the table."""

    operation: Operation
    whose: str
    statuses: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.operation} {self.whose}".strip()


def read_table(text: str) -> list[Row]:
    """The rows of every table that has a column of routes. Fails for a line that does not fit its table."""
    rows: list[Row] = []
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "route":
            columns = cells[2:]
            assert columns == list(EVERYBODY), f"unknown columns: {columns}"
        elif cells[0].startswith("`") and (match := re.fullmatch(r"`([A-Z]+) (/\S*)`", cells[0])):
            assert len(cells) == 2 + len(columns), line
            statuses = dict(zip(columns, map(int, cells[2:]), strict=True))
            rows.append(Row(Operation(match[1], match[2]), cells[1], statuses))
    return rows


ROWS = read_table(TABLE.read_text())


def unmatched(rows: list[Row], described: list[Operation]) -> dict[str, list[str]]:
    """Routes without a row, rows without a route, and rows that are there twice."""
    tabled = {row.operation for row in rows}
    names = [str(row) for row in rows]
    return {
        "without a row": sorted(str(operation) for operation in set(described) - tabled),
        "without a route": sorted(str(operation) for operation in tabled - set(described)),
        "twice": sorted({name for name in names if names.count(name) > 1}),
    }


# -- the world of the table -------------------------------------------------------------------------------------------


@dataclass
class World:
    """Everyone in the table, and what the routes are about. The bystander is somebody else, whoever asks."""

    town: Town
    people: Mapping[str, Person]
    clients: Mapping[str, httpx.Client]
    ids: Mapping[str, str]

    def person(self, column: str) -> Person:
        """Who is behind a column: keys are the owner's, and nobody is taken for the bystander."""
        return self.people["owner" if column in KEYS else "bystander" if column == "nobody" else column]

    def twin(self, column: str) -> tuple[Person, httpx.Client]:
        """Somebody like them, logged in, for requests that end their sessions. Keys and nobody have no twin."""
        if column not in self.people:
            return self.person(column), self.clients[column]
        twin = self.town.add(ROLES.get(column, "user"))
        return twin, self.town.enter(twin).http

    def tokens(self, person: Person) -> Json:
        """A new session of somebody's."""
        return log_in(self.town.visitor(), person)


class Ask(NamedTuple):
    """A request that is about to be made."""

    http: httpx.Client
    ids: Mapping[str, str]
    body: Json | None = None


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with a_town(stack) as town:
        people = {
            name: town.add(ROLES.get(name, "user"), name=name)
            for name in {*EVERYBODY, "bystander", "victim"} - {"nobody", *KEYS}
        }
        clients = {name: town.enter(person).http for name, person in people.items() if name != "victim"}
        ledger = open_books(owner := Client(clients["owner"], "", ""))
        for role in ("reader", "writer"):
            town.grant(ledger, people[role], role)
        ids = {"ledger": ledger, "account": "wallets:alice", "user": people["bystander"].id}
        ids["transaction"] = ids["job"] = owner.done(f"/v1/ledgers/{ledger}/transactions", posting())["id"]
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        ids["batch"] = owner.post(f"/v1/ledgers/{ledger}/commands", lines).json()["batch"]
        ids["export"] = new_export(clients["owner"], ledger)
        ids["schedule"] = owner.done(f"/v1/ledgers/{ledger}/schedules", yearly())["id"]
        for name, scope in KEYS.items():
            clients[name] = town.visitor()
            clients[name].headers["authorization"] = f"Bearer {make_key(clients['owner'], scope)['secret']}"
        clients["nobody"] = town.visitor()
        yield World(town, people, clients, ids)


def make_key(http: httpx.Client, scope: str = "ledger:read") -> Json:
    made: Json = http.post("/v1/api-keys", json={"name": scope, "scopes": [scope]}).raise_for_status().json()
    return made


def new_export(http: httpx.Client, ledger: str) -> str:
    """The id of an export whose file is written."""
    asked = BODIES["POST /v1/ledgers/{ledger}/exports"]()
    answer = http.post(f"/v1/ledgers/{ledger}/exports", json=asked, headers={"prefer": "wait=20"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def session_of(access_token: str) -> str:
    """The id of the session that a token belongs to."""
    payload = access_token.split(".")[1]
    return str(msgspec.json.decode(urlsafe_b64decode(payload + "=="))["sid"])


def log_in_as_bystander(world: World, column: str) -> Ask:
    known = world.people["bystander"]
    return Ask(world.clients[column], {}, {"username": known.username, "password": known.password})


def refresh(world: World, column: str) -> Ask:
    return Ask(world.clients[column], {}, {"refresh_token": world.tokens(world.people["bystander"])["refresh_token"]})


def end_own_session(world: World, column: str) -> Ask:
    return Ask(world.clients[column], {"session": session_of(world.tokens(world.person(column))["access_token"])})


def end_session_of_somebody_else(world: World, column: str) -> Ask:
    token = world.clients["bystander"].headers["authorization"].removeprefix("Bearer ")
    return Ask(world.clients[column], {"session": session_of(token)})


def change_own_roles(world: World, column: str) -> Ask:
    person = world.person(column)
    return Ask(world.clients[column], {"user": person.id}, {"roles": list(person.roles)})


def change_own_password(world: World, column: str) -> Ask:
    person, http = world.twin(column)
    return Ask(http, {"user": person.id}, BODIES["POST /v1/users/{user}/password"]())


def revoke_key(world: World, column: str, whose: str) -> Ask:
    owner = column if whose == "one's own" and column in world.people else "bystander"
    return Ask(world.clients[column], {"key": make_key(world.clients[owner])["id"]})


def job_of_a_user(world: World, column: str) -> Ask:
    made = world.clients["admin"].post("/v1/users", json=BODIES["POST /v1/users"]())
    return Ask(world.clients[column], {"job": made.raise_for_status().json()["id"]})


def waiting_job(world: World, column: str) -> Ask:
    later = posting(execute_at=format_time(datetime.now(UTC) + timedelta(days=365)))
    made = world.clients["owner"].post(f"/v1/ledgers/{world.ids['ledger']}/transactions", json=later)
    return Ask(world.clients[column], {"job": made.raise_for_status().json()["id"]}, {})


def dead_letter(world: World, column: str) -> Ask:
    ask = waiting_job(world, column)
    run_sql(world.town.stack.connection["database_url"], BURY.format(job=ask.ids["job"]))
    return ask


# How routes are asked that need more than the ids and bodies that all share.
PREPARED: Mapping[str, Callable[[World, str], Ask]] = {
    "POST /auth/login": log_in_as_bystander,
    "POST /auth/refresh": refresh,
    "POST /auth/logout": lambda world, column: Ask(world.twin(column)[1], {}),
    "DELETE /auth/sessions/{session} one's own": end_own_session,
    "DELETE /auth/sessions/{session} somebody else's": end_session_of_somebody_else,
    "PATCH /v1/users/{user} oneself": change_own_roles,
    "PATCH /v1/users/{user} somebody else": lambda world, column: Ask(
        world.clients[column], world.ids, BODIES["PATCH /v1/users/{user}"]()
    ),
    "POST /v1/users/{user}/password oneself": change_own_password,
    "POST /v1/users/{user}/password somebody else": lambda world, column: Ask(
        world.clients[column], {"user": world.people["victim"].id}, BODIES["POST /v1/users/{user}/password"]()
    ),
    "POST /v1/users/{user}/disable somebody else": lambda world, column: Ask(
        world.clients[column], {"user": world.people["victim"].id}, {}
    ),
    "DELETE /v1/api-keys/{key} one's own": partial(revoke_key, whose="one's own"),
    "DELETE /v1/api-keys/{key} somebody else's": partial(revoke_key, whose="somebody else's"),
    "DELETE /v1/ledgers/{ledger}/exports/{export}": lambda world, column: Ask(
        world.clients[column], {**world.ids, "export": new_export(world.clients["owner"], world.ids["ledger"])}
    ),
    "GET /v1/jobs/{job} of the ledger": lambda world, column: Ask(world.clients[column], world.ids),
    "GET /v1/jobs/{job} of a user": job_of_a_user,
    "GET /v1/jobs/{job}/events of the ledger": lambda world, column: Ask(world.clients[column], world.ids),
    "GET /v1/jobs/{job}/events of a user": job_of_a_user,
    "POST /v1/jobs/{job}/cancel of the ledger": waiting_job,
    "POST /v1/jobs/{job}/retry of the ledger": dead_letter,
    "POST /v1/jobs/retry of all ledgers": lambda world, column: Ask(world.clients[column], {}, {}),
}


def prepare(world: World, row: Row, column: str) -> Ask:
    if str(row) in PREPARED:
        return PREPARED[str(row)](world, column)
    assert not row.whose, f"nobody knows how to ask {row}: add it to PREPARED"
    assert row.operation.names <= set(world.ids), f"nobody knows {row.operation.names - set(world.ids)}"
    makes_body = BODIES.get(str(row.operation))
    return Ask(world.clients[column], world.ids, None if makes_body is None else makes_body())


def send(row: Row, ask: Ask) -> httpx.Response:
    method, path = row.operation
    return sent(ask.http, method, path.format(**ask.ids), json=ask.body)


# -- the tests --------------------------------------------------------------------------------------------------------


def test_every_route_has_a_row_and_every_row_a_route(world: World) -> None:
    described = operations(world.clients["nobody"])
    assert len(described) >= 25
    assert unmatched(ROWS, described) == {"without a row": [], "without a route": [], "twice": []}


def test_what_is_missing_is_noticed() -> None:
    first, second, *others = ROWS
    assert unmatched([second, *others], [row.operation for row in ROWS])["without a row"] == [str(first.operation)]
    assert unmatched(ROWS, [row.operation for row in others])["without a route"] == sorted(map(str, (first, second)))
    assert unmatched([*ROWS, first], [row.operation for row in ROWS])["twice"] == [str(first)]
    with pytest.raises(AssertionError, match="unknown columns"):
        read_table("| route | of whom | passer-by |")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_route_as_everybody(world: World, row: Row) -> None:
    asks = {column: prepare(world, row, column) for column in row.statuses}
    refused = {column: status for column, status in row.statuses.items() if status >= 400}
    before = digest(world.town.stack) if refused else {}
    answers = {column: send(row, asks[column]) for column in refused}
    assert {column: answer.status_code for column, answer in answers.items()} == refused
    for answer in answers.values():
        assert answer.json()["code"] == CODES[answer.status_code]
    if refused:
        # what was refused has changed nothing
        assert digest(world.town.stack) == before
    answers |= {column: send(row, ask) for column, ask in asks.items() if column not in refused}
    assert {column: answers[column].status_code for column in row.statuses} == row.statuses
