"""Schedules that are due: each time makes one command, whoever comes by and however late."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from domain.clock import format_time
from domain.ledger.commands import Posting, PostTransaction
from domain.ledger.schedules import CancelSchedule, CreateSchedule, Missed, PauseSchedule, ResumeSchedule
from domain.ledger.templates import FreezeAccountTemplate, PostTransactionTemplate
from infrastructure import schedules
from tests.turns import Desk, at_a_desk, open_desk
from workers import firing
from workers.firing import Firing

CENT = PostTransactionTemplate(postings=(Posting("bank", "till", "0.01"),))
MADE = """
SELECT id, execute_at, principal, kind, status, resource, payload FROM commands
WHERE actor = $1 AND correlation_id = 'schedule-' || $2::uuid ORDER BY position
"""
PLACE = "SELECT next_at, last_at, number, status FROM schedules WHERE ledger = $1 AND id = $2"
FIRES = "SELECT count(*) FROM schedule_fires WHERE ledger = $1 AND schedule = $2"
# The clock is Postgres's: the schedule is moved into the past instead, and so is its making.
PASSES = """
UPDATE schedules SET next_at = next_at - $3::interval, created_at = created_at - $3::interval - interval '1 second'
WHERE ledger = $1 AND id = $2
"""


async def make(desk: Desk, **members: Any) -> UUID:
    """A schedule, by default of a cent every day from tomorrow on."""
    series = {} if "rrule" in members else {"every": "P1D"}
    command = CreateSchedule(**{"command": CENT, **series, **members})
    ids = await desk.accept(command)
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"]
    return command.id or ids[0]


async def change(desk: Desk, command: PauseSchedule | ResumeSchedule | CancelSchedule) -> None:
    ids = await desk.accept(command)
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"]


async def passes(desk: Desk, schedule: UUID, **span: float) -> None:
    await desk.db.execute(PASSES, desk.ledger, schedule, timedelta(**span))


async def made(desk: Desk, schedule: UUID) -> list[datetime]:
    """When the schedule's commands are to take effect, in the order of the mailbox."""
    return [row["execute_at"] for row in await desk.db.fetch(MADE, desk.actor, schedule)]


async def place(desk: Desk, schedule: UUID) -> Any:
    return await desk.db.fetchrow(PLACE, desk.ledger, schedule)


def sweep(desk: Desk, rung: list[str] | None = None, limit: int = 1_000) -> Firing:
    return Firing(desk.turns.work_pool, (rung if rung is not None else []).append, limit)


@at_a_desk
async def test_a_time_makes_a_command_that_takes_effect_then(desk: Desk) -> None:
    schedule = await make(desk)
    before = await place(desk, schedule)
    await sweep(desk).run()
    assert await made(desk, schedule) == [] and await place(desk, schedule) == before
    await passes(desk, schedule, days=1)
    rung: list[str] = []
    await sweep(desk, rung).run()
    (row,) = await desk.db.fetch(MADE, desk.actor, schedule)
    at = before["next_at"] - timedelta(days=1)
    assert (row["execute_at"], row["principal"], row["kind"], row["status"]) == (
        at,
        desk.owner,
        "post_transaction",
        "accepted",
    )
    assert desk.actor in rung and row["resource"] == f"/v1/ledgers/{desk.ledger}/transactions/{row['id']}"
    after = await place(desk, schedule)
    assert (after["next_at"], after["last_at"], after["number"]) == (before["next_at"], at, 2)
    await desk.empty()
    entry = (await desk.journal())[-1]
    assert (entry["command"], entry["data"]["effective_at"]) == (str(row["id"]), format_time(at))
    await sweep(desk).run()
    assert len(await made(desk, schedule)) == 1


@at_a_desk
async def test_sweeps_at_once_fire_each_time_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "AT_ONCE", 2)
    monkeypatch.setattr(firing, "MOST_FIRES", 3)
    async with open_desk(desk.settings) as other:
        ids = {one.actor: [await make(one, missed="all") for _ in range(3)] for one in (desk, other)}
        for one in (desk, other):
            for schedule in ids[one.actor]:
                await passes(one, schedule, days=10, hours=1)
        for _ in range(20):
            await asyncio.gather(*(sweep(one).run() for one in (desk, other) for _ in range(3)))
        for one in (desk, other):
            for schedule in ids[one.actor]:
                times = await made(one, schedule)
                assert len(times) == len(set(times)) == 10 and times == sorted(times)
                assert await desk.db.fetchval(FIRES, one.ledger, schedule) == 10


@at_a_desk
async def test_schedules_that_cannot_fire_are_in_nobodys_way(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "AT_ONCE", 2)
    async with open_desk(desk.settings) as other:
        full = [await make(desk) for _ in range(3)]
        unreadable, fine = await make(other), await make(other)
        await other.db.execute("UPDATE schedules SET command = $1 WHERE id = $2", b'{"kind": "no_such"}', unreadable)
        for one, schedule in [*((desk, each) for each in full), (other, unreadable)]:
            await passes(one, schedule, days=1, seconds=2)
        await passes(other, fine, days=1)
        await desk.accept(PostTransaction(postings=CENT.postings))
        before = [await place(desk, each) for each in full]
        await sweep(other, limit=1).run()
        assert len(await made(other, fine)) == 1
        assert [await place(desk, each) for each in full] == before
        # and once there is room
        await desk.empty()
        await sweep(desk).run()
        assert [len(await made(desk, each)) for each in full] == [1, 1, 1]


