"""What a turn decides, written while it decides on: so Postgres and this process work at the same time.

Only rows that are added, and outcomes, are written ahead; what changes (balances, the head) comes when all is decided.
The transaction is the turn's: whatever goes wrong later takes back what was written before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from domain.catalog import RULES
from domain.decision import Decision, Head, Link, Outcome, decide
from domain.messages import Recorded
from infrastructure import mailbox
from infrastructure.mailbox import Mark, Origin
from infrastructure.postgres import Db
from infrastructure.repositories.catalog import Repository

PART: Final = 32
"""Commands that are decided at a stretch: what is being written goes on in between."""
WRITTEN: Final = 128
"""Commands whose rows are written together at the least, but for a turn's last. Narrower turns write once."""


class Writing:
    """Decides the commands of one turn against `state`, on its connection."""

    def __init__(self, db: Db, repository: Repository, state: Any, now: datetime, mark: Mark, origin: Origin) -> None:
        self._db = db
        self._repository = repository
        self._state = state
        self._now = now
        self._attempts = max(1, mark.attempts)
        self._task = origin.task
        self._links: list[Link] = []
        self._outcomes: list[Outcome] = []
        self._begun = (0, 0)
        self._write: asyncio.Task[None] | None = None

    async def decide(self, head: Head, commands: Sequence[Recorded]) -> Decision:
        """The decision, once the rows that it adds are written. Leaves nothing running, whatever it raises."""
        try:
            for part in _parts(commands):
                decided = decide(self._state, head, part, self._now, RULES)
                self._links += decided.links
                self._outcomes += decided.outcomes
                head = decided.head
                if len(commands) > WRITTEN:
                    await self._go_on()
            if self._write is not None:
                await self._write
            await self._append(*self._rest())
        except BaseException:
            if self._write is not None:
                await asyncio.gather(self._write, return_exceptions=True)
            raise
        return Decision(self._links, self._outcomes, head)

    async def _go_on(self) -> None:
        """Lets what is being written go on, and begins with the next when that is done and there is enough."""
        await asyncio.sleep(0)
        if self._write is not None and not self._write.done():
            return
        if len(self._outcomes) - self._begun[1] >= WRITTEN:
            if self._write is not None:
                await self._write
            self._write = asyncio.create_task(self._append(*self._rest()))
            await asyncio.sleep(0)

    def _rest(self) -> tuple[Sequence[Link], Sequence[Outcome]]:
        links, outcomes = self._begun
        self._begun = (len(self._links), len(self._outcomes))
        return self._links[links:], self._outcomes[outcomes:]

    async def _append(self, links: Sequence[Link], outcomes: Sequence[Outcome]) -> None:
        if links:
            await mailbox.append_journal(self._db, links)
            await self._repository.append(self._db, self._state, links, self._now)
        if outcomes:
            await mailbox.finish(self._db, outcomes, self._now, self._attempts, self._task)


def _parts(commands: Sequence[Recorded]) -> Iterator[Sequence[Recorded]]:
    """The commands in runs of PART or a little more: an atomic entry stays together."""
    first = 0
    while first < len(commands):
        end = first + PART
        while end < len(commands) and commands[end].position == commands[end - 1].position:
            end += 1
        yield commands[first:end]
        first = end
