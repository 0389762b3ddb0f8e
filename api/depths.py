"""How many commands wait for each actor, near enough to refuse more in time.

Each process counts what it accepts itself on top of the last count it made in Postgres, and counts anew long before its
own share of what is left is used up. So processes together overshoot a little, and an idle mailbox costs no counting.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from domain.errors import InfrastructureError

RECOUNT_S: Final = 0.25
"""A mailbox that was found full is counted again after so long, not sooner."""
SHARE: Final = 8
"""A process accepts this part of the room that it last saw, then counts again."""
MOST_ACTORS: Final = 20_000


class _Mailbox:
    __slots__ = ("counted", "counted_at", "since")

    def __init__(self) -> None:
        self.counted = 0
        self.counted_at = 0.0
        self.since = 0


class Depths:
    """The mailboxes that this process accepts commands for. `count(actor, most)` counts one, up to `most`."""

    def __init__(self, limit: int, count: Callable[[str, int], Awaitable[int]]) -> None:
        self._limit = limit
        self._count = count
        self._mailboxes: OrderedDict[str, _Mailbox] = OrderedDict()

    async def admit(self, actor: str, commands: int) -> None:
        """Makes room for `commands` more. Raises InfrastructureError (503 `mailbox_full`) when there is none."""
        mailbox = self._mailboxes.get(actor)
        if mailbox is None:
            mailbox = self._mailboxes[actor] = _Mailbox()
            if len(self._mailboxes) > MOST_ACTORS:
                self._mailboxes.popitem(last=False)
        self._mailboxes.move_to_end(actor)
        if self._must_count(mailbox, commands):
            mailbox.counted_at = time.monotonic()
            mailbox.counted = await self._count(actor, self._limit + 1)
            mailbox.since = 0
        if mailbox.counted + mailbox.since + commands > self._limit:
            raise InfrastructureError(
                f"{actor.partition(':')[2]} has {mailbox.counted + mailbox.since} commands waiting.", "mailbox_full"
            )
        mailbox.since += commands

    def _must_count(self, mailbox: _Mailbox, commands: int) -> bool:
        if mailbox.counted_at == 0.0:
            return True
        room = self._limit - mailbox.counted
        if mailbox.since + commands <= room // SHARE:
            return False
        return room // SHARE > 0 or time.monotonic() - mailbox.counted_at >= RECOUNT_S
