"""Programs of this machine as pytest-celery's nodes see containers: what it calls of those, and nothing of Docker."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

from infrastructure.processes import Program, await_ready, kill_session, start, stop

READY_S = 60.0
STOP_S = 10.0


class LocalProcess:
    """A program, started at once and ready when made."""

    def __init__(self, program: Program, celeryconfig: dict[str, Any] | None = None) -> None:
        assert program.log is not None
        self.program = program
        self.celeryconfig = celeryconfig or {}
        self.name = self.id = program.name
        self._log: Path = program.log
        self._process: subprocess.Popen[bytes]
        self._start()

    def _start(self) -> None:
        self._process = start(self.program)
        await_ready(self.program, self._process, seconds=READY_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> str:
        return "running" if self._process.poll() is None else "exited"

    def ready(self) -> bool:
        return self.program.ready()

    def logs(self) -> str:
        return self._log.read_text(errors="replace")

    def reload(self) -> None:
        """Nothing: the status is always the present one."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """As in a container, SIGKILL ends every process there is."""
        wanted = _signal(signal)
        if wanted is _signal("SIGKILL"):
            kill_session(self._process.pid)
            self._process.wait(STOP_S)
        else:
            self._process.send_signal(wanted)

    def restart(self, timeout: float = STOP_S) -> None:
        self.teardown()
        self._start()

    def teardown(self) -> None:
        stop(self.program, self._process, seconds=STOP_S)


def _signal(name: str | int) -> signal.Signals:
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
