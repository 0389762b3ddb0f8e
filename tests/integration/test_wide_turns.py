"""What a turn takes where its commands name transactions of many postings: what those have counts, too."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from domain.ledger.commands import CaptureTransaction, ReverseTransaction, UpdateTransaction, VoidTransaction
from domain.messages import Command
from tests.books import post
from tests.every_kind import hold
from tests.integration.test_atomic_turns import entry
from tests.integration.test_turns import pay, spoilt
from tests.turns import Desk, at_a_desk
from workers import turn
from workers.turn import Result

Patch = pytest.MonkeyPatch

THREE = (("bank", "till", "1"),) * 3


async def made(desk: Desk, *commands: Command) -> list[UUID]:
    """The transactions of these commands, applied."""
    ids = await desk.accept(*commands)
    assert await desk.take() is Result.DONE
    return ids


async def taken(desk: Desk, ids: list[UUID]) -> list[int]:
    """How many of the commands each turn takes, until none is left."""
    counts, left = [], len(ids)
    while left:
        assert await desk.take() is Result.DONE
        accepted = (await desk.statuses(ids)).count("accepted")
        counts.append(left - accepted)
        left = accepted
    return counts


@at_a_desk
async def test_what_is_named_weighs_its_postings_whatever_becomes_of_it(desk: Desk) -> None:
    posted = await made(desk, *[post(*THREE)] * 3)
    held = await made(desk, *[hold(*THREE)] * 3)
    ids = await desk.accept(
        ReverseTransaction(transaction=posted[0]),
        VoidTransaction(transaction=held[0]),
        CaptureTransaction(transaction=held[1]),
        CaptureTransaction(transaction=held[2], amounts=("1", "0", "0")),
        UpdateTransaction(transaction=posted[1], metadata={"a": "1"}),
        # loaded already
        *[UpdateTransaction(transaction=posted[1], metadata={"b": "2"})] * 2,
        # of nothing
        VoidTransaction(transaction=uuid4()),
        ReverseTransaction(transaction=posted[1]),
        pay(),
        pay(),
    )
    assert await taken(desk.with_settings(turn_postings=5), ids) == [1, 1, 1, 1, 3, 3, 1]
    assert await desk.statuses(ids) == ["succeeded"] * 7 + ["rejected"] + ["succeeded"] * 3
    assert (await desk.applied())[9:] == [*ids[:7], *ids[8:]]


@at_a_desk
async def test_what_is_made_in_the_same_turn_weighs_as_much_where_it_is_named(desk: Desk) -> None:
    narrow = desk.with_settings(turn_postings=6)
    (wide,) = await desk.accept(post(*THREE))
    (reversal,) = await desk.accept(ReverseTransaction(transaction=wide))
    ids = [wide, reversal, *await desk.accept(ReverseTransaction(transaction=reversal), pay(), pay(), pay(), pay())]
    assert await taken(narrow, ids) == [2, 4, 1]
    assert set(await desk.statuses(ids)) == {"succeeded"}


@at_a_desk
async def test_entries_stay_whole_and_what_cannot_be_read_is_left_to_its_turn(desk: Desk) -> None:
    narrow = desk.with_settings(turn_postings=5)
    posted = await made(desk, *[post(*THREE)] * 4)
    reversals = [ReverseTransaction(transaction=transaction) for transaction in posted]
    ids = await desk.accept(pay())
    ids += await entry(desk, pay(), reversals[0], reversals[1])
    ids += await entry(desk, reversals[2], pay())
    ids += await desk.accept(reversals[3])
    assert await taken(narrow, ids) == [1, 3, 2, 1]
    assert set(await desk.statuses(ids)) == {"succeeded"}
    (unreadable,) = await desk.accept_raw(["void_transaction"], [b'{"transaction": 7}'])
    (after,) = await desk.accept(spoilt("harmless"))
    await narrow.empty()
    assert await desk.statuses([unreadable, after]) == ["failed", "succeeded"]


@at_a_desk
async def test_an_entry_that_is_too_wide_for_any_turn_is_set_aside_unseen(desk: Desk, monkeypatch: Patch) -> None:
    """What it names was not to be seen when it was accepted."""
    monkeypatch.setattr(turn, "MOST_WEIGHT", 8)
    narrow = desk.with_settings(turn_postings=5)
    (wide,) = await made(desk, post(*THREE))
    before = await desk.accept(pay())
    fits = await entry(desk, pay(), pay(), ReverseTransaction(transaction=wide), pay("2"))
    ids = await entry(desk, *[ReverseTransaction(transaction=wide)] * 3)
    after = await desk.accept(pay())
    await narrow.empty()
    assert await desk.statuses([*before, *fits, *after]) == ["succeeded"] * 6
    assert [(one.status, one.code, one.attempts) for one in await desk.outcomes(ids)] == [
        ("failed", "command_failed", 0)
    ] * 3
