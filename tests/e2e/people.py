"""People as the product knows them, each coming from an address of their own: for tests of who may do what."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count

import asyncpg
import httpx

from infrastructure.users import add_user
from tests.conftest import run_sql
from tests.e2e.client import PATIENCE_S, Client, Json, fresh
from tests.stack import Stack

GRANT = "INSERT INTO grants (ledger, user_id, role) VALUES ('{ledger}', '{user}', '{role}')"

_addresses = count(1)


@dataclass(frozen=True)
class Person:
    """Who can log in, and as what."""

    id: str
    username: str
    password: str
    roles: tuple[str, ...]


@dataclass
class Town:
    """The people of a running product, and the connections that they have opened."""

    stack: Stack
    opened: ExitStack = field(default_factory=ExitStack)

    def visitor(self) -> httpx.Client:
        """A client that is not logged in. Limits that count addresses do not mix it up with others."""
        number = next(_addresses)
        transport = httpx.HTTPTransport(local_address=f"127.1.{number >> 8}.{number & 255}")
        client = httpx.Client(base_url=self.stack.connection["api"], transport=transport, timeout=PATIENCE_S + 10)
        return self.opened.enter_context(client)

    def add(self, *roles: str, name: str = "user") -> Person:
        """A new user; a `user` if no other role is named."""
        username, password, chosen = fresh(name), secrets.token_urlsafe(12), roles or ("user",)
        user = asyncio.run(_add(self.stack.connection["database_url"], username, password, chosen))
        return Person(user, username, password, chosen)

    def enter(self, person: Person) -> Client:
        """The person, logged in from an address of its own."""
        http = self.visitor()
        http.headers["authorization"] = f"Bearer {log_in(http, person)['access_token']}"
        return Client(http, person.username, person.password)

    def newcomer(self, *roles: str) -> Client:
        """A new user, logged in."""
        return self.enter(self.add(*roles))

    def grant(self, ledger: str, person: Person, role: str) -> None:
        """Lets the person use a ledger that has been created."""
        run_sql(self.stack.connection["database_url"], GRANT.format(ledger=ledger, user=person.id, role=role))


async def _add(url: str, username: str, password: str, roles: tuple[str, ...]) -> str:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        return str(await add_user(pool, username, password, roles))


def log_in(http: httpx.Client, person: Person) -> Json:
    """A session's first pair of tokens."""
    answer = http.post("/auth/login", json={"username": person.username, "password": person.password})
    assert answer.status_code == 200, answer.text
    tokens: Json = answer.json()
    return tokens


@contextmanager
def a_town(stack: Stack) -> Iterator[Town]:
    """The running product's people, for the length of a `with`."""
    town = Town(stack)
    with town.opened:
        yield town
