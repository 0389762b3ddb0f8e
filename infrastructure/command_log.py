"""The daybook: every command is written here before it is acknowledged, and read back as a job.

`append` writes many requests in one transaction (group commit). What may not be in a request for its own reasons,
a key used before or a ledger's id that is taken, refuses that request alone; a row that Postgres can't take makes
each request be written by itself, so it hurts none of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from domain.errors import DomainError, Fault, InfrastructureError, ValidationError
from domain.ledger.commands import PostTransaction, ReverseTransaction
from domain.messages import Refusal
from infrastructure.credentials import Beside, write_beside
from infrastructure.postgres import Db

UNFINISHED: Final = ("accepted", "scheduled")
STATUSES: Final = ("scheduled", "accepted", "succeeded", "rejected", "failed", "cancelled")

# Who meets a key that another transaction holds waits for its end here; the keys come sorted, against deadlocks.
TAKE_KEYS: Final = """
INSERT INTO idempotency_keys (principal, actor, key, request_hash, command)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[])
ON CONFLICT DO NOTHING RETURNING command
"""

FIND_KEYS: Final = """
SELECT asked.number, held.request_hash, held.command
FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (principal, actor, key, number)
JOIN idempotency_keys AS held USING (principal, actor, key)
"""

FREE_KEYS: Final = """
DELETE FROM idempotency_keys USING unnest($1::uuid[], $2::text[], $3::text[]) AS freed (principal, actor, key)
WHERE idempotency_keys.principal = freed.principal AND idempotency_keys.actor = freed.actor
    AND idempotency_keys.key = freed.key
"""

# The ledger's actor and its owner's grant exist from acceptance on, so that commands to it are accepted at once.
RESERVE_LEDGERS: Final = """
WITH reserved AS (
    INSERT INTO ledger_reservations (ledger, owner, command)
    SELECT * FROM unnest($1::text[], $2::uuid[], $3::uuid[])
    ON CONFLICT DO NOTHING RETURNING ledger, owner, command
), made AS (
    INSERT INTO actors (actor) SELECT 'ledger:' || ledger FROM reserved ORDER BY ledger
), granted AS (
    INSERT INTO grants (ledger, user_id, role) SELECT ledger, owner, 'owner' FROM reserved ORDER BY ledger
)
SELECT command FROM reserved
"""

# Positions are drawn in the order of the lines, one for the commands of an atomic entry, whose place in it counts from
# zero; the time is one for all, by the clock of Postgres. What is to be executed later draws its position when its time
# has come (`workers.due`).
APPEND: Final = """
WITH clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), added AS (
    INSERT INTO commands (id, actor, position, kind, status, payload, weight, principal, correlation_id, resource,
        batch, accepted_at, execute_at, line)
    SELECT id, actor,
        CASE WHEN execute_at > (SELECT now FROM clock) THEN NULL
            WHEN place > 0 THEN currval('daybook_position') ELSE nextval('daybook_position') END,
        kind, CASE WHEN execute_at > (SELECT now FROM clock) THEN 'scheduled' ELSE 'accepted' END, payload, weight,
        principal, correlation_id, resource, batch, (SELECT now FROM clock), execute_at, place
    FROM (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::int[], $6::uuid[], $7::text[],
            $8::text[], $9::uuid[], $10::timestamptz[], $11::int[]) WITH ORDINALITY
            AS line (id, actor, kind, payload, weight, principal, correlation_id, resource, batch, execute_at, place,
                number)
        ORDER BY number
    ) AS lines
    RETURNING accepted_at
)
SELECT accepted_at FROM added LIMIT 1
"""

# Accepted with its jobs; one that has only older jobs, by the clock.
ADD_BATCHES: Final = """
INSERT INTO batches (id, actor, principal, jobs, accepted_at, atomic)
VALUES ($1, $2, $3, $4, coalesce($5, clock_timestamp()), $6)
"""

_COLUMNS = """
commands.id, commands.actor, commands.kind, commands.status, commands.principal, commands.correlation_id,
commands.resource, commands.batch, commands.accepted_at, commands.execute_at, commands.finished_at, commands.attempts,
commands.seq, commands.problem
"""
_VISIBLE = """
($2::uuid IS NULL OR {table}.principal = $2 OR EXISTS (
    SELECT FROM grants WHERE grants.user_id = $2 AND 'ledger:' || grants.ledger = {table}.actor))
