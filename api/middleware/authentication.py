"""The fourth layer: who is asking? The token must be ours, and its session must be alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.edge import unauthorized
from api.middleware.logging import log_request
from api.middleware.rate_limit import too_many, turn_away
from api.problems import send_problem
from infrastructure.sessions import read_slot

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

    from api.context import Services
    from api.edge import Edge
    from infrastructure.tokens import Verified


class Authentication:
    """Sets the principal, or answers 401: always the same, whatever is wrong with the token."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        edge = scope["state"]["edge"]
        if edge.bearer is None:
            if edge.target.protected:
                await self._refuse(scope, send, "Bearer")
                return
        else:
            if edge.token is None:
                edge.token = self._services.tokens.verify(edge.bearer)
                if edge.token is not None and not await self._count(edge, scope, send):
                    return
            if edge.token is None or not await self._find_principal(edge, edge.token):
                await self._refuse(scope, send, 'Bearer error="invalid_token"')
                return
        await self._app(scope, receive, send)

    async def _count(self, edge: Edge, scope: Scope, send: Send) -> bool:
        """A token that this process sees for the first time: its principal's limit counts now, and Redis is asked."""
        verdict = await self._services.admission.admit(edge)
        if not verdict.admitted:
            await turn_away(scope, send, too_many(verdict))
        return verdict.admitted

    async def _find_principal(self, edge: Edge, token: Verified) -> bool:
        slot = edge.session
        if slot is None:
            slot = await self._services.sessions.find(token.session_id)
            if slot is None:
                return False
        if slot != token.seen:
            token.principal = read_slot(slot, token.session_id)
            token.seen = slot
        edge.principal = token.principal
        return edge.principal is not None and edge.principal.user_id == token.user_id

    async def _refuse(self, scope: Scope, send: Send, challenge: str) -> None:
        await send_problem(scope, send, unauthorized(), {"www-authenticate": challenge})
        log_request(scope, 401)
