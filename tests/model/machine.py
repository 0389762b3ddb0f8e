"""Hypothesis plays several clients of several ledgers; after each of its moves model and service have to agree."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.model.commands import WEIGHTS
from tests.model.driver import Books, World

LEDGERS: Final = 2
FEW: Final = 8
"""Commands that a client sends one by one in one move."""

Part = tuple[int, int, str, list[tuple[str, int]]]
"""What one client wants: in which ledger, who, how it is sent, and the commands."""

KINDS: Final = st.sampled_from([kind for kind, weight in WEIGHTS.items() for _ in range(weight)])
DICE: Final = st.integers(0, 2**24 - 1)
HOW: Final = st.sampled_from(["bulk", "bulk", "bulk", "bulk", "single", "awaited", "atomic"])


@st.composite
def several(draw: st.DrawFn, most: int) -> list[tuple[str, int]]:
    """Kinds of commands, each with the number that its details are made from."""
    return [(draw(KINDS), draw(DICE)) for _ in range(draw(st.integers(1, most)))]


def move(all_books: list[Books], parts: list[Part]) -> None:
    """All clients at once, in all ledgers at once; then everything has to agree."""
    joins = []
    for number, books in enumerate(all_books):
        mine = []
        for _, user, how, drawn in (part for part in parts if part[0] == number):
            maker, alone = books.maker(), how in ("single", "awaited")
            wishes = [maker.make(kind, dice, alone=how == "single") for kind, dice in drawn[: FEW if alone else None]]
            mine.append((user, how, wishes))
        joins.append(books.post(mine))
    for join in joins:
        join()
    for books in all_books:
        books.compare()


def leave(all_books: list[Books]) -> list[Books]:
    """Compares all there is; the ledgers in which something is still to happen by itself."""
    for books in all_books:
        books.calm()
        books.compare_all()
    return [books for books in all_books if books.awaited()]


def machine(world: World, *, most: int, enough: int, unfinished: list[Books]) -> type[RuleBasedStateMachine]:
    """The machine for a running service. `most`: commands of one client in one move; `enough`: when to stop.

    Ledgers in which something is still to expire are left in `unfinished`.
    """
    parts = st.lists(
        st.tuples(st.integers(0, LEDGERS - 1), st.integers(0, 1), HOW, several(most)),
        min_size=1,
        max_size=4,
        unique_by=lambda part: part[:2],
    )

    class Machine(RuleBasedStateMachine):
        """A few ledgers, from their creation on."""

        def __init__(self) -> None:
            super().__init__()
            self.books: list[Books] = []

        @initialize()
        def begin(self) -> None:
            for _ in range(LEDGERS if world.commands < enough else 0):
                self.books.append(Books(world))
                self.books[-1].begin()

        @rule(parts=parts)
        def act(self, parts: list[Part]) -> None:
            move(self.books, parts)

        @rule(number=st.integers(0, LEDGERS - 1), dice=st.lists(DICE, min_size=1, max_size=24))
        def ask(self, number: int, dice: list[int]) -> None:
            for each in dice if self.books else ():
                self.books[number].probe(each)

        def teardown(self) -> None:
            unfinished.extend(leave(self.books))

    return Machine


def play(world: World, *, number: int, examples: int, steps: int, most: int, enough: int) -> None:
    """Runs the machine from a seed; the same number makes the same moves. Raises Difference."""
    unfinished: list[Books] = []
    options: dict[str, Any] = {
        "max_examples": examples,
        "stateful_step_count": steps,
        "deadline": None,
        "database": None,
        "phases": [Phase.generate, Phase.shrink],
        "suppress_health_check": list(HealthCheck),
    }
    run_state_machine_as_test(
        seed(number)(machine(world, most=most, enough=enough, unfinished=unfinished)), settings=settings(**options)
    )
    for books in unfinished:
        books.finish()
