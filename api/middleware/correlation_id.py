"""The outermost layer: every request has a correlation id, and every answer says it."""

from __future__ import annotations

import re
from random import getrandbits
from typing import TYPE_CHECKING, Final

from litestar.enums import ScopeType

from api.edge import Edge
from api.targets import target_of
from infrastructure.logs import correlation_id

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

_ACCEPTABLE: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")


class CorrelationID:
    """Takes `X-Correlation-ID` if it is 1 to 64 of `[A-Za-z0-9._-]`, else makes one; makes the request's `Edge`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-correlation-id", b"")
        chosen = given if _ACCEPTABLE.match(given) else _made()
        name = chosen.decode()
        correlation_id.set(name)
        path = scope["path"]
        scope["state"]["edge"] = Edge(name, str(scope["method"]), path, target_of(path, scope["query_string"]), headers)
        header = (b"x-correlation-id", chosen)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _made() -> bytes:
    # not a secret, so the kernel, whose random bytes cost a change of threads, is not asked for them
    return b"%032x" % getrandbits(128)  # nosec B311
