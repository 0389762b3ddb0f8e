"""Logging in and out: `POST /auth/login`, `/auth/refresh`, `/auth/logout` and `GET /auth/me`.

Whoever does not get in learns nothing: an unknown user, a wrong password, a disabled user and a user without a password
get the same answer after the same work.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, get, post

from api.context import Services, services_of
from api.decoding import decode, parse_json, read_body
from api.edge import caller, edge_of, principal_of, unauthorized
from api.middleware.rate_limit import too_many
from domain.errors import AuthError, InfrastructureError
from infrastructure.passwords import needs_upgrade
from infrastructure.principals import KeyPrincipal
from infrastructure.rate_limits import admit
from infrastructure.users import User, find_user, grants_of, upgrade_hash

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024, description="must be 1 to 1024 characters")]


class Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who one says one is, and the proof."""

    username: Text
    password: Text


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest refresh token of a session."""

    refresh_token: Text


class TokenPair(msgspec.Struct, frozen=True):
    """What a client is logged in with. `expires_in` is the access token's life in seconds."""

    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int


class Grant(msgspec.Struct, frozen=True):
    """A ledger one may use, and how."""

    ledger: str
    role: str


class Me(msgspec.Struct, frozen=True):
    """Who one is, and at most 1,000 of one's grants."""

    id: UUID
    username: str
    roles: tuple[str, ...]
    grants: list[Grant]


@post("/auth/login", status_code=200, body=Login, codes=("invalid_credentials",))
async def login(request: Request[Any, Any, Any]) -> TokenPair:
    """Log in with user name and password."""
    body = decode(parse_json(await read_body(request)), Login)
    services = services_of(request)
    await _count_against_account(services, body.username)
    user = await find_user(services.pool, body.username)
    known = await services.passwords.matches(None if user is None else user.password_hash, body.password)
    if user is None or user.changed_at is None or not known or not user.active:
        raise _wrong()
    edge = edge_of(request)
    agent = edge.headers.get(b"user-agent", b"").decode("latin-1").replace("\0", "")
    session_s = services.settings.session_s
    session_id = await services.sessions.start(user.id, user.changed_at, session_s, edge.address, agent)
    if session_id is None:
        raise _wrong()
    await _upgrade(services, user, body.password)
    return _pair(services, user.id, session_id, 0, session_s)


@post("/auth/refresh", status_code=200, body=Refresh, codes=("unauthorized",))
async def refresh(request: Request[Any, Any, Any]) -> TokenPair:
    """Exchange the refresh token for a new pair. A token that was exchanged long ago ends the session."""
    body = decode(parse_json(await read_body(request)), Refresh)
    services = services_of(request)
    token = services.tokens.read_refresh_token(body.refresh_token)
    if token is None:
        raise unauthorized()
    rotated = await services.sessions.rotate(token.session_id, token.generation)
    if rotated is None:
        raise unauthorized()
    return _pair(services, rotated.user_id, token.session_id, rotated.generation, rotated.left_s)


@post("/auth/logout", status_code=204, codes=("payload_too_large", "unsupported_media_type"))
async def logout(request: Request[Any, Any, Any]) -> None:
    """End the session of the access token, and with it all its tokens."""
    await read_body(request)
    principal = caller(request)
    await services_of(request).sessions.end(principal.user_id, principal.session_id, "logout")


@get("/auth/me", keys=("ledger:read", "ledger:write"))
async def me(request: Request[Any, Any, Any]) -> Me:
    """The caller, with the ledgers granted to it: to the owner of an API key, and within its reach."""
    principal = principal_of(request)
    within = principal.ledgers if isinstance(principal, KeyPrincipal) else None
    granted = await grants_of(services_of(request).pool, principal.user_id, within)
    return Me(principal.user_id, principal.username, principal.roles, [Grant(*pair) for pair in granted])


async def _upgrade(services: Services, user: User, password: str) -> None:
    """Hashes anew what was hashed with parameters of former days. There is a next time if there is no time now."""
    if user.password_hash is not None and needs_upgrade(user.password_hash):
        with suppress(InfrastructureError):
            await upgrade_hash(services.pool, user.id, user.password_hash, await services.passwords.hash(password))


async def _count_against_account(services: Services, username: str) -> None:
    # a digest, so that no name makes a strange or endless key
    account = hashlib.sha256(username.encode()).hexdigest()[:32]
    verdict = await admit(services.redis, f"account:{account}", services.admission.account)
    if not verdict.admitted:
        raise too_many(verdict)


def _pair(services: Services, user_id: UUID, session_id: UUID, generation: int, left_s: float) -> TokenPair:
    lifetime_s = max(1, int(min(services.settings.access_token_s, left_s)))
    access = services.tokens.issue(user_id, session_id, lifetime_s)
    return TokenPair(access, services.tokens.refresh_token(session_id, generation), "Bearer", lifetime_s)


def _wrong() -> AuthError:
    return AuthError("invalid_credentials", "The user name or the password is wrong.")


ROUTES: Final = [login, refresh, logout, me]