"""

FIND_JOB: Final = f"SELECT {_COLUMNS} FROM commands WHERE id = $1 AND {_VISIBLE.format(table='commands')}"

FINISHED: Final = f"""
SELECT {_COLUMNS} FROM commands
WHERE id = ANY ($1::uuid[]) AND status IN ('succeeded', 'rejected', 'failed', 'cancelled')
"""

# In each of these the order of an index gives the page without sorting, whatever the number of commands.
_FILTERS = """
commands.id < $1 AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR kind = $3)
    AND (NOT $5 OR commands.actor LIKE 'ledger:%')
"""
ALL_JOBS: Final = f"SELECT {_COLUMNS} FROM commands WHERE {_FILTERS} ORDER BY commands.id DESC LIMIT $4"

DEAD_JOBS: Final = f"""
SELECT {_COLUMNS} FROM commands WHERE {_FILTERS} AND status = 'failed' ORDER BY commands.id DESC LIMIT $4
"""

LEDGER_JOBS: Final = f"""
SELECT {_COLUMNS} FROM commands WHERE {_FILTERS} AND actor = $6 ORDER BY commands.id DESC LIMIT $4
"""

OWN_JOBS: Final = f"""
SELECT {_COLUMNS} FROM commands
WHERE {_FILTERS} AND principal = $6 AND ($7::text IS NULL OR actor = $7)
ORDER BY commands.id DESC LIMIT $4
"""

GRANTED_JOBS: Final = f"""
SELECT of_ledger.* FROM grants CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM commands
    WHERE {_FILTERS} AND actor = 'ledger:' || grants.ledger ORDER BY commands.id DESC LIMIT $4
) AS of_ledger
WHERE grants.user_id = $6 AND ($7::text IS NULL OR 'ledger:' || grants.ledger = $7)
ORDER BY of_ledger.id DESC LIMIT $4
"""

# For a key that is good for some ledgers: its owner's there, and if it is to read, those that its owner may see there.
REACHED_JOBS: Final = f"""
SELECT of_ledger.* FROM unnest($6::text[]) AS reached (actor) CROSS JOIN LATERAL (
    SELECT {_COLUMNS} FROM commands
    WHERE {_FILTERS} AND commands.actor = reached.actor AND (principal = $7 OR $8 AND ($9 OR EXISTS (
        SELECT FROM grants WHERE grants.user_id = $7 AND 'ledger:' || grants.ledger = reached.actor)))
    ORDER BY commands.id DESC LIMIT $4
) AS of_ledger
ORDER BY of_ledger.id DESC LIMIT $4
"""

FIND_BATCH: Final = f"""
SELECT id, actor, jobs, accepted_at, principal, atomic FROM batches WHERE id = $1 AND {_VISIBLE.format(table="batches")}
"""

COUNT_BATCH: Final = """
SELECT status, count(*) AS count, max(finished_at) AS finished_at
FROM unnest($1::uuid[]) AS job (id) JOIN commands USING (id) GROUP BY status
"""

REFUSALS: Final = f"""
SELECT job.number, {_COLUMNS}
FROM unnest($1::uuid[]) WITH ORDINALITY AS job (id, number) JOIN commands USING (id)
WHERE status = 'rejected' ORDER BY job.number LIMIT $2
"""

LAST_UNFINISHED: Final = """
SELECT id FROM commands
WHERE id = ANY ($1::uuid[]) AND status IN ('accepted', 'scheduled') ORDER BY position DESC NULLS FIRST LIMIT 1
"""

# What is scheduled counts, since it will be in the mailbox one day.
DEPTH: Final = """
SELECT count(*) FROM (
    (SELECT FROM commands WHERE actor = $1 AND status = 'accepted' LIMIT $2)
    UNION ALL
    (SELECT FROM commands WHERE actor = $1 AND status = 'scheduled' LIMIT $2)
    LIMIT $2
) AS waiting
"""

PENDING: Final = """
SELECT id, kind, status, payload, accepted_at, execute_at, problem
FROM commands WHERE id = $1 AND actor = $2 AND kind IN ('post_transaction', 'reverse_transaction')
"""

_NEWEST: Final = UUID(int=2**128 - 1)
_refusal = msgspec.json.Decoder(Refusal)
# What makes a transaction with the id of its job.
_MAKING: Final[Mapping[str, msgspec.json.Decoder[PostTransaction | ReverseTransaction]]] = {
    "post_transaction": msgspec.json.Decoder(PostTransaction),
    "reverse_transaction": msgspec.json.Decoder(ReverseTransaction),
}


class Key(msgspec.Struct, frozen=True):
    """An idempotency key that a request gives for `target`, a command or a batch.

    `place` points at the key in the request when a refusal must say which it was.
    """

    key: str
    request_hash: bytes
    target: UUID
    place: str | None = None


class Draft(msgspec.Struct, frozen=True):
    """A command about to be written down. `resource` is the path of what it makes or changes.

    With an `execute_at` in the future it is scheduled, and joins the mailbox at that time.
    """

    id: UUID
    kind: str
    payload: bytes
    weight: int
    resource: str
    execute_at: datetime | None = None


class Submission(msgspec.Struct, frozen=True):
    """What one request asks of one actor: accepted as a whole or not at all.

    `reserves` is the ledger's id when the draft creates one; `batch` the batch's id in bulk. `scope` is the actor that
    its keys belong to, if that is another one, and `beside` what is written with a command to a user. Drafts that are
    `atomic` are one entry of the mailbox. `named` are drafts whose ids others of them hold: where an older job stands
    for one of those, the others should name that, and StaleNames is the answer.
    """

    actor: str
    principal: UUID
    correlation_id: str
    drafts: tuple[Draft, ...]
    keys: tuple[Key, ...] = ()
    batch: UUID | None = None
    reserves: str | None = None
    scope: str | None = None
    beside: Beside | None = None
    atomic: bool = False
    named: frozenset[UUID] = frozenset()


class StaleNames(InfrastructureError):
    """A command of the request names another one of it whose key was used just before: to be made again."""

    def __init__(self) -> None:
        super().__init__("The same commands are being sent by somebody else; nothing was accepted.")


class Receipt(msgspec.Struct, frozen=True):
    """What was accepted. `jobs` are in the order of the drafts, an older job standing where a key was used before.

    `replay` is the older job or batch that answers the whole request. `accepted_at` is None when nothing was written.
    """

    jobs: tuple[UUID, ...] = ()
    accepted_at: datetime | None = None
    replay: UUID | None = None


class Held(msgspec.Struct, frozen=True):
    """What a key stands for already."""

    request_hash: bytes
    command: UUID


class Asked(msgspec.Struct, frozen=True):
    """A key in its scope, to be looked up."""

    principal: UUID
    actor: str
    key: str


class Job(msgspec.Struct, frozen=True):
    """A command as its submitter sees it. `seq`: the journal's seq of its last event, once it has succeeded."""

    id: UUID
    actor: str
    kind: str
    status: str
    principal: UUID
    correlation_id: str
    resource: str | None
    batch: UUID | None
    accepted_at: datetime
    execute_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    seq: int | None = None
    problem: Refusal | None = None

    @property
    def finished(self) -> bool:
        return self.status not in UNFINISHED

    @property
    def is_scheduled(self) -> bool:
        return self.status == "scheduled"


