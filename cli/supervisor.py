"""A small supervisor: starts programs, waits until they are ready, prints their lines, restarts what dies, stops all.

It runs in one thread: the kernel ends the children when the *thread* that started them ends, and a fork among threads
is unsafe.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from infrastructure.processes import Program, kill_session, start, started_at, tail

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
# A program that lived this long was well: the next restart is quick again.
WELL_AFTER_S: Final = 30.0
# While starting: a program that died so often will not get better by itself.
DEATHS_BEFORE_READY: Final = 3
TICK_S: Final = 0.05
BREATH_S: Final = 0.02
LINE_LIMIT: Final = 65_536
COLOURS: Final = (36, 33, 32, 35, 34, 31, 96, 93, 92, 95, 94)


class StopRequested(Exception):
    """Ctrl-C, SIGTERM, or the terminal is gone."""


class StartError(Exception):
    """A program could not be started; the message holds what it said last."""


@dataclass(slots=True)
class Unit:
    """One program under supervision, and how it is doing."""

    program: Program
    restart: bool = True
    process: subprocess.Popen[bytes] | None = None
    ready: bool = False
    began: float = 0.0
    delay: float = FIRST_DELAY_S
    restart_at: float | None = None
    rest: bytes = b""
    deaths: int = 0


class Supervisor:
    """Owns the units and the loop. Every waiting method keeps reading output and restarting what died."""

    def __init__(self, *, on_change: Callable[[], None], on_restart: Callable[[str], None]) -> None:
        self.units: dict[str, Unit] = {}
        self._on_change = on_change
        self._on_restart = on_restart
        self._selector = selectors.DefaultSelector()
        self._stop_requests = 0
        self._stopping = False
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def listen_for_signals(self) -> None:
        """SIGINT, SIGTERM and SIGHUP ask for a stop; a second one, while stopping, for an immediate end."""
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note_signal)
        # unless nohup has it ignored
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._note_signal)

    def _note_signal(self, signum: int, frame: FrameType | None) -> None:
        self._stop_requests += 1

    # -- starting -----------------------------------------------------------------------------------------------------

    def add(self, program: Program, *, restart: bool = True) -> Unit:
        """Starts a program and looks after it from now on."""
        unit = self.units[program.name] = Unit(program=program, restart=restart)
        self._start(unit)
        return unit

    def _start(self, unit: Unit) -> None:
        unit.process = start(unit.program)
        unit.began, unit.restart_at, unit.ready, unit.rest = time.monotonic(), None, False, b""
        if unit.process.stdout is not None:
            os.set_blocking(unit.process.stdout.fileno(), False)
            self._selector.register(unit.process.stdout, selectors.EVENT_READ, unit)
        self._on_change()

    def processes(self) -> dict[str, tuple[int, str]]:
        """Pid and start time of everything that runs."""
        running = {name: unit.process.pid for name, unit in self.units.items() if unit.process is not None}
        return {name: (pid, begun) for name, pid in running.items() if (begun := started_at(pid))}

    # -- waiting ------------------------------------------------------------------------------------------------------

    def await_ready(self, names: Iterable[str], *, seconds: float) -> list[str]:
        """Waits until the units are ready; the names of those that were not after so many seconds.

        Gives up early on one that keeps dying. Raises StopRequested.
        """
        deadline = time.monotonic() + seconds
        missing = list(names)
        while missing and time.monotonic() < deadline:
            self.pump()
            missing = [name for name in missing if not self._is_ready(self.units[name])]
            if any(self.units[name].deaths >= DEATHS_BEFORE_READY for name in missing):
                break
        return missing

    def _is_ready(self, unit: Unit) -> bool:
        if not unit.ready and unit.process is not None:
            unit.ready = unit.program.ready()
        return unit.ready

    def run_once(self, program: Program, *, seconds: float) -> None:
        """Runs a program to its end. Raises StartError if it fails or takes too long, StopRequested."""
        unit = self.add(program, restart=False)
        deadline = time.monotonic() + seconds
        while unit.process is not None:
            if time.monotonic() > deadline:
                raise StartError(f"{program.name} was not done after {seconds:.0f} s.")
            self.pump()
        del self.units[program.name]
        if unit.restart_at is not None:
            raise StartError(f"{program.name} failed.")

    def run(self) -> None:
        """Looks after the units until a stop is asked for. Raises StopRequested."""
        while True:
            self.pump()
            # lines come one by one, and a look for each would cost as much as a tenth of a request
            time.sleep(BREATH_S)

    def pump(self) -> None:
        """One look around: prints what was said, notes who ended, restarts who is due. Raises StopRequested."""
        for key, _ in self._selector.select(TICK_S):
            self._read(key.data)
        for unit in list(self.units.values()):
            if unit.process is not None and unit.process.poll() is not None:
                self._note_end(unit)
            elif self._is_due(unit):
                self._restart(unit)
        if self._stop_requests and not self._stopping:
            raise StopRequested

    def _is_due(self, unit: Unit) -> bool:
        due = unit.restart_at is not None and time.monotonic() >= unit.restart_at
        return due and unit.restart and not self._stopping

    def _restart(self, unit: Unit) -> None:
        self._start(unit)
        self._on_restart(unit.program.name)

    def _note_end(self, unit: Unit) -> None:
        process = unit.process
        if process is None:
            return
        self._read(unit)
        if process.stdout is not None:
            self._selector.unregister(process.stdout)
            process.stdout.close()
        # what it forked and left behind would hold its port and its files
        kill_session(process.pid)
        unit.process, unit.ready = None, False
        self._on_change()
        if self._stopping or (not unit.restart and process.returncode == 0):
            return
        self._plan_restart(unit, process.returncode)

    def _plan_restart(self, unit: Unit, code: int) -> None:
        now = time.monotonic()
        unit.deaths += 1
        unit.delay = FIRST_DELAY_S if now - unit.began > WELL_AFTER_S else unit.delay
        unit.restart_at = now + unit.delay
        end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        self.say(
            "daybook", f"{unit.program.name} {end}" + (f"; restarting in {unit.delay:g} s" if unit.restart else "")
        )
        if unit.program.log is not None and code > 0:
            self.say(unit.program.name, tail(unit.program.log, characters=500))
        unit.delay = min(unit.delay * 2, LONGEST_DELAY_S)

    # -- output -------------------------------------------------------------------------------------------------------

    def _read(self, unit: Unit) -> None:
        if unit.process is None or unit.process.stdout is None:
            return
        while piece := unit.process.stdout.read(LINE_LIMIT):
            *lines, unit.rest = (unit.rest + piece).split(b"\n")
            if len(unit.rest) > LINE_LIMIT:
                lines, unit.rest = [*lines, unit.rest], b""
            if lines:
                self.say(unit.program.name, b"\n".join(lines).decode(errors="replace"))

    def say(self, name: str, text: str) -> None:
        """Prints lines behind a name, in the name's colour on a terminal."""
        width = max((len(known) for known in self.units), default=8)
        colour = COLOURS[sum(name.encode()) % len(COLOURS)]
        prefix = f"\x1b[{colour}m{name:<{width}} |\x1b[0m " if self._coloured else f"{name:<{width}} | "
        self.print("\n".join(prefix + line for line in text.splitlines() or [""]))

    def print(self, text: str) -> None:
        """Prints text as it is, to be copied from."""
        try:
            print(text, flush=True)
        except OSError:
            # nobody reads any more: not a reason to leave processes behind
            self._stop_requests += 1

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, stages: Sequence[tuple[Iterable[str], float]]) -> None:
        """Ends everything, stage after stage: each unit by its own signal, after the stage's seconds by SIGKILL."""
        self._stopping = True
        first = self._stop_requests
        for names, seconds in stages:
            units = [unit for name in names if (unit := self.units.get(name)) is not None]
            deadline = time.monotonic() + seconds
            for unit in units:
                if unit.process is not None:
                    unit.process.send_signal(unit.program.stop_signal)
            while any(unit.process is not None for unit in units):
                self.pump()
                if time.monotonic() > deadline or self._stop_requests > first + 1:
                    self._kill(units)
                    break

    def _kill(self, units: Iterable[Unit]) -> None:
        for unit in units:
            if unit.process is not None:
                self.say("daybook", f"{unit.program.name} did not stop in time and was killed")
                unit.process.kill()
                unit.process.wait()
                self._note_end(unit)
