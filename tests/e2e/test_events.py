"""Events through the whole product: one correlation id as far as Kafka, replay by command, a broker that lost all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from infrastructure.settings import Settings, parse
from tests.journals import consume, first_occurrences
from tests.stack import Stack, wait_for

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("database_url", "redis_url", "broker_url", "kafka_servers")


@dataclass
class Book:
    """A ledger of this test's own with two accounts: three events."""

    api: httpx.Client
    name: str

    @property
    def actor(self) -> str:
        return f"ledger:{self.name}"

    def post(self, path: str, body: object, correlation_id: str = "c1") -> httpx.Response:
        headers = {"prefer": "wait=20", "x-correlation-id": correlation_id}
        answer = self.api.post(f"/v1/ledgers{path}", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer

    def pay(self, correlation_id: str = "c1") -> httpx.Response:
        posting = {"debit": "assets:bank", "credit": "wallets:alice", "amount": "1.00"}
        return self.post(f"/{self.name}/transactions", {"postings": [posting]}, correlation_id)


@pytest.fixture
def book(stack: Stack) -> Iterator[Book]:
    connection = stack.connection
    with httpx.Client(base_url=connection["api"], timeout=40) as api:
        login = {"username": connection["username"], "password": connection["password"]}
        api.headers["authorization"] = f"Bearer {api.post('/auth/login', json=login).json()['access_token']}"
        made = Book(api, f"book-{uuid4().hex[:10]}")
        made.post("", {"id": made.name, "name": "A book"})
        made.post(f"/{made.name}/accounts", {"name": "assets:bank", "currency": "USD", "type": "asset"})
        made.post(f"/{made.name}/accounts", {"name": "wallets:alice", "currency": "USD", "type": "liability"})
        yield made


def environment(stack: Stack) -> dict[str, str]:
    return {f"DAYBOOK_{name.upper()}": stack.connection[name] for name in NAMES} | {"DAYBOOK_SECRET_KEY": "t" * 40}


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return parse(environment(stack))


@pytest.fixture
def daybook(stack: Stack) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `daybook events …` against the stack."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
        return subprocess.run(
            [sys.executable, "-m", "cli", "events", *arguments],
            env={**inherited, **environment(stack)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_one_correlation_id_from_the_request_to_kafkas_header(book: Book, settings: Settings) -> None:
    answer = book.pay("from-the-request")
    assert answer.headers["x-correlation-id"] == "from-the-request"
    fourth = consume(settings, book.actor, last=4)[-1]
    assert fourth.headers["ce_correlationid"] == b"from-the-request"
    assert json.loads(fourth.value)["correlation_id"] == "from-the-request"


def test_replay_publishes_again_and_says_what_it_does(
    book: Book, settings: Settings, daybook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    book.pay()
    before = consume(settings, book.actor, last=4)
    dry = daybook("replay", "--subscriber", "kafka", "--actor", book.actor, "--from-seq", "3", "--dry-run")
    assert dry.stdout.strip() == "Would publish 2 events of 1 actor to kafka."
    done = daybook("replay", "--subscriber", "kafka", "--actor", book.actor, "--from-seq", "3")
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout
    after = consume(settings, book.actor, last=4)
    assert [one.value for one in after] == [one.value for one in (*before, *before[2:])]
    lag = daybook("lag")
    assert "kafka" in lag.stdout
    assert "redis" in lag.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "--subscriber", "nobody", "--all"), "There is no subscriber nobody"),
        (("replay", "--subscriber", "kafka"), "--all"),
        (("replay", "--subscriber", "kafka", "--all", "--actor", "ledger:a"), "--all"),
        (("replay", "--subscriber", "kafka", "--all", "--from-seq", "0"), "The first seq is 1"),
        (("forget", "kafka"), "Only handlers"),
        (("forget", "handler:gone"), "There is no subscriber handler:gone"),
    ],
)
def test_what_makes_no_sense_is_refused(
    daybook: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], said: str
) -> None:
    done = daybook(*arguments)
    assert done.returncode in (1, 2)
    assert said in done.stdout + done.stderr


def test_a_broker_that_lost_everything_is_filled_again(book: Book, settings: Settings, stack: Stack) -> None:
    book.pay()
    consume(settings, book.actor, last=4)
    before = stack.pid_of("kafka")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: stack.pid_of("kafka") not in (None, before), seconds=20, what="kafka runs again")
    book.pay()

    def is_filled() -> bool:
        try:
            return first_occurrences(consume(settings, book.actor, last=5, seconds=3)) == [1, 2, 3, 4, 5]
        except (AssertionError, KeyError):
            return False

    wait_for(is_filled, seconds=40, what="every event is there again")