class KeyBounds(msgspec.Struct, frozen=True):
    """What an API key shows of its owner's jobs: those of `ledgers` (None: of all), and without `reads` only their own.

    Jobs of other actors than ledgers it never shows.
    """

    owner: UUID
    ledgers: tuple[str, ...] | None
    reads: bool


class Filter(msgspec.Struct, frozen=True):
    """Which jobs to list: those before `before`, newest first. `viewer` None sees everybody's.

    `key` narrows that to what an API key of the viewer's shows.
    """

    viewer: UUID | None = None
    before: UUID | None = None
    status: str | None = None
    kind: str | None = None
    actor: str | None = None
    key: KeyBounds | None = None


class Batch(msgspec.Struct, frozen=True):
    """A bulk request and its jobs, in the request's order."""

    id: UUID
    actor: str
    jobs: tuple[UUID, ...]
    accepted_at: datetime
    principal: UUID
    atomic: bool = False


class Tally(msgspec.Struct, frozen=True):
    """How far a batch is: jobs by status, when the last of them finished, and its first refusals by index."""

    counts: dict[str, int]
    finished_at: datetime | None
    refusals: tuple[tuple[int, Job], ...]


class Pending(msgspec.Struct, frozen=True):
    """A transaction's command as long as there is no transaction, or after it was refused."""

    id: UUID
    status: str
    command: PostTransaction | ReverseTransaction
    accepted_at: datetime
    execute_at: datetime | None
    problem: Refusal | None


Answer = Receipt | Exception
"""What becomes of a submission: accepted, or why not."""


