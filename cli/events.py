"""`daybook events`: publish events again, see how far subscribers are behind, remove one that is gone."""

from __future__ import annotations

import asyncio
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Final

from asyncpg import Pool, Record
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli import surroundings
from infrastructure import journal
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from tasks.doorbell import Doorbell

app = App(name="events", help="Publish events again; see how far subscribers are behind.")

REMAINING: Final = """
SELECT coalesce(sum(greatest(head - position, 0)), 0)::bigint FROM behind
WHERE subscriber = $1 AND ($2::text IS NULL OR actor = $2)
"""
_LOOK_S: Final = 0.2


@app.command
def lag() -> None:
    """Show how many events each subscriber lacks, and how old they are."""
    asyncio.run(_lag(surroundings.load()))


@app.command
def replay(
    *,
    subscriber: str,
    actor: str | None = None,
    all_actors: Annotated[bool, Parameter(name="--all", negative="")] = False,
    from_seq: Annotated[int, Parameter(validator=lambda _, seq: _check_seq(seq))] = 1,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    wait: bool = True,
) -> None:
    """Publish events again: the same bytes and ids, in order, beginning at a seq.

    Parameters
    ----------
    subscriber
        Who is to get them: `kafka`, `redis` or `handler:{module}.{name}`.
    actor
        Whose events, such as `ledger:acme`.
    all_actors
        Those of every actor.
    from_seq
        The first event's seq.
    dry_run
        Only say how many events of how many actors that would be.
    wait
        Stay, with a progress bar, until they are delivered. The replay goes on without this, too.
    """
    if (actor is None) is not all_actors:
        sys.exit("Say which: --actor ledger:acme, or --all.")
    asyncio.run(_replay(surroundings.load(), subscriber, actor, from_seq, dry_run=dry_run, wait=wait))


@app.command
def forget(subscriber: str) -> None:
    """Remove a handler that is no longer there, and its positions. If it comes back it begins at the first event."""
    asyncio.run(_forget(surroundings.load(), subscriber))


def _check_seq(seq: int) -> None:
    if seq < 1:
        raise ValueError("The first seq is 1.")


async def _lag(chosen: Settings) -> None:
    table = Table("subscriber", "events behind", "actors", "oldest", "failing", "last error")
    async with await open_pool(chosen, application="events", size=1) as pool:
        for one in await journal.lag(pool):
            age = f"{one.oldest_s:.1f} s" if one.actors else "-"
            table.add_row(
                one.subscriber, f"{one.events:,}", f"{one.actors:,}", age, f"{one.failing:,}", one.error or "-"
            )
    Console().print(table)


async def _replay(
    chosen: Settings, subscriber: str, actor: str | None, from_seq: int, *, dry_run: bool, wait: bool
) -> None:
    async with await open_pool(chosen, application="events", size=2) as pool:
        known = [one.subscriber for one in await journal.lag(pool)]
        if subscriber not in known:
            sys.exit(f"There is no subscriber {subscriber}; there are: {', '.join(known) or 'none yet'}.")
        actors = events = 0
        with closing(_open_bell(chosen)) as bell:
            async for found in journal.set_back(pool, subscriber, from_seq=from_seq, actor=actor, dry_run=dry_run):
                actors, events = actors + len(found), events + sum(found.values())
                for name in () if dry_run else found:
                    bell.ring_delivery(subscriber, name)
        what = f"{events:,} events of {actors:,} actor{'' if actors == 1 else 's'} to {subscriber}"
        if dry_run or not events:
            print(f"Would publish {what}." if dry_run else "There is nothing to publish.")
            return
        print(f"Publishing {what}.")
        if wait:
            await _watch(pool, subscriber, actor, events)


def _open_bell(chosen: Settings) -> Doorbell:
    # Not before it is wanted: Celery's application reads the environment when it is imported.
    from tasks.doorbell import Doorbell

    return Doorbell(chosen)


async def _watch(pool: Pool[Record], subscriber: str, actor: str | None, events: int) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task, most = progress.add_task(subscriber, total=events), events
        while True:
            left = await pool.fetchval(REMAINING, subscriber, actor)
            most = max(most, left)
            progress.update(task, total=most, completed=most - left)
            if not left:
                return
            await asyncio.sleep(_LOOK_S)


async def _forget(chosen: Settings, subscriber: str) -> None:
    if not subscriber.startswith("handler:"):
        sys.exit("Only handlers can be removed.")
    async with await open_pool(chosen, application="events", size=1) as pool, pool.acquire() as db:
        if not await journal.forget_subscriber(db, subscriber):
            sys.exit(f"There is no subscriber {subscriber}.")
    print(f"Removed {subscriber}.")
