"""The second layer: browsers are told to do nothing with an answer but show it. What fails further in ends here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.middleware.logging import log_request
from api.problems import send_problem, status_of, translate

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from infrastructure.settings import Settings

_ALWAYS: Final = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
]
_NOTHING: Final = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# The documentation's pages: their own styles and scripts, and nothing from anywhere else.
_OWN_FILES: Final = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_PAGES: Final = ("/docs", "/problems")
_NO_STORE: Final = (b"cache-control", b"no-store")
_TRANSPORT: Final = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


def headers_of_all(settings: Settings) -> list[tuple[bytes, bytes]]:
    """What every answer carries. Transport security is promised only where clients come by HTTPS."""
    secure = settings.public_url.startswith("https://")
    return [*_ALWAYS, *([_TRANSPORT] if secure else []), _NOTHING]


class SecurityHeaders:
    """Adds the headers, and answers 500 for what escaped every other handler."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._plain: Final = headers_of_all(settings)
        self._private: Final = [*self._plain, _NO_STORE]
        self._pages: Final = [_OWN_FILES if header is _NOTHING else header for header in self._plain]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = scope["state"]["edge"]
        target = edge.target
        if target.protected or b"authorization" in edge.headers or edge.path.startswith("/auth/"):
            added = self._private
        elif edge.path.startswith(_PAGES):
            added = self._pages
        else:
            added = self._plain
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            if started:
                raise
            known = translate(error)
            await send_problem(scope, send_with_headers, known)
            log_request(scope, status_of(known.code))
