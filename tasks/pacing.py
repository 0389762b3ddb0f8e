"""How often the same bell is rung: whoever hears it finds more by then, so a busy actor needs it less often."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

R = TypeVar("R")

LEAST_WAIT_S: Final = 0.001
LONGEST_QUIET_S: Final = 1.0
FORGET_S: Final = 0.25

Bell = tuple[str, ...]


class Pacing(Generic[R]):
    """Holds rings back while their bells must be quiet; the first ring after a pause is due at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[Bell, tuple[float, R]] = {}
        self._rung_at: dict[Bell, float] = {}
        self._forgot_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, bell: Bell, quiet_s: float, ring: R) -> None:
        """Keeps the bell's newest ring, due `quiet_s` seconds after it was rung last, or as soon as any it replaces.

        `quiet_s` is at most LONGEST_QUIET_S.
        """
        replaced = self._held.get(bell)
        self._held[bell] = quiet_s if replaced is None else min(quiet_s, replaced[0]), ring

    def wait_s(self) -> float | None:
        """Seconds until a ring that is held becomes due; None while none is held."""
        if not self._held:
            return None
        return max(LEAST_WAIT_S, min(map(self._due_at, self._held)) - self._clock())

    def take_due(self) -> list[R]:
        """Hands out what may be rung now."""
        now = self._clock()
        if now - self._forgot_at >= FORGET_S:
            self._forgot_at = now
            self._rung_at = {bell: at for bell, at in self._rung_at.items() if now - at < LONGEST_QUIET_S}
        return [self._take(bell, now) for bell in list(self._held) if self._due_at(bell) <= now]

    def take_all(self) -> list[R]:
        """Hands out everything."""
        return [self._take(bell, self._clock()) for bell in list(self._held)]

    def _due_at(self, bell: Bell) -> float:
        return self._rung_at.get(bell, 0.0) + self._held[bell][0]

    def _take(self, bell: Bell, now: float) -> R:
        _, ring = self._held.pop(bell)
        self._rung_at[bell] = now
        return ring
