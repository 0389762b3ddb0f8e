"""How often the same bell is rung: whoever hears it finds more by then, so a busy actor needs it less often."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Generic, TypeVar

R = TypeVar("R")

LEAST_WAIT_S: Final = 0.001


class Pacing(Generic[R]):
    """Holds rings back while their bells must be quiet; the first ring after a pause is due at once.

    `quiet_s` says for each queue how many seconds a bell is left alone after it was rung.
    """

    def __init__(self, quiet_s: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet_s = quiet_s
        self._clock = clock
        self._held: dict[tuple[str, ...], tuple[str, R]] = {}
        self._quiet_until: dict[tuple[str, ...], float] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, queue: str, bell: tuple[str, ...], ring: R) -> None:
        """Keeps the bell's newest ring."""
        self._held[bell] = queue, ring

    def wait_s(self) -> float | None:
        """Seconds until a ring that is held becomes due; None while none is held."""
        if not self._held:
            return None
        due_at = min(self._quiet_until.get(bell, 0.0) for bell in self._held)
        return max(LEAST_WAIT_S, due_at - self._clock())

    def take_due(self) -> list[R]:
        """Hands out what may be rung now, and has those bells be quiet for a while."""
        now = self._clock()
        self._quiet_until = {bell: until for bell, until in self._quiet_until.items() if until > now}
        due = [bell for bell in self._held if bell not in self._quiet_until]
        return [self._take(bell, now) for bell in due]

    def take_all(self) -> list[R]:
        """Hands out everything."""
        return [self._take(bell, self._clock()) for bell in list(self._held)]

    def _take(self, bell: tuple[str, ...], now: float) -> R:
        queue, ring = self._held.pop(bell)
        self._quiet_until[bell] = now + self._quiet_s[queue]
        return ring
