"""A worker to be killed: takes turns until the mailbox is empty. Run with a database's address and an actor.

A transaction described as `kill` kills the process while it is decided, as the kernel does when memory runs out; one
described as `wait` writes a line and waits, for somebody else to kill it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from domain.catalog import HANDLERS
from domain.ledger.commands import PostTransaction
from domain.messages import Event
from infrastructure.cache import Span
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings, parse
from workers.turn import Turns


@asynccontextmanager
async def open_turns(
    settings: Settings, notices: Any, bells: Any, ring: Callable[[str, str, int], None]
) -> AsyncIterator[Turns]:
    """Turns as a worker process has them."""
    async with (
        await open_pool(settings, application="worker", size=8, least=0) as work,
        await open_pool(settings, application="mark", size=2, least=0, synchronous_commit="off") as marks,
    ):
        yield Turns(work, marks, notices, bells, settings, ("kafka", "redis"), ring)


class Silent:
    """Notices that nobody hears, and bells that nobody rings."""

    async def begin(self, actor: str, views: Sequence[str], turn: UUID) -> None: ...

    async def announce(self, actor: str, views: Sequence[str], turn: UUID, span: Span) -> None: ...

    @asynccontextmanager
    async def kept(self, actor: str) -> AsyncIterator[None]:
        yield

    async def answer(self, actor: str) -> None: ...


_decide = HANDLERS[PostTransaction]


def deadly(command: PostTransaction, *others: Any) -> list[Event]:
    if command.description == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if command.description == "wait":
        print("deciding", flush=True)
        sys.stdin.read()
    return _decide(command, *others)


async def main(database_url: str, actor: str) -> None:
    nowhere = {"DAYBOOK_REDIS_URL": "redis://127.0.0.1:1", "DAYBOOK_KAFKA_SERVERS": "127.0.0.1:1"}
    settings = parse({"DAYBOOK_DATABASE_URL": database_url, "DAYBOOK_SECRET_KEY": "s" * 48, **nowhere})
    async with open_turns(settings, Silent(), Silent(), lambda *_: None) as turns:
        while await turns.work(actor):
            pass


if __name__ == "__main__":
    HANDLERS[PostTransaction] = deadly  # type: ignore[index]
    asyncio.run(main(*sys.argv[1:]))
