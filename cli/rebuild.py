"""`daybook rebuild`: what is kept of ledgers is made again from their journals."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Annotated, Final

from cyclopts import Parameter
from redis.asyncio import Redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli import surroundings
from cli.audit import list_ledgers
from infrastructure.cache import CACHED
from infrastructure.postgres import open_pool
from infrastructure.projecting import project
from infrastructure.redis import open_redis
from infrastructure.settings import Settings

AT_ONCE: Final = 1_000
STATEMENT_MS: Final = 600_000
"""All of a large ledger is removed by one statement; and on a slow machine time passes between two of them, too."""


def rebuild(
    *,
    ledger: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
) -> None:
    """Make accounts, transactions, balances and grants again from the journal, which stays as it is.

    For when `daybook verify` finds that they differ from a journal that is right by itself. Each ledger is made again
    in one transaction: until that is done it is read as it was, and its commands wait. Schedules are left as they are.

    Parameters
    ----------
    ledger
        The ledger to make again.
    every
        All of them, one after the other.
    """
    if (ledger is None) is not every:
        print("Say which: --ledger NAME, or --all.", file=sys.stderr)
        sys.exit(2)
    done = asyncio.run(_rebuild(surroundings.load(), ledger))
    if not done and ledger is not None:
        print(f"There is no ledger {ledger}.", file=sys.stderr)
        sys.exit(2)
    for name, events in done:
        print(f"{name}: made again from {events:,} events.")
    print("daybook verify says whether all agrees now.")


async def _rebuild(chosen: Settings, ledger: str | None) -> list[tuple[str, int]]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    progress = Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True), transient=True)
    done = []
    redis = open_redis(chosen)
    patient = replace(chosen, statement_timeout_ms=STATEMENT_MS)
    pool = await open_pool(patient, application="rebuild", size=1, idle_ms=STATEMENT_MS, whole_tables=True)
    async with pool, pool.acquire() as db:
        with progress:
            for name, events in await list_ledgers(db, ledger):
                bar = progress.add_task(name, total=events)
                read = 0
                async with db.transaction():
                    async for lines in project(db, name):
                        read += lines
                        progress.update(bar, completed=read)
                await _forget_cached(redis, name)
                done.append((name, read))
    await redis.aclose()
    return done


async def _forget_cached(redis: Redis, ledger: str) -> None:
    """Answers that were made from what is gone. New ones may be put there meanwhile, made from what is right."""
    for pattern in CACHED:
        found = [key async for key in redis.scan_iter(pattern.format(ledger=ledger), count=AT_ONCE)]
        for start in range(0, len(found), AT_ONCE):
            await redis.unlink(*found[start : start + AT_ONCE])
