"""A turn: lock one actor, take the next commands of its mailbox, decide them in memory, write everything at once.

A command that breaks the turn (an exception, a kill, a time limit) must hurt only itself. So before deciding, a turn
commits a mark on a second connection, and its own commit takes the mark away. The next turn that finds a mark still
`running` takes half as many commands, down to one; a command alone that has broken `turn_attempts` turns becomes a dead
letter without being run again. The mark remembers how far the suspects reach, so that the search stays a bisection
after the half without the culprit has gone through.

What goes wrong outside is no command's fault. But one that alone in its turn runs out of time again and again would
stop its actor for good: after LATE_ATTEMPTS it is a dead letter, too.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from uuid_utils.compat import uuid7

from domain.decision import Decision, Head
from domain.messages import Recorded, Refusal
from infrastructure import mailbox, postgres
from infrastructure.bells import Ahead, Bells
from infrastructure.cache import NOTHING, Span
from infrastructure.mailbox import Locked, Mark, Origin
from infrastructure.metrics import TURNS, meter
from infrastructure.postgres import OUTSIDE, Db
from infrastructure.repositories import identity as identities
from infrastructure.repositories.catalog import FITTING, REPOSITORIES, id_of, type_of
from infrastructure.settings import Settings
from workers.notices import Notices
from workers.writing import Writing

log = structlog.get_logger(__name__)

FAILED: Final = Refusal("command_failed", "The command broke its turn each time it was run, and was set aside.")
TOO_WIDE: Final = Refusal(
    "command_failed", "The batch names transactions of too many postings for one turn: send it in several."
)
LATE_ATTEMPTS: Final = 20
"""Runs of an entry, alone in its turn, that end by a time limit before it is a dead letter. They take some minutes at
least: a server that is slow for a while is nobody's fault."""
MOST_WEIGHT: Final = 200_000
"""Postings of an atomic entry with those that it names. More were refused on receipt, unless what it names could not be
seen then."""
MOST_LOGGED: Final = 100
"""Correlation ids in a turn's line; the journal has them all."""
FULL: Final = 50
GATHER_S: Final = 0.02
"""Between the turns of one busy actor: with fewer commands waiting than FULL, more are let gather for so long. Every
turn has the same fixed cost, whatever it takes. An actor's first turn is never held up, and nothing is let gather while
others wait for a worker."""
CROWD: Final = 16
GATHERINGS: Final = 2
"""A turn for so many requests is followed by so many gatherings at the most, until as many commands wait again: those
who send as soon as they are answered are all back by then. And its worker stays, since coming back costs more than
waiting."""
ACQUIT_PAUSES_S: Final = (0.1, 0.5, 1, 2, 4, 8)


Discard = Callable[[Db, str, Collection[UUID]], Awaitable[list[str]]]
DISCARDS: Final[Mapping[str, Discard]] = {"user": identities.discard}
"""Takes back what came beside commands that are not applied, for those types of actors where anything does."""


async def _nobody(_actor: str) -> Ahead:
    return Ahead()


class Result(Enum):
    """How a turn ended."""

    BUSY = "busy"
    """Somebody else holds the actor, or there is no such actor."""
    EMPTY = "empty"
    """Nothing was pending."""
    DONE = "done"
    """Commands were applied or set aside; there may be more."""
    BROKEN = "broken"
    """A command broke it. Its mark is left for the next turn to be narrower."""


class BrokenTurn(Exception):
    """One of the turn's commands can't be decided or written; the cause says why."""


class Taken(NamedTuple):
    """A turn, and how many requests its commands came from."""

    result: Result
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """What a turn did: how many commands of a kind came to a status, on whose behalf, and which views it made old."""

    outcomes: Mapping[tuple[str, str], int]
    correlation_ids: Sequence[str]
    views: Sequence[str] = ()
    span: Span = NOTHING


