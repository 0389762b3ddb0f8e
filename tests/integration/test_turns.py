"""Turns on real Postgres: order, bounds, marks that isolate poison, and what is nobody's fault."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import pairwise
from math import ceil, log2
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import asyncpg.transaction
import msgspec
import pytest

from domain.catalog import HANDLERS
from domain.decision import GENESIS
from domain.ledger.commands import PostTransaction, ReverseTransaction
from domain.messages import Event
from infrastructure import mailbox, postgres
from infrastructure.bells import Ahead
from infrastructure.repositories import ledger as ledgers
from tests.books import open_account, post
from tests.turns import Desk, at_a_desk, others_wait
from workers import turn
from workers.turn import CROWD, GATHER_S, Result

Patch = pytest.MonkeyPatch


def pay(amount: str = "1", **members: Any) -> PostTransaction:
    """From the till to the bank."""
    return msgspec.structs.replace(post(("bank", "till", amount)), **members)


def spoilt(how: str = "poison") -> PostTransaction:
    return pay(description=how)


def break_on(patch: Patch, error: Callable[[], BaseException], description: str = "poison") -> list[str | None]:
    """Makes deciding a command of that description raise. Answers the descriptions of all that were decided, live."""
    decided: list[str | None] = []
    original = HANDLERS[PostTransaction]

    def handler(command: PostTransaction, *others: Any) -> list[Event]:
        decided.append(command.description)
        if command.description == description:
            raise error()
        return original(command, *others)

    patch.setitem(HANDLERS, PostTransaction, handler)  # type: ignore[arg-type]
    return decided


# -- what a turn does -------------------------------------------------------------------------------------------------


@at_a_desk
async def test_applies_the_mailbox_in_order_and_writes_every_outcome(desk: Desk) -> None:
    ids = await desk.accept(
        open_account("alice", kind="liability", least="0"),
        post(("bank", "alice", "60"), reference="dep-1"),
        post(("alice", "bank", "75")),
        post(("alice", "till", "60")),
    )
    assert await desk.take() is Result.DONE
    outcomes = await desk.outcomes(ids)
    assert [outcome.status for outcome in outcomes] == ["succeeded", "succeeded", "rejected", "succeeded"]
    assert [outcome.seq for outcome in outcomes] == [4, 5, None, 6]
    assert [outcome.code for outcome in outcomes] == [None, None, "insufficient_funds", None]
    assert {outcome.attempts for outcome in outcomes} == {1}
    assert all(outcome.finished_at for outcome in outcomes)
    assert await desk.applied() == [*(await desk.applied())[:3], ids[0], ids[1], ids[3]]
    assert await desk.mark() is None
    problem = await desk.db.fetchval("SELECT problem FROM commands WHERE id = $1", ids[2])
    assert msgspec.json.decode(problem) == {
        "code": "insufficient_funds",
        "detail": "alice has 60.00 USD available; 75.00 needed.",
        "faults": [{"pointer": "#/postings/0", "detail": "alice"}],
    }


@at_a_desk
async def test_the_journal_is_dense_and_chained_across_turns(desk: Desk) -> None:
    narrow = desk.with_settings(turn_commands=2)
    await desk.accept(*[pay(str(number)) for number in range(1, 8)])
    assert await narrow.empty() == [Result.DONE] * 4
    rows = await desk.db.fetch("SELECT seq, hash, event FROM journal WHERE actor = $1 ORDER BY seq", desk.actor)
    last = GENESIS
    for seq, row in enumerate(rows, start=1):
        last = sha256(last + row["event"]).digest()
        assert (row["seq"], row["hash"]) == (seq, last)
    head = await desk.db.fetchrow("SELECT seq, head FROM actors WHERE actor = $1", desk.actor)
    assert head is not None
    assert tuple(head) == (10, last)
    assert [entry["balances"][0]["balance"] for entry in (await desk.journal())[3:]] == [
        f"{sum(range(1, number + 1))}.00" for number in range(1, 8)
    ]


@at_a_desk
async def test_a_turn_of_refusals_alone_moves_nothing(desk: Desk) -> None:
    before = await desk.db.fetchrow("SELECT * FROM actors WHERE actor = $1", desk.actor)
    ids = await desk.accept(post(("ghost", "bank", "1")), open_account("bank"))
    assert await desk.take() is Result.DONE
    assert await desk.statuses(ids) == ["rejected"] * 2
    assert await desk.db.fetchrow("SELECT * FROM actors WHERE actor = $1", desk.actor) == before


@at_a_desk
async def test_only_what_is_accepted_is_taken(desk: Desk) -> None:
    ids = await desk.accept(pay(), pay(), pay())
    await desk.db.execute("UPDATE commands SET status = 'cancelled' WHERE id = $1", ids[0])
    await desk.db.execute("UPDATE commands SET status = 'scheduled', position = NULL WHERE id = $1", ids[1])
    assert await desk.empty() == [Result.DONE]
    assert sorted(await desk.statuses(ids)) == ["cancelled", "scheduled", "succeeded"]


@at_a_desk
async def test_what_was_accepted_late_with_an_earlier_position_is_not_skipped(desk: Desk) -> None:
    early = await desk.db.fetchval("SELECT nextval('daybook_position')")
    await desk.accept(pay())
    assert await desk.take() is Result.DONE
    (late,) = await desk.accept(pay())
    await desk.db.execute("UPDATE commands SET position = $1 WHERE id = $2", early, late)
    assert await desk.take() is Result.DONE
    assert await desk.statuses([late]) == ["succeeded"]


@at_a_desk
async def test_authority_counts_when_the_command_is_applied(desk: Desk) -> None:
    revoked = await desk.accept(pay())
    await desk.db.execute("DELETE FROM grants WHERE ledger = $1", desk.ledger)
    await desk.take()
    await desk.db.execute("UPDATE users SET roles = '{admin}' WHERE id = $1", desk.owner)
    admin = await desk.accept(pay())
    stranger = await desk.accept(pay(), principal=desk.stranger)
    await desk.take()
    await desk.db.execute("UPDATE users SET status = 'disabled' WHERE id = $1", desk.owner)
    disabled = await desk.accept(pay())
    await desk.take()
    outcomes = await desk.outcomes([*revoked, *admin, *stranger, *disabled])
    assert [outcome.code for outcome in outcomes] == ["not_found", None, "not_found", "not_found"]


@at_a_desk
async def test_takes_no_more_commands_than_a_turn_may(desk: Desk) -> None:
    narrow = desk.with_settings(turn_commands=3)
    ids = await desk.accept(*[pay() for _ in range(7)])
    for done in (3, 6, 7):
        assert await narrow.take() is Result.DONE
        assert (await desk.statuses(ids)).count("succeeded") == done
    assert await narrow.take() is Result.EMPTY


@at_a_desk
async def test_takes_no_more_postings_than_a_turn_may_but_always_one_command(desk: Desk) -> None:
    narrow = desk.with_settings(turn_postings=5)
    two, six = post(*[("bank", "till", "1")] * 2), post(*[("bank", "till", "1")] * 6)
    ids = await desk.accept(two, two, two, six, pay(), two, two)
    for done in (2, 3, 4, 7):
        assert await narrow.take() is Result.DONE
        assert (await desk.statuses(ids)).count("succeeded") == done


@at_a_desk
async def test_recorded_at_never_goes_back(desk: Desk) -> None:
    future = datetime(2099, 1, 1, 0, 0, 0, 5, tzinfo=UTC)
    await desk.db.execute("UPDATE actors SET recorded_at = $1 WHERE actor = $2", future, desk.actor)
    await desk.accept(pay())
    await desk.take()
    # accepted by a clock ahead of ours: nothing is recorded before it was accepted
    (ahead,) = await desk.accept(pay())
    await desk.db.execute("UPDATE commands SET accepted_at = $1 WHERE id = $2", future + timedelta(hours=1), ahead)
    await desk.take()
    await desk.accept(pay())
    await desk.take()
    recorded = [entry["recorded_at"] for entry in await desk.journal()]
    assert recorded[3:] == ["2099-01-01T00:00:00.000005Z", *["2099-01-01T01:00:00.000005Z"] * 2]
    assert all(earlier <= later for earlier, later in pairwise(recorded))


@at_a_desk
async def test_the_journal_refuses_to_be_changed(desk: Desk) -> None:
    before = await desk.journal()
    for sql in ("UPDATE journal SET event = ''", "DELETE FROM journal", "TRUNCATE journal"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="append-only"):
            await desk.db.execute(sql)
    assert await desk.journal() == before


# -- what a turn tells ------------------------------------------------------------------------------------------------


@at_a_desk
async def test_views_are_barred_before_the_commit_and_freed_after_it(desk: Desk) -> None:
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(await desk.journal()))

    desk.notices.on_begin = desk.notices.on_announce = look
    await desk.accept(pay(), open_account("new"))
    await desk.take()
    assert seen == [3, 5]
    (begun, *barred), (announced, *freed) = desk.notices.told
    assert (begun, announced) == ("begin", "announce")
    assert barred == freed
    assert barred[:2] == [desk.actor, ("account:bank", "account:new", "account:till")]


@at_a_desk
async def test_subscribers_fall_behind_in_the_same_transaction_and_are_rung_after_it(desk: Desk) -> None:
    await desk.db.execute("DELETE FROM behind WHERE subscriber = 'redis' AND actor = $1", desk.actor)
    await desk.accept(pay(), pay())
    await desk.take()
    rows = await desk.db.fetch(
        "SELECT subscriber, position, head FROM behind WHERE actor = $1 ORDER BY subscriber", desk.actor
    )
    assert [tuple(row) for row in rows] == [("kafka", 0, 5), ("redis", 3, 5)]
    assert desk.rung == [("kafka", desk.actor, 2), ("redis", desk.actor, 2)]


@at_a_desk
async def test_a_turn_that_wrote_nothing_tells_nobody(desk: Desk) -> None:
    assert await desk.take() is Result.EMPTY
    assert (await desk.turns.take("ledger:nobody")).result is Result.BUSY
    assert (desk.notices.told, desk.rung) == ([], [])


@at_a_desk
async def test_what_is_not_to_be_seen_yet_is_still_to_come_whatever_its_position(
    desk: Desk, monkeypatch: Patch
) -> None:
    """Positions are drawn at the same time: a lower one may be committed later, even between two looks of a turn."""
    original, sale = mailbox.pending, uuid4()
    drawn = await desk.db.fetchval("SELECT nextval('daybook_position')")
    ids = await desk.accept(ReverseTransaction(transaction=sale))

    async def seen_in_part(*arguments: Any) -> list[asyncpg.Record]:
        rows = await original(*arguments)
        monkeypatch.setattr(mailbox, "pending", original)
        (late,) = await desk.accept(pay())
        await desk.db.execute("UPDATE commands SET id = $2, position = $3 WHERE id = $1", late, sale, drawn)
        return rows

    monkeypatch.setattr(mailbox, "pending", seen_in_part)
    await desk.empty()
    assert [outcome.code for outcome in await desk.outcomes(ids)] == ["transaction_not_reversible"]
    assert await desk.statuses([sale]) == ["succeeded"]


# -- one at a time, and nobody forgotten ------------------------------------------------------------------------------


@at_a_desk
async def test_of_two_turns_at_once_one_leaves(desk: Desk) -> None:
    inside, leave = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        inside.set()
        await leave.wait()

    desk.notices.on_begin = wait
    ids = await desk.accept(pay())
    first = asyncio.create_task(desk.take())
    await inside.wait()
    assert await desk.take() is Result.BUSY
    # accepting never waits for a turn
    ids += await asyncio.wait_for(desk.accept(pay()), 5)
    leave.set()
    assert await first is Result.DONE
    assert await desk.statuses(ids) == ["succeeded", "accepted"]


@at_a_desk
async def test_many_workers_apply_everything_once_and_in_order(desk: Desk) -> None:
    narrow = desk.with_settings(turn_commands=3, turn_time_ms=60_000)
    ids = await desk.accept(*[pay() for _ in range(60)])
    await asyncio.gather(*[narrow.turns.work(desk.actor) for _ in range(6)])
    assert (await desk.applied())[3:] == ids
    assert {outcome.attempts for outcome in await desk.outcomes(ids)} == {1}


@at_a_desk
async def test_work_goes_on_until_the_mailbox_is_empty(desk: Desk) -> None:
    narrow = desk.with_settings(turn_commands=2)
    late: list[UUID] = []

    async def one_more() -> None:
        if len(late) < 3:
            late.extend(await desk.accept(pay()))

    desk.notices.on_announce = one_more
    ids = await desk.accept(*[pay() for _ in range(5)])
    assert await narrow.turns.work(desk.actor) is False
    assert set(await desk.statuses([*ids, *late])) == {"succeeded"}


@at_a_desk
async def test_a_crowd_is_let_gather_until_it_is_as_large_as_before(desk: Desk) -> None:
    """Those who send as soon as they are answered come back; their worker waits for them, but not for long."""
    coming = [3, CROWD, 0, 5, 0, 0]
    ids = await desk.accept(*[pay() for _ in range(CROWD)])

    async def pause(seconds: float) -> None:
        assert seconds == GATHER_S
        ids.extend(await desk.accept(*[pay() for _ in range(coming.pop(0))]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn.asyncio, "sleep", pause)
        assert await desk.turns.work(desk.actor) is False
    # the crowd, those that came in two pauses, and the few of two more; after a narrow turn nobody is waited for
    turns = await desk.db.fetch("SELECT seq FROM turns WHERE actor = $1 ORDER BY seq", desk.actor)
    widths = [after["seq"] - before["seq"] for before, after in pairwise(turns)]
    assert widths == [CROWD, CROWD + 3, 5]
    assert set(await desk.statuses(ids)) == {"succeeded"}
    assert coming == [0, 0]


async def no_pause(_seconds: float) -> None:
    raise AssertionError("others are kept waiting")


@at_a_desk
async def test_one_request_is_no_crowd_whatever_it_brings(desk: Desk) -> None:
    """Its sender will not be back at once with as much again."""
    ids = await desk.accept(*[pay() for _ in range(2 * CROWD)])
    await desk.db.execute("UPDATE commands SET correlation_id = 'bulk' WHERE id = ANY ($1)", ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn.asyncio, "sleep", no_pause)
        assert await desk.turns.work(desk.actor) is False
    assert set(await desk.statuses(ids)) == {"succeeded"}


@at_a_desk
async def test_a_worker_that_others_wait_for_makes_room_after_a_turn(desk: Desk) -> None:
    shared = replace(desk.with_settings(turn_commands=CROWD).turns, ahead=others_wait)
    ids = await desk.accept(*[pay() for _ in range(2 * CROWD)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn.asyncio, "sleep", no_pause)
        assert await shared.work(desk.actor) is True
        assert Counter(await desk.statuses(ids)) == {"succeeded": CROWD, "accepted": CROWD}
        # a crowd that is done is not waited for, either
        assert await shared.work(desk.actor) is False
    assert set(await desk.statuses(ids)) == {"succeeded"}


@at_a_desk
async def test_whoever_rang_while_the_worker_was_there_is_not_forgotten(desk: Desk) -> None:
    """Nobody else comes for a command whose bell was rung while it was kept: the last look is after the answer."""
    late: list[UUID] = []

    async def accept_and_ring() -> None:
        if not late:
            assert desk.bells.is_kept
            late.extend(await desk.accept(pay()))

    desk.bells.on_answer = accept_and_ring
    await desk.accept(pay())
    assert await desk.turns.work(desk.actor) is True
    assert not desk.bells.is_kept
    assert await desk.turns.work(desk.actor) is False
    assert await desk.statuses(late) == ["succeeded"]


@at_a_desk
async def test_a_worker_that_has_a_second_message_for_its_actor_ahead_sends_no_third(desk: Desk) -> None:
    """There would never be fewer again, as long as the actor is busy. The bell is left to who comes by that message."""

    async def ahead(_actor: str) -> Ahead:
        return Ahead(others=True, itself=True)

    async def only_itself(_actor: str) -> Ahead:
        return Ahead(itself=True)

    ids = await desk.accept(*[pay() for _ in range(4)])
    narrow = desk.with_settings(turn_commands=2).turns
    assert await replace(narrow, ahead=ahead).work(desk.actor) is False
    assert await desk.statuses(ids) == ["succeeded"] * 2 + ["accepted"] * 2
    assert desk.bells.answered == 0
    # it makes room for others, not for itself
    assert await replace(narrow, ahead=only_itself).work(desk.actor) is False
    assert await desk.statuses(ids) == ["succeeded"] * 4
    assert desk.bells.answered == 1


@at_a_desk
async def test_only_whoever_was_with_the_actor_answers_its_bell(desk: Desk) -> None:
    """Answered by one that found another there, it would bring the next one there, too, and so on."""
    async with desk.turns.work_pool.acquire() as db, db.transaction():
        assert await mailbox.lock(db, desk.actor) is not None
        assert await desk.turns.work(desk.actor) is False
    assert desk.bells.answered == 0


@at_a_desk
async def test_the_bell_is_answered_whatever_goes_wrong(desk: Desk) -> None:
    async def fail(*_: object) -> None:
        raise OSError("down")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox, "lock", fail)
        with pytest.raises(OSError, match="down"):
            await desk.turns.work(desk.actor)
    assert desk.bells.answered == 1


@at_a_desk
async def test_what_comes_between_the_last_look_and_the_release_is_seen(desk: Desk) -> None:
    """The worker that was rung for it has found the lock taken, and left."""
    missed: list[UUID] = []
    original = mailbox.clear_mark

    async def too_late(db: Any, actor: str) -> None:
        if not missed:
            missed.extend(await desk.accept(pay()))
            assert await desk.take() is Result.BUSY
        await original(db, actor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mailbox, "clear_mark", too_late)
        assert await desk.turns.work(desk.actor) is False
    assert await desk.statuses(missed) == ["succeeded"]


@at_a_desk
async def test_work_hands_over_when_its_time_is_up(desk: Desk) -> None:
    hasty = desk.with_settings(turn_commands=1, turn_time_ms=1)
    ids = await desk.accept(*[pay() for _ in range(50)])
    assert await hasty.turns.work(desk.actor) is True
    statuses = await desk.statuses(ids)
    assert statuses[0] == "succeeded"
    assert statuses[-1] == "accepted"


# -- poison -----------------------------------------------------------------------------------------------------------


def most_broken(width: int, attempts: int) -> int:
    """A bisection, and the attempts of the command that is left alone."""
    return ceil(log2(width)) + attempts if width > 1 else attempts


async def assert_isolated(desk: Desk, ids: list[UUID], poison: set[int]) -> None:
    """The poison became dead letters, all others were applied once and in order."""
    outcomes = await desk.outcomes(ids)
    assert {number for number, outcome in enumerate(outcomes) if outcome.status == "failed"} == poison
    assert {outcomes[number].code for number in poison} <= {"command_failed"}
    assert all(outcomes[number].finished_at for number in poison)
    fine = [command for number, command in enumerate(ids) if number not in poison]
    assert (await desk.applied())[3:] == fine
    assert await desk.mark() is None


@pytest.mark.parametrize("position", [0, 1, 20, 62, 63])
@at_a_desk
async def test_a_command_that_raises_is_found_by_bisection(desk: Desk, monkeypatch: Patch, position: int) -> None:
    decided = break_on(monkeypatch, lambda: RuntimeError("boom"))
    ids = await desk.accept(*[spoilt() if number == position else pay() for number in range(64)])
    results = await desk.empty()
    await assert_isolated(desk, ids, {position})
    assert results.count(Result.BROKEN) <= most_broken(64, 3)
    assert decided.count("poison") == results.count(Result.BROKEN)
    assert (await desk.outcomes([ids[position]]))[0].attempts == 3


@at_a_desk
async def test_several_are_found_one_after_the_other(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    poison = {3, 4, 17, 31}
    ids = await desk.accept(*[spoilt() if number in poison else pay() for number in range(32)])
    results = await desk.empty()
    await assert_isolated(desk, ids, poison)
    assert results.count(Result.BROKEN) <= len(poison) * most_broken(32, 3)


@at_a_desk
async def test_a_mailbox_of_nothing_but_poison_is_worked_off(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    ids = await desk.with_settings(turn_attempts=1).accept(*[spoilt() for _ in range(5)])
    await desk.with_settings(turn_attempts=1).empty()
    assert {outcome.status for outcome in await desk.outcomes(ids)} == {"failed"}


@at_a_desk
async def test_a_width_that_is_no_power_of_two(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    for count, position in ((3, 2), (7, 6), (13, 12), (100, 97)):
        ids = await desk.accept(*[spoilt() if number == position else pay() for number in range(count)])
        results = await desk.empty()
        statuses = await desk.statuses(ids)
        assert [number for number, status in enumerate(statuses) if status != "succeeded"] == [position]
        assert results.count(Result.BROKEN) <= most_broken(count, 3)
        # the turns that went through are few, too
        assert len(results) <= 4 * ceil(log2(count)) + 8


@pytest.mark.parametrize("error", [MemoryError, RecursionError, KeyError, AssertionError, UnicodeError])
@at_a_desk
async def test_whatever_deciding_raises_is_the_commands_fault(
    desk: Desk, monkeypatch: Patch, error: type[Exception]
) -> None:
    break_on(monkeypatch, error)
    ids = await desk.accept(pay(), spoilt(), pay())
    await desk.empty()
    await assert_isolated(desk, ids, {1})


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("post_transaction", b"not JSON"),
        ("post_transaction", b'{"postings":[]}'),
        ("post_transaction", b'{"postings":[{"debit":"bank","credit":"till","amount":"0"}]}'),
        ("never_heard_of", b"{}"),
        # 22021: a NUL in text
        ("post_transaction", b'{"postings":[{"debit":"bank","credit":"till","amount":"1"}],"description":"\\u0000"}'),
    ],
)
@at_a_desk
async def test_what_cannot_be_read_or_written_is_its_own_fault(desk: Desk, kind: str, payload: bytes) -> None:
    ids = await desk.accept(pay(), pay())
    ids += await desk.accept_raw([kind], [payload])
    ids += await desk.accept(pay())
    await desk.empty()
    await assert_isolated(desk, ids, {2})


@at_a_desk
async def test_a_violated_constraint_is_the_commands_fault(desk: Desk) -> None:
    """SQLSTATE class 23."""
    ids = await desk.accept(pay(), pay(), pay())
    await desk.db.execute(
        "INSERT INTO transactions VALUES ($1, $2, 1000000, 'posted', NULL, NULL, '{}', now(), now(), 1)",
        desk.ledger,
        ids[1],
    )
    await desk.empty()
    await assert_isolated(desk, ids, {1})


def break_saving(patch: Patch, error: BaseException) -> None:
    """Makes saving what a command of the description `poison` did raise."""
    original = ledgers.save

    async def save(db: Any, ledger: Any, links: Any, now: datetime) -> None:
        if any(getattr(link.entry.data, "description", None) == "poison" for link in links):
            raise error
        await original(db, ledger, links, now)

    patch.setattr(ledgers, "save", save)


@at_a_desk
async def test_a_value_that_the_driver_cannot_encode_is_the_commands_fault(desk: Desk, monkeypatch: Patch) -> None:
    from asyncpg.exceptions._base import DataError  # its public name is that of SQLSTATE 22000

    break_saving(monkeypatch, DataError("value out of int64 range"))
    ids = await desk.accept(pay(), spoilt(), pay())
    await desk.empty()
    await assert_isolated(desk, ids, {1})


@at_a_desk
async def test_a_dead_letter_tells_its_waiters(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    await desk.accept(spoilt())
    await desk.empty()
    assert [(what, views) for what, _, views, _ in desk.notices.told] == [("announce", ())]


# -- marks ------------------------------------------------------------------------------------------------------------


async def leave_mark(desk: Desk, *, width: int, attempts: int, last: UUID, running: bool = True) -> None:
    position = await desk.db.fetchval("SELECT position FROM commands WHERE id = $1", last)
    await mailbox.set_mark(desk.turns.mark_pool, desk.actor, mailbox.Mark(uuid4(), width, attempts, position, True))
    await desk.db.execute("UPDATE turn_marks SET running = $1 WHERE actor = $2", running, desk.actor)


async def taken_by(desk: Desk, ids: list[UUID]) -> int:
    """How many commands the next turn finishes."""
    before = (await desk.statuses(ids)).count("accepted")
    assert await desk.take() is Result.DONE
    return before - (await desk.statuses(ids)).count("accepted")


@at_a_desk
async def test_a_mark_left_running_halves_the_next_turn_and_suspicion_reaches_as_far_as_it_did(desk: Desk) -> None:
    ids = await desk.accept(*[pay() for _ in range(12)])
    await leave_mark(desk, width=8, attempts=1, last=ids[7])
    assert [await taken_by(desk, ids) for _ in range(5)] == [4, 2, 1, 1, 4]
    assert await desk.mark() is None
    assert (await desk.applied())[3:] == ids


@pytest.mark.parametrize(
    ("width", "attempts", "suspect", "running"),
    [(1, 3, 1, True), (2, 3, 0, True), (1, 2, 0, True), (1, 3, 0, False), (1000, 99, 0, True)],
    ids=["another command", "not alone", "attempts left", "acquitted", "wide"],
)
@at_a_desk
async def test_only_a_command_alone_with_its_attempts_spent_is_set_aside(
    desk: Desk, width: int, attempts: int, suspect: int, running: bool
) -> None:
    ids = await desk.accept(pay(), pay())
    await leave_mark(desk, width=width, attempts=attempts, last=ids[suspect], running=running)
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"] * 2


@at_a_desk
async def test_a_command_that_spent_its_attempts_is_not_run_again(desk: Desk, monkeypatch: Patch) -> None:
    decided = break_on(monkeypatch, lambda: RuntimeError("boom"))
    ids = await desk.accept(spoilt(), pay())
    await leave_mark(desk, width=1, attempts=3, last=ids[0])
    assert await desk.take() is Result.DONE
    assert await desk.statuses(ids) == ["failed", "accepted"]
    assert decided == []
    assert await desk.empty() == [Result.DONE]


@at_a_desk
async def test_the_attempts_of_one_command_are_not_counted_against_the_next(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    ids = await desk.accept(spoilt(), spoilt())
    assert [await desk.take() for _ in range(4)] == [Result.BROKEN] * 4  # two wide, then three times the first alone
    await desk.db.execute("UPDATE commands SET status = 'cancelled' WHERE id = $1", ids[0])
    assert await desk.take() is Result.BROKEN
    mark = await desk.mark()
    assert mark is not None
    assert (mark["width"], mark["attempts"]) == (1, 1)


# -- kills ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def worker(desk: Desk) -> subprocess.Popen[str]:
    """A process that takes turns until the mailbox is empty; see tests/worker_process.py."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.worker_process", desk.settings.database_url, desk.actor],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


