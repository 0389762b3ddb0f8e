"""The routes of the application as operations: a method, a path, and what the route's decorator declares of itself.

A route may carry `body=` (the type of its request), `lines=` (the type of a line, where that is another way to send
it), `query=` (names of its parameters), `choices=` (the values that some of those can have), `answers=` (status →
type), `media=` (what it answers with, if not JSON), `command=True` (it takes an idempotency key, and can be asked with
`validate_only`), `awaitable=True` (it takes `Prefer: wait`, as every command does), `keyed=True` (it takes an
idempotency key, without being a command), `versioned=True` (its answers have an ETag), `keys=` (scopes of which an API
key needs one; none is that the route is closed to keys, and where nothing is said it is open below `/v1/ledgers`
alone), `codes=` and `refusals=` (see `api.outcomes`). Summaries come from `summary=` or the docstring.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Final, get_args, get_type_hints

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from api.jobs import JobView
from api.rehearsals import PARAMETER
from api.targets import target_of

_PLACEHOLDER: Final = re.compile(r"\{(\w+)(:\w+)?\}")
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Operation:
    """One method of one path."""

    def __init__(self, path: str, method: str, handler: HTTPRouteHandler) -> None:
        self.path: Final = _PLACEHOLDER.sub(r"{\1}", path)
        self.method: Final = method
        self.names: Final = tuple(match[1] for match in _PLACEHOLDER.finditer(path))
        """What the path names."""
        self._handler = handler
        declared = handler.opt.get
        self.body: Final[Any] = declared("body")
        self.lines: Final[Any] = declared("lines")
        self.choices: Final[Mapping[str, tuple[str, ...]]] = declared("choices", {})
        self.media: Final[str] = declared("media", "application/json")
        self.command: Final[bool] = declared("command", False)
        self.query: Final[tuple[str, ...]] = (*declared("query", ()), *((PARAMETER,) if self.command else ()))
        self.awaitable: Final[bool] = self.command or declared("awaitable", False)
        self.versioned: Final[bool] = declared("versioned", False)
        self.keyed: Final[bool] = self.command or declared("keyed", False)
        self.keys: Final[tuple[str, ...]] = tuple(declared("keys", self._scopes()))
        self.codes: Final[tuple[str, ...]] = tuple(declared("codes", ()))
        self.refusals: Final[tuple[str, ...]] = tuple(declared("refusals", ()))
        self.protected: Final = target_of(path, b"").protected

    def _scopes(self) -> tuple[str, ...]:
        """What an API key needs to read a ledger, or to change it."""
        if not self.path.startswith("/v1/ledgers"):
            return ()
        return ("ledger:read",) if self.method == "GET" else ("ledger:write",)

    @property
    def id(self) -> str:
        """The function that answers it."""
        return self._handler.fn.__name__

    @property
    def summary(self) -> str:
        return self._handler.summary or self._docstring.partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        """What the docstring says beyond its first line, which is the summary unless that is declared."""
        text = self._docstring if self._handler.summary else self._docstring.partition("\n")[2]
        return " ".join(text.split())

    @property
    def _docstring(self) -> str:
        return self._handler.fn.__doc__ or ""

    @property
    def bodies(self) -> dict[str, Any]:
        """The types of its request, by media type."""
        bodies = {"application/json": self.body, "application/x-ndjson": self.lines}
        return {media: kind for media, kind in bodies.items() if kind is not None}

    @property
    def one_job(self) -> bool:
        """Whether it is a command of its own, and not many of them in bulk."""
        return self.command and JobView in self.answers.values()

    @cached_property
    def answers(self) -> dict[int, Any]:
        """What it answers when all is well, None for no body: as declared, else what its function returns."""
        if "answers" in self._handler.opt:
            return dict(self._handler.opt["answers"])
        if self._handler.responses:
            return {status: spec.data_container for status, spec in self._handler.responses.items()}
        returned = get_type_hints(self._handler.fn).get("return")
        returned = get_args(returned)[0] if get_args(returned) else returned
        is_struct = isinstance(returned, type) and issubclass(returned, msgspec.Struct)
        return {self._handler.status_code or 200: returned if is_struct else None}

    @property
    def tag(self) -> str:
        """The noun that its path is about."""
        parts = [part for part in self.path.split("/") if part and not part.startswith("{") and part != "v1"]
        nested = parts[1:] if parts[0] == "ledgers" and len(parts) > 1 else parts
        return "auth" if nested[0] == ".well-known" else nested[0]


def operations(app: Litestar) -> Iterator[Operation]:
    """Every operation of the application but those of pages, which are no part of the API (`described=False`)."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    if method in _METHODS and handler.opt.get("described", True):
                        yield Operation(route.path_format, str(method), handler)
