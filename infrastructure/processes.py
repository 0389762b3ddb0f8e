"""Child processes that never outlive their parent: starting, awaiting and stopping the programs beside Daybook."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

_PR_SET_PDEATHSIG: Final = 1
# Looked up before any fork: between fork and exec a child must not take locks that another thread may hold.
_prctl: Final = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def die_with_parent(signum: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Asks the kernel to send this process `signum` when its parent dies, even by SIGKILL. Linux only, else nothing.

    `parent` is the pid the parent had when it forked: if it is already gone, this process ends at once.
    A program that forks children of its own calls this in each of them, since the request is not inherited.
    """
    if _prctl is None:
        return
    _prctl(_PR_SET_PDEATHSIG, int(signum))
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, how to see that it is ready, and how to end it.

    `user` drops root's rights to that uid and gid; `log` takes the output (None: a pipe the caller reads);
    `death_signal` is what the kernel sends it when the caller dies.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] | None = None
    user: tuple[int, int] | None = None
    log: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    ready: Callable[[], bool] = lambda: True


def start(program: Program) -> subprocess.Popen[bytes]:
    """Starts the program in a session of its own, so that a terminal's Ctrl-C reaches only the supervisor.

    To be called from the main thread: the kernel counts the death of the *thread* that forked.
    """
    parent = os.getpid()
    output: int | IO[bytes] = subprocess.PIPE if program.log is None else program.log.open("ab")
    uid, gid = program.user or (None, None)
    try:
        # what to run is named in this code or the Procfile, and given to no shell
        return subprocess.Popen(  # nosec B603
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if program.env is None else dict(program.env),
            cwd="/" if program.user else None,
            start_new_session=True,
            user=uid,
            group=gid,
            extra_groups=[] if program.user else None,
            preexec_fn=lambda: die_with_parent(program.death_signal, parent=parent),
        )
    finally:
        if not isinstance(output, int):
            output.close()


def await_ready(program: Program, process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Returns when the program answers.

    Raises RuntimeError with the end of its log if it exits first, TimeoutError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not program.ready():
        if process.poll() is not None:
            raise RuntimeError(f"{program.name} exited with {process.returncode}:\n{tail(program.log)}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{program.name} was not ready within {seconds:.0f} s:\n{tail(program.log)}")
        time.sleep(0.02)


def stop(program: Program, process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Ends the program by its own signal, by SIGKILL after `seconds`, and whatever it left in its session."""
    if process.poll() is None:
        process.send_signal(program.stop_signal)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    kill_session(process.pid)


def kill_session(pid: int) -> None:
    """SIGKILL to every process left in the process group that `pid` led; nothing if there is none."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def tail(log: Path | None, *, characters: int = 2_000) -> str:
    """The end of a log file, for messages."""
    if log is None or not log.exists():
        return ""
    return log.read_text(errors="replace")[-characters:].strip()


def started_at(pid: int) -> str | None:
    """When the process started, as an opaque text: a pid alone may have been given to another process since.

    None if there is no such process, or it is only waiting to be reaped.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if sys.platform == "linux" else _started_at_by_ps(pid)
    # the second field is the name in parentheses, which may itself hold spaces and parentheses
    values = text.rpartition(")")[2].split()
    return None if values[0] in "ZX" else values[19]


def _started_at_by_ps(pid: int) -> str | None:
    command = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # a number is all it gets  # nosec B603
    return answer.stdout.strip() or None


def choose_port(*candidates: int, host: str = "127.0.0.1", taken: frozenset[int] = frozenset()) -> int:
    """The first of the candidates nobody listens on (and that is not in `taken`), else any free port."""
    for port in (*(candidate for candidate in candidates if candidate and candidate not in taken), 0):
        with socket.socket() as probe:
            # as servers do: a port that only has connections in TIME_WAIT is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            chosen: int = probe.getsockname()[1]
            return chosen
    raise RuntimeError(f"no free port on {host}")


def answers(port: int, request: bytes, *, host: str = "127.0.0.1", expected: bytes) -> bool:
    """Whether what listens on the port answers `request` with `expected` somewhere in its first bytes."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.settimeout(1)
            connection.sendall(request)
            received = b""
            while expected not in received and len(received) < 4_096:
                piece = connection.recv(4_096)
                if not piece:
                    return False
                received += piece
            return expected in received
    except OSError:
        return False
