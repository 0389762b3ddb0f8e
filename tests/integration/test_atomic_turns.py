"""Entries of the mailbox that are all or nothing, on real Postgres: however wide, refused, poisoned or killed."""

from __future__ import annotations

import asyncio
import signal
from uuid import UUID

import pytest

from domain.messages import Command
from tests.integration.test_turns import break_on, ended, most_broken, pay, spoilt, unlocked, until, worker
from tests.turns import Desk, at_a_desk
from workers.turn import Result

JOIN = """
UPDATE commands SET position = (SELECT min(position) FROM commands WHERE id = ANY ($1::uuid[])), line = place - 1
FROM unnest($1::uuid[]) WITH ORDINALITY AS entry (id, place) WHERE commands.id = entry.id
"""


async def entry(desk: Desk, *commands: Command) -> list[UUID]:
    """Puts the commands into the mailbox as one."""
    ids = await desk.accept(*commands)
    await desk.db.execute(JOIN, ids)
    return ids


async def codes(desk: Desk, ids: list[UUID]) -> list[str | None]:
    found = {command: (await desk.outcomes([command]))[0].code for command in ids}
    return [found[command] for command in ids]


@at_a_desk
async def test_an_entry_is_taken_whole_however_wide_it_is(desk: Desk) -> None:
    desk = desk.with_settings(turn_commands=4, turn_postings=6)
    first = await desk.accept(pay(), pay())
    wide = await entry(desk, *[pay() for _ in range(9)])
    small = await entry(desk, pay(), pay())
    last = await desk.accept(pay())
    taken = []
    for ids in (first, wide, [*small, *last]):
        assert await desk.take() is Result.DONE
        taken.append(await desk.statuses(ids))
    assert taken == [["succeeded"] * 2, ["succeeded"] * 9, ["succeeded"] * 3]
    assert await desk.take() is Result.EMPTY
    assert (await desk.applied())[3:] == [*first, *wide, *small, *last]


@at_a_desk
async def test_an_entry_that_is_refused_leaves_its_neighbours_alone(desk: Desk) -> None:
    before = await desk.accept(pay())
    refused = await entry(desk, pay(), pay("1.001"), pay())
    after = await desk.accept(pay())
    assert await desk.empty() == [Result.DONE]
    assert await codes(desk, refused) == ["batch_rejected", "amount_scale", "batch_rejected"]
    assert (await desk.applied())[3:] == [*before, *after]
    assert [event["seq"] for event in await desk.journal()] == [1, 2, 3, 4, 5]
    sums = "SELECT posted_debits::text FROM accounts WHERE ledger = $1 AND name = 'bank'"
    assert await desk.db.fetchval(sums, desk.ledger) == "200"
    assert await desk.db.fetchval("SELECT count(*) FROM transactions WHERE ledger = $1", desk.ledger) == 2


@at_a_desk
async def test_an_entry_is_one_suspect_and_set_aside_whole(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("broken"))
    first = await desk.accept(pay(), pay())
    poisoned = await entry(desk, pay(), pay(), spoilt(), pay())
    fine = await entry(desk, pay(), pay())
    last = await desk.accept(pay())
    results = await desk.empty()
    assert await desk.statuses(poisoned) == ["failed"] * 4
    assert await codes(desk, poisoned) == ["command_failed"] * 4
    assert (await desk.applied())[3:] == [*first, *fine, *last]
    assert results.count(Result.BROKEN) <= most_broken(9, 3)
    assert await desk.mark() is None


@at_a_desk
async def test_a_worker_killed_within_an_entry_leaves_nothing_of_it_and_the_next_all(desk: Desk) -> None:
    ids = await entry(desk, pay(), pay(), spoilt("wait"), pay())
    process = worker(desk)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "deciding\n"
    process.kill()
    assert await ended(process) == -signal.SIGKILL
    await until(lambda: unlocked(desk))
    assert await desk.statuses(ids) == ["accepted"] * 4
    assert len(await desk.journal()) == 3
    assert await desk.empty() == [Result.DONE]
    assert (await desk.applied())[3:] == ids