@at_a_desk
async def test_a_time_that_has_its_command_makes_no_other(desk: Desk) -> None:
    """As if a sweep's move had been lost: the time itself is taken."""
    schedule = await make(desk)
    await passes(desk, schedule, days=1)
    await sweep(desk).run()
    moved = await place(desk, schedule)
    await desk.db.execute(
        "UPDATE schedules SET next_at = last_at, number = 1 WHERE ledger = $1 AND id = $2", desk.ledger, schedule
    )
    await sweep(desk).run()
    assert len(await made(desk, schedule)) == 1
    assert await place(desk, schedule) == moved


@pytest.mark.parametrize(("missed", "number"), [("skip", 0), ("once", 1), ("all", 9)])
@at_a_desk
async def test_what_was_missed(desk: Desk, missed: Missed, number: int) -> None:
    for series in ({"every": "PT6H"}, {"rrule": "FREQ=HOURLY;INTERVAL=6"}):
        schedule = await make(desk, missed=missed, **series)
        await passes(desk, schedule, hours=(54 if "every" in series else 48) + 1)
        await sweep(desk).run()
        times, now = await made(desk, schedule), datetime.now(UTC)
        assert len(times) == number
        if missed == "all":
            assert [later - sooner for sooner, later in pairwise(times)] == [timedelta(hours=6)] * 8
        after = await place(desk, schedule)
        assert now < after["next_at"] <= now + timedelta(hours=6)
        if number:
            assert times[-1] == after["last_at"] == after["next_at"] - timedelta(hours=6)
        if missed == "all":
            # and so from then on
            await passes(desk, schedule, hours=5.5)
            await sweep(desk).run()
            assert len(await made(desk, schedule)) == number + 1


@at_a_desk
async def test_what_comes_a_little_late_is_not_missed(desk: Desk) -> None:
    schedule = await make(desk, every="PT10S", missed="skip")
    await passes(desk, schedule, seconds=35)
    await sweep(desk).run()
    assert len(await made(desk, schedule)) == 3


@at_a_desk
async def test_what_had_passed_when_it_was_made_is_missed(desk: Desk) -> None:
    start = datetime.now(UTC) - timedelta(seconds=35)
    ids = [await make(desk, every="PT10S", starts_at=start, missed=missed) for missed in ("skip", "once", "all")]
    await sweep(desk).run()
    assert [len(await made(desk, schedule)) for schedule in ids] == [0, 1, 4]


@at_a_desk
async def test_a_long_absence_is_caught_up_with_step_by_step(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "MOST_STEPS", 10)
    monkeypatch.setattr(firing, "MOST_FIRES", 4)
    monkeypatch.setattr(firing, "ROUNDS", 2)
    start = datetime.now(UTC) + timedelta(minutes=30)
    ids = [await make(desk, rrule="FREQ=HOURLY", starts_at=start, missed=missed) for missed in ("skip", "once", "all")]
    for schedule in ids:
        await passes(desk, schedule, hours=55)
    await sweep(desk).run()
    assert [len(await made(desk, schedule)) for schedule in ids] == [0, 0, 8]
    for _ in range(10):
        await sweep(desk).run()
    assert [len(await made(desk, schedule)) for schedule in ids] == [0, 1, 55]
    assert (await made(desk, ids[1]))[0] == (await made(desk, ids[2]))[-1]


@at_a_desk
async def test_paused_nothing_counts_and_what_passed_is_passed_over(desk: Desk) -> None:
    for series in ({"every": "PT1H"}, {"rrule": "FREQ=HOURLY"}):
        schedule = await make(desk, missed="all", **series)
        await change(desk, PauseSchedule(schedule=schedule))
        await passes(desk, schedule, hours=10)
        await sweep(desk).run()
        assert await made(desk, schedule) == []
        now = datetime.now(UTC)
        await change(desk, ResumeSchedule(schedule=schedule))
        # whoever resumes it is told of a time to come, not of one that nothing will be made of
        after = await place(desk, schedule)
        assert now < after["next_at"] <= now + timedelta(hours=1, seconds=10)
        await sweep(desk).run()
        assert await made(desk, schedule) == [] and await place(desk, schedule) == after


