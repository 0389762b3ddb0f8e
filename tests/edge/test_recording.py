"""What stands between requests and the daybook: gathering, mailbox limits, waiting. No servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from uuid_utils.compat import uuid7

from api import gathering
from api.depths import Depths
from api.gathering import UNKNOWN, Gatherer
from api.waiting import Waiters, all_finished
from domain.errors import DomainError, InfrastructureError
from infrastructure.command_log import Job
from tests.journals import on_a_loop


class Flushes:
    """Answers each item with itself when it is let go; an item that is an exception is refused."""

    def __init__(self) -> None:
        self.seen: list[list[object]] = []
        self.go, self.second = asyncio.Event(), asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[object]) -> list[object]:
        self.seen.append(list(items))
        if len(self.seen) == 2:
            self.second.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return list(items)


async def turns_of_the_loop(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@on_a_loop
async def test_what_waits_is_flushed_together_two_flushes_at_once() -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=4, backlog=100)  # type: ignore[arg-type]
    asked = []
    for number in range(11):
        asked.append(asyncio.create_task(gatherer.ask(number)))
        if number < 2:
            await turns_of_the_loop()
    await turns_of_the_loop()
    # the first goes at once and alone, the second too; then both flushes are under way
    assert flushes.seen == [[0], [1]]
    flushes.go.set()
    assert await asyncio.gather(*asked) == list(range(11))
    assert flushes.seen == [[0], [1], [2, 3, 4, 5], [6, 7, 8, 9], [10]]
    await gatherer.close()


@on_a_loop
async def test_a_second_flush_starts_beside_the_first_only_for_a_crowd() -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=9, backlog=100, crowd=3)  # type: ignore[arg-type]
    asked = []
    for number in range(4):
        asked.append(asyncio.create_task(gatherer.ask(number)))
        await turns_of_the_loop()
        assert flushes.seen == ([[0]] if number < 3 else [[0], [1, 2, 3]])
    asked.append(asyncio.create_task(gatherer.ask(4)))
    await turns_of_the_loop()
    flushes.go.set()
    assert await asyncio.gather(*asked) == list(range(5))
    assert flushes.seen == [[0], [1, 2, 3], [4]]


@on_a_loop
async def test_nobody_waits_for_a_flush_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=9, backlog=100, crowd=3)  # type: ignore[arg-type]
    monkeypatch.setattr(gathering, "SLOW_S", 0.01)
    asked = [asyncio.create_task(gatherer.ask(0))]
    await turns_of_the_loop()
    asked.append(asyncio.create_task(gatherer.ask(1)))
    await asyncio.wait_for(flushes.second.wait(), 10)
    flushes.go.set()
    assert await asyncio.gather(*asked) == [0, 1]
    # what was slow once is forgotten: the next one is alone again
    flushes.go.clear()
    monkeypatch.setattr(gathering, "SLOW_S", 60)
    asked = [asyncio.create_task(gatherer.ask(2)), asyncio.create_task(gatherer.ask(3))]
    await turns_of_the_loop()
    asked.append(asyncio.create_task(gatherer.ask(4)))
    await turns_of_the_loop()
    assert flushes.seen == [[0], [1], [2, 3]]
    flushes.go.set()
    assert await asyncio.gather(*asked) == [2, 3, 4]


@on_a_loop
async def test_no_more_may_wait_than_the_backlog() -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(
        flushes,  # type: ignore[arg-type]
        most=5,
        backlog=10,
        at_once=1,
        weigh=lambda item: item,
    )
    asked = [asyncio.create_task(gatherer.ask(20))]
    await turns_of_the_loop()
    asked += [asyncio.create_task(gatherer.ask(item)) for item in (6, 4)]
    await turns_of_the_loop()
    with pytest.raises(InfrastructureError) as refused:
        await gatherer.ask(1)
    assert refused.value.code == "unavailable"
    flushes.go.set()
    await asyncio.gather(*asked)
    # heavier than a flush may be: alone, but not refused
    assert flushes.seen == [[20], [6], [4]]
    assert await gatherer.ask(1) == 1


@on_a_loop
async def test_a_lost_connection_says_that_nothing_is_known() -> None:
    flushes = Flushes()
    flushes.go.set()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=5, backlog=10)  # type: ignore[arg-type]
    flushes.error = ConnectionResetError("gone")
    answers = await asyncio.gather(gatherer.ask(1), gatherer.ask(2), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, InfrastructureError)
        assert (answer.code, answer.detail) == ("unavailable", UNKNOWN)
    flushes.error = None
    assert await gatherer.ask(3) == 3


@on_a_loop
async def test_a_refusal_is_its_askers_alone() -> None:
    flushes = Flushes()
    flushes.go.set()
    gatherer: Gatherer[object, object] = Gatherer(flushes, most=5, backlog=10)  # type: ignore[arg-type]
    refusal = DomainError("ledger_exists", "taken")
    answers = await asyncio.gather(gatherer.ask(1), gatherer.ask(refusal), gatherer.ask(2), return_exceptions=True)
    assert answers == [1, refusal, 2]


@on_a_loop
async def test_who_is_cancelled_is_flushed_all_the_same() -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=5, backlog=10, at_once=1)  # type: ignore[arg-type]
    asked = [asyncio.create_task(gatherer.ask(number)) for number in range(3)]
    await turns_of_the_loop()
    asked[1].cancel()
    late = asyncio.create_task(gatherer.ask(9))
    await turns_of_the_loop()
    late.cancel()
    flushes.go.set()
    await gatherer.close()
    assert flushes.seen == [[0, 1, 2], [9]]
    assert (await asked[0], await asked[2]) == (0, 2)


@on_a_loop
async def test_who_asks_as_the_last_flush_ends_is_flushed_too() -> None:
    flushes = Flushes()
    gatherer: Gatherer[int, int] = Gatherer(flushes, most=5, backlog=10, at_once=1)  # type: ignore[arg-type]
    first = asyncio.create_task(gatherer.ask(1))
    await turns_of_the_loop()
    # in one turn of the loop: the flush is answered and ends, then the other asks
    flushes.go.set()
    second = asyncio.create_task(gatherer.ask(2))
    assert await asyncio.wait_for(asyncio.gather(first, second), 5) == [1, 2]


# -- mailbox limits ---------------------------------------------------------------------------------------------------


class Mailbox:
    """A mailbox whose depth is known, and how often it was counted."""

    def __init__(self) -> None:
        self.depth = 0
        self.counts = 0

    async def count(self, _actor: str, most: int) -> int:
        self.counts += 1
        await asyncio.sleep(0)
        return min(self.depth, most)


async def admitted(depths: Depths, mailbox: Mailbox, commands: int = 1) -> bool:
    try:
        await depths.admit("ledger:l", commands)
    except InfrastructureError as full:
        assert (full.code, full.retry_after_s) == ("mailbox_full", 1)
        return False
    mailbox.depth += commands
    depths.settle("ledger:l", commands)
    return True


@on_a_loop
async def test_an_emptying_mailbox_is_hardly_counted() -> None:
    mailbox = Mailbox()
    depths = Depths(1_000_000, mailbox.count)
    for _ in range(500):
        assert await admitted(depths, mailbox, 1_000)
        mailbox.depth = 0
    assert mailbox.counts <= 6


@on_a_loop
async def test_a_mailbox_fills_up_to_its_limit_and_no_further() -> None:
    mailbox = Mailbox()
    depths = Depths(1_000, mailbox.count)
    for _ in range(1_000):
        assert await admitted(depths, mailbox)
    assert mailbox.counts < 60
    results = await asyncio.gather(*(admitted(depths, mailbox) for _ in range(50)))
    assert not any(results)
    assert not await admitted(depths, mailbox)


@on_a_loop
async def test_what_is_on_its_way_counts() -> None:
    mailbox = Mailbox()
    depths = Depths(10, mailbox.count)
    # none of them is written down yet, so no count shows them
    results = await asyncio.gather(*(depths.admit("ledger:l", 1) for _ in range(30)), return_exceptions=True)
    assert sum(result is None for result in results) == 10


# -- waiting ----------------------------------------------------------------------------------------------------------


def unreachable_redis() -> Redis:
    client: Redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=0.1, retry=Retry(NoBackoff(), 0))
    return client


class Jobs:
    """Jobs of one actor, applied one after another."""

    def __init__(self, count: int) -> None:
        self.ids = [uuid7() for _ in range(count)]
        self.done = 0

    async def finished(self, wanted: Sequence[UUID]) -> list[Job]:
        now = datetime.now(UTC)
        return [
            Job(job, "ledger:l", "post_transaction", "succeeded", job, "c", None, None, now)
            for job in self.ids[: self.done]
            if job in wanted
        ]

    async def last_unfinished(self, jobs: Sequence[UUID]) -> UUID | None:
        return next((job for job in reversed(self.ids[self.done :]) if job in jobs), None)


@on_a_loop
async def test_without_redis_outcomes_come_by_the_timer() -> None:
    jobs = Jobs(3)
    waiters = Waiters(unreachable_redis(), jobs.finished, look_s=0.02)
    waiters.start()
    with waiters.expecting("ledger:l", jobs.ids[0]) as future:
        jobs.done = 1
        assert (await asyncio.wait_for(future, 5)).id == jobs.ids[0]
    assert await waiters.outcome("ledger:l", jobs.ids[2], 0.1) is None
    assert waiters.count == 0
    waiting = asyncio.create_task(all_finished(jobs, waiters, "ledger:l", jobs.ids, 5))
    await turns_of_the_loop()
    jobs.done = 3
    assert await waiting is True
    await waiters.close()


@on_a_loop
async def test_an_outcome_that_is_there_already_is_found_at_once() -> None:
    jobs = Jobs(1)
    jobs.done = 1
    waiters = Waiters(unreachable_redis(), jobs.finished, look_s=60)
    waiters.start()
    found = await waiters.outcome("ledger:l", jobs.ids[0], 5)
    assert found is not None
    await waiters.close()


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), KeyError("a mistake of ours")], ids=repr)
def test_outcomes_that_can_not_be_read_are_read_later(error: Exception) -> None:
    @on_a_loop
    async def run() -> None:
        jobs = Jobs(1)
        jobs.done = 1
        failures = 3

        async def finished(wanted: Sequence[UUID]) -> list[Job]:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise error
            return await jobs.finished(wanted)

        waiters = Waiters(unreachable_redis(), finished, look_s=0.02)
        waiters.start()
        assert await waiters.outcome("ledger:l", jobs.ids[0], 5) is not None
        await waiters.close()

    run()
