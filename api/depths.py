"""How many commands wait for each actor, near enough to refuse more in time.

Each process counts what it accepts itself on top of the last count it made in Postgres, and counts anew long before its
own share of what is left is used up. So processes together overshoot a little, and an idle mailbox costs no counting.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from domain.errors import InfrastructureError

PAUSE: Final = 20
"""A mailbox that was found full is counted again after so many times as long as counting took."""
SHARE: Final = 8
"""A process accepts this part of the room that it last saw, then counts again."""
MOST_ACTORS: Final = 20_000


class _Mailbox:
    """`since`: what this process let in that the count may not include; `on_the_way`: what is not written down yet."""

    __slots__ = ("again_at", "counted", "counting", "on_the_way", "since")

    def __init__(self) -> None:
        self.again_at = 0.0
        self.counted = 0
        self.counting = asyncio.Lock()
        self.on_the_way = 0
        self.since = 0


class Depths:
    """The mailboxes that this process accepts commands for. `count(actor, most)` counts one, up to `most`."""

    def __init__(self, limit: int, count: Callable[[str, int], Awaitable[int]]) -> None:
        self._limit = limit
        self._count = count
        self._mailboxes: OrderedDict[str, _Mailbox] = OrderedDict()

    async def admit(self, actor: str, commands: int) -> None:
        """Makes room for `commands` more, on their way until `settle` is called.

        Raises InfrastructureError (503 `mailbox_full`) when there is none.
        """
        mailbox = self._mailbox(actor)
        if self._must_count(mailbox, commands):
            async with mailbox.counting:
                # somebody may have counted while this one waited for the lock
                if self._must_count(mailbox, commands):
                    await self._recount(actor, mailbox)
        waiting = mailbox.counted + mailbox.since
        if waiting + commands > self._limit:
            raise InfrastructureError(f"{waiting} commands are waiting for {actor}.", "mailbox_full")
        mailbox.since += commands
        mailbox.on_the_way += commands

    def settle(self, actor: str, commands: int) -> None:
        """What was admitted is written down now, or never will be."""
        mailbox = self._mailboxes.get(actor)
        if mailbox is not None:
            mailbox.on_the_way = max(0, mailbox.on_the_way - commands)

    def _mailbox(self, actor: str) -> _Mailbox:
        mailbox = self._mailboxes.get(actor)
        if mailbox is None:
            mailbox = self._mailboxes[actor] = _Mailbox()
            if len(self._mailboxes) > MOST_ACTORS:
                self._mailboxes.popitem(last=False)
        self._mailboxes.move_to_end(actor)
        return mailbox

    def _must_count(self, mailbox: _Mailbox, commands: int) -> bool:
        if mailbox.again_at == 0.0:
            return True
        share = (self._limit - mailbox.counted) // SHARE
        if mailbox.since + commands <= share:
            return False
        return share > 0 or time.monotonic() >= mailbox.again_at

    async def _recount(self, actor: str, mailbox: _Mailbox) -> None:
        begun = time.monotonic()
        mailbox.since = mailbox.on_the_way
        mailbox.counted = await self._count(actor, self._limit + 1)
        ended = time.monotonic()
        mailbox.again_at = ended + PAUSE * (ended - begun)
