"""The two buses: a message's type decides who handles it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

from domain.messages import Command, Query

A = TypeVar("A")
R = TypeVar("R")


class CommandBus(Generic[A, R]):
    """Takes a command to the daybook. `kinds` names every command there is; `record` writes it down durably."""

    def __init__(self, kinds: Mapping[type[Command], str], record: Callable[[str, Command, A], Awaitable[R]]) -> None:
        self._kinds = kinds
        self._record = record

    async def dispatch(self, command: Command, address: A) -> R:
        """Records `command` for the actor that `address` names. What comes back is accepted, and will be applied."""
        return await self._record(self._kinds[type(command)], command, address)


class QueryBus(Generic[R]):
    """Takes a query to its handler."""

    def __init__(self, handlers: Mapping[type[Query], Callable[..., Awaitable[R]]]) -> None:
        self._handlers = handlers

    async def ask(self, query: Query) -> R:
        return await self._handlers[type(query)](query)
