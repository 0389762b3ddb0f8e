"""What is measured of Daybook, through HTTP, on the stack that `daybook up` starts."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import httpx
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from tests.benchmarks.load import LoadError, Run, drive, json_request, request
from tests.benchmarks.machine import processor_seconds
from tests.stack import Stack

TOPIC: Final = "daybook.ledger.events"
SINGLE_CONNECTIONS: Final = 64
BULK_CONNECTIONS: Final = 4
READ_CONNECTIONS: Final = 16
BULK: Final = 1_000
FUNDS: Final = "10000000.00"
DRAIN_S: Final = 300.0
READ_S: Final = 30.0

HEAD: Final = "SELECT seq FROM actors WHERE actor = $1"
UNDELIVERED: Final = "SELECT count(*) FROM behind WHERE actor = $1 AND subscriber = 'kafka'"
BUSY: Final = "SELECT (SELECT count(*) FROM behind) + (SELECT count(*) FROM turn_marks)"
OUTCOMES: Final = "SELECT status, count(*) AS count FROM commands WHERE actor = $1 GROUP BY status"

_numbers = count(1)


@dataclass(frozen=True)
class Ledger:
    """A ledger of its own for one measurement: funded, limit-checked accounts."""

    id: str
    accounts: tuple[str, ...]

    @property
    def actor(self) -> str:
        return f"ledger:{self.id}"

    def transfer(self) -> dict[str, Any]:
        """A transfer between two accounts of it, chosen at random."""
        debit, credit = random.sample(self.accounts, 2)
        return {"postings": [{"debit": debit, "credit": credit, "amount": "1.00"}]}


@dataclass
class Daybook:
    """A running stack, logged in to."""

    stack: Stack
    port: int
    http: httpx.AsyncClient
    db: asyncpg.Connection[asyncpg.Record]
    consumer: Consumer
    keys: bool
    token: str = ""

    async def log_in(self) -> None:
        """A new access token, good for 15 minutes."""
        connection = self.stack.connection
        login = {name: connection[name] for name in ("username", "password")}
        answer = await self.http.post("/auth/login", json=login)
        self.token = answer.raise_for_status().json()["access_token"]
        self.http.headers["authorization"] = f"Bearer {self.token}"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    async def new_ledger(self, accounts: int) -> Ledger:
        """A ledger with so many accounts, none of which may go below zero; each holds funds."""
        await self.log_in()
        ledger = Ledger(f"bench-{next(_numbers)}", tuple(f"wallets:{number}" for number in range(accounts)))
        await self._await("/v1/ledgers", {"id": ledger.id, "name": ledger.id})
        rules = {"currency": "USD", "type": "liability", "min_balance": "0"}
        opened = [{"kind": "open_account", "name": name, **rules} for name in ledger.accounts]
        source = {"kind": "open_account", "name": "bank", "currency": "USD", "type": "asset"}
        postings = [{"debit": "bank", "credit": name, "amount": FUNDS} for name in ledger.accounts]
        funding = {"kind": "post_transaction", "postings": postings}
        await self._await(f"/v1/ledgers/{ledger.id}/commands", {"commands": [source, *opened, funding]})
        await self.quiet()
        return ledger

    async def _await(self, path: str, content: object) -> None:
        answer = await self.http.post(path, json=content, headers={"prefer": "wait=30"})
        if answer.status_code not in (200, 201):
            raise LoadError(f"{path}: {answer.status_code} {answer.text[:500]}")

    async def quiet(self) -> None:
        """Waits until every event has been delivered and no turn runs, so that nothing disturbs what comes next."""
        await _until(self._is_quiet, "quiet")

    async def _is_quiet(self) -> bool:
        return bool(await self.db.fetchval(BUSY) == 0)

    def await_in_kafka(self, actor: str, count: int) -> None:
        """Reads on until it has seen so many events of the actor. Raises LoadError when they don't come."""
        seen: set[bytes] = set()
        deadline = time.monotonic() + READ_S
        while len(seen) < count:
            if time.monotonic() > deadline:
                raise LoadError(f"only {len(seen)} of {count} events of {actor} in Kafka")
            for message in self.consumer.consume(1_000, timeout=0.2):
                value = message.value()
                if message.error() is None and value is not None and message.key() == actor.encode():
                    seen.add(value)

    def processor_seconds(self) -> dict[str, float]:
        """By process of the stack; `load` is this one."""
        workers = ("ledgers.1", "identity.1", "events.1", "maintenance.1", "exports.1")
        names = ("postgres", "valkey", "kafka", "api.1", *workers, "beat.1", "flower.1")
        families = {name: pid for name in names if (pid := self.stack.pid_of(name)) is not None}
        return processor_seconds({**families, "supervisor": self.stack.process.pid, "load": os.getpid()})


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    """When it came true, on time.perf_counter's clock."""
    deadline = time.monotonic() + DRAIN_S
    while not await condition():
        if time.monotonic() > deadline:
            raise LoadError(f"not {what} within {DRAIN_S:.0f} s")
        await asyncio.sleep(0.01)
    return time.perf_counter()


