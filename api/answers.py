"""Answers whose bytes are ready: nothing of them is left for Litestar to render, look up or default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.response.base import ASGIResponse

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

JSON = "application/json"


class Answer(Response[bytes]):
    """A body of a media type, never empty, with headers whose names are in lower case."""

    def __init__(
        self, body: bytes, status_code: int = 200, headers: dict[str, str] | None = None, media_type: str = JSON
    ) -> None:
        super().__init__(body, status_code=status_code, media_type=media_type, headers=headers)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """What Litestar would give comes from no layer here: routes and the application set no headers or cookies."""
        return _Ready(self)


class _Ready(ASGIResponse):
    __slots__ = ("_answer",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        body = answer.content
        headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
        headers.append((b"content-type", str(answer.media_type).encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": answer.status_code or 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
