"""What `daybook verify` finds to differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Findings:
    """What differs: how often by kind, and the first few of each in words."""

    most_shown: int
    counts: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= self.most_shown:
            self.shown.setdefault(kind, []).append(words)

    def compare(self, kind: str, what: str, expected: Mapping[str, object], actual: Mapping[str, object]) -> None:
        """Adds one finding for all fields of a thing that are not as expected."""
        wrong = [
            f"{name} is {_brief(actual.get(name))}, the journal makes it {_brief(value)}"
            for name, value in expected.items()
            if actual.get(name) != value
        ]
        if wrong:
            self.add(kind, f"{what}: {'; '.join(wrong)}")


@dataclass
class Counts:
    """What was read."""

    ledgers: int = 0
    events: int = 0
    accounts: int = 0
    transactions: int = 0
    postings: int = 0
    holds: int = 0
    users: int = 0
    grants: int = 0


def _brief(value: object) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
