"""People as the product knows them, each coming from an address of their own: for tests of who may do what."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

import httpx

from tests.e2e.client import PATIENCE_S, Client, Json, fresh
from tests.stack import Stack

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
        # certificates are not looked at without TLS, but would be loaded each time
        transport = httpx.HTTPTransport(local_address=f"127.1.{number >> 8}.{number & 255}", verify=False)
        client = httpx.Client(base_url=self.stack.connection["api"], transport=transport, timeout=PATIENCE_S + 10)
        return self.opened.enter_context(client)

    @cached_property
    def admin(self) -> Client:
        """The first user, who makes the others."""
        known = self.stack.connection
        return self.enter(Person("", known["username"], known["password"], ("admin",)))

    def add(self, *roles: str, name: str = "user") -> Person:
        """A new user; a `user` if no other role is named."""
        username, password, chosen = fresh(name), secrets.token_urlsafe(12), roles or ("user",)
        made = self.admin.done("/v1/users", {"username": username, "password": password, "roles": list(chosen)})
        return Person(made["id"], username, password, chosen)

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
        path, wait = f"/v1/ledgers/{ledger}/grants/{person.id}", {"prefer": f"wait={PATIENCE_S}"}
        answer = self.admin.http.put(path, json={"role": role}, headers=wait)
        assert answer.status_code == 200, answer.text


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
