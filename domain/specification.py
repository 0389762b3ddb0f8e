"""Specifications: named questions about a candidate, composed with `&`, `|` and `~`; rules turn them into refusals.

After Evans and Fowler, "Specifications": https://martinfowler.com/apsupp/spec.pdf
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from domain.errors import DomainError

C = TypeVar("C")


class Specification(Generic[C]):
    """A question that a candidate satisfies or does not."""

    __slots__ = ("holds",)

    def __init__(self, holds: Callable[[C], bool]) -> None:
        self.holds = holds

    def __and__(self, other: Specification[C]) -> Specification[C]:
        left, right = self.holds, other.holds
        return Specification(lambda candidate: left(candidate) and right(candidate))

    def __or__(self, other: Specification[C]) -> Specification[C]:
        left, right = self.holds, other.holds
        return Specification(lambda candidate: left(candidate) or right(candidate))

    def __invert__(self) -> Specification[C]:
        holds = self.holds
        return Specification(lambda candidate: not holds(candidate))


class Rule(Generic[C]):
    """A specification that must hold, and the refusal when it does not."""

    __slots__ = ("holds", "refusal")

    def __init__(self, must: Specification[C], refusal: Callable[[C], DomainError]) -> None:
        self.holds = must.holds
        self.refusal = refusal

    def check(self, candidates: Iterable[C]) -> None:
        """Raises the refusal for the first of `candidates` that breaks the rule."""
        for candidate in candidates:
            if not self.holds(candidate):
                raise self.refusal(candidate)
