"""Bells that are rung too often are rung less often, and none is forgotten."""

from __future__ import annotations

from tasks.pacing import LONGEST_QUIET_S, Pacing

KAFKA = ("kafka", "ledger:a")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_ring_is_due_at_once_and_the_next_when_its_bell_was_quiet_long_enough() -> None:
    clock = Clock()
    pacing = Pacing[str](clock)
    pacing.hold(KAFKA, 0.1, "first")
    assert pacing.take_due() == ["first"]
    pacing.hold(KAFKA, 0.1, "second")
    pacing.hold(KAFKA, 0.1, "third")
    assert pacing.take_due() == []
    assert round(pacing.wait_s() or 0, 6) == 0.1
    clock.now += 0.1
    assert pacing.take_due() == ["third"]
    assert pacing.wait_s() is None and len(pacing) == 0


def test_a_ring_that_is_in_a_hurry_is_not_held_back_by_those_before_or_after_it() -> None:
    clock = Clock()
    pacing = Pacing[str](clock)
    pacing.hold(KAFKA, 0.5, "first")
    assert pacing.take_due() == ["first"]
    for quiet_s, ring in ((0.5, "patient"), (0.1, "hurried"), (0.5, "patient, too")):
        pacing.hold(KAFKA, quiet_s, ring)
    assert round(pacing.wait_s() or 0, 6) == 0.1
    clock.now += 0.1
    assert pacing.take_due() == ["patient, too"]
    pacing.hold(KAFKA, 0.5, "next")
    clock.now += 0.4
    assert pacing.take_due() == []
    clock.now += 0.1
    assert pacing.take_due() == ["next"]


def test_bells_do_not_hold_back_each_other() -> None:
    pacing = Pacing[str](Clock())
    pacing.hold(("ledger:a",), 1.0, "a")
    assert pacing.take_due() == ["a"]
    pacing.hold(("ledger:a",), 1.0, "again")
    pacing.hold(KAFKA, 1.0, "b")
    assert pacing.take_due() == ["b"]
    assert pacing.take_all() == ["again"]


def test_what_is_due_while_others_are_quiet_is_waited_for_briefly() -> None:
    clock = Clock()
    pacing = Pacing[str](clock)
    for bell, quiet_s, ring in ((KAFKA, 0.1, "events"), (("ledger:a",), 0.005, "ledgers")):
        pacing.hold(bell, quiet_s, ring)
        assert pacing.take_due() == [ring]
        pacing.hold(bell, quiet_s, ring)
    assert round(pacing.wait_s() or 0, 6) == 0.005
    clock.now += 0.005
    assert pacing.take_due() == ["ledgers"]


def test_bells_that_were_quiet_for_long_are_not_remembered() -> None:
    clock = Clock()
    pacing = Pacing[int](clock)
    for number in range(1_000):
        pacing.hold((f"ledger:{number}",), 0.1, number)
        pacing.take_due()
    clock.now += LONGEST_QUIET_S
    pacing.take_due()
    assert pacing._rung_at == {}


def test_what_is_to_be_forgotten_is_not_looked_for_at_every_ring() -> None:
    """Thousands of actors would be gone through for each of them."""
    clock = Clock()
    pacing = Pacing[int](clock)
    seen = []
    for number in range(1_000):
        clock.now += 0.000_1
        pacing.hold((f"ledger:{number}",), 0.1, number)
        assert pacing.take_due() == [number]
        seen.append(pacing._rung_at)
    assert len({id(rung_at) for rung_at in seen}) <= 2
