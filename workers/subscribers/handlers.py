"""In-process handlers: `@on(TransactionPosted)` makes a coroutine function a subscriber of its own.

    @on(TransactionPosted)
    async def notify(entry: Entry) -> None: ...

It gets every event of that type of every actor, in order for each actor, at least once, from the first one ever
recorded on. Its position is its own: when it raises, it alone waits and is tried again. Modules with handlers are named
by `DAYBOOK_HANDLERS`; the workers load them.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Final, TypeVar

from domain.messages import Entry, Event
from infrastructure.journal import Line, read_entry, read_label
from workers.delivery import Interrupted

PREFIX: Final = "handler:"
ENOUGH_S: Final = 10.0
"""Seconds after which what a handler has done is noted before it goes on."""

Handler = Callable[[Entry], Awaitable[None]]
H = TypeVar("H", bound=Handler)


class HandlerSubscriber:
    """Calls one function for every event of its types."""

    def __init__(self, handler: Handler, types: Iterable[type[Event]]) -> None:
        self._handler = handler
        self._types = frozenset(event.__name__ for event in types)

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        until = time.monotonic() + ENOUGH_S
        for taken, line in enumerate(lines, start=1):
            if read_label(line.event).type in self._types:
                try:
                    await self._handler(read_entry(line.event))
                except Exception as error:
                    raise Interrupted(line.seq - 1) from error
                if time.monotonic() > until:
                    return taken
        return len(lines)

    async def close(self) -> None:
        """Nothing is held."""


_registered: dict[str, HandlerSubscriber] = {}


def on(*types: type[Event]) -> Callable[[H], H]:
    """Registers a coroutine function for events of these types, as the subscriber `handler:{module}.{name}`.

    Raises TypeError for anything but a coroutine function, ValueError for a second one of the same name.
    """

    def register(handler: H) -> H:
        name = f"{PREFIX}{handler.__module__}.{handler.__qualname__}"
        if not _is_coroutine_function(handler):
            raise TypeError(f"{name} must be a coroutine function: async def")
        if name in _registered:
            raise ValueError(f"{name} is registered already")
        _registered[name] = HandlerSubscriber(handler, types)
        return handler

    return register


def _is_coroutine_function(handler: object) -> bool:
    return iscoroutinefunction(handler)


def load(modules: Iterable[str]) -> dict[str, HandlerSubscriber]:
    """Imports the modules and answers the handlers that they registered, by subscriber name. Raises ImportError."""
    found: dict[str, HandlerSubscriber] = {}
    for module in modules:
        import_module(module)
        start = f"{PREFIX}{module}."
        found |= {name: handler for name, handler in _registered.items() if name.startswith(start)}
    return found
