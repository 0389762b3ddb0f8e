"""The table of docs/permissions.md is complete and true: every route is asked as everyone in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.client import ROOT, Client, Json, open_books, posting
from tests.e2e.digests import digest
from tests.e2e.operations import BODIES, Operation, operations
from tests.e2e.people import Person, Town, a_town, log_in
from tests.stack import Stack

TABLE = ROOT / "docs" / "permissions.md"
EVERYBODY = ("nobody", "stranger", "reader", "writer", "owner", "operator", "admin")
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
    """Everyone in the table, logged in, and what the routes are about."""

    stack: Stack
    town: Town
    people: Mapping[str, Person]
    clients: Mapping[str, httpx.Client]
    ids: dict[str, str] = field(default_factory=dict)

    def again(self, column: str) -> httpx.Client:
        """Another session of whoever it is, for requests that end it. Who has none comes as they are."""
        person = self.people.get(column)
        return self.clients[column] if person is None else self.town.enter(person).http

    def tokens(self) -> Json:
        """A new session of somebody else's."""
        return log_in(self.town.visitor(), self.people["bystander"])


class Ask(NamedTuple):
    """A request that is about to be made."""

    http: httpx.Client
    ids: Mapping[str, str]
    body: Json | None


@pytest.fixture(scope="module")
def world(stack: Stack) -> Iterator[World]:
    with a_town(stack) as town:
        roles = {"operator": "operator", "admin": "admin"}
        people = {name: town.add(roles.get(name, "user"), name=name) for name in (*EVERYBODY[1:], "bystander")}
        clients = {"nobody": town.visitor(), **{name: town.enter(people[name]).http for name in EVERYBODY[1:]}}
        world = World(stack, town, people, clients)
        owner = Client(clients["owner"], "", "")
        ledger = open_books(owner)
        for role in ("reader", "writer"):
            town.grant(ledger, people[role], role)
        world.ids |= {"ledger": ledger, "account": "wallets:alice"}
        world.ids["transaction"] = world.ids["job"] = owner.done(f"/v1/ledgers/{ledger}/transactions", posting())["id"]
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        world.ids["batch"] = owner.post(f"/v1/ledgers/{ledger}/commands", lines).json()["batch"]
        yield world


def credentials(world: World) -> Json:
    return {"username": world.people["bystander"].username, "password": world.people["bystander"].password}


# Routes that need more than an id and a body: what is asked is made anew for everybody.
PREPARED: Mapping[str, Callable[[World, str], Ask]] = {
    "POST /auth/login": lambda world, column: Ask(world.clients[column], {}, credentials(world)),
    "POST /auth/refresh": lambda world, column: Ask(
        world.clients[column], {}, {"refresh_token": world.tokens()["refresh_token"]}
    ),
    "POST /auth/logout": lambda world, column: Ask(world.again(column), {}, None),
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
    return ask.http.request(method, path.format(**ask.ids), json=ask.body)


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
    before = digest(world.stack) if refused else {}
    answers = {column: send(row, asks[column]) for column in refused}
    assert {column: answer.status_code for column, answer in answers.items()} == refused
    for answer in answers.values():
        assert answer.json()["code"] == CODES[answer.status_code]
    if refused:
        # what was refused has changed nothing
        assert digest(world.stack) == before
    answers |= {column: send(row, ask) for column, ask in asks.items() if column not in refused}
    assert {column: answers[column].status_code for column in row.statuses} == row.statuses
