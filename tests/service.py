"""The API in this process, on real servers, with its turns taken here too: for tests that need no worker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from asyncpg import Record
from litestar import Litestar
from uuid_utils.compat import uuid7

from api.app import create_app
from api.context import Services
from infrastructure.bells import Bells
from infrastructure.passwords import hash_password
from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from workers.notices import Notices
from workers.turn import Turns

ADD_USER = "INSERT INTO users (id, username, roles) VALUES ($1, $2, $3)"
ADD_CREDENTIALS = "INSERT INTO credentials (user_id, password_hash) VALUES ($1, $2)"
ADD_SESSION = """
INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, clock_timestamp() + interval '1 hour')
"""

Json = dict[str, Any]


@dataclass
class Bell:
    """Rings are noted, and answered with turns as long as `working`."""

    turns: Turns | None = None
    working: bool = True
    rung: list[str] = field(default_factory=list)
    tasks: set[asyncio.Task[bool]] = field(default_factory=set)

    def ring(self, actor: str, correlation_id: str | None = None, *, many: bool = False) -> None:
        self.rung.append(actor)
        if self.working and self.turns is not None:
            task = asyncio.get_running_loop().create_task(self.turns.work(actor))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def ring_export(self, export: str) -> None:
        self.rung.append(export)

    def close(self) -> None:
        pass


@dataclass
class User:
    """Somebody who is logged in."""

    id: UUID
    headers: dict[str, str]
    client: httpx.AsyncClient

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={**self.headers, **_named(headers)})

    async def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Sends JSON, or text as it is; headers by name with underscores."""
        if isinstance(body, str | bytes):
            given = {"content-type": "application/json", **self.headers, **_named(headers)}
            return await self.client.post(path, content=body, headers=given)
        return await self.client.post(path, json=body, headers={**self.headers, **_named(headers)})


@dataclass
class Service:
    """A running API. `bell.working = False` leaves commands in their mailboxes until `work`."""

    app: Litestar
    client: httpx.AsyncClient
    pool: asyncpg.Pool[Record]
    bell: Bell

    @property
    def services(self) -> Services:
        services: Services = self.app.state["services"]
        return services

    async def user(self, *roles: str) -> User:
        """A new user, logged in."""
        user, session = uuid7(), uuid7()
        await self.pool.execute(ADD_USER, user, f"user-{user}", list(roles or ("user",)))
        await self.pool.execute(ADD_SESSION, session, user)
        token = self.services.tokens.issue(user, session, 3_600)
        return User(user, {"authorization": f"Bearer {token}"}, self.client)

    async def work(self, ledger: str) -> None:
        """Takes the turns of a ledger until its mailbox is empty."""
        assert self.bell.turns is not None
        await self.bell.turns.work(f"ledger:{ledger}")


async def add_user(pool: asyncpg.Pool[Record], username: str, password: str, roles: Sequence[str]) -> UUID:
    """A user with a password and without a journal, as releases before journals of users made them."""
    user, password_hash = uuid7(), await asyncio.to_thread(hash_password, password)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(ADD_USER, user, username, list(roles))
        await connection.execute(ADD_CREDENTIALS, user, password_hash)
    return user


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def running_service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """The API without a network, beside turns that its bell starts."""
    bell = Bell()
    monkeypatch.setattr("api.recording.open_bell", lambda _: bell)
    pool = await open_pool(settings, application="test", size=4)
    redis = open_redis(settings)
    bell.turns = Turns(pool, pool, Notices(redis), Bells(redis, None), settings, (), lambda *_: None)
    app = create_app(settings)
    try:
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))  # type: ignore[arg-type]
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://daybook.test") as client:
            yield Service(app, client, pool, bell)
            await asyncio.gather(*bell.tasks)
    finally:
        await redis.aclose()
        await pool.close()


def a_ledger() -> str:
    """An id that no other test has."""
    return f"l-{uuid4().hex[:12]}"


def posting(amount: str = "1.00", debit: str = "assets:bank", credit: str = "wallets:alice") -> Json:
    return {"postings": [{"debit": debit, "credit": credit, "amount": amount}]}


async def open_books(user: User) -> str:
    """A ledger of the user's with a bank and a wallet in USD, applied."""
    ledger = a_ledger()
    created = await user.post("/v1/ledgers", {"id": ledger, "name": "Books"}, prefer="wait=10")
    assert created.status_code == 201, created.text
    for name, kind in (("assets:bank", "asset"), ("wallets:alice", "liability")):
        account = {"name": name, "currency": "USD", "type": kind}
        opened = await user.post(f"/v1/ledgers/{ledger}/accounts", account, prefer="wait=10")
        assert opened.status_code == 201, opened.text
    return ledger
