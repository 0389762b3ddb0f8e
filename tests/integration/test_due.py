"""Commands with an `execute_at`: they join the mailbox when it is their time, once, in its order."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from api.recording import draft_of
from domain.catalog import KIND_OF
from domain.ledger.commands import CaptureTransaction, LedgerCommand, PostTransaction, ReverseTransaction
from infrastructure.command_log import CommandLog, Receipt, Submission
from tests.books import post
from tests.turns import Desk, at_a_desk, open_desk
from workers import due
from workers.due import Due

PLACES = "SELECT id, status, position FROM commands WHERE id = ANY ($1::uuid[])"
# The clock is Postgres's: what waits is moved into the past instead.
COMES = "UPDATE commands SET execute_at = execute_at - make_interval(days => 2) WHERE actor = $1 AND execute_at > now()"


def at(moment: datetime, number: int = 1) -> PostTransaction:
    return replace(post(("bank", "till", str(number))), execute_at=moment)


async def accept(desk: Desk, *commands: LedgerCommand, principal: UUID | None = None) -> list[UUID]:
    """As the API does, in one request."""
    drafts = tuple(draft_of(KIND_OF[type(command)], command, uuid7(), "/") for command in commands)
    submission = Submission(desk.actor, principal or desk.owner, "c-1", drafts, batch=uuid7())
    (receipt,) = await CommandLog(desk.turns.work_pool).append([submission])
    assert isinstance(receipt, Receipt)
    return list(receipt.jobs)


def sweep(desk: Desk, rung: list[str] | None = None) -> Due:
    return Due(desk.turns.work_pool, (rung if rung is not None else []).append)


async def places(desk: Desk, ids: list[UUID]) -> list[tuple[str, int | None]]:
    found = {row["id"]: (row["status"], row["position"]) for row in await desk.db.fetch(PLACES, ids)}
    return [found[job] for job in ids]


async def sweep_until(desk: Desk, ids: list[UUID], rung: list[str] | None = None) -> None:
    """Sweeps until none of them is scheduled any more: somebody else's sweep may hold the lock."""
    for _ in range(250):
        await sweep(desk, rung).run()
        if all(status != "scheduled" for status, _ in await places(desk, ids)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("they are scheduled still")


@at_a_desk
async def test_what_is_to_come_waits_without_a_position_and_what_is_past_does_not(desk: Desk) -> None:
    now = datetime.now(UTC)
    ids = await accept(desk, at(now - timedelta(days=1)), at(now + timedelta(days=1)), post(("bank", "till", "3")))
    past, future, plain = await places(desk, ids)
    assert (past[0], future, plain[0]) == ("accepted", ("scheduled", None), "accepted")
    assert past[1] is not None and plain[1] is not None and past[1] < plain[1]
    await sweep(desk).run()
    assert (await places(desk, ids))[1] == ("scheduled", None)
    await desk.empty()
    assert await desk.applied() == [*(await desk.applied())[:-2], ids[0], ids[2]]
    assert await CommandLog(desk.turns.work_pool).depth(desk.actor, 10) == 1


@at_a_desk
async def test_they_join_in_the_order_of_their_times_then_of_their_ids(desk: Desk) -> None:
    start = datetime.now(UTC) + timedelta(days=1)
    days = [3, 1, 1, 2, 0]
    ids = await accept(desk, *(at(start + timedelta(minutes=minutes)) for minutes in days))
    await desk.db.execute(COMES, desk.actor)
    later = await desk.accept(post(("bank", "till", "9")))
    rung: list[str] = []
    await sweep_until(desk, ids, rung)
    assert rung == [desk.actor]
    await desk.empty()
    assert (await desk.applied())[-6:] == [*later, ids[4], ids[1], ids[2], ids[3], ids[0]]
    # dated by its time, not by when it was written down or applied
    entry = (await desk.journal())[-5]
    row = await desk.db.fetchrow("SELECT payload FROM commands WHERE id = $1", ids[4])
    assert entry["data"]["effective_at"] == start.strftime("%Y-%m-%dT%H:%M:%S.%fZ") and b"execute_at" in row["payload"]


@at_a_desk
async def test_sweeps_at_once_let_each_in_once_and_in_order(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "AT_ONCE", 7)
    async with open_desk(desk.settings) as other:
        start = datetime.now(UTC) + timedelta(days=1)
        commands = [at(start + timedelta(seconds=number)) for number in range(60)]
        ids = {one.actor: await accept(one, *commands) for one in (desk, other)}
        await desk.db.execute(COMES, desk.actor)
        await desk.db.execute(COMES, other.actor)
        drawn = await desk.db.fetchval("SELECT nextval('daybook_position')")
        while any(status == "scheduled" for status, _ in await places(desk, ids[desk.actor] + ids[other.actor])):
            await asyncio.gather(*(sweep(one).run() for one in (desk, other) for _ in range(3)))
        for mine in ids.values():
            positions = [position for _, position in await places(desk, mine)]
            assert None not in positions and positions == sorted(set(positions)) and positions[0] > drawn
        await desk.empty()
        assert (await desk.applied())[-60:] == ids[desk.actor]


@at_a_desk
async def test_what_somebody_is_about_to_cancel_is_left_to_them(desk: Desk) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    ids = await accept(desk, at(soon), at(soon + timedelta(minutes=1)))
    await desk.db.execute(COMES, desk.actor)
    async with desk.db.transaction():
        await desk.db.execute("UPDATE commands SET status = 'cancelled' WHERE id = $1", ids[0])
        await asyncio.wait_for(sweep_until(desk, ids[1:]), 5)
    await sweep(desk).run()
    (status, position), _ = await places(desk, ids)
    assert (status, position) == ("cancelled", None)


@at_a_desk
async def test_authority_is_looked_at_when_it_is_executed(desk: Desk) -> None:
    await desk.db.execute(
        "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, 'writer')", desk.ledger, desk.stranger
    )
    soon = datetime.now(UTC) + timedelta(days=1)
    ids = await accept(desk, at(soon), principal=desk.stranger) + await accept(desk, at(soon))
    await desk.db.execute("DELETE FROM grants WHERE ledger = $1 AND user_id = $2", desk.ledger, desk.stranger)
    await desk.db.execute(COMES, desk.actor)
    await sweep_until(desk, ids)
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes(ids)] == ["not_found", None]


@at_a_desk
async def test_what_is_still_scheduled_is_neither_captured_nor_reversed(desk: Desk) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    (held, posted) = await accept(desk, replace(at(soon), pending=True), at(soon))
    refused = await desk.accept(CaptureTransaction(transaction=held), ReverseTransaction(transaction=posted))
    await desk.empty()
    codes = [outcome.code for outcome in await desk.outcomes(refused)]
    assert codes == ["transaction_not_pending", "transaction_not_reversible"]
    await desk.db.execute(COMES, desk.actor)
    await sweep_until(desk, [held, posted])
    now = await desk.accept(CaptureTransaction(transaction=held), ReverseTransaction(transaction=posted))
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes(now)] == [None, None]
