"""Everything dies once, under load: what was acknowledged is applied exactly once and in order, and reaches Kafka."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import temporary_state
from tests.e2e.client import (
    PATIENCE_S,
    ROOT,
    Client,
    Json,
    added_user,
    daybook,
    fresh,
    log_lines,
    logged_in,
    open_books,
    posting,
    redis_command,
    seqs_in_kafka,
)
from tests.e2e.races import race
from tests.stack import Stack, running_stack, wait_for

MAILBOX_LIMIT: Final = 2_000
TURN_COMMANDS: Final = 50
ATTEMPTS: Final = 3
SENDERS: Final = 6
SENDS_EACH: Final = 20
SPOILT: Final = "command_failed"

ENVIRONMENT: Final = {
    "DAYBOOK_API_PROCESSES": "2",
    "DAYBOOK_MAILBOX_LIMIT": str(MAILBOX_LIMIT),
    "DAYBOOK_TURN_COMMANDS": str(TURN_COMMANDS),
    "DAYBOOK_TURN_ATTEMPTS": str(ATTEMPTS),
    "DAYBOOK_SWEEP_MS": "500",
    "DAYBOOK_HANDLERS": "tests.e2e.poison",
    "PYTHONPATH": str(ROOT),
}


@pytest.fixture(scope="module")
def fragile() -> Iterator[Stack]:
    """A product of its own, with two API processes and commands that can be spoilt."""
    with temporary_state() as state, running_stack(state, environment=ENVIRONMENT) as stack:
        yield stack


@pytest.fixture(scope="module")
def ada(fragile: Stack) -> Iterator[Client]:
    with added_user(fragile) as client:
        yield client


# -- breaking and mending ---------------------------------------------------------------------------------------------


def kill(stack: Stack, name: str) -> None:
    """SIGKILL to one supervised process; returns when another one has taken its place."""
    before = stack.pid_of(name)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: stack.pid_of(name) not in (before, None), seconds=PATIENCE_S, what=f"{name} runs again")


@contextmanager
def stopped(stack: Stack, *names: str) -> Iterator[None]:
    """Stops processes and their children in their tracks for the length of a `with`."""
    pids = [pid for name in names if (pid := stack.pid_of(name)) is not None]
    assert len(pids) == len(names)
    for pid in pids:
        os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.killpg(pid, signal.SIGCONT)


# -- load -------------------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """What senders have sent to a ledger, each one after the other: keys, and the jobs that were acknowledged."""

    ledger: str
    acknowledged: list[list[tuple[str, str]]] = field(default_factory=lambda: [[] for _ in range(SENDERS)])

    @property
    def path(self) -> str:
        return f"/v1/ledgers/{self.ledger}/transactions"

    @property
    def size(self) -> int:
        return sum(len(sent) for sent in self.acknowledged)

    def run(self, client: Client, disturb: Callable[[], None]) -> None:
        """Sends, and disturbs when a third has been acknowledged. What gets no answer is sent again under its key."""
        third = threading.Event()

        def send(number: int) -> None:
            with client.again() as sender:
                for _ in range(SENDS_EACH):
                    key = fresh("key")
                    answer = sender.patiently("POST", self.path, posting(), idempotency_key=key)
                    assert answer.status_code == 202, answer.text
                    self.acknowledged[number].append((key, answer.json()["id"]))
                    if self.size * 3 > SENDERS * SENDS_EACH:
                        third.set()

        with ThreadPoolExecutor(SENDERS) as threads:
            sending = [threads.submit(send, number) for number in range(SENDERS)]
            assert third.wait(PATIENCE_S)
            assert self.size < SENDERS * SENDS_EACH
            disturb()
            for one in sending:
                one.result()

    def check(self, client: Client) -> None:
        """Each key still stands for its job, each job was applied once, and each sender's in order."""
        for key, job in (pair for sent in self.acknowledged for pair in sent):
            again = client.patiently("POST", self.path, posting(), idempotency_key=key)
            assert (again.status_code, again.json()["id"], again.headers["idempotent-replayed"]) == (202, job, "true")
        for sent in self.acknowledged:
            assert client.outcome(sent[-1][1])["status"] == "succeeded"
        applied = applied_commands(client, self.ledger)
        assert len(applied) == SENDERS * SENDS_EACH
        for sent in self.acknowledged:
            jobs = [job for _, job in sent]
            assert [job for job in applied if job in set(jobs)] == jobs
        assert money_in(client, self.ledger) == f"{SENDERS * SENDS_EACH}.00"


