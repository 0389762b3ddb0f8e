"""The third layer: nobody gets more than their share. Its one trip to Redis also brings what the inner layers need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.admission import client_address, networks
from api.middleware.logging import log_request
from api.problems import send_problem
from domain.errors import InfrastructureError
from infrastructure.redis import RedisUnavailable

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from api.context import Services
    from infrastructure.rate_limits import Verdict


class RateLimit:
    """Counts the request, tells the client how many it has left, and answers 429 when that is none."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._proxies = networks(services.settings.trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = scope["state"]["edge"]
        edge.address = client_address(scope, self._proxies)
        authorization = edge.headers.get(b"authorization")
        if authorization is not None and not edge.target.public:
            edge.bearer = bearer_of(authorization)
            edge.token = self._services.tokens.recall(edge.bearer) or self._services.api_keys.recall(edge.bearer)
        try:
            verdict = await self._services.admission.admit(edge)
        except RedisUnavailable:
            await turn_away(scope, send, InfrastructureError("Logging in is not possible at the moment."))
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *edge.limits]
            await send(message)

        if verdict.admitted:
            await self._app(scope, receive, send_with_limits)
        else:
            await turn_away(scope, send_with_limits, too_many(verdict))


def bearer_of(authorization: bytes) -> bytes:
    """The token of a Bearer authorization; empty for any other scheme."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def too_many(verdict: Verdict) -> InfrastructureError:
    """429 `rate_limited`."""
    return InfrastructureError("Too many requests.", "rate_limited", verdict.retry_after_s)


async def turn_away(scope: Scope, send: Send, error: InfrastructureError) -> None:
    """Answers with a problem and writes the request's line, which the innermost layer will not see."""
    await send_problem(scope, send, error)
    log_request(scope, 429 if error.code == "rate_limited" else 503)