async def ended(process: subprocess.Popen[str]) -> int:
    """How a worker ended; the pipes are closed."""
    return (await asyncio.to_thread(lambda: (process.communicate(timeout=30), process.returncode)))[1]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the condition is Postgres's, nobody here could set an event
            await asyncio.sleep(0.01)


async def unlocked(desk: Desk) -> bool:
    async with desk.db.transaction():
        return await mailbox.lock(desk.db, desk.actor) is not None


@at_a_desk
async def test_a_command_that_kills_its_worker_is_found_and_set_aside(desk: Desk) -> None:
    ids = await desk.accept(*[spoilt("kill") if number == 2 else pay() for number in range(4)])
    deaths = 0
    while "accepted" in await desk.statuses(ids):
        code = await ended(worker(desk))
        assert code in (0, -signal.SIGKILL)
        deaths += code != 0
        await until(lambda: unlocked(desk))
        assert deaths <= most_broken(4, 3)
    await assert_isolated(desk, ids, {2})
    assert deaths >= 3


@at_a_desk
async def test_a_worker_killed_from_outside_leaves_everything_to_the_next(desk: Desk) -> None:
    ids = await desk.accept(pay(), pay(), spoilt("wait"), pay())
    process = worker(desk)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "deciding\n"
    mark = await desk.mark()
    assert mark is not None
    assert (mark["width"], mark["attempts"], mark["running"]) == (4, 1, True)
    assert await desk.take() is Result.BUSY
    process.kill()
    assert await ended(process) == -signal.SIGKILL
    await until(lambda: unlocked(desk))
    assert await desk.statuses(ids) == ["accepted"] * 4
    assert await taken_by(desk, ids) == 2
    await desk.empty()
    assert (await desk.applied())[3:] == ids