def reused(place: str | None) -> DomainError:
    """The refusal of a key that was used with another request."""
    faults = () if place is None else (Fault(place, "the key was used with another request"),)
    return DomainError("idempotency_key_reused", "The idempotency key was used with another request.", faults)


class CommandLog:
    """The daybook in Postgres."""

    def __init__(self, pool: asyncpg.Pool[Record]) -> None:
        self._pool = pool

    async def append(self, submissions: Sequence[Submission]) -> list[Answer]:
        """Writes all of `submissions`, in order, each whole or not at all; what comes back is durable.

        Raises what the connection raises: then it is not known whether anything was written.
        """
        answers: dict[int, Answer] = {}
        for numbers in _rounds(submissions):
            group = [submissions[number] for number in numbers]
            answers.update(zip(numbers, await self._append_round(group), strict=True))
        return [answers[number] for number in range(len(submissions))]

    async def _append_round(self, group: Sequence[Submission]) -> list[Answer]:
        try:
            return await self._append_together(group)
        except asyncpg.PostgresError as error:
            if not _is_data_error(error):
                raise
            if len(group) == 1:
                return [ValidationError("The request holds a value that can't be stored.")]
        return [(await self._append_round([submission]))[0] for submission in group]

    async def _append_together(self, group: Sequence[Submission]) -> list[Answer]:
        async with self._pool.acquire(timeout=5) as db, db.transaction():
            entry = _Entry(group)
            if entry.keyed:
                await _take_keys(db, entry)
            if any(submission.reserves is not None for submission in group):
                await _reserve(db, entry)
            await _free_keys(db, entry)
            await _write_beside(db, entry)
            accepted_at = await _write(db, entry)
        return [entry.answer(number, accepted_at) for number in range(len(group))]

    async def find_keys(self, asked: Sequence[Asked]) -> list[Held | None]:
        """What each key stands for, None for one that is free."""
        rows = await self._pool.fetch(
            FIND_KEYS, [key.principal for key in asked], [key.actor for key in asked], [key.key for key in asked]
        )
        found = {row["number"]: Held(row["request_hash"], row["command"]) for row in rows}
        return [found.get(number) for number in range(1, len(asked) + 1)]

    async def find_job(self, job: UUID, viewer: UUID | None = None) -> Job | None:
        """One job, if `viewer` submitted it or has a grant on its ledger; None as the viewer sees all."""
        row = await self._pool.fetchrow(FIND_JOB, job, viewer)
        return None if row is None else _job(row)

    async def finished(self, jobs: Sequence[UUID]) -> list[Job]:
        """Those of `jobs` that have finished, in no order."""
        return [_job(row) for row in await self._pool.fetch(FINISHED, jobs)]

    async def list_jobs(self, wanted: Filter, limit: int) -> list[Job]:
        """The newest jobs first, at most `limit`."""
        found: dict[UUID, Job] = {}
        for statement, arguments in _listing(wanted):
            rows = await self._pool.fetch(
                statement,
                wanted.before or _NEWEST,
                wanted.status,
                wanted.kind,
                limit,
                wanted.key is not None,
                *arguments,
            )
            found.update((row["id"], _job(row)) for row in rows)
        return [found[job] for job in sorted(found, reverse=True)[:limit]]

    async def find_batch(self, batch: UUID, viewer: UUID | None = None) -> Batch | None:
        """One batch, to whom `find_job` would show its jobs."""
        row = await self._pool.fetchrow(FIND_BATCH, batch, viewer)
        if row is None:
            return None
        return Batch(row["id"], row["actor"], tuple(row["jobs"]), row["accepted_at"], row["principal"], row["atomic"])

    async def tally(self, batch: Batch, most_refusals: int) -> Tally:
        """How far the batch is, with its first refusals."""
        rows = await self._pool.fetch(COUNT_BATCH, batch.jobs)
        counts = dict.fromkeys(STATUSES, 0) | {row["status"]: row["count"] for row in rows}
        refused = await self._pool.fetch(REFUSALS, batch.jobs, most_refusals) if counts["rejected"] else []
        return Tally(
            counts,
            max((row["finished_at"] for row in rows if row["finished_at"] is not None), default=None),
            tuple((row["number"] - 1, _job(row)) for row in refused),
        )

    async def last_unfinished(self, jobs: Sequence[UUID]) -> UUID | None:
        """The one of `jobs` that is to be applied last, None when all have finished."""
        last: UUID | None = await self._pool.fetchval(LAST_UNFINISHED, jobs)
        return last

    async def depth(self, actor: str, most: int) -> int:
        """How many commands wait for `actor`, scheduled ones included; the count ends at `most`."""
        counted: int = await self._pool.fetchval(DEPTH, actor, most)
        return counted


