"""A mailbox on real Postgres and the turns that empty it, for tests: commands put in by SQL, notices replaced."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from domain.catalog import KIND_OF
from domain.ledger.handlers import weight
from domain.messages import Command
from infrastructure.bells import Ahead
from infrastructure.cache import Span
from infrastructure.settings import Settings
from tests.books import create, open_account
from tests.worker_process import open_turns
from workers.turn import Result, Turns

SUBSCRIBERS = "INSERT INTO subscribers (name) VALUES ('kafka'), ('redis') ON CONFLICT DO NOTHING"
USERS = "INSERT INTO users (id, username, roles) SELECT id, id::text, '{user}' FROM unnest($1::uuid[]) AS new (id)"
GRANT = "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, 'owner')"
ACCEPT = """
INSERT INTO commands (id, actor, position, kind, status, payload, weight, principal, correlation_id)
SELECT id, $1, nextval('daybook_position'), kind, 'accepted', payload, weight, $2, 'c-' || number
FROM unnest($3::uuid[], $4::text[], $5::bytea[], $6::int[]) WITH ORDINALITY
    AS line (id, kind, payload, weight, number)
ORDER BY number
"""
OUTCOMES = "SELECT id, status, seq, attempts, finished_at, problem FROM commands WHERE id = ANY ($1) ORDER BY position"

Hook = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """The hook that does nothing."""


async def others_wait(*_: object) -> Ahead:
    """Somebody else wants the worker."""
    return Ahead(others=True)


async def nobody_waits(*_: object) -> Ahead:
    """Nobody else wants the worker."""
    return Ahead()


@dataclass
class FakeNotices:
    """Remembers what turns announce; the hooks run where Redis would be told."""

    told: list[tuple[str, str, tuple[str, ...], UUID]] = field(default_factory=list)
    on_begin: Hook = nothing
    on_announce: Hook = nothing

    async def begin(self, actor: str, views: Sequence[str], turn: UUID) -> None:
        self.told.append(("begin", actor, tuple(sorted(views)), turn))
        await self.on_begin()

    async def announce(self, actor: str, views: Sequence[str], turn: UUID, span: Span) -> None:
        self.told.append(("announce", actor, tuple(sorted(views)), turn))
        await self.on_announce()


@dataclass
class FakeBells:
    """Remembers how often the bell was answered; the hook runs just before. While `kept`, nobody who rings is heard."""

    answered: int = 0
    is_kept: bool = False
    on_answer: Hook = nothing

    @asynccontextmanager
    async def kept(self, _actor: str) -> AsyncIterator[None]:
        self.is_kept = True
        yield

    async def answer(self, _actor: str) -> None:
        await self.on_answer()
        self.is_kept = False
        self.answered += 1


class Outcome(msgspec.Struct):
    """What became of a command."""

    status: str
    seq: int | None
    attempts: int
    finished_at: datetime | None
    code: str | None


@dataclass
class Desk:
    """A mailbox, its turns, and a connection to look at both from outside."""

    ledger: str
    owner: UUID
    stranger: UUID
    settings: Settings
    turns: Turns
    notices: FakeNotices
    bells: FakeBells
    db: asyncpg.Connection[asyncpg.Record]
    rung: list[tuple[str, str, int]]
    """Subscribers, actors, and by how many events their journals grew."""

    @property
    def actor(self) -> str:
        return f"ledger:{self.ledger}"

    def with_settings(self, **changes: Any) -> Desk:
        settings = replace(self.settings, **changes)
        return replace(self, settings=settings, turns=replace(self.turns, settings=settings))

    async def accept(self, *commands: Command, principal: UUID | None = None) -> list[UUID]:
        """Puts commands into the mailbox, in this order. Their ids say nothing about it."""
        payloads = [msgspec.json.encode(command) for command in commands]
        kinds = [KIND_OF[type(command)] for command in commands]
        return await self.accept_raw(kinds, payloads, [weight(command) for command in commands], principal)

    async def accept_raw(
        self,
        kinds: Sequence[str],
        payloads: Sequence[bytes],
        weights: Sequence[int] | None = None,
        principal: UUID | None = None,
    ) -> list[UUID]:
        ids = [uuid4() for _ in payloads]
        await self.db.execute(
            ACCEPT, self.actor, principal or self.owner, ids, kinds, payloads, weights or [1] * len(ids)
        )
        return ids

    async def take(self) -> Result:
        return (await self.turns.take(self.actor)).result

    async def empty(self) -> list[Result]:
        """Takes turns until nothing is left. Answers how each of them ended."""
        results = []
        while (result := await self.take()) is not Result.EMPTY:
            results.append(result)
            assert len(results) < 1_000
        return results

    async def outcomes(self, ids: Sequence[UUID]) -> list[Outcome]:
        """In the order of the mailbox."""
        rows = await self.db.fetch(OUTCOMES, ids)
        return [
            Outcome(
                row["status"],
                row["seq"],
                row["attempts"],
                row["finished_at"],
                None if row["problem"] is None else msgspec.json.decode(row["problem"])["code"],
            )
            for row in rows
        ]

    async def statuses(self, ids: Sequence[UUID]) -> list[str]:
        return [outcome.status for outcome in await self.outcomes(ids)]

    async def journal(self) -> list[dict[str, Any]]:
        rows = await self.db.fetch("SELECT event FROM journal WHERE actor = $1 ORDER BY seq", self.actor)
        return [msgspec.json.decode(row["event"]) for row in rows]

    async def applied(self) -> list[UUID]:
        """The commands that made the journal's entries, in its order."""
        return [UUID(entry["command"]) for entry in await self.journal()]

    async def mark(self) -> dict[str, Any] | None:
        row = await self.db.fetchrow("SELECT * FROM turn_marks WHERE actor = $1", self.actor)
        return None if row is None else dict(row)

    async def terminate_workers(self) -> int:
        """Ends every connection that turns work on, as a restart of Postgres or a broken line would."""
        ended = await self.db.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'daybook-worker' AND datname = current_database()"
        )
        return len(ended)


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk with a ledger of its own, created, with the accounts `bank` and `till`. The mailbox is empty."""
    rung: list[tuple[str, str, int]] = []
    notices, bells = FakeNotices(), FakeBells()
    db = await asyncpg.connect(settings.database_url)
    try:
        async with open_turns(settings, notices, bells, lambda *ring: rung.append(ring)) as turns:
            await db.execute(SUBSCRIBERS)
            desk = Desk(f"acme-{uuid4().hex[:8]}", uuid4(), uuid4(), settings, turns, notices, bells, db, rung)
            await db.execute(USERS, [desk.owner, desk.stranger])
            await db.execute(GRANT, desk.ledger, desk.owner)
            await db.execute("INSERT INTO actors (actor) VALUES ($1)", desk.actor)
            ids = await desk.accept(create(), open_account("bank"), open_account("till"))
            assert await desk.take() is Result.DONE
            assert await desk.statuses(ids) == ["succeeded"] * 3
            notices.told.clear()
            rung.clear()
            yield desk
    finally:
        await db.close()


def at_a_desk(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an `async def` test at a desk of its own, which may take a minute. Its first parameter is the desk."""

    @functools.wraps(test)
    def run(shared_settings: Settings, **parameters: Any) -> None:
        async def sit() -> None:
            async with open_desk(shared_settings) as desk:
                await test(desk, **parameters)

        asyncio.run(asyncio.wait_for(sit(), 60))

    _, *others = inspect.signature(test).parameters.values()
    fixture = inspect.Parameter("shared_settings", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([fixture, *others])  # type: ignore[attr-defined]
    return run
