"""What is somebody else's costs what does not exist costs: the same statements and commands, so no time betrays it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from api.openapi import describe
from infrastructure.redis import SharedRedis
from infrastructure.settings import Settings
from tests.e2e.operations import BODIES, METHODS, Operation
from tests.journals import on_a_loop
from tests.service import Service, User, open_books, posting, running_service

NOTHING = "00000000-0000-7000-8000-000000000001"


# Set while a request runs, and in whatever it starts: what the service does by itself now and then does not count.
requesting: ContextVar[bool] = ContextVar("requesting", default=False)


@dataclass
class Costs:
    """Every statement that Postgres and every command that Redis was given for requests."""

    entries: list[str] = field(default_factory=list)

    def note(self, entry: str) -> None:
        if requesting.get():
            self.entries.append(entry)

    def take(self, ids: Mapping[str, str]) -> list[str]:
        """The entries since the last call, with what was asked for and what is random left out."""
        taken, self.entries = self.entries, []
        return [masked(entry, ids) for entry in taken]


def masked(text: str, ids: Mapping[str, str]) -> str:
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    return re.sub(r"L:[0-9a-f]{16}", "<lease>", text)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """What the application does to Postgres and Redis from now on."""
    costs = Costs()
    connect, send = asyncpg.Connection.__init__, SharedRedis._send

    def connecting(self: Any, *arguments: Any, **options: Any) -> None:
        connect(self, *arguments, **options)
        self.add_query_logger(lambda query: costs.note(f"{query.query} {query.args}"))

    async def sending(self: SharedRedis, command: tuple[Any, ...]) -> Any:
        costs.note(str(command))
        return await send(self, command)

    monkeypatch.setattr(asyncpg.Connection, "__init__", connecting)
    monkeypatch.setattr(SharedRedis, "_send", sending)
    return costs


def named_operations(service: Service) -> list[Operation]:
    paths = describe(service.app)["paths"]
    found = [Operation(method.upper(), path) for path in paths for method in paths[path] if method in METHODS]
    return [operation for operation in found if operation.names]


async def cost(user: User, operation: Operation, ids: Mapping[str, str], costs: Costs) -> list[str]:
    makes_body = BODIES.get(str(operation))
    body = None if makes_body is None else makes_body()
    headers = {**user.headers, "idempotency-key": "k"}
    costs.take({})
    token = requesting.set(True)
    answer = await user.client.request(operation.method, operation.path.format(**ids), json=body, headers=headers)
    requesting.reset(token)
    # users are an administrator's business, whether there is one of that id or not
    assert answer.status_code == (403 if operation.path.startswith("/v1/users/") else 404), (
        str(operation),
        answer.text,
    )
    # the driver tells of a statement at the loop's next turn
    await asyncio.sleep(0)
    return costs.take({name: ids[name] for name in operation.names})


async def things(owner: User) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """What is there, and as much that is not."""
    ledger = await open_books(owner)
    base = f"/v1/ledgers/{ledger}"
    job = (await owner.post(f"{base}/transactions", posting(), prefer="wait=10")).json()["id"]
    lines = {"commands": [{"kind": "post_transaction", **posting()}]}
    batch = (await owner.post(f"{base}/commands", lines, prefer="wait=10")).json()["id"]
    key = (await owner.post("/v1/api-keys", {"name": "a key", "scopes": ["ledger:read"]})).json()["id"]
    session = (await owner.get("/auth/sessions")).json()["items"][0]["id"]
    real = {"ledger": ledger, "account": "wallets:alice", "transaction": job, "job": job, "batch": batch}
    real |= {"user": str(owner.id), "session": session, "key": key}
    for name in ("schedule", "export"):
        body = BODIES[f"POST /v1/ledgers/{{ledger}}/{name}s"]()
        real[name] = (await owner.post(f"{base}/{name}s", body, prefer="wait=10")).json()["id"]
    return real, {**dict.fromkeys(real, NOTHING), "ledger": "l-nothing", "account": "wallets:nobody"}


@on_a_loop
async def test_on_every_route_a_stranger_costs_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, costs: Costs
) -> None:
    async with running_service(settings, monkeypatch) as service:
        owner, stranger = await service.user(), await service.user()
        real, absent = await things(owner)
        compared = 0
        for operation in named_operations(service):
            # the first request of all fills what strangers have in the cache: their session
            await cost(stranger, operation, absent, costs)
            one, other = await cost(stranger, operation, real, costs), await cost(stranger, operation, absent, costs)
            assert one == other and one, str(operation)
            compared += 1
        assert compared >= 20
