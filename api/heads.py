"""HEAD: what GET would answer, without its body, which the server leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send


class Heads:
    """Lets the router, which knows no HEAD, see a GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["state"]["edge"].method == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, send)  # type: ignore[arg-type]
        else:
            await self._app(scope, receive, send)
