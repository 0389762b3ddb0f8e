"""What HTTP asks of every address and Litestar's router leaves out: HEAD, OPTIONS, and paths that are what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.problems import send_problem
from domain.errors import NotFoundError

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

# HEAD is a GET whose body the server leaves out. No route takes TRACE: the 405 says which methods there are.
_ROUTED_AS: Final = {"HEAD": "GET", "OPTIONS": "TRACE"}


class Semantics:
    """Stands in front of the router."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["state"]["edge"].method
        if not is_exact(scope["raw_path"]):
            await send_problem(scope, send, NotFoundError())
            return
        if method in _ROUTED_AS:
            scope = {**scope, "method": _ROUTED_AS[method]}  # type: ignore[assignment]
        await self._app(scope, receive, _Options(send) if method == "OPTIONS" else send)


def is_exact(raw_path: bytes) -> bool:
    """Whether a path as it was sent is one that a route could have.

    The router would see no difference between `a%2Fb`, `a//b`, `a/b/` and `a/b`, which are four addresses.
    """
    if b"//" in raw_path or (raw_path[-1:] == b"/" and raw_path != b"/"):
        return False
    return b"%" not in raw_path or b"%2f" not in raw_path.lower()


class _Options:
    """Turns a 405 into the answer to OPTIONS: 204 with the same `Allow`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._turned = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            self._turned = True
            message["status"] = 204
            message["headers"] = [(name, value) for name, value in message["headers"] if name == b"allow"]
        elif self._turned and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)