async def find_pending(db: Db, ledger: str, transaction: UUID) -> Pending | None:
    """The command of a transaction that is not there (yet): waiting, scheduled, refused, failed or cancelled."""
    row = await db.fetchrow(PENDING, transaction, f"ledger:{ledger}")
    if row is None:
        return None
    return Pending(
        row["id"],
        row["status"],
        _MAKING[row["kind"]].decode(row["payload"]),
        row["accepted_at"],
        row["execute_at"],
        None if row["problem"] is None else _refusal.decode(row["problem"]),
    )


class _Entry:
    """A group of submissions on its way into the tables: which are refused, and what their keys stand for."""

    def __init__(self, group: Sequence[Submission]) -> None:
        self.group = group
        self.refused: dict[int, DomainError] = {}
        self.older: dict[UUID, UUID] = {}
        keyed = [(number, key) for number, submission in enumerate(group) for key in submission.keys]
        self.keyed = sorted(keyed, key=lambda item: self.scope(*item))
        self.taken: set[UUID] = set()

    def scope(self, number: int, key: Key) -> tuple[UUID, str, str]:
        submission = self.group[number]
        return submission.principal, submission.scope or submission.actor, key.key

    def meet(self, number: int, key: Key, held: Held) -> None:
        """A key that is held: by the same request, which is a replay, or by another one."""
        if key.target in self.group[number].named:
            self.refused[number] = StaleNames()
        elif held.request_hash == key.request_hash:
            self.older[key.target] = held.command
        else:
            self.refused.setdefault(number, reused(key.place))

    def replay(self, number: int) -> UUID | None:
        """What answers the whole request: the older job of its only command, or its older batch."""
        submission = self.group[number]
        return self.older.get(submission.drafts[0].id if submission.batch is None else submission.batch)

    def is_written(self, number: int) -> bool:
        return number not in self.refused and self.replay(number) is None

    def fresh(self, number: int) -> list[Draft]:
        """The commands that the submission adds."""
        if not self.is_written(number):
            return []
        return [draft for draft in self.group[number].drafts if draft.id not in self.older]

    def answer(self, number: int, accepted_at: datetime | None) -> Answer:
        if number in self.refused:
            return self.refused[number]
        replay = self.replay(number)
        if replay is not None:
            return Receipt(replay=replay)
        jobs = tuple(self.older.get(draft.id, draft.id) for draft in self.group[number].drafts)
        return Receipt(jobs, accepted_at if self.fresh(number) else None)


async def _take_keys(db: Db, entry: _Entry) -> None:
    scopes = [entry.scope(number, key) for number, key in entry.keyed]
    principals, actors, keys = map(list, zip(*scopes, strict=True))
    rows = await db.fetch(
        TAKE_KEYS,
        principals,
        actors,
        keys,
        [key.request_hash for _, key in entry.keyed],
        [key.target for _, key in entry.keyed],
    )
    entry.taken = {row["command"] for row in rows}
    if len(rows) == len(scopes):
        return
    for row in await db.fetch(FIND_KEYS, principals, actors, keys):
        number, key = entry.keyed[row["number"] - 1]
        if row["command"] != key.target:
            entry.meet(number, key, Held(row["request_hash"], row["command"]))


async def _reserve(db: Db, entry: _Entry) -> None:
    wanted = sorted(
        (submission.reserves, number)
        for number, submission in enumerate(entry.group)
        if submission.reserves is not None and entry.fresh(number)
    )
    rows = await db.fetch(
        RESERVE_LEDGERS,
        [ledger for ledger, _ in wanted],
        [entry.group[number].principal for _, number in wanted],
        [entry.group[number].drafts[0].id for _, number in wanted],
    )
    reserved = {row["command"] for row in rows}
    for ledger, number in wanted:
        if entry.group[number].drafts[0].id not in reserved:
            fault = Fault("#/id", f"{ledger} is taken")
            entry.refused[number] = DomainError("ledger_exists", f"There is a ledger {ledger} already.", (fault,))


