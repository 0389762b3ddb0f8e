"""Queries and their handlers: from the cache, or from one snapshot of the projections that is put there.

The layers in front of the router have asked Redis already (`api.edge`); a route hands what they found to its query. A
hit is those bytes, and no SQL. On a miss a single thing is filled under its lease (`infrastructure.cache`), and a list
is read by one request for all who wait for the same. A list's key names the seq it was read at, so it never changes;
the slot `seq:{ledger}`, filled here too, says which is current, and a turn that raises it drops all lists at once.

`min_version` asks for data at least that new. What the cache holds may be older than that and then does not count;
Postgres is asked, for at most a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from api import moments
from api.cursors import Position, bad_cursor, check_epoch, next_of
from api.moments import NOW, AsOf, Found
from domain.bus import QueryBus
from domain.clock import format_time
from domain.errors import DomainError, NotFoundError
from domain.ledger.commands import Posting, PostTransaction
from domain.messages import Query
from infrastructure import projections, schedules
from infrastructure.cache import Cache, list_key, seq_key
from infrastructure.command_log import Pending, find_pending
from infrastructure.postgres import Connection
from infrastructure.projections import NEWEST, TransactionFilter
from infrastructure.read_models import (
    BalancesView,
    ListView,
    Page,
    PostingView,
    Snapshot,
    TransactionView,
    TrialBalanceView,
)
from infrastructure.users import view_user

T = TypeVar("T")

WAIT_S: Final = 1.0
"""How long an answer waits for `min_version`."""
LOOK_S: Final = (0.005, 0.01, 0.02, 0.04)
"""Pauses between looks meanwhile; the last one repeats."""
ACQUIRE_S: Final = 5
"""How long a query waits for a connection."""
LIST_BYTES: Final = 256 << 10
"""Longer lists are not kept in Redis."""

JSON: Final = b"application/json"
LINES: Final = b"application/x-ndjson"

_encode: Final = msgspec.json.Encoder().encode
_encode_lines: Final = msgspec.json.Encoder().encode_lines


class Answer(msgspec.Struct, frozen=True):
    """A body, and its version `{epoch}.{version}`: None for what has none yet."""

    body: bytes
    version: bytes | None
    media_type: bytes = JSON


# -- what can be asked ------------------------------------------------------------------------------------------------


class LedgerQuery(Query, frozen=True, kw_only=True):
    """Something of one ledger, from data at least as new as seq `min_version`.

    `key` (of a view's slot) or `tail` (of a list's key) says where the answer is kept, and `cached` what was found
    there; `seen` is the ledger's `{epoch}.{seq}`, if its slot had a value. Without them Postgres is asked.
    """

    ledger: str
    min_version: int = 0
    key: str = ""
    tail: str = ""
    cached: bytes | None = None
    seen: str | None = None


class ListQuery(LedgerQuery, frozen=True, kw_only=True):
    """At most `limit` items behind those that `after` describes."""

    limit: int = 100
    after: Position | None = None
    digest: str = ""


class GetLedger(LedgerQuery, frozen=True, kw_only=True):
    pass


class GetGrant(LedgerQuery, frozen=True, kw_only=True):
    user: UUID


class GetCurrency(LedgerQuery, frozen=True, kw_only=True):
    code: str


class GetAccount(LedgerQuery, frozen=True, kw_only=True):
    name: str
    at: AsOf = NOW


class GetTransaction(LedgerQuery, frozen=True, kw_only=True):
    """A transaction, or its command as long as that waits. Raises RefusedTransaction once that was refused."""

    transaction: UUID


class GetPeriod(LedgerQuery, frozen=True, kw_only=True):
    """The period that was closed with this end."""

    before: datetime


class GetSchedule(LedgerQuery, frozen=True, kw_only=True):
    schedule: UUID


class GetTrialBalance(LedgerQuery, frozen=True, kw_only=True):
    at: AsOf = NOW


class ListGrants(ListQuery, frozen=True, kw_only=True):
    pass


class ListPeriods(ListQuery, frozen=True, kw_only=True):
    pass


class ListSchedules(ListQuery, frozen=True, kw_only=True):
    pass


class ListCurrencies(ListQuery, frozen=True, kw_only=True):
    pass


class ListAccounts(ListQuery, frozen=True, kw_only=True):
    prefix: str = ""
    currency: str | None = None
    at: AsOf = NOW


class ListTransactions(ListQuery, frozen=True, kw_only=True):
    wanted: TransactionFilter = TransactionFilter()


class GetBalances(ListQuery, frozen=True, kw_only=True):
    prefix: str = ""
    at: AsOf = NOW


class GetStatement(ListQuery, frozen=True, kw_only=True):
    """What moved an account, `start` ≤ effective_at < `end`."""

    account: str
    start: datetime | None = None
    end: datetime | None = None
    at: AsOf = NOW


class ReadJournal(LedgerQuery, frozen=True, kw_only=True):
    after_seq: int = 0
    limit: int = 100


class ListLedgers(Query, frozen=True, kw_only=True):
    """The ledgers granted to `principal`; None is everybody's. Of these only those `within`, if it is given."""

    principal: UUID | None
    within: frozenset[str] | None = None
    limit: int = 100
    after: Position | None = None
    digest: str = ""