@at_a_desk
async def test_what_passed_is_looked_for_in_bounds_when_it_is_resumed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "MOST_PASSED", 5)
    ended, long = [await make(desk, missed="all", rrule=rule) for rule in ("FREQ=HOURLY;COUNT=3", "FREQ=HOURLY")]
    for schedule in (ended, long):
        await change(desk, PauseSchedule(schedule=schedule))
        await passes(desk, schedule, hours=10)
        await change(desk, ResumeSchedule(schedule=schedule))
    assert (await place(desk, ended))["next_at"] is None
    assert (await place(desk, long))["number"] == 5
    await sweep(desk).run()
    assert (await place(desk, long))["next_at"] > datetime.now(UTC)
    assert await made(desk, ended) == await made(desk, long) == []


@at_a_desk
async def test_a_cancelled_schedule_stays_silent(desk: Desk) -> None:
    schedule = await make(desk, missed="all")
    await change(desk, CancelSchedule(schedule=schedule))
    await passes(desk, schedule, days=10)
    await sweep(desk).run()
    assert await made(desk, schedule) == []
    refused = await desk.accept(
        PauseSchedule(schedule=schedule), ResumeSchedule(schedule=schedule), CancelSchedule(schedule=schedule)
    )
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes(refused)] == ["validation_failed"] * 3


@at_a_desk
async def test_a_series_that_ends_leaves_nothing_to_come(desk: Desk) -> None:
    start = datetime.now(UTC) + timedelta(minutes=30)
    schedule = await make(desk, rrule="FREQ=HOURLY;COUNT=3", starts_at=start, missed="all")
    await passes(desk, schedule, hours=1)
    await sweep(desk).run()
    assert (await place(desk, schedule))["number"] == 2 and len(await made(desk, schedule)) == 1
    await passes(desk, schedule, hours=5)
    await sweep(desk).run()
    after = await place(desk, schedule)
    assert len(await made(desk, schedule)) == 3
    assert (after["next_at"], after["status"]) == (None, "active")


@at_a_desk
async def test_a_full_mailbox_gets_no_more(desk: Desk) -> None:
    schedule = await make(desk, missed="all")
    await passes(desk, schedule, days=3)
    waiting = await desk.accept(*[PauseSchedule(schedule=UUID(int=1))] * 2)
    await sweep(desk, limit=2).run()
    assert await made(desk, schedule) == []
    await desk.empty()
    assert await desk.statuses(waiting) == ["rejected"] * 2
    await sweep(desk, limit=2).run()
    assert len(await made(desk, schedule)) == 3


@at_a_desk
async def test_authority_is_looked_at_when_the_command_applies(desk: Desk) -> None:
    await desk.db.execute(
        "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, 'writer')", desk.ledger, desk.stranger
    )
    command = CreateSchedule(command=FreezeAccountTemplate(account="till"), every="P1D")
    (schedule,) = await desk.accept(command, principal=desk.stranger)
    await desk.empty()
    await desk.db.execute("DELETE FROM grants WHERE ledger = $1 AND user_id = $2", desk.ledger, desk.stranger)
    await passes(desk, schedule, days=1)
    await sweep(desk).run()
    (row,) = await desk.db.fetch(MADE, desk.actor, schedule)
    assert row["principal"] == desk.stranger
    assert row["resource"] == f"/v1/ledgers/{desk.ledger}/accounts/till"
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes([row["id"]])] == ["not_found"]


@at_a_desk
async def test_one_that_can_not_be_evaluated_does_not_hold_up_the_others(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, whole = await make(desk, rrule="FREQ=DAILY"), await make(desk)
    for schedule in (broken, whole):
        await passes(desk, schedule, days=2)
        await desk.db.execute("UPDATE schedules SET missed = 'all' WHERE id = $1", schedule)
    await desk.db.execute("UPDATE schedules SET rrule = 'FREQ=SOMETIMES' WHERE id = $1", broken)
    await sweep(desk).run()
    assert await made(desk, broken) == [] and len(await made(desk, whole)) == 2
    await desk.db.execute("UPDATE schedules SET rrule = 'FREQ=DAILY' WHERE id = $1", broken)
    await sweep(desk).run()
    assert len(await made(desk, broken)) >= 2


@at_a_desk
async def test_what_is_kept_is_what_was_asked_for(desk: Desk) -> None:
    template = replace(CENT, metadata={"why": "interest"})
    own, first = UUID(int=7), datetime(2027, 1, 31, 9, tzinfo=UTC)
    rule = "FREQ=MONTHLY;BYMONTHDAY=-1"
    await make(desk, id=own, command=template, rrule=rule, starts_at=first, missed="once")
    taken = await desk.accept(CreateSchedule(command=CENT, id=own, every="P1D"))
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes(taken)] == ["validation_failed"]
    found = await schedules.find_schedule(desk.db, desk.ledger, own)
    assert found is not None
    shown = msgspec.json.decode(msgspec.json.encode(found.value))
    assert shown["command"] == {
        "kind": "post_transaction",
        "postings": [{"debit": "bank", "credit": "till", "amount": "0.01"}],
        "metadata": {"why": "interest"},
    }
    assert (shown["rrule"], shown["every"], shown["missed"], shown["status"]) == (rule, None, "once", "active")
    assert (shown["next_at"], shown["last_at"], shown["version"]) == (format_time(first), None, found.seq)
