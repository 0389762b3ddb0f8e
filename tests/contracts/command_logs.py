"""What a daybook promises whoever writes to it, whichever one it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from typing import Protocol
from uuid import UUID, uuid4

from msgspec.structs import replace
from uuid_utils.compat import uuid7

from domain.errors import DomainError
from infrastructure.command_log import (
    Answer,
    Asked,
    Batch,
    Draft,
    Filter,
    Held,
    Job,
    Key,
    Receipt,
    StaleNames,
    Submission,
    Tally,
)
from tests.journals import on_a_loop


class Log(Protocol):
    async def append(self, submissions: Sequence[Submission]) -> list[Answer]: ...
    async def find_keys(self, asked: Sequence[Asked]) -> list[Held | None]: ...
    async def find_job(self, job: UUID, viewer: UUID | None = None) -> Job | None: ...
    async def finished(self, jobs: Sequence[UUID]) -> list[Job]: ...
    async def list_jobs(self, wanted: Filter, limit: int) -> list[Job]: ...
    async def find_batch(self, batch: UUID, viewer: UUID | None = None) -> Batch | None: ...
    async def tally(self, batch: Batch, most_refusals: int) -> Tally: ...
    async def last_unfinished(self, jobs: Sequence[UUID]) -> UUID | None: ...
    async def depth(self, actor: str, most: int) -> int: ...


class Desk:
    """A daybook, and what it takes to write to it: users that exist, an actor of this test's own."""

    def __init__(self, log: Log, user: Callable[[], AbstractAsyncContextManager[UUID]]) -> None:
        self.log = log
        self.user = user
        self.ledger = f"l-{uuid4().hex[:12]}"
        self.actor = f"ledger:{self.ledger}"

    async def append(self, *submissions: Submission) -> list[Answer]:
        return await self.log.append(submissions)


def draft(kind: str = "post_transaction") -> Draft:
    return Draft(uuid7(), kind, b"{}", 1, "/v1/ledgers/l/transactions/t")


def key_for(target: UUID, key: str, content: str = "same", place: str | None = None) -> Key:
    return Key(key, sha256(content.encode()).digest(), target, place)


def single(desk: Desk, user: UUID, key: str | None = None, content: str = "same", actor: str = "") -> Submission:
    made = draft()
    keys = () if key is None else (key_for(made.id, key, content),)
    return Submission(actor or desk.actor, user, "c-1", (made,), keys)


def bulk(desk: Desk, user: UUID, *items: tuple[str | None, str], key: str | None = None) -> Submission:
    """One command for each (key, content)."""
    drafts = tuple(draft() for _ in items)
    batch = uuid7()
    keys = [
        key_for(made.id, used, content, f"#/commands/{index}")
        for index, (made, (used, content)) in enumerate(zip(drafts, items, strict=True))
        if used is not None
    ]
    if key is not None:
        keys.append(key_for(batch, key, repr(items)))
    return Submission(desk.actor, user, "c-1", drafts, tuple(keys), batch)


def creation(desk: Desk, user: UUID, key: str | None = None) -> Submission:
    made = draft("create_ledger")
    keys = () if key is None else (key_for(made.id, key),)
    return Submission(desk.actor, user, "c-1", (made,), keys, reserves=desk.ledger)


def accepted(answer: Answer) -> Receipt:
    assert isinstance(answer, Receipt), answer
    assert answer.replay is None
    return answer


def replayed(answer: Answer) -> UUID:
    assert isinstance(answer, Receipt), answer
    assert answer.replay is not None
    return answer.replay


def code_of(answer: Answer) -> str:
    assert isinstance(answer, DomainError), answer
    return answer.code


