"""The innermost layer: one line a request. Layers further out, when they turn a request away, write the same line."""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from infrastructure import logs
from infrastructure.logs import RequestLine
from infrastructure.metrics import meter
from infrastructure.principals import KeyPrincipal

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send


class Logging:
    """Logs method, route template, status, milliseconds, principal and address. Never a query, a header or a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if status:
                log_request(scope, status)


def log_request(scope: Scope, status: int) -> None:
    """The line, and the count. A request that no route took has its path there, cut short, as its route."""
    fields: dict[str, Any] = scope  # type: ignore[assignment]
    edge = fields["state"]["edge"]
    principal = edge.principal
    seconds = perf_counter() - edge.started_at
    # counted without the path: anybody can make up as many as they like
    meter.request_finished(edge.method, fields.get("path_template") or "none", status, seconds)
    logs.log_request(
        RequestLine(
            method=edge.method,
            route=fields.get("path_template") or edge.path[:100],
            status=status,
            ms=round(seconds * 1000, 2),
            principal=None if principal is None else principal.username,
            key=principal.prefix if isinstance(principal, KeyPrincipal) else None,
            address=edge.address,
            correlation_id=edge.correlation_id,
            timestamp=datetime.now(UTC),
        )
    )
