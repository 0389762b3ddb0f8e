"""`daybook doctor` in the folder of a running product, and where nothing runs at all."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import redis

from cli import doctor as command
from infrastructure.migrations import newest
from tests.e2e.client import ROOT
from tests.stack import Stack

PASSWORD = "hunter2-hunter2"
NOWHERE = {
    "DAYBOOK_DATABASE_URL": f"postgresql://daybook:{PASSWORD}@127.0.0.1:1/daybook",
    "DAYBOOK_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:1/0",
    "DAYBOOK_KAFKA_SERVERS": "127.0.0.1:1",
    "DAYBOOK_SECRET_KEY": "s" * 48,
}


def doctor(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return subprocess.run(
        [sys.executable, "-m", "cli", "doctor", *arguments],
        env={**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "150", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def findings(run: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Status and words, by area and what was looked at."""
    said: dict[str, Any] = json.loads(run.stdout)
    assert said["ok"] == (run.returncode == 0)
    return {(one["area"], one["what"]): (one["status"], one["said"]) for one in said["findings"]}


def in_folder_of(stack: Stack, **environment: str) -> dict[tuple[str, str], tuple[str, str]]:
    """What it finds, called within this process, which is quicker."""
    said, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        for name in [name for name in os.environ if name.startswith("DAYBOOK_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            command.doctor(directory=stack.state, as_json=True)
        except SystemExit as end:
            status = int(end.code or 0)
    return findings(subprocess.CompletedProcess([], status, said.getvalue()))


@contextmanager
def configured(stack: Stack, name: str, value: str) -> Iterator[None]:
    """Redis with another setting."""
    with redis.Redis.from_url(stack.connection["redis_url"]) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield
        finally:
            client.config_set(name, before)


def test_a_healthy_product(stack: Stack) -> None:
    run = doctor("--dir", str(stack.state))
    assert run.returncode == 0, run.stdout
    for words in (
        "Daybook answers",
        f"at {newest()}, the newest",
        "Valkey",
        "volatile-lru",
        "append-only",
        "12 partitions",
    ):
        assert words in run.stdout
    for pool in ("ledgers", "identity", "events", "maintenance", "exports"):
        assert f"pool {pool}" in run.stdout
    assert "Nothing is wrong." in run.stdout
    for secret in json.loads((stack.state / "secrets.json").read_text()).values():
        assert secret not in run.stdout + run.stderr


def test_it_finds_the_product_of_the_folder_it_is_called_in(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".daybook").symlink_to(stack.state)
    assert doctor(cwd=tmp_path).returncode == 0


def test_with_everything_down_it_says_so_at_once() -> None:
    began = time.monotonic()
    run = doctor("--json", **NOWHERE)
    assert time.monotonic() - began < 20
    assert run.returncode == 1
    found = findings(run)
    for area in ("postgres", "redis", "workers", "kafka"):
        assert found[area, "reachable"][0] == "wrong"
    assert found["versions", "Python"][0] == "ok"
    assert PASSWORD not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_servers_that_never_answer_do_not_hold_it_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = str(silent.getsockname()[1])
        began = time.monotonic()
        run = doctor("--json", **{name: value.replace(":1/", f":{port}/") for name, value in NOWHERE.items()})
    assert time.monotonic() - began < 30
    assert {found[0] for (_, what), found in findings(run).items() if what == "reachable"} == {"wrong"}


def test_without_any_setting_it_lists_what_is_missing(tmp_path: Path) -> None:
    run = doctor("--json", cwd=tmp_path)
    assert run.returncode == 1
    for name in NOWHERE:
        assert f"{name} is missing" in run.stdout


def test_production_gets_the_list_that_refuses_its_start(stack: Stack) -> None:
    found = in_folder_of(stack, DAYBOOK_ENVIRONMENT="production", DAYBOOK_SECRET_KEY="change-me-" * 4)
    status, said = found["settings", "unsafe"]
    assert (status, said[:30]) == ("wrong", "DAYBOOK_SECRET_KEY looks like ")
    # development is told, too, and may go on
    assert in_folder_of(stack, DAYBOOK_SECRET_KEY="change-me-" * 4)["settings", "unsafe"][0] == "note"


def test_a_port_taken_by_somebody_else(stack: Stack) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        found = in_folder_of(stack, DAYBOOK_PORT=str(port))
    status, said = found["ports", f"API 127.0.0.1:{port}"]
    assert status == "wrong"
    assert "not Daybook's API" in said
    if sys.platform == "linux":
        assert f"(pid {os.getpid()})" in said


def test_a_redis_that_loses_messages(stack: Stack) -> None:
    with configured(stack, "maxmemory-policy", "allkeys-lru"), configured(stack, "appendonly", "no"):
        found = in_folder_of(stack)
    assert found["redis", "maxmemory-policy"][0] == "wrong"
    assert found["redis", "persistence"][0] == "note"


def test_an_empty_database_and_a_broker_without_workers(stack: Stack) -> None:
    empty = stack.connection["database_url"].rpartition("/")[0] + "/postgres"
    elsewhere = stack.connection["redis_url"].removesuffix("/0") + "/9"
    found = in_folder_of(stack, DAYBOOK_DATABASE_URL=empty, DAYBOOK_BROKER_URL=elsewhere)
    assert found["postgres", "migrations"] == ("wrong", f"at none, needs {newest()}: run daybook migrate")
    assert found["workers", "pool ledgers"] == ("wrong", "0 workers answer, 0 messages wait")
