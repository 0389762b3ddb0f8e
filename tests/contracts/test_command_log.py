"""Both daybooks keep their promises; and what only the real one can be asked: races, rows that Postgres refuses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from asyncpg import Record
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from domain.errors import DomainError
from infrastructure.command_log import Answer, CommandLog, Receipt, Submission
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings
from tests.contracts.command_logs import (
    CommandLogs,
    Desk,
    accepted,
    bulk,
    code_of,
    creation,
    replayed,
    single,
)
from tests.fakes import FakeCommandLog
from tests.journals import on_a_loop

ADD_USER = "INSERT INTO users (id, username, roles) VALUES ($1, $2, '{user}')"
POSITIONS = "SELECT id FROM commands WHERE actor = $1 ORDER BY position"


class TestFake(CommandLogs):
    @asynccontextmanager
    async def desk(self) -> AsyncIterator[Desk]:
        @asynccontextmanager
        async def user() -> AsyncIterator[UUID]:
            yield uuid7()

        yield Desk(FakeCommandLog(), user)


@asynccontextmanager
async def real_desk(settings: Settings) -> AsyncIterator[Desk]:
    pool = await open_pool(settings, application="test", size=3)

    @asynccontextmanager
    async def user() -> AsyncIterator[UUID]:
        made = uuid7()
        await pool.execute(ADD_USER, made, f"user-{made}")
        yield made

    try:
        yield Desk(CommandLog(pool), user)
    finally:
        await pool.close()


class TestPostgres(CommandLogs):
    @pytest.fixture(autouse=True)
    def _database(self, settings: Settings) -> None:
        self.settings = settings

    def desk(self) -> object:  # type: ignore[override]
        return real_desk(self.settings)


@on_a_loop
async def test_a_row_that_postgres_refuses_hurts_no_neighbour(settings: Settings) -> None:
    async with real_desk(settings) as desk, desk.user() as ada:
        poison = msgspec.structs.replace(single(desk, ada, "p"), correlation_id="a\0b")
        nobody = creation(desk, uuid4())
        answers = await desk.append(single(desk, ada, "a"), poison, nobody, bulk(desk, ada, ("b", "x"), (None, "y")))
        assert [isinstance(answer, Receipt) for answer in answers] == [True, False, False, True]
        assert code_of(answers[1]) == code_of(answers[2]) == "validation_failed"
        assert await desk.log.depth(desk.actor, 100) == 3
        # and the key of what was refused is free
        assert accepted((await desk.append(single(desk, ada, "p", "other")))[0]).jobs


@on_a_loop
async def test_positions_follow_the_order_of_requests_and_lines(settings: Settings) -> None:
    async with real_desk(settings) as desk, real_desk(settings) as other, desk.user() as ada:
        group = [bulk(desk, ada, *((None, str(line)) for line in range(40))) for _ in range(3)]
        expected = [draft.id for submission in group for draft in submission.drafts]
        await desk.append(*group)
        for turn in range(6):
            # the one was acknowledged before the other was sent, by another process
            wanted = single(desk, ada)
            await (desk, other)[turn % 2].log.append([wanted])
            expected.append(wanted.drafts[0].id)
        pool: asyncpg.Pool[Record] = desk.log._pool  # type: ignore[attr-defined]
        assert [row["id"] for row in await pool.fetch(POSITIONS, desk.actor)] == expected


@on_a_loop
async def test_one_key_in_many_requests_of_two_processes_gives_one_job(settings: Settings) -> None:
    async with real_desk(settings) as desk, real_desk(settings) as other, desk.user() as ada:
        for attempt in range(5):
            wanted = [single(desk, ada, f"k{attempt}") for _ in range(24)]
            appends = [(desk, other)[index % 2].log.append([one]) for index, one in enumerate(wanted)]
            answers = [answer for (answer,) in await asyncio.gather(*appends)]
            first = [answer.jobs[0] for answer in answers if isinstance(answer, Receipt) and answer.replay is None]
            assert len(first) == 1
            assert {replayed(answer) for answer in answers if answer != accepted_one(answers)} == set(first)
        assert await desk.log.depth(desk.actor, 100) == 5


def accepted_one(answers: list[Answer]) -> Answer:
    return next(answer for answer in answers if isinstance(answer, Receipt) and answer.replay is None)


@on_a_loop
async def test_one_ledger_created_by_many_has_one_owner(settings: Settings) -> None:
    async with real_desk(settings) as desk, real_desk(settings) as other, desk.user() as ada, desk.user() as bob:
        wanted = [creation(desk, user) for user in (ada, bob) * 8]
        appends = [(desk, other)[index % 2].log.append([one]) for index, one in enumerate(wanted)]
        answers = [answer for (answer,) in await asyncio.gather(*appends)]
        assert sum(isinstance(answer, Receipt) for answer in answers) == 1
        assert {code_of(answer) for answer in answers if not isinstance(answer, Receipt)} == {"ledger_exists"}
        pool: asyncpg.Pool[Record] = desk.log._pool  # type: ignore[attr-defined]
        grants = await pool.fetch("SELECT role FROM grants WHERE ledger = $1", desk.ledger)
        assert [row["role"] for row in grants] == ["owner"]


@dataclass(frozen=True)
class Wish:
    """A request to be: which of a few keys and contents each of its lines has; one line is a single command."""

    lines: tuple[tuple[str | None, str], ...]
    process: int


LINES = st.tuples(st.sampled_from([None, "a", "b", "c"]), st.sampled_from(["x", "y"]))
WISHES = st.builds(Wish, st.lists(LINES, min_size=1, max_size=4).map(tuple), st.integers(0, 1))


def submission_of(desk: Desk, user: UUID, wish: Wish) -> Submission:
    if len(wish.lines) == 1:
        return single(desk, user, *wish.lines[0])
    return bulk(desk, user, *wish.lines)


@effort(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.lists(WISHES, min_size=1, max_size=5), min_size=1, max_size=4))
def test_groups_that_race_over_keys(settings: Settings, groups: list[list[Wish]]) -> None:
    asyncio.run(race(settings, groups))


async def race(settings: Settings, groups: list[list[Wish]]) -> None:
    """Whatever the interleaving: a key has one content and one job, what is refused leaves nothing, the rest all."""
    async with real_desk(settings) as desk, real_desk(settings) as other, desk.user() as ada:
        wanted = [[submission_of(desk, ada, wish) for wish in group] for group in groups]
        appends = [(desk, other)[group[0].process].log.append(made) for group, made in zip(groups, wanted, strict=True)]
        answers = [answer for part in await asyncio.gather(*appends) for answer in part]
        jobs: dict[str, set[tuple[bytes, UUID]]] = defaultdict(set)
        written: set[UUID] = set()
        for submission, answer in zip([one for group in wanted for one in group], answers, strict=True):
            assert isinstance(answer, Receipt | DomainError)
            if isinstance(answer, DomainError):
                assert answer.code == "idempotency_key_reused"
                continue
            given_jobs = answer.jobs if answer.replay is None else (answer.replay,)
            written.update(given_jobs)
            by_draft = dict(zip((draft.id for draft in submission.drafts), given_jobs, strict=True))
            for key in submission.keys:
                jobs[key.key].add((key.request_hash, by_draft[key.target]))
        assert all(len(found) == 1 for found in jobs.values())
        pool: asyncpg.Pool[Record] = desk.log._pool  # type: ignore[attr-defined]
        assert {row["id"] for row in await pool.fetch(POSITIONS, desk.actor)} == written
        held = await pool.fetch("SELECT key, command FROM idempotency_keys WHERE actor = $1", desk.actor)
        assert {row["key"]: row["command"] for row in held} == {
            key: job for key, found in jobs.items() for _, job in found
        }