def applied_commands(client: Client, ledger: str) -> list[str]:
    return [event["command"] for event in client.journal(ledger) if event["type"] == "TransactionPosted"]


def money_in(client: Client, ledger: str) -> str:
    """What all wallets hold, found the same in the bank."""
    (item,) = client.read(f"/v1/ledgers/{ledger}/trial-balance")["items"]
    assert item["debits"] == item["credits"] and item["difference"] == "0.00"
    debits: str = item["debits"]
    return debits


def submit(client: Client, ledger: str, lines: Sequence[Json]) -> Json:
    """A bulk request of transactions; the batch and its jobs."""
    body = {"commands": [{"kind": "post_transaction", **line} for line in lines]}
    answer = client.post(f"/v1/ledgers/{ledger}/commands", body)
    assert answer.status_code == 202, answer.text
    accepted: Json = answer.json()
    return accepted


def wakes_a_worker(stack: Stack, client: Client, load: Load) -> bool:
    """Whether a command's own doorbell was heard: a turn that a sweep has rung for carries no request's id."""
    asked = fresh("trace")
    with client.again() as sender:
        sender.done(load.path, posting(), x_correlation_id=asked)
    return bool(log_lines(stack, "ledgers.1", event="turn", actor=f"ledger:{load.ledger}", correlation_id=asked))


# -- poison -----------------------------------------------------------------------------------------------------------


def test_commands_that_raise_or_kill_become_dead_letters_and_hurt_nobody_else(fragile: Stack, ada: Client) -> None:
    ledger, asked = open_books(ada), fresh("trace")
    spoilt = {17: "raise!", 41: "kill!"}
    lines = [posting(reference=f"n-{number}", description=spoilt.get(number)) for number in range(60)]
    body = {"commands": [{"kind": "post_transaction", **line} for line in lines]}
    accepted = ada.post(f"/v1/ledgers/{ledger}/commands", body, x_correlation_id=asked).json()

    batch = ada.batch(accepted["batch"])
    assert (batch["counts"]["succeeded"], batch["counts"]["failed"], batch["refusals_total"]) == (58, 2, 0)
    jobs = accepted["jobs"]
    assert applied_commands(ada, ledger) == [job for number, job in enumerate(jobs) if number not in spoilt]
    assert money_in(ada, ledger) == "58.00"
    for number in spoilt:
        dead = ada.read(f"/v1/jobs/{jobs[number]}")
        assert (dead["status"], dead["attempts"], dead["result"]) == ("failed", ATTEMPTS, None)
        assert dead["problem"] == {
            "type": "/problems/command_failed",
            "title": "Command failed",
            "status": 500,
            "detail": dead["problem"]["detail"],
            "instance": f"/v1/jobs/{dead['id']}",
            "code": SPOILT,
            "correlation_id": asked,
            "job": dead["id"],
            "errors": None,
        }
        assert "spoilt" not in dead["problem"]["detail"] and dead["finished_at"] is not None
        letters = log_lines(fragile, "ledgers.1", event="dead_letter", command=dead["id"])
        assert [letter["correlation_id"] for letter in letters] == [asked]
        gone = ada.get(f"/v1/ledgers/{ledger}/transactions/{dead['id']}")
        assert (gone.status_code, gone.json()["job"]) == (404, dead["id"])
    # what comes afterwards is not held up
    assert ada.done(f"/v1/ledgers/{ledger}/transactions", posting())["status"] == "posted"


