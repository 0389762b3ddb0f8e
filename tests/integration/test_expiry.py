"""The sweep that ends transactions whose time is over: once each, however many sweeps and however late."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.ledger.commands import CaptureTransaction, PostTransaction, VoidTransaction
from domain.ledger.model import SERVICE
from tests.books import post
from tests.turns import Desk, at_a_desk, open_desk
from workers import expiry
from workers.expiry import Expiry

PAST = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = "SELECT id, status, principal FROM commands WHERE actor = $1 AND kind = 'expire_transaction' ORDER BY position"
STATUS = "SELECT status FROM transactions WHERE ledger = $1 AND id = $2"
PENDING = "SELECT sum(pending_debits + pending_credits) FROM accounts WHERE ledger = $1"


def hold(expires_at: datetime | None = PAST) -> PostTransaction:
    return replace(post(("bank", "till", "1")), pending=True, expires_at=expires_at)


async def held(desk: Desk, *expiring: datetime | None) -> list[UUID]:
    """Transactions that are pending, each with the time at which it expires."""
    ids = await desk.accept(*map(hold, expiring))
    await desk.empty()
    return ids


def sweep(desk: Desk, rung: list[str] | None = None) -> Expiry:
    return Expiry(desk.turns.work_pool, (rung if rung is not None else []).append)


async def sweep_until(desk: Desk, found: int) -> None:
    """Sweeps again and again until one has found so many."""
    for _ in range(250):
        if await sweep(desk).run() == found:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"no sweep has found {found}")


async def expired(desk: Desk) -> list[UUID]:
    """Transactions that the journal says have expired."""
    return [
        UUID(entry["data"]["transaction"]) for entry in await desk.journal() if entry["type"] == "TransactionExpired"
    ]


async def status(desk: Desk, transaction: UUID) -> Any:
    return await desk.db.fetchval(STATUS, desk.ledger, transaction)


@at_a_desk
async def test_each_ends_once_though_sweeps_come_together_and_again(desk: Desk) -> None:
    async with open_desk(desk.settings) as other:
        ids = [await held(one, *[PAST + timedelta(days=number) for number in range(20)]) for one in (desk, other)]
        kept = await held(desk, None, datetime.now(UTC) + timedelta(hours=1))
        rung: list[str] = []
        await asyncio.gather(*(sweep(desk, rung).run() for _ in range(4)))
        assert set(rung) == {desk.actor, other.actor}
        # nobody has taken a turn yet, and still nothing is asked for again
        assert await sweep(desk).run() == 0
        for one, transactions in ((desk, ids[0]), (other, ids[1])):
            assert len(await desk.db.fetch(ASKED, one.actor)) == 20
            await one.empty()
            assert sorted(await expired(one)) == sorted(transactions)
            assert {await status(one, transaction) for transaction in transactions} == {"expired"}
            asked = await desk.db.fetch(ASKED, one.actor)
            assert {(row["status"], row["principal"]) for row in asked} == {("succeeded", SERVICE)}
        assert [await status(desk, transaction) for transaction in kept] == ["pending"] * 2
        assert (await desk.db.fetchval(PENDING, desk.ledger), await desk.db.fetchval(PENDING, other.ledger)) == (400, 0)
        assert await sweep(desk).run() == 0


@at_a_desk
async def test_nothing_ends_before_its_time_and_then_by_itself(desk: Desk) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.6)
    (transaction,) = await held(desk, soon)
    assert await sweep(desk).run() == 0
    await sweep_until(desk, 1)
    accepted = await desk.db.fetchval(
        "SELECT accepted_at FROM commands WHERE actor = $1 AND kind = 'expire_transaction'", desk.actor
    )
    assert soon <= accepted
    await desk.empty()
    assert await expired(desk) == [transaction]


@at_a_desk
async def test_what_was_taken_or_given_back_first_is_left_alone(desk: Desk) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    captured, voided, partly = await held(desk, soon, soon, soon)
    parts = CaptureTransaction(transaction=partly, amount="0.4", final=False)
    asked = await desk.accept(CaptureTransaction(transaction=captured), VoidTransaction(transaction=voided), parts)
    # accepted in time, applied behind the sweep's own commands
    await sweep_until(desk, 3)
    await desk.empty()
    assert await desk.statuses(asked) == ["succeeded"] * 3
    assert [row["status"] for row in await desk.db.fetch(ASKED, desk.actor)] == ["rejected", "rejected", "succeeded"]
    assert [await status(desk, one) for one in (captured, voided, partly)] == ["captured", "voided", "captured"]
    assert await desk.db.fetchval(PENDING, desk.ledger) == 0
    assert await sweep(desk).run() == 0


@at_a_desk
async def test_a_sweep_is_bounded_and_the_next_one_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "AT_ONCE", 3)
    monkeypatch.setattr(expiry, "ROUNDS", 2)
    times = [PAST + timedelta(days=number) for number in range(8)]
    ids = await held(desk, *times[::-1])
    assert await sweep(desk).run() == 6
    await desk.empty()
    # those whose time was over first
    assert sorted(await expired(desk)) == sorted(ids[2:])
    assert await sweep(desk).run() == 2
    assert await sweep(desk).run() == 0
    await desk.empty()
    assert sorted(await expired(desk)) == sorted(ids)


@at_a_desk
async def test_among_many_that_wait_already_the_others_are_found(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "AT_ONCE", 2)
    monkeypatch.setattr(expiry, "MOST_LOOKED_AT", 5)
    await held(desk, *[PAST] * 7)
    # two of five looked at, then two more, then the last of them: the other two have to wait for a turn
    assert await sweep(desk).run() == 5
    assert await sweep(desk).run() == 0
    await desk.empty()
    assert await sweep(desk).run() == 2
    await desk.empty()
    assert len(await expired(desk)) == 7