class CommandLogs:
    """The promises. A subclass opens a desk."""

    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        raise NotImplementedError
        yield

    @on_a_loop
    async def test_what_was_accepted_is_read_back_as_a_job(self) -> None:
        async with self.desk() as desk, desk.user() as ada, desk.user() as bob:
            wanted = single(desk, ada)
            receipt = accepted((await desk.append(wanted))[0])
            assert receipt.jobs == (wanted.drafts[0].id,)
            job = await desk.log.find_job(receipt.jobs[0], ada)
            assert job is not None
            assert (job.status, job.accepted_at, job.finished) == ("accepted", receipt.accepted_at, False)
            assert (job.actor, job.principal, job.correlation_id) == (desk.actor, ada, "c-1")
            assert await desk.log.find_job(receipt.jobs[0], bob) is None
            assert await desk.log.find_job(receipt.jobs[0]) is not None
            assert await desk.log.finished(receipt.jobs) == []

    @on_a_loop
    async def test_a_key_stands_for_one_request_in_its_scope(self) -> None:
        async with self.desk() as desk, desk.user() as ada, desk.user() as bob:
            first = accepted((await desk.append(single(desk, ada, "k")))[0]).jobs[0]
            same, other, foreign, elsewhere = await desk.append(
                single(desk, ada, "k"),
                single(desk, ada, "k", "other"),
                single(desk, bob, "k", "other"),
                single(desk, ada, "k", "other", actor=f"{desk.actor}-2"),
            )
            assert replayed(same) == first
            assert code_of(other) == "idempotency_key_reused"
            assert accepted(foreign).jobs and accepted(elsewhere).jobs
            held, free = await desk.log.find_keys([Asked(ada, desk.actor, "k"), Asked(ada, desk.actor, "free")])
            assert held is not None
            assert (held.command, free) == (first, None)

    @on_a_loop
    async def test_a_key_that_comes_twice_in_a_group_gives_one_job(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            first, again, other = await desk.append(
                single(desk, ada, "k"), single(desk, ada, "k"), single(desk, ada, "k", "other")
            )
            assert replayed(again) == accepted(first).jobs[0]
            assert code_of(other) == "idempotency_key_reused"
            assert await desk.log.depth(desk.actor, 100) == 1

    @on_a_loop
    async def test_a_ledger_is_its_first_creators(self) -> None:
        async with self.desk() as desk, desk.user() as ada, desk.user() as bob:
            made = creation(desk, ada, "k")
            mine, theirs, neighbour = await desk.append(made, creation(desk, bob, "k"), single(desk, bob))
            assert accepted(mine).jobs and accepted(neighbour).jobs
            assert code_of(theirs) == "ledger_exists"
            again, keyless = await desk.append(creation(desk, ada, "k"), creation(desk, ada))
            assert replayed(again) == made.drafts[0].id
            assert code_of(keyless) == "ledger_exists"
            assert await desk.log.find_keys([Asked(bob, desk.actor, "k")]) == [None]
            seen = await desk.log.find_job(accepted(neighbour).jobs[0], ada)
            assert seen is not None, "its owner sees the jobs of others in it"

    @on_a_loop
    async def test_a_bulk_request_is_all_or_nothing(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            accepted((await desk.append(single(desk, ada, "used")))[0])
            refused, neighbour = await desk.append(
                bulk(desk, ada, ("new", "a"), (None, "b"), ("used", "c")), single(desk, ada)
            )
            assert isinstance(refused, DomainError)
            assert [fault.pointer for fault in refused.faults] == ["#/commands/2"]
            assert accepted(neighbour).jobs
            assert await desk.log.depth(desk.actor, 100) == 2
            assert await desk.log.find_keys([Asked(ada, desk.actor, "new")]) == [None]

    @on_a_loop
    async def test_a_line_that_was_accepted_before_gives_its_old_job(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            old = accepted((await desk.append(single(desk, ada, "k")))[0]).jobs[0]
            wanted = bulk(desk, ada, (None, "a"), ("k", "same"), ("twice", "b"), ("twice", "b"))
            receipt = accepted((await desk.append(wanted))[0])
            a, _, b, _ = (made.id for made in wanted.drafts)
            assert receipt.jobs == (a, old, b, b)
            assert wanted.batch is not None
            batch = await desk.log.find_batch(wanted.batch, ada)
            assert batch is not None
            assert batch.jobs == receipt.jobs
            assert (await desk.log.tally(batch, 100)).counts["accepted"] == 4
            again, neighbour = await desk.append(bulk(desk, ada, ("k", "same"), ("twice", "b")), single(desk, ada))
            assert accepted(neighbour).accepted_at is not None
            assert (accepted(again).jobs, accepted(again).accepted_at) == ((old, b), None)

    @on_a_loop
    async def test_the_key_of_a_whole_bulk_request_gives_its_batch(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            wanted = bulk(desk, ada, ("k", "a"), (None, "b"), key="whole")
            accepted((await desk.append(wanted))[0])
            again, other = await desk.append(
                bulk(desk, ada, ("k", "a"), (None, "b"), key="whole"), bulk(desk, ada, ("new", "c"), key="whole")
            )
            assert replayed(again) == wanted.batch
            assert code_of(other) == "idempotency_key_reused"
            assert await desk.log.depth(desk.actor, 100) == 2
            assert await desk.log.find_keys([Asked(ada, desk.actor, "new")]) == [None]

    @on_a_loop
    async def test_a_batch_knows_whether_it_is_atomic(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            for atomic in (True, False):
                wanted = replace(bulk(desk, ada, (None, "a"), (None, "b")), atomic=atomic)
                assert len(accepted((await desk.append(wanted))[0]).jobs) == 2
                assert wanted.batch is not None
                batch = await desk.log.find_batch(wanted.batch, ada)
                assert batch is not None
                assert batch.atomic is atomic

    @on_a_loop
    async def test_what_names_a_command_that_is_an_older_one_is_not_written(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            accepted((await desk.append(single(desk, ada, "k")))[0])
            wanted = bulk(desk, ada, ("k", "same"), ("new", "b"))
            named = replace(wanted, named=frozenset({wanted.drafts[0].id}))
            (answer,) = await desk.append(named)
            assert isinstance(answer, StaleNames)
            assert await desk.log.depth(desk.actor, 100) == 1
            assert await desk.log.find_keys([Asked(ada, desk.actor, "new")]) == [None]

    @on_a_loop
    async def test_lines_are_applied_in_their_order(self) -> None:
        async with self.desk() as desk, desk.user() as ada:
            wanted = bulk(desk, ada, *((None, str(line)) for line in range(50)))
            later = single(desk, ada)
            await desk.append(wanted, later)
            jobs = [made.id for made in wanted.drafts]
            for some in (jobs, jobs[:30], jobs[:1]):
                assert await desk.log.last_unfinished(some) == some[-1]
            assert await desk.log.last_unfinished([*jobs, later.drafts[0].id]) == later.drafts[0].id
            assert await desk.log.last_unfinished([]) is None

    @on_a_loop
    async def test_jobs_are_listed_to_those_who_may_see_them(self) -> None:
        async with self.desk() as desk, desk.user() as ada, desk.user() as bob, desk.user() as eve:
            await desk.append(creation(desk, ada))
            await desk.append(single(desk, ada), single(desk, bob))
            kinds = ["post_transaction", "post_transaction", "create_ledger"]
            mine = await desk.log.list_jobs(Filter(viewer=ada), 10)
            assert [job.kind for job in mine] == kinds
            assert [job.id for job in mine] == sorted((job.id for job in mine), reverse=True)
            assert [job.principal for job in await desk.log.list_jobs(Filter(viewer=bob), 10)] == [bob]
            assert await desk.log.list_jobs(Filter(viewer=eve), 10) == []
            assert await desk.log.list_jobs(Filter(actor=desk.actor), 10) == mine
            assert await desk.log.list_jobs(Filter(viewer=ada, actor=f"{desk.actor}-2"), 10) == []
            assert await desk.log.list_jobs(Filter(viewer=ada, before=mine[0].id), 1) == mine[1:2]
            assert await desk.log.list_jobs(Filter(viewer=ada, kind="create_ledger"), 10) == mine[2:]
            assert await desk.log.list_jobs(Filter(actor=desk.actor, status="failed"), 10) == []
