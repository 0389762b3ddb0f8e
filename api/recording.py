"""The way from this process to the daybook: the bus, group commit, mailbox limits, the doorbell and those who wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from redis.asyncio import Redis

from api.depths import Depths
from api.gathering import Gatherer
from api.waiting import Waiters
from domain.bus import CommandBus
from domain.catalog import KIND_OF
from domain.clock import in_utc
from domain.ledger.commands import LedgerCommand
from domain.ledger.handlers import weight
from domain.messages import Command
from infrastructure.command_log import Answer, Asked, CommandLog, Draft, Held, Key, Receipt, Submission
from infrastructure.credentials import Beside
from infrastructure.metrics import meter
from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings

MOST_A_FLUSH: Final = 2_000
"""Commands that share a transaction."""
CROWD: Final = 32
"""Commands that must wait for a second transaction to begin while one is under way."""
MANY: Final = 16
"""Requests in a flush whose workers are busy as it is: each bell is rung less often, for more."""
BACKLOG: Final = 50_000
"""Commands that may wait for one."""
SINGLE_BACKLOG: Final = 1_000
POOL_SIZE: Final = 6
"""Two flushes, two commands to users and two look-ups at once."""

encode: Final = msgspec.json.Encoder().encode


class Bell(Protocol):
    """Wakes a worker for an actor; returns at once."""

    def ring(self, actor: str, correlation_id: str | None = None, *, many: bool = False) -> None: ...

    def ring_export(self, export: str) -> None: ...

    def close(self) -> None: ...


class Address(msgspec.Struct, frozen=True):
    """Where a command goes, from whom, and as which job. `reserves`: the id of the ledger it creates.

    `scope` is the actor that its key belongs to, if that is another one, and `beside` what is written with it.
    """

    job: UUID
    actor: str
    principal: UUID
    correlation_id: str
    resource: str
    key: Key | None
    reserves: str | None
    scope: str | None = None
    beside: Beside | None = None


def draft_of(kind: str, command: Command, job: UUID, resource: str) -> Draft:
    """The command as the daybook keeps it."""
    return Draft(job, kind, encode(command), weight(command), resource, time_of(command))


def time_of(command: Command) -> datetime | None:
    """When the command is to join the mailbox, in UTC; None is at once."""
    if not isinstance(command, LedgerCommand) or command.execute_at is None:
        return None
    return in_utc(command.execute_at)


class Recorder:
    """One for the process. `log` reads jobs and batches; `waiters` tells when they finish.

    Whoever submits has called `depths.admit` for as many commands.
    """

    def __init__(self, pool: asyncpg.Pool[Record], redis: Redis, bell: Bell, mailbox_limit: int) -> None:
        self.log: Final = CommandLog(pool)
        self.waiters: Final = Waiters(redis, self.log.finished)
        self.depths: Final = Depths(mailbox_limit, self.log.depth)
        self.commands: Final[CommandBus[Address, Receipt]] = CommandBus(KIND_OF, self._record)
        self.bell: Final = bell
        self._appends: Gatherer[Submission, Receipt] = Gatherer(
            self._append,
            most=MOST_A_FLUSH,
            backlog=BACKLOG,
            crowd=CROWD,
            weigh=lambda submission: len(submission.drafts),
        )
        # What takes locks on users shares its transaction with nobody: others would wait for those locks, too.
        self._single_appends: Gatherer[Submission, Receipt] = Gatherer(self._append, most=1, backlog=SINGLE_BACKLOG)
        self._look_ups: Gatherer[Asked, Held | None] = Gatherer(self.log.find_keys, most=MOST_A_FLUSH, backlog=BACKLOG)

    def start(self) -> None:
        self.waiters.start()

    async def close(self) -> None:
        """Writes down what has been asked, then ends."""
        await self._appends.close()
        await self._single_appends.close()
        await self._look_ups.close()
        await self.waiters.close()
        self.bell.close()

    async def submit(self, submission: Submission) -> Receipt:
        """Writes commands down and wakes a worker. Raises the refusal, or InfrastructureError (503)."""
        appends = self._appends if submission.beside is None else self._single_appends
        try:
            return await appends.ask(submission)
        finally:
            self.depths.settle(submission.actor, len(submission.drafts))

    async def find_key(self, asked: Asked) -> Held | None:
        """What an idempotency key stands for already."""
        return await self._look_ups.ask(asked)

    async def _append(self, submissions: Sequence[Submission]) -> list[Answer]:
        """One flush. The bell is rung from here, so that it rings for those too who have gone away meanwhile."""
        answers = await self.log.append(submissions)
        rung: set[str] = set()
        _count(submissions, answers)
        for submission, answer in zip(submissions, answers, strict=True):
            written = isinstance(answer, Receipt) and answer.accepted_at is not None
            if written and submission.actor not in rung:
                rung.add(submission.actor)
                self.bell.ring(submission.actor, submission.correlation_id, many=len(submissions) >= MANY)
        return answers

    async def _record(self, kind: str, command: Command, address: Address) -> Receipt:
        return await self.submit(
            Submission(
                address.actor,
                address.principal,
                address.correlation_id,
                (draft_of(kind, command, address.job, address.resource),),
                () if address.key is None else (address.key,),
                reserves=address.reserves,
                scope=address.scope,
                beside=address.beside,
            )
        )


def _count(submissions: Sequence[Submission], answers: Sequence[Answer]) -> None:
    accepted: Counter[str] = Counter()
    replayed: Counter[str] = Counter()
    for submission, answer in zip(submissions, answers, strict=True):
        if isinstance(answer, Receipt):
            written = set(answer.jobs) if answer.accepted_at is not None else ()
            for draft in submission.drafts:
                (accepted if draft.id in written else replayed)[draft.kind] += 1
    for kind, amount in accepted.items():
        meter.command_accepted(kind, amount)
    for kind, amount in replayed.items():
        meter.command_replayed(kind, amount)


def open_bell(settings: Settings) -> Bell:
    """The doorbell of this process."""
    # Not before it is wanted: Celery's application reads the environment when it is imported.
    from tasks.doorbell import Doorbell

    return Doorbell(settings)


class Recording:
    """A Recorder with the connections it needs of its own, so that slow reads never hold up what is accepted."""

    recorder: Recorder

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def open(self) -> Recorder:
        """Connects when first used: Postgres and Redis may be down."""
        settings = self._settings
        self._pool = await open_pool(settings, application="api-daybook", size=POOL_SIZE, least=0)
        self._redis = open_redis(settings)
        self.recorder = Recorder(self._pool, self._redis, open_bell(settings), settings.mailbox_limit)
        self.recorder.start()
        return self.recorder

    async def close(self) -> None:
        await self.recorder.close()
        await self._redis.aclose()
        await self._pool.close()