def test_a_command_that_raises_answers_its_waiter_with_500(ada: Client) -> None:
    ledger = open_books(ada)
    path, body, key = f"/v1/ledgers/{ledger}/transactions", posting(description="raise!"), fresh("key")
    for _ in range(2):
        failed = ada.post(path, body, prefer="wait=30", idempotency_key=key)
        assert (failed.status_code, failed.headers["content-type"]) == (500, "application/problem+json")
        assert (failed.json()["code"], failed.json()["job"]) == (SPOILT, failed.headers["daybook-job"])
    dead = ada.read(f"/v1/jobs?status=failed&ledger={ledger}")["items"]
    assert [job["id"] for job in dead] == [failed.headers["daybook-job"]]


# -- mailboxes --------------------------------------------------------------------------------------------------------


def test_a_full_mailbox_takes_nothing_more(ada: Client) -> None:
    ledger = open_books(ada)
    body = {"commands": [{"kind": "post_transaction", **posting()}] * (MAILBOX_LIMIT + 1)}
    full = ada.post(f"/v1/ledgers/{ledger}/commands", body)
    assert (full.status_code, full.json()["code"]) == (503, "mailbox_full")
    assert int(full.headers["retry-after"]) >= 1 and full.json()["job"] is None
    assert ada.read(f"/v1/jobs?ledger={ledger}&kind=post_transaction")["items"] == []


def test_until_its_turn_a_transaction_is_accepted_and_changes_nothing(fragile: Stack, ada: Client) -> None:
    ledger = open_books(ada)
    with stopped(fragile, "ledgers.1"):
        accepted = ada.post(f"/v1/ledgers/{ledger}/transactions", posting("5"), prefer="wait=1")
        assert accepted.status_code == 202 and accepted.headers["preference-applied"] == "wait"
        path = accepted.json()["links"]["resource"]
        answer = ada.get(path)
        assert "etag" not in answer.headers
        early = answer.json()
        assert (early["status"], early["seq"], early["recorded_at"]) == ("accepted", None, None)
        assert ada.read(f"/v1/ledgers/{ledger}/transactions")["items"] == []
        assert ada.read(f"/v1/ledgers/{ledger}/accounts/wallets:alice")["balance"] == "0.00"
    assert ada.outcome(accepted.json()["id"])["status"] == "succeeded"
    assert ada.read(path)["status"] == "posted"


def test_a_lost_doorbell_delays_and_loses_nothing_even_without_beat(fragile: Stack, ada: Client) -> None:
    ledger = open_books(ada)
    with stopped(fragile, "beat.1"):
        with stopped(fragile, "ledgers.1"):
            jobs = [ada.post(f"/v1/ledgers/{ledger}/transactions", posting()).json()["id"] for _ in range(3)]
            redis_command(fragile, "FLUSHALL")
        assert ada.outcome(jobs[-1])["status"] == "succeeded"
    assert applied_commands(ada, ledger) == jobs


# -- processes die ----------------------------------------------------------------------------------------------------


def test_a_worker_killed_in_a_turn_is_started_again_and_applies_everything_once(
    fragile: Stack, ada: Client, tmp_path: Path
) -> None:
    ledger, gate = open_books(ada), tmp_path / "gate"
    gate.touch()
    lines = [posting(description=f"hold!{gate}" if number == 620 else None) for number in range(1_200)]
    accepted = submit(ada, ledger, lines)

    def is_held() -> bool:
        # the turn that began at 600 waits for the gate: its predecessors have been committed
        counts = ada.read(f"/v1/batches/{accepted['batch']}")["counts"]
        return bool(counts["succeeded"] == 600)

    wait_for(is_held, seconds=PATIENCE_S, what="a turn that waits")
    kill(fragile, "ledgers.1")
    gate.unlink()
    batch = ada.batch(accepted["batch"])
    assert batch["counts"]["succeeded"] == batch["total"] == 1_200
    assert applied_commands(ada, ledger) == accepted["jobs"]
    assert money_in(ada, ledger) == "1200.00"
    assert set(Counter(accepted["jobs"]).values()) == {1}