# -- what is nobody's fault -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["load", "begin", "save", "finish"])
@at_a_desk
async def test_a_lost_connection_is_not_the_commands_fault(desk: Desk, monkeypatch: Patch, where: str) -> None:
    ended = 0

    async def cut() -> None:
        nonlocal ended
        if not ended:
            ended = await desk.terminate_workers()

    def cutting(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def cut_first(*args: Any) -> Any:
            await cut()
            return await original(*args)

        return cut_first

    if where == "begin":
        desk.notices.on_begin = cut
    else:
        module: Any = mailbox if where == "finish" else ledgers
        monkeypatch.setattr(module, where, cutting(getattr(module, where)))
    ids = await desk.accept(*[pay() for _ in range(6)])
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await desk.take()
    assert ended >= 1
    mark = await desk.mark()
    assert mark is not None
    assert (mark["running"], mark["attempts"]) == (False, 0)
    assert await taken_by(desk, ids) == 6
    assert (await desk.applied())[3:] == ids
    assert await desk.mark() is None


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DiskFullError("no space left on device"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
        asyncpg.ReadOnlySQLTransactionError("read-only"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("unexpected message"),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
@at_a_desk
async def test_what_is_wrong_outside_is_never_counted_as_an_attempt(
    desk: Desk, monkeypatch: Patch, error: Exception
) -> None:
    ids = await desk.accept(spoilt())
    with monkeypatch.context() as patch:
        break_saving(patch, error)
        for _ in range(5):
            with pytest.raises(type(error)):
                await desk.take()
    assert await desk.take() is Result.DONE
    assert [(outcome.status, outcome.attempts) for outcome in await desk.outcomes(ids)] == [("succeeded", 1)]


@at_a_desk
async def test_attempts_made_before_the_line_was_lost_still_count(desk: Desk, monkeypatch: Patch) -> None:
    break_on(monkeypatch, lambda: RuntimeError("boom"))
    ids = await desk.accept(spoilt())
    assert [await desk.take(), await desk.take()] == [Result.BROKEN] * 2
    with monkeypatch.context() as patch:
        patch.setitem(HANDLERS, PostTransaction, HANDLERS[PostTransaction])
        break_on(patch, lambda: ConnectionResetError())
        with pytest.raises(ConnectionResetError):
            await desk.take()
    assert [await desk.take(), await desk.take()] == [Result.BROKEN, Result.DONE]
    assert (await desk.outcomes(ids))[0].attempts == 3


@at_a_desk
async def test_what_ran_out_of_time_is_nobodys_fault_and_tried_with_half(desk: Desk, monkeypatch: Patch) -> None:
    save = ledgers.save

    async def slow_when_wide(db: Any, ledger: Any, links: Any, now: Any) -> None:
        if len(links) > 2:
            await db.execute("SET LOCAL statement_timeout = 20")
            await db.execute("SELECT pg_sleep(30)")
        await save(db, ledger, links, now)

    monkeypatch.setattr(ledgers, "save", slow_when_wide)
    ids = await desk.accept(*[pay() for _ in range(8)])
    late = 0
    while "accepted" in await desk.statuses(ids):
        try:
            await desk.take()
        except asyncpg.QueryCanceledError:
            late += 1
        assert late < 8
    assert await desk.statuses(ids) == ["succeeded"] * 8
    assert {outcome.attempts for outcome in await desk.outcomes(ids)} == {1}


@pytest.mark.parametrize("limit", ["statement", "idle connection"])
@at_a_desk
async def test_an_entry_that_is_late_each_time_is_set_aside_and_holds_up_nobody_for_good(
    desk: Desk, monkeypatch: Patch, limit: str
) -> None:
    monkeypatch.setattr(turn, "LATE_ATTEMPTS", 3)
    save = ledgers.save

    async def never_in_time(db: Any, ledger: Any, links: Any, now: Any) -> None:
        if any(getattr(link.entry.data, "description", None) == "poison" for link in links):
            if limit == "statement":
                await db.execute("SET LOCAL statement_timeout = 20")
                await db.execute("SELECT pg_sleep(30)")
            monkeypatch.setattr(postgres, "IDLE_IN_TRANSACTION_MS", 100)
            await db.execute("SET LOCAL idle_in_transaction_session_timeout = 100")
            await asyncio.sleep(0.3)
        await save(db, ledger, links, now)

    monkeypatch.setattr(ledgers, "save", never_in_time)
    before, late = await desk.accept(pay(), pay()), await desk.accept(spoilt())
    after = await desk.accept(pay())
    raised = 0
    while "accepted" in await desk.statuses([*before, *late, *after]):
        try:
            await desk.take()
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            raised += 1
        assert raised <= 4
    # once with the others, and three times alone
    assert raised == 4
    assert await desk.statuses([*before, *after]) == ["succeeded"] * 3
    assert [(one.status, one.code, one.attempts) for one in await desk.outcomes(late)] == [
        ("failed", "command_failed", 3)
    ]
    assert await desk.mark() is None


@at_a_desk
async def test_lateness_is_no_attempt_and_ends_with_the_entry(desk: Desk, monkeypatch: Patch) -> None:
    monkeypatch.setattr(turn, "LATE_ATTEMPTS", 3)
    ids = await desk.accept(spoilt())
    for _ in range(2):
        with monkeypatch.context() as patch:
            break_saving(patch, TimeoutError())
            with pytest.raises(TimeoutError):
                await desk.take()
    mark = await desk.mark()
    assert mark is not None
    assert (mark["attempts"], mark["late"], mark["running"]) == (0, 2, False)
    assert await desk.take() is Result.DONE
    assert await desk.mark() is None
    assert [(one.status, one.attempts) for one in await desk.outcomes(ids)] == [("succeeded", 1)]


@at_a_desk
async def test_a_commit_whose_answer_was_lost_is_not_repeated(desk: Desk, monkeypatch: Patch) -> None:
    original = asyncpg.transaction.Transaction.__aexit__

    async def lose_the_answer(self: Any, *raised: Any) -> None:
        await original(self, *raised)
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    ids = await desk.accept(pay(), pay())
    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.transaction.Transaction, "__aexit__", lose_the_answer)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await desk.take()
    ids += await desk.accept(pay())
    assert await desk.empty() == [Result.DONE]
    assert (await desk.applied())[3:] == ids
    assert [outcome.seq for outcome in await desk.outcomes(ids)] == [4, 5, 6]


@at_a_desk
async def test_no_mark_no_turn(desk: Desk, monkeypatch: Patch) -> None:
    """Without its mark a command could kill worker after worker, and nobody would know."""
    decided = break_on(monkeypatch, lambda: RuntimeError("boom"), description="none")
    await desk.accept(pay())

    async def refuse(*_: Any) -> None:
        raise asyncpg.CannotConnectNowError("the database system is starting up")

    with monkeypatch.context() as patch:
        patch.setattr(mailbox, "set_mark", refuse)
        with pytest.raises(asyncpg.CannotConnectNowError):
            await desk.take()
    assert decided == []
    assert await desk.take() is Result.DONE


PENDING_SINCE = """
INSERT INTO commands (id, actor, position, kind, status, payload, principal, correlation_id, accepted_at)
VALUES ($1, $2, nextval('daybook_position'), 'post_transaction', 'accepted', '', $1, 'c-1', $3)
"""


@at_a_desk
async def test_sweeps_find_who_waits_longest_behind_others_who_do_not(desk: Desk) -> None:
    undone = desk.db.transaction()
    await undone.start()
    try:
        await desk.db.execute(PENDING_SINCE, uuid4(), "ledger:", datetime.now(UTC))
        await desk.db.execute(PENDING_SINCE, uuid4(), "ledger:~~", datetime(2000, 1, 1, tzinfo=UTC))
        assert await mailbox.overdue(desk.db, 2_000, 1, ["ledger"]) == ["ledger:~~"]
    finally:
        await undone.rollback()
