"""A client of the running product, for tests: HTTP with a token, the `daybook` command beside it, what is in Kafka."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tests.stack import Stack

Json = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 30
FINAL: Final = ("succeeded", "rejected", "failed", "cancelled")


def fresh(prefix: str = "l") -> str:
    """A name that nobody else has; always of the same length."""
    return f"{prefix}-{uuid4().hex[:12]}"


def posting(amount: str = "1.00", debit: str = "assets:bank", credit: str = "wallets:alice", **members: Any) -> Json:
    """The body of a transaction with one posting."""
    return {"postings": [{"debit": debit, "credit": credit, "amount": amount}], **members}


def yearly() -> Json:
    """The body of a schedule whose first time is a year from now."""
    return {"command": {"kind": "post_transaction", **posting()}, "every": "P365D"}


@dataclass
class Client:
    """Somebody who is logged in. May be used by many threads at once; `again` has connections of its own."""

    http: httpx.Client
    username: str
    password: str

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Headers by name, with underscores."""
        return self.http.get(path, headers=_named(headers))

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Sends JSON, or bytes as they are."""
        if isinstance(body, bytes):
            return self.http.post(path, content=body, headers={"content-type": "application/json", **_named(headers)})
        return self.http.post(path, json=body, headers=_named(headers))

    def read(self, path: str) -> Json:
        """What a GET answers, which must be 200."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        content: Json = answer.json()
        return content

    def done(self, path: str, body: object, **headers: str) -> Json:
        """Sends a command that must succeed, and waits; what was made."""
        answer = self.post(path, body, prefer=f"wait={PATIENCE_S}", **headers)
        assert answer.status_code == 201, answer.text
        content: Json = answer.json()
        return content

    def outcome(self, job: str) -> Json:
        """The job, once it has finished."""
        return self._until(f"/v1/jobs/{job}", lambda job: job["status"] in FINAL)

    def batch(self, batch: str) -> Json:
        """The batch, once all its jobs have finished."""
        return self._until(f"/v1/batches/{batch}", lambda batch: bool(batch["done"]))

    def _until(self, path: str, finished: Any) -> Json:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self.patiently("GET", path, prefer="wait=5")
            assert answer.status_code == 200, answer.text
            content: Json = answer.json()
            if finished(content):
                return content
            assert time.monotonic() < deadline, f"not finished within {PATIENCE_S} s: {content}"

    def patiently(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        """Sends a request again as long as the product can't be reached, or says that it is unavailable."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.http.request(method, path, json=body, headers=_named(headers))
                if answer.status_code != 503:
                    return answer
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            assert time.monotonic() < deadline, f"no answer within {PATIENCE_S} s: {said}"
            time.sleep(0.05)

    def journal(self, ledger: str) -> list[Json]:
        """Every event, its chain of numbers checked."""
        events: list[Json] = []
        while True:
            path = f"/v1/ledgers/{ledger}/journal?limit=1000&after={len(events)}"
            lines = self.get(path).raise_for_status().content.splitlines()
            page = [msgspec.json.decode(line) for line in lines]
            assert [line["seq"] for line in page] == [len(events) + number for number in range(1, len(page) + 1)]
            events.extend(msgspec.json.decode(line["event"]) for line in page)
            if not page:
                return events

    @contextmanager
    def again(self) -> Iterator[Client]:
        """The same user on other connections."""
        with httpx.Client(base_url=self.http.base_url, headers=self.http.headers, timeout=self.http.timeout) as http:
            yield Client(http, self.username, self.password)


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@contextmanager
def logged_in(stack: Stack, username: str, password: str) -> Iterator[Client]:
    """A client of the stack with a session of its own."""
    with httpx.Client(base_url=stack.connection["api"], timeout=PATIENCE_S + 10) as http:
        answer = http.post("/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        http.headers["authorization"] = f"Bearer {answer.json()['access_token']}"
        yield Client(http, username, password)


@contextmanager
def added_user(stack: Stack, *options: str) -> Iterator[Client]:
    """A new user, made by `daybook users add` and logged in."""
    username, password = fresh("user"), secrets.token_urlsafe(12)
    done = daybook(stack, "users", "add", username, *options, typed=password)
    assert done.returncode == 0, done.stdout + done.stderr
    with logged_in(stack, username, password) as client:
        yield client


def daybook(stack: Stack, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the `daybook` command beside the running product."""
    names = ("database_url", "redis_url", "kafka_servers")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    environment |= {f"DAYBOOK_{name.upper()}": stack.connection[name] for name in names}
    environment["DAYBOOK_SECRET_KEY"] = secrets.token_urlsafe(48)
    command = [sys.executable, "-m", "cli", *arguments]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=300
    )


