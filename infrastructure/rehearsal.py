"""What a turn would do with commands, found out without one: nothing is locked, and nothing is written.

One read-only snapshot has the actor, what its commands touch, and what waits in its mailbox. That is decided first, in
memory and by the turn's own code, so that whatever was accepted before counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record

from domain.catalog import KIND_OF, RULES
from domain.clock import format_time
from domain.decision import GENESIS, Head, Outcome, decide
from domain.errors import DomainError, Fault, InfrastructureError, ValidationError
from domain.ledger.commands import UpdateTransaction
from domain.ledger.handlers import touches, weight
from domain.ledger.model import Account, Ledger, Touches
from domain.messages import Command, Recorded
from infrastructure import mailbox
from infrastructure.postgres import Db
from infrastructure.read_models import AccountView
from infrastructure.repositories import widths
from infrastructure.repositories.catalog import FITTING, REPOSITORIES, id_of, type_of
from infrastructure.repositories.widths import Weighed

MOST_AHEAD: Final = 1_000
MOST_POSTINGS_AHEAD: Final = 10_000
"""How much may wait in the mailbox. Behind more of it nobody can tell in a moment what will be."""
MOST_POSTINGS_ASKED: Final = 50_000
"""How much may be asked about at once, with the transactions that are named: it is decided here, beside requests."""
TOO_MUCH: Final = "Too much is waiting to be applied first."
BEHIND_ALL: Final = 1 << 62
"""The first position of what is only asked about."""
ACQUIRE_S: Final = 5

STANDING: Final = """
SELECT clock.now, actors.epoch, actors.seq, actors.head, greatest(clock.now, actors.recorded_at) AS recorded_at
FROM (SELECT clock_timestamp() AS now) AS clock LEFT JOIN actors ON actors.actor = $1
"""

AHEAD: Final = """
SELECT count(*) AS commands, coalesce(sum(weight), 0) AS postings
FROM (SELECT weight FROM commands WHERE actor = $1 AND status = 'accepted' LIMIT $2) AS waiting
"""

RESERVED: Final = "SELECT EXISTS (SELECT FROM ledger_reservations WHERE ledger = $1)"


class Wanted(msgspec.Struct, frozen=True):
    """A command that is asked about, and the id that it would have."""

    id: UUID
    command: Command


class Request(msgspec.Struct, frozen=True):
    """What is asked: commands of one principal to one actor. `reserves` is the id of the ledger that one creates."""

    actor: str
    principal: UUID
    correlation_id: str
    wanted: Sequence[Wanted]
    atomic: bool = False
    reserves: str | None = None


class Rehearsal(msgspec.Struct, frozen=True):
    """What would become of the commands, and the accounts that they touch as they would be then, by name."""

    outcomes: list[Outcome]
    accounts: list[AccountView]


async def rehearse(pool: asyncpg.Pool[Record], request: Request) -> Rehearsal:
    """Decides the commands behind all that waits.

    Raises DomainError (409 `ledger_exists`, 422 for too much), or InfrastructureError (503) where too much waits to be
    told apart.
    """
    async with pool.acquire(timeout=ACQUIRE_S) as db, db.transaction(isolation="repeatable_read", readonly=True):
        if request.reserves is not None and await db.fetchval(RESERVED, request.reserves):
            raise DomainError("ledger_exists", f"There is a ledger {request.reserves} already.")
        standing = await _standing(db, request.actor)
        ahead = await _ahead(db, request.actor)
        await _bound(db, request)
        asked = _recorded(request, standing.now)
        repository = REPOSITORIES[type_of(request.actor)]
        state = await repository.load(db, id_of(request.actor), [*ahead, *asked], locks=False)
    # a thousand commands take a while: the event loop goes on meanwhile
    outcomes = await asyncio.to_thread(_decide, state, standing, ahead, asked)
    return Rehearsal(outcomes, _touched(state, asked))


async def _ahead(db: Db, actor: str) -> list[Recorded]:
    """What waits in the mailbox. Raises InfrastructureError if that is too much."""
    (waiting,) = await db.fetch(AHEAD, actor, MOST_AHEAD + 1)
    if waiting["commands"] > MOST_AHEAD or waiting["postings"] > MOST_POSTINGS_AHEAD:
        raise InfrastructureError(TOO_MUCH)
    rows = await mailbox.pending(db, actor, MOST_AHEAD, MOST_POSTINGS_AHEAD) if waiting["commands"] else []
    fitting = FITTING.get(type_of(actor))
    if rows and fitting is not None:
        fit = await fitting(db, id_of(actor), rows, MOST_POSTINGS_AHEAD)
        # what comes first fits in any case
        if len(fit.rows) < len(rows) or fit.first > MOST_POSTINGS_AHEAD:
            raise InfrastructureError(TOO_MUCH)
    return [mailbox.decoded(row) for row in rows]


async def _bound(db: Db, request: Request) -> None:
    if type_of(request.actor) != "ledger":
        return
    commands = [_weighed(wanted) for wanted in request.wanted]
    if sum(await widths.weigh(db, id_of(request.actor), commands, MOST_POSTINGS_ASKED)) > MOST_POSTINGS_ASKED:
        most = f"must have and name at most {MOST_POSTINGS_ASKED} postings to be validated only"
        raise ValidationError("1 error", (Fault("#/commands", most),))


def _weighed(wanted: Wanted) -> Weighed:
    kind = KIND_OF[type(wanted.command)]
    named: UUID | None = getattr(wanted.command, "transaction", None) if kind in widths.NAMING else None
    return Weighed(wanted.id, kind, weight(wanted.command), named)


class _Standing(msgspec.Struct, frozen=True):
    """Where the actor's journal ends, by the clock what time it is, and the time of what is recorded next."""

    head: Head
    now: datetime
    recorded_at: datetime