@asynccontextmanager
async def connected(stack: Stack, *, keys: bool) -> AsyncIterator[Daybook]:
    """A client of the stack. With `keys` every transfer is sent with an idempotency key."""
    connection = stack.connection
    port = urlsplit(connection["api"]).port
    assert port is not None
    consumer = Consumer({"bootstrap.servers": connection["kafka_servers"], "group.id": "benchmark", "log_level": 0})
    partitions = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    consumer.assign([TopicPartition(TOPIC, partition, OFFSET_BEGINNING) for partition in partitions])
    db = await asyncpg.connect(connection["database_url"])
    try:
        async with httpx.AsyncClient(base_url=connection["api"], timeout=60) as http:
            yield Daybook(stack, port, http, db, consumer, keys)
    finally:
        await db.close()
        consumer.close()


# -- commands ---------------------------------------------------------------------------------------------------------


async def bulk(daybook: Daybook, accounts: int, transfers: int, *, atomic: bool = False) -> dict[str, Any]:
    """Transfers in bulk requests of 1,000, each request all or nothing if `atomic`."""
    ledger = await daybook.new_ledger(accounts)
    path = f"/v1/ledgers/{ledger.id}/commands"
    groups = [[_line(ledger, daybook.keys) for _ in range(BULK)] for _ in range(transfers // BULK)]
    requests = [json_request(path, daybook.headers, {"commands": group, "atomic": atomic}) for group in groups]
    return await _drain(daybook, ledger, requests, transfers, connections=BULK_CONNECTIONS)


async def holds(daybook: Daybook, accounts: int, commands: int) -> dict[str, Any]:
    """Holds and their captures in bulk requests of 1,000 commands: each transfer takes two."""
    ledger = await daybook.new_ledger(accounts)
    path = f"/v1/ledgers/{ledger.id}/commands"
    requests = []
    for _ in range(commands // BULK):
        group: list[dict[str, Any]] = []
        for number in range(BULK // 2):
            group.append({**_line(ledger, daybook.keys), "pending": True, "label": str(number)})
            group.append({"kind": "capture_transaction", "transaction": f"#{number}"})
        requests.append(json_request(path, daybook.headers, {"commands": group}))
    return await _drain(daybook, ledger, requests, len(requests) * BULK, connections=BULK_CONNECTIONS)


async def single(daybook: Daybook, accounts: int, transfers: int) -> dict[str, Any]:
    """Transfers in a request each, from 64 connections."""
    ledger = await daybook.new_ledger(accounts)
    return await _drain(
        daybook, ledger, _singles(daybook, ledger, transfers), transfers, connections=SINGLE_CONNECTIONS
    )


async def awaited(daybook: Daybook, accounts: int, transfers: int) -> dict[str, Any]:
    """Transfers in a request each, from 64 connections, each waiting for its outcome."""
    ledger = await daybook.new_ledger(accounts)
    requests = _singles(daybook, ledger, transfers, {"prefer": "wait=30"})
    run = await drive(daybook.port, requests, connections=SINGLE_CONNECTIONS, expected=201)
    return {"rate": run.rate, **_latencies(run)}


async def idle_wait(daybook: Daybook, transfers: int) -> dict[str, Any]:
    """One transfer after another, each waiting for its outcome, while nothing else happens."""
    ledger = await daybook.new_ledger(2)
    requests = _singles(daybook, ledger, transfers, {"prefer": "wait=30"})
    run = await drive(daybook.port, requests, connections=1, expected=201)
    return {"rate": run.rate, **_latencies(run)}


def _singles(
    daybook: Daybook, ledger: Ledger, transfers: int, headers: dict[str, str] | None = None
) -> Sequence[bytes]:
    path = f"/v1/ledgers/{ledger.id}/transactions"
    all_headers = {**daybook.headers, **(headers or {})}
    return [
        json_request(path, {**all_headers, **_key_header(daybook.keys, number)}, ledger.transfer())
        for number in range(transfers)
    ]


def _line(ledger: Ledger, keys: bool) -> dict[str, Any]:
    key = {"idempotency_key": f"bench-{next(_numbers)}"} if keys else {}
    return {"kind": "post_transaction", **ledger.transfer(), **key}


def _key_header(keys: bool, number: int) -> dict[str, str]:
    return {"idempotency-key": f"bench-{number}"} if keys else {}


async def _drain(
    daybook: Daybook, ledger: Ledger, requests: Sequence[bytes], transfers: int, *, connections: int
) -> dict[str, Any]:
    """Sends everything; the rates are counted from the first request on: accepted, posted, in Kafka."""
    before = await daybook.db.fetchval(HEAD, ledger.actor)
    used = daybook.processor_seconds()

    async def is_posted() -> bool:
        head = await daybook.db.fetchval(HEAD, ledger.actor)
        return bool(head >= before + transfers)

    async def is_delivered() -> bool:
        return bool(await daybook.db.fetchval(UNDELIVERED, ledger.actor) == 0)

    async with asyncio.TaskGroup() as group:
        posting = group.create_task(_until(is_posted, "posted"))
        run = await drive(daybook.port, requests, connections=connections, expected=202)
    posted = posting.result()
    delivered = await _until(is_delivered, "in Kafka")
    spent = {name: round(seconds - used.get(name, 0.0), 2) for name, seconds in daybook.processor_seconds().items()}
    await _check(daybook, ledger, transfers)
    return {
        "rate": transfers / (delivered - run.began),
        "accepted": transfers / (run.ended - run.began),
        "posted": transfers / (posted - run.began),
        **_latencies(run),
        "processor_s": spent,
    }


async def _check(daybook: Daybook, ledger: Ledger, transfers: int) -> None:
    """That every transfer succeeded, and is in Kafka."""
    outcomes = {row["status"]: row["count"] for row in await daybook.db.fetch(OUTCOMES, ledger.actor)}
    if set(outcomes) != {"succeeded"} or outcomes["succeeded"] < transfers:
        raise LoadError(f"not all transfers succeeded: {outcomes}")
    await asyncio.to_thread(daybook.await_in_kafka, ledger.actor, transfers)


# -- queries ----------------------------------------------------------------------------------------------------------


async def reads(daybook: Daybook, port: int, bare_path: str, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A cached balance and the bare route, in turns, of the server at `port`."""
    ledger = await daybook.new_ledger(2)
    balance = request("GET", f"/v1/ledgers/{ledger.id}/accounts/{ledger.accounts[0]}", daybook.headers)
    bare = request("GET", bare_path, {})
    await drive(port, [balance] * 200, connections=READ_CONNECTIONS, expected=200)
    await drive(port, [bare] * 200, connections=READ_CONNECTIONS, expected=200)
    cached = await drive(port, [balance] * count, connections=READ_CONNECTIONS, expected=200)
    plain = await drive(port, [bare] * count, connections=READ_CONNECTIONS, expected=200)
    return {"rate": cached.rate, **_latencies(cached)}, {"rate": plain.rate, **_latencies(plain)}


def _latencies(run: Run) -> dict[str, float]:
    return {"p50_ms": run.percentile_ms(50), "p99_ms": run.percentile_ms(99)}
