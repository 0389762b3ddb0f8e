"""`daybook up`: nothing outlives it, what dies comes back, and a second start finds what the first left."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cli.up import UpError, parse_scale, read_procfile
from infrastructure.embedded import Addresses
from tests.conftest import run_sql, temporary_state
from tests.e2e.client import PATIENCE_S, logged_in, open_books, posting
from tests.stack import Stack, alive, descendants, launch, running_stack, wait_for

MANY = 200
"""Events of 25 kB: more than what kernels keep of a stream that nobody reads."""
SUPERVISED = {
    *("postgres", "valkey", "kafka"),
    *("api.1", "ledgers.1", "ledgers.2", "identity.1", "events.1", "maintenance.1", "exports.1", "beat.1", "flower.1"),
}


@pytest.fixture(scope="module")
def product() -> Iterator[Stack]:
    with temporary_state() as state, running_stack(state, arguments=("--scale", "ledgers=2")) as running:
        yield running


def supervised(stack: Stack) -> dict[str, list[object]]:
    processes: dict[str, list[object]] = json.loads((stack.state / "run.json").read_text())["processes"]
    return {name: process for name, process in processes.items() if name != "daybook"}


def get(url: str, path: str, headers: dict[str, str] | None = None) -> int:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def test_everything_runs_and_says_how_to_reach_it(product: Stack) -> None:
    assert set(supervised(product)) == SUPERVISED
    connection = product.connection
    assert list(connection) == [
        *("api", "username", "password", "database_url", "redis_url", "broker_url", "kafka_servers"),
        *("flower", "flower_user", "flower_password"),
    ]
    assert get(connection["api"], "/health/ready") == 200
    assert connection["password"] in product.log()
    assert run_sql(connection["database_url"], "SELECT username, roles FROM users") == "admin|{admin}"


def test_secrets_are_for_their_owner_only(product: Stack) -> None:
    for name in ("connection.json", "secrets.json", "run.json", "valkey/valkey.conf", "lock"):
        assert stat.S_IMODE((product.state / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(product.state.stat().st_mode) & 0o007 == 0
    everything = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    for secret in json.loads((product.state / "secrets.json").read_text()).values():
        assert secret not in everything


def test_servers_listen_on_loopback_and_want_passwords(product: Stack) -> None:
    with pytest.raises(subprocess.CalledProcessError, match="psql"):
        run_sql(product.connection["database_url"].replace("daybook:", "daybook:wrong"), "SELECT 1")
    host, _, port = product.connection["redis_url"].rpartition("@")[2].removesuffix("/0").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")


def test_flower_wants_its_password(product: Stack) -> None:
    assert get(product.connection["flower"], "/workers") == 401


def test_a_second_one_in_the_same_folder_refuses(product: Stack) -> None:
    other = launch(product.state)
    with other.output:
        assert other.process.wait(20) == 1
        assert f"another one (pid {product.process.pid}) is running in {product.state}" in other.log()
    assert product.process.poll() is None
    assert get(product.connection["api"], "/health/ready") == 200


@pytest.mark.parametrize("name", ["ledgers.1", "beat.1", "api.1", "valkey", "postgres", "kafka"])
def test_what_dies_is_started_again(product: Stack, name: str) -> None:
    before = product.pid_of(name)
    assert before is not None
    family = descendants(before)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: product.pid_of(name) not in (before, None), seconds=15, what=f"{name} runs again")
    wait_for(lambda: not alive(family), seconds=10, what=f"the children of {name} are gone")
    assert f"{name} was ended by SIGKILL; restarting in" in product.log()
    wait_for(lambda: _is_ready(product), seconds=30, what="the API is ready again")


def test_a_broker_that_lost_its_topics_gets_them_again(product: Stack) -> None:
    before = product.pid_of("kafka")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    admin = AdminClient({"bootstrap.servers": product.connection["kafka_servers"], "log_level": 0})

    def partitions() -> int:
        try:
            topic = admin.list_topics(timeout=1).topics.get("daybook.ledger.events")
        except KafkaException:
            return 0
        return len(topic.partitions) if topic and product.pid_of("kafka") != before else 0

    wait_for(lambda: partitions() == 12, seconds=30, what="the topic exists again")


def test_it_stops_in_time_with_streams_open(product: Stack) -> None:
    # the last that uses it
    large = {"kind": "post_transaction", **posting(), "metadata": {f"k{number}": "x" * 500 for number in range(50)}}
    with (
        logged_in(product, product.connection["username"], product.connection["password"]) as admin,
        ExitStack() as left,
    ):
        ledger = f"/v1/ledgers/{open_books(admin)}"
        made = admin.post(f"{ledger}/commands", {"commands": [large] * MANY}, prefer=f"wait={PATIENCE_S}")
        assert made.json()["counts"]["succeeded"] == MANY, made.text
        later = admin.post(f"{ledger}/transactions", posting(execute_at="2099-01-01T00:00:00Z")).json()
        authorization = f"Authorization: {admin.http.headers['authorization']}"
        followed = left.enter_context(stream(product, f"{ledger}/events", authorization))
        followed_job = left.enter_context(stream(product, later["links"]["events"], authorization))
        unread = left.enter_context(stream(product, f"{ledger}/events", authorization, "Last-Event-ID: 0"))
        for opened in (followed, followed_job, unread):
            assert opened.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        product.stop()
        for opened in (followed, followed_job):
            assert all_of(opened).endswith(b"0\r\n\r\n"), "an end, and not just a broken connection"
        assert len(all_of(unread)) < MANY * 25_000
    assert "Application shutdown complete" in product.log(), "the API was killed"


@contextmanager
def stream(stack: Stack, path: str, *headers: str) -> Iterator[socket.socket]:
    """A request for a stream. What is not read stays with the server: there is hardly room for it here."""
    host, _, port = stack.connection["api"].removeprefix("http://").partition(":")
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        opened.settimeout(PATIENCE_S)
        opened.connect((host, int(port)))
        opened.sendall("\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}", *headers, "", "")).encode())
        yield opened


def all_of(opened: socket.socket) -> bytes:
    """What comes until the connection ends, however it does."""
    found = b""
    try:
        while piece := opened.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def test_servers_of_your_own_are_used_instead(servers: Addresses, database: str) -> None:
    environment = {
        "DAYBOOK_DATABASE_URL": database,
        "DAYBOOK_REDIS_URL": servers.redis_url,
        "DAYBOOK_KAFKA_SERVERS": servers.kafka_servers,
        "DAYBOOK_ADMIN_PASSWORD": "chosen by the operator",
    }
    with temporary_state() as state, running_stack(state, environment=environment) as stack:
        assert not {"postgres", "valkey", "kafka"} & set(supervised(stack))
        assert stack.connection["database_url"] == database
        assert stack.connection["password"] == "chosen by the operator"
        assert run_sql(database, "SELECT username FROM users") == "admin"


def _is_ready(product: Stack) -> bool:
    try:
        return get(product.connection["api"], "/health/ready") == 200
    except OSError:
        return False


def test_kill_9_leaves_nothing_and_the_next_start_finds_the_data() -> None:
    with temporary_state() as state:
        first = launch(state, environment={"DAYBOOK_API_PROCESSES": "2"})
        with first.output:
            first.await_ready()
            connection = first.connection
            run_sql(connection["database_url"], "CREATE TABLE kept AS SELECT 42 AS answer")
            family = descendants(first.process.pid)
            assert len(family) > len(SUPERVISED), "there are grandchildren"
            first.process.kill()
            first.process.wait()
            wait_for(lambda: not alive(family), seconds=5, what="every process of the killed one is gone")
        with running_stack(state) as second:
            # same ports, same secrets
            assert second.connection == connection
            assert run_sql(second.connection["database_url"], "SELECT answer FROM kept") == "42"


def test_a_taken_port_is_answered_by_another_one() -> None:
    with socket.socket() as squatter, temporary_state() as state:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        (state / "run.json").write_text(json.dumps({"ports": {"api": taken, "postgres": taken}}))
        with running_stack(state) as stack:
            assert str(taken) not in stack.connection["api"]
            assert get(stack.connection["api"], "/health/ready") == 200


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (["ledgers"], "name=count"),
        (["ledgers=x"], "name=count"),
        (["ledgers=65"], "name=count"),
        (["beat=2"], "only one beat"),
        (["api=2"], "DAYBOOK_API_PROCESSES"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(wishes: list[str], message: str) -> None:
    with pytest.raises(UpError, match=message):
        parse_scale(wishes)


def test_scale_is_read_in_either_form() -> None:
    assert parse_scale(["ledgers=2 events=0", "maintenance=1"]) == {"ledgers": 2, "events": 0, "maintenance": 1}


def test_a_pool_the_procfile_lacks_is_refused() -> None:
    with temporary_state() as state:
        stack = launch(state, arguments=("--scale", "ghosts=1"))
        with stack.output:
            assert stack.process.wait(20) == 1
            assert "the Procfile has no ghosts; it has api, ledgers" in stack.log()


def test_a_procfile_line_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("# a comment\n\napi: daybook api\nnonsense\n")
    with pytest.raises(UpError, match="Procfile:4"):
        read_procfile(tmp_path / "Procfile")


def test_flower_does_not_start_without_a_password() -> None:
    environment = {
        "DAYBOOK_DATABASE_URL": "postgresql://localhost/none",
        "DAYBOOK_REDIS_URL": "redis://localhost:1",
        "DAYBOOK_KAFKA_SERVERS": "localhost:1",
        "DAYBOOK_SECRET_KEY": "k" * 32,
    }
    run = subprocess.run(
        [sys.executable, "-m", "cli", "flower"], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "DAYBOOK_FLOWER_PASSWORD is missing" in run.stderr