@pytest.mark.parametrize("victim", ["ledgers.1", "api.1", "valkey", "postgres"])
def test_what_dies_under_load_loses_nothing_and_doubles_nothing(fragile: Stack, ada: Client, victim: str) -> None:
    load = Load(open_books(ada))
    load.run(ada, lambda: kill(fragile, victim))
    load.check(ada)
    wait_for(lambda: wakes_a_worker(fragile, ada, load), seconds=PATIENCE_S, what="a command that wakes a worker")


def test_a_redis_emptied_under_load_loses_nothing_and_logs_nobody_out(fragile: Stack, ada: Client) -> None:
    load = Load(open_books(ada))
    load.run(ada, lambda: redis_command(fragile, "FLUSHALL"))
    load.check(ada)
    assert ada.read("/auth/me")["username"] == ada.username


def test_a_redis_that_hangs_delays_and_refuses_no_command(fragile: Stack, ada: Client) -> None:
    ledger = open_books(ada)
    base = f"/v1/ledgers/{ledger}"
    with stopped(fragile, "valkey"):
        ready = ada.get("/health/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["redis"])
        accepted = ada.post(f"{base}/transactions", posting())
        assert accepted.status_code == 202, accepted.text
        assert ada.read(f"{base}/accounts")["items"][0]["name"] == "assets:bank"
        # what nobody can count is not let in
        login = ada.post("/auth/login", {"username": ada.username, "password": ada.password})
        assert (login.status_code, login.json()["code"]) == (503, "unavailable")
    assert ada.outcome(accepted.json()["id"])["status"] == "succeeded"

    def is_ready() -> bool:
        return ada.get("/health/ready").status_code == 200

    wait_for(is_ready, seconds=PATIENCE_S, what="ready again")


def test_a_request_without_postgres_is_unavailable_and_comes_again(fragile: Stack, ada: Client) -> None:
    ledger, key = open_books(ada), fresh("key")
    path = f"/v1/ledgers/{ledger}/transactions"
    pid = fragile.pid_of("postgres")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    refused = ada.post(path, posting(), idempotency_key=key)
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1 and refused.headers["content-type"] == "application/problem+json"
    answer = ada.patiently("POST", path, posting(), idempotency_key=key)
    assert answer.status_code == 202, answer.text
    assert ada.outcome(answer.json()["id"])["status"] == "succeeded"
    assert applied_commands(ada, ledger) == [answer.json()["id"]]


def test_a_broker_that_forgot_everything_is_told_everything_again(fragile: Stack, ada: Client) -> None:
    quiet, busy = Load(open_books(ada)), Load(open_books(ada))
    quiet.run(ada, lambda: None)
    quiet.check(ada)
    events = {load.ledger: SENDERS * SENDS_EACH + 3 for load in (quiet, busy)}
    assert seqs_in_kafka(fragile, quiet.ledger, events[quiet.ledger]) == list(range(1, events[quiet.ledger] + 1))
    busy.run(ada, lambda: kill(fragile, "kafka"))
    busy.check(ada)
    for ledger, wanted in events.items():
        assert seqs_in_kafka(fragile, ledger, wanted) == list(range(1, wanted + 1))


# -- and then ---------------------------------------------------------------------------------------------------------


def test_no_reader_of_either_api_process_sees_less_than_was_acknowledged(ada: Client) -> None:
    race(ada, by_version=False)


def test_after_all_of_that_the_books_are_in_order(fragile: Stack, ada: Client) -> None:
    with logged_in(fragile, fragile.connection["username"], fragile.connection["password"]) as admin:
        assert admin.read("/v1/jobs?status=accepted")["items"] == []
    done = daybook(fragile, "verify")
    assert done.returncode == 0, done.stdout + done.stderr
