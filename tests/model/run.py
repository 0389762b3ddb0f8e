"""How long and in which shapes model and service are driven: the same for a test and for `make soak`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.conftest import temporary_state
from tests.e2e.client import added_user, logged_in
from tests.model.driver import World
from tests.model.machine import play
from tests.stack import running_stack

WIDTHS: Final = (1, 2, 3, 5, 8, 13, 40, 2_000)
"""How many commands a turn may take at the most."""
NO_LIMIT: Final = {f"DAYBOOK_REQUEST_RATE_{whose}": "1000000" for whose in ("ADDRESS", "USER", "ADMIN")}


@dataclass(frozen=True)
class Shape:
    """Of a game: how many times it is played, in how many moves, with how many commands of one client in a move."""

    examples: int
    steps: int
    most: int


SHORT: Final = Shape(examples=10, steps=12, most=48)
LONG: Final = Shape(examples=12, steps=30, most=100)


def width_of(number: int) -> int:
    """The width of turns that goes with a seed."""
    return Random(number).choice(WIDTHS)


@contextmanager
def running_world(width: int) -> Iterator[World]:
    """A service of its own, whose turns take at the most `width` commands."""
    environment = {"DAYBOOK_TURN_COMMANDS": str(width), **NO_LIMIT}
    with (
        temporary_state() as state,
        running_stack(state, environment=environment) as stack,
        added_user(stack) as ada,
        added_user(stack) as bob,
        logged_in(stack, stack.connection["username"], stack.connection["password"]) as admin,
    ):
        users = (ada, bob, admin)
        ids = [str(user.read("/auth/me")["id"]) for user in users]
        world = World(users, (ids[0], ids[1], ids[2]), stack.connection["database_url"])
        try:
            yield world
        finally:
            world.close()


def drive(world: World, number: int, commands: int, shape: Shape, tell: Callable[[int], None] = lambda _: None) -> int:
    """Plays on from a seed until that many commands were compared; the next seed. Raises Difference.

    `tell` is given the seed of each game before it begins.
    """
    wanted = world.commands + commands
    while world.commands < wanted:
        tell(number)
        play(world, number=number, examples=shape.examples, steps=shape.steps, most=shape.most, enough=wanted)
        number += 1
    return number
