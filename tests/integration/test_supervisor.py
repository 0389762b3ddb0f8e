"""The supervisor alone: what it does with programs that fail, hang, shout or have children."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

import pytest

from cli.supervisor import LINE_LIMIT, StartError, Supervisor
from infrastructure.processes import Program
from tests.stack import alive, descendants, wait_for

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""
HAS_A_CHILD = """
import subprocess, time
subprocess.Popen(["sleep", "600"])
print("up", flush=True)
time.sleep(600)
"""


def python(name: str, code: str, *, ready: Path | None = None) -> Program:
    """A program of a few lines; ready when the file exists."""
    probe = ready.exists if ready else (lambda: True)
    return Program(name=name, command=(sys.executable, "-c", code), ready=probe)


@pytest.fixture
def restarted() -> list[str]:
    return []


@pytest.fixture
def supervisor(restarted: list[str]) -> Supervisor:
    return Supervisor(on_change=lambda: None, on_restart=restarted.append)


def test_one_that_keeps_dying_is_given_up_early(supervisor: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    supervisor.add(Program(name="bad", command=(sys.executable, "-c", "exit(3)"), ready=lambda: False))
    began = time.monotonic()
    assert supervisor.await_ready(["bad"], seconds=60) == ["bad"]
    assert time.monotonic() - began < 30
    supervisor.stop([(["bad"], 1)])
    delays = re.findall(r"bad exited with status 3; restarting in ([\d.]+) s", capfd.readouterr().out)
    assert delays == ["0.5", "1", "2"]


def test_a_one_shot_that_fails_is_an_error(supervisor: Supervisor) -> None:
    with pytest.raises(StartError, match="once failed"):
        supervisor.run_once(python("once", "exit(1)"), seconds=20)
    supervisor.run_once(python("fine", "pass"), seconds=20)


def test_one_that_ignores_the_signal_is_killed(supervisor: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    unit = supervisor.add(python("deaf", IGNORES_SIGTERM))
    _read_until(supervisor, capfd, "deaf | up")
    process = unit.process
    assert process is not None
    began = time.monotonic()
    supervisor.stop([(["deaf"], 0.5)])
    assert 0.4 < time.monotonic() - began < 5
    assert process.returncode == -signal.SIGKILL


def test_what_a_program_left_behind_ends_with_it(
    supervisor: Supervisor, restarted: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    unit = supervisor.add(python("parent", HAS_A_CHILD))
    _read_until(supervisor, capfd, "parent | up")
    process = unit.process
    assert process is not None
    family = descendants(process.pid)
    assert family
    process.kill()
    wait_for(lambda: supervisor.pump() or not alive(family), seconds=10, what="the child is gone")
    wait_for(lambda: supervisor.pump() or restarted, seconds=10, what="a restart")
    supervisor.stop([(["parent"], 5)])


def test_stages_stop_one_after_the_other(supervisor: Supervisor, tmp_path: Path) -> None:
    code = """
import signal, sys, time
def end(*_):
    open({log!r}, "a").write({name!r})
    sys.exit()
signal.signal(signal.SIGTERM, end)
open({ready!r}, "w")
time.sleep(600)
"""
    log = tmp_path / "order"
    for name in "abc":
        ready = tmp_path / f"{name}.ready"
        supervisor.add(python(name, code.format(log=str(log), name=name, ready=str(ready)), ready=ready))
    assert supervisor.await_ready("abc", seconds=20) == []
    supervisor.stop([("c", 5), ("a", 5), ("b", 5)])
    assert log.read_text() == "cab"


def test_a_line_without_an_end_is_cut(supervisor: Supervisor, capfd: pytest.CaptureFixture[str]) -> None:
    supervisor.run_once(python("shout", f"print('x' * {LINE_LIMIT * 3})"), seconds=20)
    lines = [line for line in capfd.readouterr().out.splitlines() if "xxx" in line]
    assert len(lines) > 1
    assert max(map(len, lines)) <= 2 * LINE_LIMIT + 100


def _read_until(supervisor: Supervisor, capfd: pytest.CaptureFixture[str], text: str) -> None:
    printed = ""

    def seen() -> bool:
        nonlocal printed
        supervisor.pump()
        printed += capfd.readouterr().out
        return text in printed

    wait_for(seen, seconds=20, what=text)
