"""The fourth layer: who is asking? The token must be ours and its session alive, or the API key be good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.edge import unauthorized
from api.middleware.logging import log_request
from api.middleware.rate_limit import too_many, turn_away
from api.problems import send_problem
from infrastructure.api_keys import KnownKey
from infrastructure.api_secrets import MARK
from infrastructure.cache import of_this_run
from infrastructure.redis import RedisUnavailable
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
            token = edge.token
            counted = token is not None and token.principal is not None
            if token is None:
                token = edge.token = await self._recognise(edge, edge.bearer)
            if token is None or not await self._find_principal(edge, token):
                await self._refuse(scope, send, 'Bearer error="invalid_token"')
                return
            if not counted and not await self._count(edge, scope, send):
                return
        await self._app(scope, receive, send)

    async def _count(self, edge: Edge, scope: Scope, send: Send) -> bool:
        """It is known only now whose limit counts, and what to read for them."""
        verdict = await self._services.admission.admit(edge)
        if not verdict.admitted:
            await turn_away(scope, send, too_many(verdict))
        return verdict.admitted

    async def _recognise(self, edge: Edge, bearer: bytes) -> Verified | KnownKey | None:
        """A token or an API key that this process sees for the first time."""
        if not bearer.startswith(MARK):
            return await self._services.key_watch.verify(bearer)
        known = await self._services.api_keys.recognise(bearer)
        if known is not None:
            edge.session = known.seen
        return known

    async def _find_principal(self, edge: Edge, token: Verified | KnownKey) -> bool:
        slot = edge.session
        if slot is None and token.principal is None:
            slot = await self._recall(token)
        if slot is None:
            slot = await self._find(token)
            if slot is None:
                return False
        if isinstance(token, KnownKey):
            edge.principal = token.read(slot)
            return edge.principal is not None
        if slot != token.seen:
            token.principal = read_slot(slot, token.session_id)
            token.seen = slot
        edge.principal = token.principal
        return edge.principal is not None and edge.principal.user_id == token.user_id

    async def _find(self, token: Verified | KnownKey) -> bytes | None:
        if isinstance(token, KnownKey):
            return await self._services.api_keys.find(token.digest)
        return await self._services.sessions.find(token.session_id)

    async def _recall(self, token: Verified | KnownKey) -> bytes | None:
        """What Redis has of the session, which nobody asked for while the request counted against its address."""
        try:
            cache = self._services.cache
            return of_this_run(await cache.get(token.slot_key), cache.server)
        except RedisUnavailable:
            return None

    async def _refuse(self, scope: Scope, send: Send, challenge: str) -> None:
        await send_problem(scope, send, unauthorized(), {"www-authenticate": challenge})
        log_request(scope, 401)