def open_books(client: Client, accounts: Iterable[str] = ("wallets:alice",), *, least: str | None = None) -> str:
    """A new ledger of the client's with `assets:bank` and wallets in USD, applied. `least`: the wallets' minimum."""
    ledger = fresh()
    client.done("/v1/ledgers", {"id": ledger, "name": "Books"})
    lines: list[Json] = [{"kind": "open_account", "name": "assets:bank", "currency": "USD", "type": "asset"}]
    wallet = {"kind": "open_account", "currency": "USD", "type": "liability", "min_balance": least}
    lines += [{**wallet, "name": name} for name in accounts]
    answer = client.post(f"/v1/ledgers/{ledger}/commands", {"commands": lines}, prefer=f"wait={PATIENCE_S}")
    assert answer.status_code == 200 and answer.json()["counts"]["succeeded"] == len(lines), answer.text
    return ledger


def log_lines(stack: Stack, process: str, **members: object) -> list[Json]:
    """The lines that a process has logged as JSON so far with these members."""
    found = []
    for line in stack.log().splitlines():
        name, _, text = line.partition(" | ")
        if name.strip() != process or not text.startswith("{"):
            continue
        content: Json = msgspec.json.decode(text)
        if members.items() <= content.items():
            found.append(content)
    return found


def events_in_kafka(stack: Stack, ledger: str, wanted: int) -> list[Message]:
    """The messages of a ledger, as `events_of` gives them."""
    return events_of(stack, f"ledger:{ledger}", wanted)


def events_of(stack: Stack, actor: str, wanted: int) -> list[Message]:
    """The messages of an actor in their partition's order, until there are as many different ones as `wanted`.

    A broker that is just being started again, and topics that are not there yet, are waited for.
    """
    configuration: dict[str, Any] = {
        "bootstrap.servers": stack.connection["kafka_servers"],
        "group.id": fresh("test"),
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "log_level": 0,
    }
    deadline = time.monotonic() + 2 * PATIENCE_S
    while True:
        consumer = Consumer(configuration)
        try:
            return _consume(consumer, actor, wanted, deadline)
        except KafkaException as error:
            assert time.monotonic() < deadline, f"Kafka can't be read: {error}"
            time.sleep(0.1)
        finally:
            consumer.close()


def _consume(consumer: Consumer, actor: str, wanted: int, deadline: float) -> list[Message]:
    name = f"daybook.{actor.partition(':')[0]}.events"
    topic = consumer.list_topics(name, timeout=5).topics[name]
    if topic.error is not None or not topic.partitions:
        raise KafkaException(topic.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    consumer.assign([TopicPartition(name, partition, 0) for partition in topic.partitions])
    found: list[Message] = []
    while len({message.value() for message in found}) < wanted:
        assert time.monotonic() < deadline, f"{len(found)} of {wanted} events in Kafka"
        for message in consumer.consume(1_000, timeout=0.5):
            if (error := message.error()) is not None:
                raise KafkaException(error)
            if message.key() == actor.encode():
                found.append(message)
    return found


def seqs_in_kafka(stack: Stack, ledger: str, wanted: int) -> list[int]:
    """The seqs of a ledger's messages, repetitions left out: in order and without a gap, or this fails."""
    values: dict[int, bytes] = {}
    for message in events_in_kafka(stack, ledger, wanted):
        value = message.value() or b""
        seq = msgspec.json.decode(value)["seq"]
        # what is repeated has the same bytes; what is new is the next seq
        assert values.setdefault(seq, value) == value
        assert seq <= len(values)
    return sorted(values)


def redis_command(stack: Stack, *words: str) -> Any:
    """Sends one command to Valkey."""
    import redis

    with redis.Redis.from_url(stack.connection["redis_url"]) as client:
        return client.execute_command(*words)


def ids_of(items: Sequence[Json]) -> list[str]:
    return [item["id"] for item in items]
