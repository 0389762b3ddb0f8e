"""The algebra of specifications, and rules that turn them into refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import DomainError
from domain.specification import Rule, Specification

CANDIDATES = range(16)


def divisible(by: int) -> Specification[int]:
    return Specification(lambda number: number % by == 0)


above: Specification[int] = Specification(lambda number: number > 7)
even, third = divisible(2), divisible(3)
leaves = st.sampled_from((above, even, third))
specifications = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda a: ~a),
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
    ),
)


def meaning(specification: Specification[int]) -> frozenset[int]:
    """The candidates that satisfy it."""
    return frozenset(number for number in CANDIDATES if specification.holds(number))


EVERYTHING = frozenset(CANDIDATES)


@given(specifications, specifications)
def test_and_or_not_mean_what_they_mean_for_sets(a: Specification[int], b: Specification[int]) -> None:
    assert meaning(a & b) == meaning(a) & meaning(b)
    assert meaning(a | b) == meaning(a) | meaning(b)
    assert meaning(~a) == EVERYTHING - meaning(a)


@given(specifications, specifications, specifications)
def test_the_laws_of_the_algebra(a: Specification[int], b: Specification[int], c: Specification[int]) -> None:
    assert meaning(a & (b | c)) == meaning((a & b) | (a & c))
    assert meaning(a | (b & c)) == meaning((a | b) & (a | c))
    assert meaning(~(a & b)) == meaning(~a | ~b)
    assert meaning(~(a | b)) == meaning(~a & ~b)
    assert meaning(~~a) == meaning(a)
    assert meaning(a & (b & c)) == meaning((a & b) & c)
    assert meaning(a & b) == meaning(b & a)
    assert meaning(a & ~a) == frozenset()
    assert meaning(a | ~a) == EVERYTHING


def test_the_right_side_is_not_asked_when_the_left_one_decides() -> None:
    def explode(_: int) -> bool:
        raise AssertionError("asked")

    trap: Specification[int] = Specification(explode)
    assert not (above & trap).holds(0)
    assert (above | trap).holds(9)


def test_composing_changes_neither_part() -> None:
    before = meaning(above), meaning(even)
    _ = above & even, above | even, ~above
    assert (meaning(above), meaning(even)) == before


def must_be_even(number: int) -> DomainError:
    return DomainError("odd", f"{number} is odd")


def test_a_rule_refuses_the_first_candidate_that_breaks_it() -> None:
    with pytest.raises(DomainError, match="3 is odd"):
        Rule(even, must_be_even).check([2, 4, 3, 5])


def test_a_rule_lets_through_what_keeps_it() -> None:
    Rule(even, must_be_even).check([2, 4])
    Rule(even, must_be_even).check([])
