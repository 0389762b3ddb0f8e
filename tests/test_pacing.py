"""Bells that are rung too often are rung less often, and none is forgotten."""

from __future__ import annotations

from tasks.pacing import Pacing


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_ring_is_due_at_once_and_the_next_when_its_bell_was_quiet_long_enough() -> None:
    clock = Clock()
    pacing = Pacing[str]({"events": 0.1}, clock)
    pacing.hold("events", ("kafka", "ledger:a"), "first")
    assert pacing.take_due() == ["first"]
    pacing.hold("events", ("kafka", "ledger:a"), "second")
    pacing.hold("events", ("kafka", "ledger:a"), "third")
    assert pacing.take_due() == []
    assert round(pacing.wait_s() or 0, 6) == 0.1
    clock.now += 0.1
    assert pacing.take_due() == ["third"]
    assert pacing.wait_s() is None and len(pacing) == 0


def test_bells_do_not_hold_back_each_other() -> None:
    pacing = Pacing[str]({"ledgers": 1.0, "events": 1.0}, Clock())
    pacing.hold("ledgers", ("ledger:a",), "a")
    assert pacing.take_due() == ["a"]
    pacing.hold("ledgers", ("ledger:a",), "again")
    pacing.hold("events", ("kafka", "ledger:a"), "b")
    assert pacing.take_due() == ["b"]
    assert pacing.take_all() == ["again"]


def test_what_is_due_while_others_are_quiet_is_waited_for_briefly() -> None:
    clock = Clock()
    pacing = Pacing[str]({"ledgers": 0.005, "events": 0.1}, clock)
    for queue, bell in (("events", ("kafka", "ledger:a")), ("ledgers", ("ledger:a",))):
        pacing.hold(queue, bell, queue)
        assert pacing.take_due() == [queue]
        pacing.hold(queue, bell, queue)
    assert round(pacing.wait_s() or 0, 6) == 0.005
    clock.now += 0.005
    assert pacing.take_due() == ["ledgers"]
