"""Stands-in for what is outside, small enough to be read at once; tests/contracts holds them to the real thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from domain.currency import Currencies
from domain.decision import Link
from domain.errors import DomainError
from domain.ledger.events import TransactionPosted
from domain.ledger.handlers import touches
from domain.ledger.model import Account, Ledger, Line, Member, Profile, Touches, Transaction
from domain.messages import Recorded
from domain.money import parse_minor
from infrastructure.command_log import (
    STATUSES,
    Answer,
    Asked,
    Batch,
    Filter,
    Held,
    Job,
    KeyBounds,
    Receipt,
    StaleNames,
    Submission,
    Tally,
    reused,
)
from infrastructure.currencies import ISO_SCALES


class FakeCommandLog:
    """A daybook in memory."""

    def __init__(self) -> None:
        self.keys: dict[tuple[UUID, str, str], Held] = {}
        self.jobs: dict[UUID, Job] = {}
        self.batches: dict[UUID, tuple[Batch, UUID]] = {}
        self.owners: dict[str, UUID] = {}

    async def append(self, submissions: Sequence[Submission]) -> list[Answer]:
        return [self._append(submission) for submission in submissions]

    def _append(self, submission: Submission) -> Answer:
        older: dict[UUID, UUID] = {}
        taken: dict[tuple[UUID, str, str], Held] = {}
        for key in submission.keys:
            scope = (submission.principal, submission.scope or submission.actor, key.key)
            held = self.keys.get(scope) or taken.get(scope)
            if held is None:
                taken[scope] = Held(key.request_hash, key.target)
            elif key.target in submission.named:
                return StaleNames()
            elif held.request_hash == key.request_hash:
                older[key.target] = held.command
            else:
                return reused(key.place)
        whole = older.get(submission.batch or submission.drafts[0].id)
        if whole is not None:
            return Receipt(replay=whole)
        if submission.reserves is not None:
            if submission.reserves in self.owners:
                return DomainError("ledger_exists", f"There is a ledger {submission.reserves} already.")
            self.owners[submission.reserves] = submission.principal
        return self._write(submission, older, taken)

    def _write(
        self, submission: Submission, older: dict[UUID, UUID], taken: dict[tuple[UUID, str, str], Held]
    ) -> Receipt:
        now = datetime.now(UTC)
        fresh = [draft for draft in submission.drafts if draft.id not in older]
        for draft in fresh:
            self.jobs[draft.id] = Job(
                draft.id,
                submission.actor,
                draft.kind,
                "scheduled" if draft.execute_at is not None and draft.execute_at > now else "accepted",
                submission.principal,
                submission.correlation_id,
                draft.resource,
                submission.batch,
                now,
                draft.execute_at,
            )
        self.keys.update(taken)
        jobs = tuple(older.get(draft.id, draft.id) for draft in submission.drafts)
        if submission.batch is not None:
            batch = Batch(submission.batch, submission.actor, jobs, now, submission.principal, submission.atomic)
            self.batches[batch.id] = (batch, submission.principal)
        return Receipt(jobs, now if fresh else None)

    async def find_keys(self, asked: Sequence[Asked]) -> list[Held | None]:
        return [self.keys.get((key.principal, key.actor, key.key)) for key in asked]

    def _shows(self, viewer: UUID | None, actor: str, principal: UUID) -> bool:
        return viewer in (None, principal) or self.owners.get(actor.partition(":")[2]) == viewer

    async def find_job(self, job: UUID, viewer: UUID | None = None) -> Job | None:
        found = self.jobs.get(job)
        return found if found is not None and self._shows(viewer, found.actor, found.principal) else None

    async def finished(self, jobs: Sequence[UUID]) -> list[Job]:
        return [self.jobs[job] for job in jobs if job in self.jobs and self.jobs[job].finished]

    async def list_jobs(self, wanted: Filter, limit: int) -> list[Job]:
        found = [
            job
            for job in self.jobs.values()
            if self._shows(wanted.viewer, job.actor, job.principal)
            and (wanted.before is None or job.id < wanted.before)
            and wanted.status in (None, job.status)
            and wanted.kind in (None, job.kind)
            and wanted.actor in (None, job.actor)
            and (wanted.key is None or _shown_by(wanted.key, job))
        ]
        return sorted(found, key=lambda job: job.id, reverse=True)[:limit]

    async def find_batch(self, batch: UUID, viewer: UUID | None = None) -> Batch | None:
        found = self.batches.get(batch)
        return found[0] if found is not None and self._shows(viewer, found[0].actor, found[1]) else None

    async def tally(self, batch: Batch, most_refusals: int) -> Tally:
        jobs = [self.jobs[job] for job in batch.jobs]
        counts = {status: sum(job.status == status for job in jobs) for status in STATUSES}
        refused = [(index, job) for index, job in enumerate(jobs) if job.status == "rejected"]
        finished = [job.finished_at for job in jobs if job.finished_at is not None]
        return Tally(counts, max(finished, default=None), tuple(refused[:most_refusals]))

    async def last_unfinished(self, jobs: Sequence[UUID]) -> UUID | None:
        order = {job: place for place, job in enumerate(self.jobs)}
        unfinished = [job for job in jobs if not self.jobs[job].finished]
        return max(unfinished, key=order.__getitem__, default=None)

    async def depth(self, actor: str, most: int) -> int:
        return min(most, sum(job.actor == actor and not job.finished for job in self.jobs.values()))


def _shown_by(key: KeyBounds, job: Job) -> bool:
    kind, _, name = job.actor.partition(":")
    reached = kind == "ledger" and (key.ledgers is None or name in key.ledgers)
    return reached and (key.reads or job.principal == key.owner)


# -- the ledger repository --------------------------------------------------------------------------------------------


@dataclass
class _Books:
    """What is kept of one ledger."""

    profile: Profile | None = None
    accounts: dict[str, Account] = field(default_factory=dict)
    scales: dict[str, int] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    grants: dict[UUID, str] = field(default_factory=dict)
    transactions: dict[UUID, Transaction] = field(default_factory=dict)
    waiting: dict[UUID, int | None] = field(default_factory=dict)
    closed_before: datetime | None = None
    schedules: dict[UUID, str] = field(default_factory=dict)


class FakeLedgers:
    """The ledger repository, without a database. Gives out copies: what a turn throws away leaves nothing behind."""

    def __init__(self) -> None:
        self._kept: dict[str, _Books] = {}
        self._users: dict[UUID, Member] = {}

    def add_user(self, user: UUID, *, active: bool = True, roles: Iterable[str] = ("user",)) -> None:
        self._users[user] = Member(active, frozenset(roles), None)

    def grant(self, ledger: str, user: UUID, role: str) -> None:
        if user not in self._users:
            self.add_user(user)
        self._kept.setdefault(ledger, _Books()).grants[user] = role

    def wait(self, ledger: str, transaction: UUID, position: int | None) -> None:
        self._kept.setdefault(ledger, _Books()).waiting[transaction] = position

    def load(self, ledger_id: str, commands: Iterable[Recorded]) -> Ledger:
        kept = self._kept.setdefault(ledger_id, _Books())
        needed = Touches.none()
        principals, positions = set(), {}
        for recorded in commands:
            touches(recorded.command, needed)
            principals.add(recorded.principal)
            positions[recorded.id] = recorded.position
        named = {each: deepcopy(kept.transactions[each]) for each in needed.transactions if each in kept.transactions}
        for transaction in named.values():
            needed.accounts.update(name for line in transaction.lines for name in (line.debit, line.credit))
        return Ledger(
            id=ledger_id,
            profile=kept.profile,
            currencies=Currencies(
                {code: scale for code, scale in kept.scales.items() if code in needed.currencies}, ISO_SCALES
            ),
            accounts={name: deepcopy(kept.accounts[name]) for name in needed.accounts if name in kept.accounts},
            references=needed.references & kept.references,
            members=self._members(kept.grants, principals, needed.users),
            named=needed.transactions,
            transactions=named,
            waiting={each: positions.get(each) for each in needed.transactions if each in kept.waiting},
            closed_before=kept.closed_before,
            schedules={each: kept.schedules[each] for each in needed.schedules if each in kept.schedules},
        )

    def _members(self, grants: dict[UUID, str], principals: set[UUID], named: set[UUID]) -> dict[UUID, Member]:
        owners = [user for user, role in grants.items() if role == "owner" and self._users[user].active]
        loaded = principals | named | set(owners[: len(named) + 1] if named else ())
        return {
            user: Member(known.active, known.roles, grants.get(user))
            for user, known in self._users.items()
            if user in loaded
        }

    def save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
        kept = self._kept[ledger.id]
        kept.profile = ledger.profile
        kept.scales.update(ledger.currencies.first_used)
        kept.references |= ledger.references
        for name in ledger.changed | ledger.opened:
            kept.accounts[name] = deepcopy(ledger.accounts[name])
        for user, grant in ledger.granted.items():
            kept.grants.pop(user, None)
            if grant.role is not None:
                kept.grants[user] = grant.role
        kept.closed_before = ledger.closed_before
        kept.schedules.update(ledger.schedules)
        for link in links:
            if isinstance(link.entry.data, TransactionPosted):
                kept.transactions[link.entry.data.transaction] = _posted(link.entry.data, link.entry.seq, ledger)
        kept.transactions.update(deepcopy(ledger.transactions))


def _posted(event: TransactionPosted, seq: int, ledger: Ledger) -> Transaction:
    """A plain transaction, of which no command of its turn asked anything."""
    amounts = [parse_minor(line.amount, ledger.accounts[line.debit].scale) for line in event.postings]
    lines = [
        Line(line.debit, line.credit, amount, amount, 0) for line, amount in zip(event.postings, amounts, strict=True)
    ]
    effective_at = datetime.fromisoformat(event.effective_at)
    return Transaction(event.transaction, seq, seq, "posted", event.metadata, effective_at, lines)
