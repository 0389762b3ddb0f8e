"""What a turn writes while it decides: nothing of it shows in what comes out, and nothing of it outlives the turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from domain.decision import Link
from infrastructure import mailbox
from tests.integration.test_atomic_turns import codes, entry
from tests.integration.test_rebuild import agrees, dump, live, rebuilt
from tests.integration.test_turns import break_on, pay, spoilt
from tests.turns import Desk, at_a_desk
from workers import writing
from workers.turn import Result

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def narrow(monkeypatch: Patch) -> None:
    """Turns of a few commands write ahead, too."""
    monkeypatch.setattr(writing, "PART", 1)
    monkeypatch.setattr(writing, "WRITTEN", 2)


@pytest.fixture
def appended(monkeypatch: Patch) -> list[int]:
    """How many links each write had."""
    found: list[int] = []
    original = mailbox.append_journal

    async def counted(db: Any, links: Sequence[Link]) -> None:
        found.append(len(links))
        await original(db, links)

    monkeypatch.setattr(mailbox, "append_journal", counted)
    return found


@at_a_desk
async def test_whatever_happens_to_a_ledger_is_kept_as_its_journal_says(desk: Desk, appended: list[int]) -> None:
    await live(desk)
    assert len(appended) > len(await desk.db.fetch("SELECT FROM turns WHERE actor = $1", desk.actor))
    before = await dump(desk)
    await rebuilt(desk)
    assert await dump(desk) == before
    assert await agrees(desk) == {}


@at_a_desk
async def test_an_entry_is_never_cut(desk: Desk, appended: list[int]) -> None:
    ids = await desk.accept(*[pay() for _ in range(4)])
    wide = await entry(desk, *[pay() for _ in range(7)])
    refused = await entry(desk, pay(), pay(), pay(), pay("1.001"))
    last = await desk.accept(pay())
    assert await desk.empty() == [Result.DONE]
    assert max(appended) >= 7 and len(appended) > 1
    assert await codes(desk, refused) == ["batch_rejected"] * 3 + ["amount_scale"]
    assert (await desk.applied())[3:] == [*ids, *wide, *last]


@at_a_desk
async def test_what_was_written_ahead_of_a_command_that_breaks_goes_with_it(
    desk: Desk, monkeypatch: Patch, appended: list[int]
) -> None:
    seq = len(await desk.journal())
    break_on(monkeypatch, lambda: RuntimeError("poison"))
    ids = await desk.accept(*[pay() for _ in range(9)], spoilt(), pay())
    assert await desk.take() is Result.BROKEN
    assert appended and len(await desk.journal()) == seq
    assert set(await desk.statuses(ids)) == {"accepted"}
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"] * 9 + ["failed", "succeeded"]
    assert (await desk.applied())[3:] == [*ids[:9], ids[10]]


@at_a_desk
async def test_a_row_that_can_not_be_written_ahead_breaks_the_turn(desk: Desk, monkeypatch: Patch) -> None:
    original = mailbox.append_journal

    async def refusing(db: Any, links: Sequence[Link]) -> None:
        monkeypatch.setattr(mailbox, "append_journal", original)
        raise asyncpg.CheckViolationError("no such row")

    monkeypatch.setattr(mailbox, "append_journal", refusing)
    ids = await desk.accept(*[pay() for _ in range(9)])
    assert await desk.take() is Result.BROKEN
    assert set(await desk.statuses(ids)) == {"accepted"}
    await desk.empty()
    assert (await desk.applied())[3:] == ids


@pytest.mark.parametrize("how", ["lost", "cancelled"])
@at_a_desk
async def test_a_turn_that_ends_while_it_writes_leaves_nothing_running(
    desk: Desk, monkeypatch: Patch, how: str
) -> None:
    inside, leave, running = asyncio.Event(), asyncio.Event(), asyncio.all_tasks()
    original = mailbox.finish

    async def slow(*arguments: Any) -> None:
        monkeypatch.setattr(mailbox, "finish", original)
        inside.set()
        await leave.wait()
        if how == "lost":
            raise asyncpg.ConnectionDoesNotExistError("gone")
        await original(*arguments)

    monkeypatch.setattr(mailbox, "finish", slow)
    ids = await desk.accept(*[pay() for _ in range(9)])
    turn = asyncio.create_task(desk.take())
    await inside.wait()
    if how == "cancelled":
        turn.cancel()
    leave.set()
    with pytest.raises(asyncio.CancelledError if how == "cancelled" else asyncpg.ConnectionDoesNotExistError):
        await turn
    assert asyncio.all_tasks() <= running
    await desk.empty()
    assert (await desk.applied())[3:] == ids
    assert {outcome.status for outcome in await desk.outcomes(ids)} == {"succeeded"}