async def _standing(db: Db, actor: str) -> _Standing:
    (row,) = await db.fetch(STANDING, actor)
    # who is only about to be made has no row yet
    head = Head(actor, 1, 0, GENESIS) if row["seq"] is None else Head(actor, row["epoch"], row["seq"], row["head"])
    return _Standing(head, row["now"], row["recorded_at"])


def _recorded(request: Request, now: datetime) -> list[Recorded]:
    return [
        Recorded(
            wanted.id,
            BEHIND_ALL + (0 if request.atomic else number),
            KIND_OF[type(wanted.command)],
            wanted.command,
            request.principal,
            request.correlation_id,
            now,
            number if request.atomic else None,
        )
        for number, wanted in enumerate(request.wanted)
    ]


def _decide(state: Any, standing: _Standing, ahead: Sequence[Recorded], asked: Sequence[Recorded]) -> list[Outcome]:
    moment = standing.recorded_at
    try:
        head = decide(state, standing.head, ahead, moment, RULES).head
    except Exception as error:
        # one of them will break its turn and be set aside: until then it can't be told what comes behind it
        raise InfrastructureError("What is waiting to be applied first can't be told.") from error
    return decide(state, head, asked, moment, RULES).outcomes


def _touched(state: Any, asked: Sequence[Recorded]) -> list[AccountView]:
    if not isinstance(state, Ledger):
        return []
    needed = Touches.none()
    for recorded in asked:
        # metadata of a transaction is nothing to its accounts
        if not isinstance(recorded.command, UpdateTransaction):
            touches(recorded.command, needed)
    for transaction in needed.transactions & state.transactions.keys():
        for line in state.transactions[transaction].lines:
            needed.accounts.update((line.debit, line.credit))
    names = sorted(needed.accounts & state.accounts.keys())
    return [_view(state.id, state.accounts[name]) for name in names]


def _view(ledger: str, account: Account) -> AccountView:
    money = account.money
    return AccountView(
        ledger=ledger,
        name=account.name,
        currency=account.currency,
        type=account.type,
        normal_balance="debit" if account.debit_normal else "credit",
        status=account.status,
        min_balance=None if account.min_balance is None else money(account.min_balance),
        max_balance=None if account.max_balance is None else money(account.max_balance),
        posted_debits=money(account.posted_debits),
        posted_credits=money(account.posted_credits),
        pending_debits=money(account.pending_debits),
        pending_credits=money(account.pending_credits),
        balance=money(account.balance),
        available=money(account.available),
        metadata=account.metadata,
        opened_at=format_time(account.opened_at),
        version=account.version,
    )