class GetUser(Query, frozen=True, kw_only=True):
    user: UUID


class RefusedTransaction(NotFoundError):
    """There is no such transaction, and never will be: its command was refused, cancelled or set aside."""

    def __init__(self, job: UUID) -> None:
        super().__init__("The command that would have made this transaction was not applied.")
        self.job: Final = job


# -- reading once for many --------------------------------------------------------------------------------------------


class _Reading(Generic[T]):
    __slots__ = ("begun", "task")

    def __init__(self) -> None:
        self.begun = False
        self.task: asyncio.Task[T]


class Shared(Generic[T]):
    """Reads by key, one for all who may share it: those who join before it begins, and later ones if it suffices."""

    def __init__(self, pool: asyncpg.Pool[Record]) -> None:
        self._pool = pool
        self._readings: dict[str, _Reading[T]] = {}

    async def read(
        self, key: str, read: Callable[[Connection], Awaitable[T]], suffices: Callable[[T], bool] = lambda _: False
    ) -> T:
        """What `read` answers, from a snapshot taken after this call, or another that `suffices`."""
        while True:
            reading = self._readings.get(key)
            if reading is None:
                reading = self._readings[key] = _Reading()
                reading.task = asyncio.create_task(self._run(key, reading, read))
            early = not reading.begun
            found = await asyncio.shield(reading.task)
            if early or suffices(found):
                return found

    async def _run(self, key: str, reading: _Reading[T], read: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            async with self._pool.acquire(timeout=ACQUIRE_S) as db:
                reading.begun = True
                return await read(db)
        finally:
            del self._readings[key]


# -- handlers ---------------------------------------------------------------------------------------------------------


class _Read(msgspec.Struct, frozen=True):
    """A list's body as read from one snapshot."""

    epoch: int
    seq: int
    body: bytes

    @property
    def at(self) -> str:
        return f"{self.epoch}.{self.seq}"


class Queries:
    """The handlers, and what they share in a process."""

    def __init__(self, pool: asyncpg.Pool[Record], cache: Cache, ttl_s: float) -> None:
        self._pool = pool
        self._cache = cache
        self._ttl_s = ttl_s
        self._lists: Shared[_Read | None] = Shared(pool)
        self._heads: Shared[tuple[int, int] | None] = Shared(pool)

    def bus(self) -> QueryBus[Answer]:
        """The bus that takes each query to its handler here."""
        handlers: Mapping[type[Query], Callable[..., Awaitable[Answer]]] = {
            GetLedger: self.get_ledger,
            GetGrant: self.get_grant,
            GetCurrency: self.get_currency,
            GetAccount: self.get_account,
            GetTransaction: self.get_transaction,
            GetPeriod: self.get_period,
            GetSchedule: self.get_schedule,
            GetTrialBalance: self.get_trial_balance,
            GetBalances: self.get_balances,
            GetStatement: self.get_statement,
            ListLedgers: self.list_ledgers,
            ListGrants: self.list_grants,
            ListPeriods: self.list_periods,
            ListSchedules: self.list_schedules,
            ListCurrencies: self.list_currencies,
            ListAccounts: self.list_accounts,
            ListTransactions: self.list_transactions,
            ReadJournal: self.read_journal,
            GetUser: self.get_user,
        }
        return QueryBus(handlers)

    # single things

    async def get_account(self, query: GetAccount) -> Answer:
        if query.at != NOW:
            return await self._as_of(query, lambda db: moments.account_at(db, query, query.at))

        async def read(db: Connection) -> bytes | None:
            found = await projections.find_account(db, query.ledger, query.name)
            return None if found is None or found.value is None else _slot(found, found.value, found.value.version)

        return await self._thing(query, read)

    async def get_transaction(self, query: GetTransaction) -> Answer:
        async def read(db: Connection) -> bytes | None:
            found = await projections.find_transaction(db, query.ledger, query.transaction)
            if found is None or found.value is None or found.value.version is None:
                return None
            return _slot(found, found.value, found.value.version)

        try:
            return await self._thing(query, read)
        except NotFoundError:
            pending = await find_pending(self._pool, query.ledger, query.transaction)
            if pending is None:
                raise
        if pending.status == "succeeded":
            # it was applied between the two looks, or its ledger's first event was
            return await self._thing(msgspec.structs.replace(query, key="", cached=None), read)
        if pending.status not in ("accepted", "scheduled"):
            raise RefusedTransaction(pending.id)
        return Answer(_encode(_pending(query.ledger, pending)), None)

    async def get_grant(self, query: GetGrant) -> Answer:
        """The item that the list of grants has for a user."""

        async def read(db: Connection) -> _Read | None:
            found = await projections.find_grant(db, query.ledger, query.user)
            return None if found is None else _Read(found.epoch, found.seq, _encode(found.value))

        return await self._list(query, read)

    async def get_period(self, query: GetPeriod) -> Answer:
        """The item that the list of periods has."""

        async def read(db: Connection) -> _Read | None:
            found = await projections.find_period(db, query.ledger, query.before)
            return None if found is None else _Read(found.epoch, found.seq, _encode(found.value))

        return await self._list(query, read)

    async def get_schedule(self, query: GetSchedule) -> Answer:
        async def read(db: Connection) -> _Read | None:
            found = await schedules.find_schedule(db, query.ledger, query.schedule)
            return None if found is None else _Read(found.epoch, found.seq, _encode(found.value))

        return await self._moving(query, read)

    async def get_currency(self, query: GetCurrency) -> Answer:
        """The item that the list of currencies has for a code."""

        async def read(db: Connection) -> _Read | None:
            found = await projections.find_currency(db, query.ledger, query.code)
            return None if found is None else _Read(found.epoch, found.seq, _encode(found.value))

        return await self._list(query, read)

    # lists, and whatever else changes with every event

    async def get_ledger(self, query: GetLedger) -> Answer:
        async def read(db: Connection) -> _Read | None:
            found = await projections.find_ledger(db, query.ledger)
            return None if found is None else _Read(found.epoch, found.seq, _encode(found.value))

        return await self._list(query, read)

    async def list_grants(self, query: ListGrants) -> Answer:
        async def read(db: Connection) -> _Read | None:
            (before,) = _last(query, (NEWEST,))
            return _page(query, await projections.list_grants(db, query.ledger, before, query.limit))

        return await self._list(query, read)

    async def list_periods(self, query: ListPeriods) -> Answer:
        async def read(db: Connection) -> _Read | None:
            (before,) = _last(query, (NEWEST,))
            return _page(query, await projections.list_periods(db, query.ledger, before, query.limit))

        return await self._list(query, read)

    async def list_schedules(self, query: ListSchedules) -> Answer:
        async def read(db: Connection) -> _Read | None:
            (before,) = _last(query, (NEWEST,))
            return _page(query, await schedules.list_schedules(db, query.ledger, before, query.limit))

        return await self._moving(query, read)

    async def list_currencies(self, query: ListCurrencies) -> Answer:
        async def read(db: Connection) -> _Read | None:
            (after,) = _last(query, ("",))
            return _page(query, await projections.list_currencies(db, query.ledger, after, query.limit))

        return await self._list(query, read)

    async def list_accounts(self, query: ListAccounts) -> Answer:
        if query.at != NOW:
            return await self._as_of(query, lambda db: moments.accounts_at(db, query, query.at))

        async def read(db: Connection) -> _Read | None:
            (after,) = _last(query, ("",))
            found = await projections.list_accounts(db, query.ledger, query.prefix, query.currency, after, query.limit)
            return _page(query, found)

        return await self._list(query, read)

    async def list_transactions(self, query: ListTransactions) -> Answer:
        async def read(db: Connection) -> _Read | None:
            (before,) = _last(query, (NEWEST,))
            return _page(
                query, await projections.list_transactions(db, query.ledger, query.wanted, before, query.limit)
            )

        return await self._list(query, read)

    async def get_balances(self, query: GetBalances) -> Answer:
        if query.at != NOW:
            return await self._as_of(query, lambda db: moments.balances_at(db, query, query.at))

        async def read(db: Connection) -> _Read | None:
            code, kind = _last(query, ("", ""))
            found = await projections.list_balances(db, query.ledger, query.prefix, (code, kind), query.limit)
            if found is None:
                return None
            check_epoch(query.after, found.epoch)
            view = BalancesView(
                found.seq, None, None, found.value.items, next_of(query.digest, found.epoch, found.value)
            )
            return _Read(found.epoch, found.seq, _encode(view))

        return await self._list(query, read)

    async def get_trial_balance(self, query: GetTrialBalance) -> Answer:
        if query.at != NOW:
            return await self._as_of(query, lambda db: moments.trial_balance_at(db, query, query.at))

        async def read(db: Connection) -> _Read | None:
            found = await projections.find_trial_balance(db, query.ledger)
            if found is None:
                return None
            return _Read(found.epoch, found.seq, _encode(TrialBalanceView(found.seq, None, None, found.value)))

        return await self._list(query, read)

    async def get_statement(self, query: GetStatement) -> Answer:
        return await self._as_of(query, lambda db: moments.statement_of(db, query))

    async def read_journal(self, query: ReadJournal) -> Answer:
        async def read(db: Connection) -> _Read | None:
            found = await projections.read_journal(db, query.ledger, query.after_seq, query.limit)
            return None if found is None else _Read(found.epoch, found.seq, _encode_lines(found.value))

        answer = await self._list(query, read)
        return Answer(answer.body, answer.version, LINES)

    async def list_ledgers(self, query: ListLedgers) -> Answer:
        """Never cached: it belongs to no one ledger."""
        after = None
        if query.after is not None:
            moment, name = query.after.last
            try:
                after = (datetime.fromisoformat(str(moment)), str(name))
            except ValueError:
                raise bad_cursor() from None
        found = await projections.list_ledgers(self._pool, query.principal, query.within, after, query.limit)
        return Answer(_encode(ListView(found.items, next_of(query.digest, 0, found))), None)

    async def get_user(self, query: GetUser) -> Answer:
        """The item that the list of users has. Never cached: few ask, and only after a change."""
        found = await view_user(self._pool, query.user)
        if found is None:
            raise NotFoundError
        return Answer(_encode(found), None)

    # how both kinds are answered

    async def _thing(self, query: LedgerQuery, read: Callable[[Connection], Awaitable[bytes | None]]) -> Answer:
        async def fresh() -> bytes | None:
            async with self._pool.acquire(timeout=ACQUIRE_S) as db:
                return await read(db)

        slot = query.cached
        if slot is None or _seq_in(slot) < query.min_version:
            slot = await (self._cache.fill(query.key, fresh, self._ttl_s) if query.key else fresh())
        if query.min_version and (slot is None or _seq_in(slot) < query.min_version):
            await self._reach(query.ledger, query.min_version)
            slot = await fresh()
        if slot is None:
            raise NotFoundError
        return view_answer(slot)

    async def _as_of(self, query: LedgerQuery, find: Callable[[Connection], Awaitable[Found | None]]) -> Answer:
        """Answers are kept as lists are: what a time means may change with every event, if it is not yet past."""

        async def read(db: Connection) -> _Read | None:
            found = await find(db)
            return None if found is None else _Read(found.epoch, found.head, _encode(found.view))

        return await self._list(query, read)

    async def _list(self, query: LedgerQuery, read: Callable[[Connection], Awaitable[_Read | None]]) -> Answer:
        if query.cached is not None and query.seen is not None and _seq_of(query.seen) >= query.min_version:
            return Answer(query.cached, query.seen.encode())
        found = await (self._kept(query, read) if query.tail else self._unshared(read))
        if query.min_version and (found is None or found.seq < query.min_version):
            await self._reach(query.ledger, query.min_version)
            found = await self._unshared(read)
        if found is None:
            raise NotFoundError
        return Answer(found.body, found.at.encode())

    async def _moving(self, query: LedgerQuery, read: Callable[[Connection], Awaitable[_Read | None]]) -> Answer:
        """What changes without an event of the ledger: never kept, and its version would say nothing."""
        found = await self._list(query, read)
        return Answer(found.body, None)

    async def _kept(self, query: LedgerQuery, read: Callable[[Connection], Awaitable[_Read | None]]) -> _Read | None:
        """Reads a list for everybody who waits for it, and keeps it in Redis under the seq of its snapshot."""
        seen = query.seen

        async def read_and_keep(db: Connection) -> _Read | None:
            found = await read(db)
            if found is not None and len(found.body) <= LIST_BYTES:
                await self._cache.put_list(list_key(query.ledger, found.at, query.tail), found.body, self._ttl_s)
            return found

        def as_new(found: _Read | None) -> bool:
            # its seq's slot had a value when this request began, so nothing newer was acknowledged to anybody by then
            return found is not None and seen is not None and (found.epoch, found.seq) >= _place(seen)

        if seen is None:
            await self._cache.fill(seq_key(query.ledger), lambda: self._head_slot(query.ledger), self._ttl_s)
        return await self._lists.read(f"{query.ledger}:{query.tail}", read_and_keep, as_new)

    async def _unshared(self, read: Callable[[Connection], Awaitable[_Read | None]]) -> _Read | None:
        async with self._pool.acquire(timeout=ACQUIRE_S) as db:
            return await read(db)

    async def _head_slot(self, ledger: str) -> bytes | None:
        found = await projections.find_seq(self._pool, ledger)
        return None if found is None else b"V:%d.%d" % found

    async def _reach(self, ledger: str, version: int) -> None:
        """Returns once the ledger's seq is at least `version`. Raises DomainError (409) when it is not in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_S
        looks = 0
        while True:
            head = await self._heads.read(ledger, lambda db: projections.find_seq(db, ledger))
            seq = 0 if head is None else head[1]
            if seq >= version:
                return
            pause = min(LOOK_S[min(looks, len(LOOK_S) - 1)], until - loop.time())
            if pause <= 0:
                raise DomainError("version_not_reached", f"The ledger is at version {seq}, not yet at {version}.")
            await asyncio.sleep(pause)
            looks += 1


def view_answer(slot: bytes) -> Answer:
    """The answer that a view's slot `V:{epoch}.{version}.{seq}\\n{json}` holds."""
    head, _, body = slot.partition(b"\n")
    return Answer(body, head[2 : head.rindex(b".")])


def _slot(found: Snapshot[Any], view: Any, version: int) -> bytes:
    return b"V:%d.%d.%d\n%b" % (found.epoch, version, found.seq, _encode(view))


def _seq_in(slot: bytes) -> int:
    head = slot[: slot.index(b"\n")]
    return int(head[head.rindex(b".") + 1 :])


def _place(at: str) -> tuple[int, int]:
    epoch, _, seq = at.partition(".")
    return int(epoch), int(seq)


def _seq_of(at: str) -> int:
    return _place(at)[1]


def _last(query: ListQuery, start: tuple[Any, ...]) -> tuple[Any, ...]:
    return start if query.after is None else query.after.last


def _page(query: ListQuery, found: Snapshot[Page[T]] | None) -> _Read | None:
    if found is None:
        return None
    check_epoch(query.after, found.epoch)
    view = ListView(found.value.items, next_of(query.digest, found.epoch, found.value))
    return _Read(found.epoch, found.seq, _encode(view))


def _pending(ledger: str, pending: Pending) -> TransactionView:
    """A transaction whose command waits: what will be, as far as it is known. What a reversal moves is not."""
    command = pending.command
    posts = command if isinstance(command, PostTransaction) else None
    effective_at = command.effective_at or pending.execute_at or pending.accepted_at
    return TransactionView(
        id=pending.id,
        ledger=ledger,
        status=pending.status,
        postings=[_asked(line) for line in (() if posts is None else posts.postings)],
        reference=command.reference,
        description=command.description,
        metadata=dict(command.metadata or {}),
        effective_at=format_time(effective_at),
        recorded_at=None,
        expires_at=None if posts is None or posts.expires_at is None else format_time(posts.expires_at),
        captures=(),
        reverses=None if isinstance(command, PostTransaction) else command.transaction,
        reversed_by=None,
        seq=None,
        version=None,
    )


def _asked(line: Posting) -> PostingView:
    return PostingView(line.debit, line.credit, line.amount, None, None, None)
