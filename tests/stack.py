"""The whole product as `daybook up` runs it, started and stopped by tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infrastructure.processes import started_at

START_S = 90.0
STOP_S = 10.0

Process = tuple[int, str]
"""A pid and when it started."""


def wait_for(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Polls until the condition holds. Fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def _parents() -> dict[int, int]:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(pid): int(parent) for pid, parent in (line.split() for line in listing.splitlines())}


def descendants(pid: int) -> set[Process]:
    """Children, grandchildren and so on, of those that run."""
    parents = _parents()
    found, frontier = set[Process](), {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= {(child, begun) for child in frontier if (begun := started_at(child))}
    return found


def alive(processes: set[Process]) -> set[Process]:
    """Those that still run; a pid that was given to somebody else does not count."""
    return {(pid, begun) for pid, begun in processes if started_at(pid) == begun}


@dataclass
class Stack:
    """A running `daybook up`."""

    state: Path
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def connection(self) -> dict[str, str]:
        """What connection.json holds."""
        content: dict[str, str] = json.loads((self.state / "connection.json").read_text())
        return content

    def pid_of(self, name: str) -> int | None:
        """The pid of one supervised process, as `ledgers.1`; None while it is not running."""
        found = json.loads((self.state / "run.json").read_text())["processes"].get(name)
        return None if found is None else int(found[0])

    def log(self) -> str:
        """All it has printed so far."""
        return Path(self.output.name).read_text(errors="replace")

    def await_ready(self) -> None:
        """Waits for connection.json, which is written when everything answers."""
        deadline = time.monotonic() + START_S
        while not (self.state / "connection.json").exists():
            assert self.process.poll() is None, f"daybook up ended:\n{self.log()[-4_000:]}"
            assert time.monotonic() < deadline, f"daybook up was not ready in {START_S} s:\n{self.log()[-4_000:]}"
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM; everything that ran must be gone in time."""
        family = descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running {STOP_S} s after SIGTERM:\n{self.log()[-4_000:]}") from None
        assert not alive(family), f"left behind: {alive(family)}"


def launch(state: Path, *, arguments: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> Stack:
    """Starts `daybook up` in a folder of its own, on free ports, with no setting of the surrounding environment."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    output = tempfile.NamedTemporaryFile(prefix="daybook-up-", suffix=".log")  # noqa: SIM115
    command = [sys.executable, "-m", "cli", "up", "--dir", str(state), "--free-ports", "--stop-with-parent", *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**inherited, **(environment or {})},
        cwd=Path(__file__).resolve().parents[1],
    )
    return Stack(state, process, output)


@contextmanager
def running_stack(
    state: Path, *, arguments: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> Iterator[Stack]:
    """`daybook up` for the length of a `with`; nothing of it may be left at the end."""
    # one that was killed could not take it away
    (state / "connection.json").unlink(missing_ok=True)
    stack = launch(state, arguments=arguments, environment=environment)
    try:
        stack.await_ready()
        yield stack
    finally:
        with stack.output:
            if stack.process.poll() is None:
                stack.stop()
