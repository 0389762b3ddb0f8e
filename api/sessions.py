"""The caller's own sessions: `GET /auth/sessions`, and `DELETE /auth/sessions/{id}` to end one of them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, delete, get
from litestar.params import FromPath

from api.context import services_of
from api.decoding import read_body
from api.edge import caller
from api.jobs import id_of
from api.paging import PARAMETERS, cursor, page_of
from domain.clock import format_time
from domain.errors import NotFoundError
from infrastructure.read_models import Time


class SessionView(msgspec.Struct, frozen=True):
    """A login that is still good. `address` and `user_agent` are whence it came; `current` is the caller's own."""

    id: UUID
    created_at: Time
    last_used_at: Time
    expires_at: Time
    address: str | None
    user_agent: str | None
    current: bool


class SessionPage(msgspec.Struct, frozen=True):
    """A page of sessions, newest first."""

    items: list[SessionView]
    next: str | None


@get("/auth/sessions", query=PARAMETERS)
async def list_sessions(request: Request[Any, Any, Any]) -> SessionPage:
    """One's own sessions that are alive, newest first."""
    principal = caller(request)
    page = page_of(request)
    found = await services_of(request).sessions.page(principal.user_id, page.before, page.limit + 1)
    items = [
        SessionView(
            id=session.id,
            created_at=format_time(session.created_at),
            last_used_at=format_time(session.last_used_at),
            expires_at=format_time(session.expires_at),
            address=session.address,
            user_agent=session.user_agent,
            current=session.id == principal.session_id,
        )
        for session in found[: page.limit]
    ]
    return SessionPage(items, cursor(items[-1].id) if len(found) > page.limit else None)


@delete("/auth/sessions/{session:str}", status_code=204, codes=("payload_too_large", "unsupported_media_type"))
async def end_session(request: Request[Any, Any, Any], session: FromPath[str]) -> None:
    """End one of one's own sessions, and with it all its tokens."""
    principal = caller(request)
    await read_body(request)
    if not await services_of(request).sessions.end(principal.user_id, id_of(session), "ended by its user"):
        raise NotFoundError


ROUTES: Final[list[Any]] = [list_sessions, end_session]