async def _free_keys(db: Db, entry: _Entry) -> None:
    """Gives back the keys of requests that are refused after all, or answered by an older batch."""
    freed = [
        entry.scope(number, key)
        for number, key in entry.keyed
        if key.target in entry.taken and not entry.is_written(number)
    ]
    if freed:
        await db.execute(FREE_KEYS, *map(list, zip(*freed, strict=True)))


async def _write_beside(db: Db, entry: _Entry) -> None:
    """What comes with commands to users. It locks them, and only then commands get their time."""
    for number, submission in enumerate(entry.group):
        if submission.beside is not None and entry.fresh(number):
            await write_beside(db, submission.actor, submission.drafts[0].id, submission.beside)


async def _write(db: Db, entry: _Entry) -> datetime | None:
    lines = [
        (draft, submission, place if submission.atomic else None)
        for number, submission in enumerate(entry.group)
        for place, draft in enumerate(entry.fresh(number))
    ]
    accepted_at: datetime | None = None
    if lines:
        accepted_at = await db.fetchval(
            APPEND,
            [draft.id for draft, _, _ in lines],
            [submission.actor for _, submission, _ in lines],
            [draft.kind for draft, _, _ in lines],
            [draft.payload for draft, _, _ in lines],
            [draft.weight for draft, _, _ in lines],
            [submission.principal for _, submission, _ in lines],
            [submission.correlation_id for _, submission, _ in lines],
            [draft.resource for draft, _, _ in lines],
            [submission.batch for _, submission, _ in lines],
            [draft.execute_at for draft, _, _ in lines],
            [place for _, _, place in lines],
        )
    for number, submission in enumerate(entry.group):
        if submission.batch is not None and entry.is_written(number):
            jobs = [entry.older.get(draft.id, draft.id) for draft in submission.drafts]
            whose = (submission.batch, submission.actor, submission.principal)
            await db.execute(ADD_BATCHES, *whose, jobs, accepted_at, submission.atomic)
    return accepted_at


def _rounds(submissions: Sequence[Submission]) -> Iterable[list[int]]:
    """Groups in which no key and no ledger's id comes twice: the later of two meets the earlier one committed."""
    left = list(range(len(submissions)))
    while left:
        used: set[tuple[UUID | str, ...]] = set()
        group: list[int] = []
        later: list[int] = []
        for number in left:
            claims = _claims(submissions[number])
            (later if used & claims else group).append(number)
            used |= claims
        yield group
        left = later


def _claims(submission: Submission) -> set[tuple[UUID | str, ...]]:
    scope = submission.scope or submission.actor
    claims: set[tuple[UUID | str, ...]] = {(submission.principal, scope, key.key) for key in submission.keys}
    if submission.reserves is not None:
        claims.add((submission.reserves,))
    return claims


def _is_data_error(error: asyncpg.PostgresError) -> bool:
    """SQLSTATE 22 and 23: the fault of a row, not of the server or the connection."""
    return (error.sqlstate or "")[:2] in ("22", "23")


_Statement = tuple[str, tuple[UUID | str | bool | Sequence[str] | None, ...]]


def _listing(wanted: Filter) -> list[_Statement]:
    if wanted.key is not None:
        return _listing_with_key(wanted, wanted.key)
    if wanted.viewer is not None:
        return [(statement, (wanted.viewer, wanted.actor)) for statement in (OWN_JOBS, GRANTED_JOBS)]
    if wanted.actor is not None:
        return [(LEDGER_JOBS, (wanted.actor,))]
    return [(DEAD_JOBS if wanted.status == "failed" else ALL_JOBS, ())]


def _listing_with_key(wanted: Filter, key: KeyBounds) -> list[_Statement]:
    if key.ledgers is not None:
        actors = [f"ledger:{ledger}" for ledger in key.ledgers]
        reached = actors if wanted.actor is None else [wanted.actor] if wanted.actor in actors else []
        return [(REACHED_JOBS, (reached, key.owner, key.reads, wanted.viewer is None))]
    if key.reads:
        return [(OWN_JOBS, (key.owner, wanted.actor)), *_listing(msgspec.structs.replace(wanted, key=None))]
    return [(OWN_JOBS, (key.owner, wanted.actor))]


def _job(row: Record) -> Job:
    return Job(
        row["id"],
        row["actor"],
        row["kind"],
        row["status"],
        row["principal"],
        row["correlation_id"],
        row["resource"],
        row["batch"],
        row["accepted_at"],
        row["execute_at"],
        row["finished_at"],
        row["attempts"],
        row["seq"],
        None if row["problem"] is None else _refusal.decode(row["problem"]),
    )
