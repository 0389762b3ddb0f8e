"""Where each type of actor is kept: what turns, and those who only ask what a turn would do, look up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol, TypeAlias

from asyncpg import Record

from domain.decision import Link
from domain.messages import Recorded
from infrastructure.postgres import Db
from infrastructure.repositories import identity, ledger, widths


class Repository(Protocol):
    """Where a type of actor is kept. What `load` gives is what the others take.

    `append` may be called for one run of links after another; `save`, once, for all of them together.
    A turn that changes what others read `locks` it until its commit; who only looks does not.
    """

    async def load(self, db: Db, name: str, commands: Sequence[Recorded], /, *, locks: bool = True) -> Any: ...

    async def append(self, db: Db, state: Any, links: Sequence[Link], now: datetime, /) -> None: ...

    async def save(self, db: Db, state: Any, links: Sequence[Link], now: datetime, /) -> None: ...

    def views(self, state: Any, /) -> list[str]: ...


REPOSITORIES: Final[Mapping[str, Repository]] = {"ledger": ledger, "user": identity}

Fitting: TypeAlias = Callable[[Db, str, list[Record], int], Awaitable[widths.Fit]]
FITTING: Final[Mapping[str, Fitting]] = {"ledger": widths.fitting}
"""Cuts what a mailbox gave to what fits into a turn, for those types of actors whose commands may weigh more than they
look."""


def type_of(actor: str) -> str:
    """`ledger` or `user`."""
    return actor.partition(":")[0]


def id_of(actor: str) -> str:
    """The actor's id among those of its type."""
    return actor.partition(":")[2]