@dataclass(frozen=True, slots=True)
class Turns:
    """What the turns of a process share: connections for work and, apart from them, for marks."""

    work_pool: asyncpg.Pool[Record]
    mark_pool: asyncpg.Pool[Record]
    notices: Notices
    bells: Bells
    settings: Settings
    subscribers: Sequence[str]
    ring_delivery: Callable[[str, str, int], None]
    origin: Callable[[], Origin] = Origin
    ahead: Callable[[str], Awaitable[Ahead]] = _nobody
    """Who waits for the worker that has come for an actor."""

    async def work(self, actor: str) -> bool:
        """Takes turns until the mailbox is empty. True: there is more, but others come first, so ring again.

        After the last turn, lock released and bell answered, it looks once more: whoever rang before was told that
        somebody is there, and nobody else will come.
        """
        comes = False
        try:
            async with self.bells.kept(actor):
                comes = await self._stay(actor)
        finally:
            if not comes:
                await self.bells.answer(actor)
        return not comes and await self._waiting(actor) > 0

    async def _stay(self, actor: str) -> bool:
        """Takes turns while more comes, time is not up and nobody else waits for a worker.

        True: somebody is with the actor, or comes by a message that is on its way, and will answer the bell and look.
        """
        until = time.monotonic() + self.settings.turn_time_ms / 1000
        while time.monotonic() < until:
            taken = await self.take(actor)
            if taken.result is Result.BUSY:
                return True
            waiting = await self._waiting(actor)
            if not waiting and taken.requests < CROWD:
                break
            ahead = await self.ahead(actor)
            if ahead.others:
                return ahead.itself
            if not await self._gather(actor, taken.requests, waiting):
                break
        return False

    async def _gather(self, actor: str, last: int, waiting: int) -> int:
        """How many commands wait, at most FULL, having let more join them than there are at once."""
        if last < CROWD:
            if waiting < FULL:
                await asyncio.sleep(GATHER_S)
            return waiting
        for _ in range(GATHERINGS):
            if waiting >= min(last, FULL):
                break
            await asyncio.sleep(GATHER_S)
            waiting = await self._waiting(actor)
        return waiting

    async def _waiting(self, actor: str) -> int:
        return await mailbox.waiting(self.work_pool, actor, FULL)

    async def take(self, actor: str) -> Taken:
        """Takes one turn.

        Raises what went wrong outside (a lost connection, a full disk), having taken the mark back: that is no
        command's fault, and the actor is rung again later.
        """
        turn = uuid7()
        started = time.perf_counter()
        taken = await self._attempt(actor, turn)
        if not isinstance(taken, Finished):
            return Taken(taken)
        seconds, requests = time.perf_counter() - started, dict.fromkeys(taken.correlation_ids)
        meter.turn_finished(type_of(actor), seconds, Result.DONE.value, taken.outcomes)
        await self.notices.announce(actor, taken.views, turn, taken.span)
        for subscriber in self.subscribers:
            self.ring_delivery(subscriber, actor, taken.span.upto - taken.span.before)
        log.info(
            "turn",
            actor=actor,
            commands=sum(taken.outcomes.values()),
            ms=round(seconds * 1000, 2),
            correlation_ids=list(islice(requests, MOST_LOGGED)),
        )
        return Taken(Result.DONE, len(requests))

    async def _attempt(self, actor: str, turn: UUID) -> Result | Finished:
        began = time.monotonic()
        try:
            async with self.work_pool.acquire() as db, db.transaction():
                return await self._take(db, actor, turn)
        except BrokenTurn as broken:
            log.error("turn_broken", actor=actor, exc_info=broken.__cause__)
            meter.count(TURNS, type_of(actor), Result.BROKEN.value)
            return Result.BROKEN
        except OUTSIDE as error:
            # nobody's fault, but perhaps too much at once: what ran out of time is tried with half as many
            await self._acquit(actor, turn, late=_ran_out_of_time(error, time.monotonic() - began))
            raise

    async def _take(self, db: Db, actor: str, turn: UUID) -> Result | Finished:
        locked = await mailbox.lock(db, actor)
        if locked is None:
            return Result.BUSY
        mark = await mailbox.find_mark(db, actor)
        rows, first = await self._next(db, actor, self._width(mark))
        if not rows:
            await mailbox.clear_mark(db, actor)
            return Result.EMPTY
        if first > MOST_WEIGHT:
            entry = [row for row in rows if row["position"] == rows[0]["position"]]
            return await self._bury(db, actor, entry, 0, TOO_WIDE)
        if mark is not None and self._is_spent(mark, rows[0]):
            return await self._bury(db, actor, rows, mark.attempts + mark.late, FAILED)
        return await self._apply(db, locked, mark, turn, rows)

    async def _next(self, db: Db, actor: str, width: int) -> tuple[list[Record], int]:
        """The commands of the turn, and what the first entry of them weighs."""
        most = self.settings.turn_postings
        rows = await mailbox.pending(db, actor, width, most)
        fitting = FITTING.get(type_of(actor))
        if fitting is None or not rows:
            return rows, 0
        return await fitting(db, id_of(actor), rows, most)

    def _width(self, mark: Mark | None) -> int:
        if mark is None:
            return self.settings.turn_commands
        return max(1, mark.width // 2) if mark.running else mark.width

    def _is_spent(self, mark: Mark, first: Record) -> bool:
        alone = mark.width == 1 and mark.suspect_position == first["position"]
        broken = mark.running and mark.attempts >= self.settings.turn_attempts
        return alone and (broken or mark.late >= LATE_ATTEMPTS)

    async def _bury(self, db: Db, actor: str, rows: Sequence[Record], attempts: int, refusal: Refusal) -> Finished:
        """Sets aside the one entry that `rows` are."""
        commands = [row["id"] for row in rows]
        await mailbox.bury(db, commands, attempts, refusal, self.origin().task)
        await mailbox.clear_mark(db, actor)
        discard = DISCARDS.get(type_of(actor))
        touched = [] if discard is None else await discard(db, id_of(actor), commands)
        log.error(
            "dead_letter",
            actor=actor,
            command=str(commands[0]),
            commands=len(commands),
            kind=rows[0]["kind"],
            attempts=attempts,
            correlation_id=rows[0]["correlation_id"],
        )
        return Finished(Counter((row["kind"], "failed") for row in rows), (rows[0]["correlation_id"],), touched)

    async def _apply(self, db: Db, locked: Locked, mark: Mark | None, turn: UUID, rows: Sequence[Record]) -> Finished:
        actor = locked.head.actor
        fresh = _mark_of(turn, rows, mark)
        await mailbox.set_mark(self.mark_pool, actor, fresh)
        with _blaming_commands():
            commands = [mailbox.decoded(row) for row in rows]
            repository = REPOSITORIES[type_of(actor)]
            state = await repository.load(db, id_of(actor), commands)
            now = max(locked.now, rows[-1]["accepted_at"])
            writing = Writing(db, repository, state, now, fresh, self.origin())
            decision = await writing.decide(locked.head, commands)
            touched = repository.views(state)
            await both(
                self._flush(db, locked.head, state, decision, now, fresh),
                self.notices.begin(actor, touched, turn),
            )
        if mark is not None and mark.suspect_position > fresh.suspect_position:
            await mailbox.narrow_mark(db, actor, max(1, fresh.width // 2), mark.suspect_position)
        else:
            await mailbox.clear_mark(db, actor)
        span = Span(locked.head.epoch, locked.head.seq, decision.head.seq)
        return Finished(_tally(commands, decision), [recorded.correlation_id for recorded in commands], touched, span)

    async def _flush(self, db: Db, before: Head, state: Any, decision: Decision, now: datetime, mark: Mark) -> None:
        kind, origin = type_of(before.actor), self.origin()
        if decision.links:
            await REPOSITORIES[kind].save(db, state, decision.links, now)
            await mailbox.advance(db, before, decision, now, mark.turn, origin)
        if (discard := DISCARDS.get(kind)) is not None:
            refused = [outcome.command for outcome in decision.outcomes if outcome.refusal is not None]
            await discard(db, id_of(before.actor), refused)

    async def _acquit(self, actor: str, turn: UUID, *, late: bool) -> None:
        """Takes the mark back as soon as Postgres answers again; if it does not, the turn counts as broken."""
        for pause_s in ACQUIT_PAUSES_S:
            try:
                await mailbox.acquit(self.mark_pool, actor, turn, late=late)
                return
            except OUTSIDE:
                await asyncio.sleep(pause_s)
        log.warning("mark_left", actor=actor, turn=str(turn))


@contextmanager
def _blaming_commands() -> Iterator[None]:
    """Tells what is the commands' fault from what went wrong outside: see rule 5 of the design."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "")[:2] in ("22", "23"):
            raise BrokenTurn from error
        raise
    except ValueError as error:
        # before OUTSIDE: a value that asyncpg can't encode is an InterfaceError, too
        raise BrokenTurn from error
    except OUTSIDE:
        raise
    except Exception as error:
        raise BrokenTurn from error


def _mark_of(turn: UUID, rows: Sequence[Record], before: Mark | None) -> Mark:
    """The mark of a turn over `rows`: only an entry alone in its turn can be sure to have broken it.

    An atomic entry counts for one, however many commands it has.
    """
    last = rows[-1]["position"]
    width = len(rows) if rows[0]["position"] != last or len(rows) == 1 else 1
    again = before is not None and width == 1 and before.width == 1 and before.suspect_position == last
    attempts = before.attempts + 1 if before is not None and again else 1
    return Mark(turn, width, attempts, last, True, before.late if before is not None and again else 0)


def _ran_out_of_time(error: Exception, seconds: float) -> bool:
    """Postgres ends statements that take too long, and connections whose turn thinks for too long."""
    if isinstance(error, (TimeoutError, asyncpg.QueryCanceledError)):
        return True
    return seconds * 1000 >= postgres.IDLE_IN_TRANSACTION_MS


def _tally(commands: Sequence[Recorded], decision: Decision) -> Mapping[tuple[str, str], int]:
    return Counter(
        (recorded.kind, "succeeded" if outcome.refusal is None else "rejected")
        for recorded, outcome in zip(commands, decision.outcomes, strict=True)
    )


async def both(first: Awaitable[None], second: Awaitable[None]) -> None:
    """Awaits both to their ends, then raises what the first, else the second, raised.

    Unlike a bare gather it leaves nothing running on a connection that the caller is about to roll back.
    """
    for result in await asyncio.gather(first, second, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
