"""Users, for administrators: making, listing and disabling them, their roles and passwords; one's own password, too.

A password is taken out of its request at once: it is hashed, and travels beside the command, as
`infrastructure.credentials` tells. What keys compare holds a digest of it that takes the secret key to make.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, get, patch, post
from litestar.params import FromPath
from uuid_utils.compat import uuid7

from api.commands import Extra, Form, Intent, accept, read_command
from api.context import services_of
from api.decoding import Attempt, Document
from api.edge import caller, principal_of
from api.jobs import JobView, id_of
from api.paging import PARAMETERS, cursor, page_of
from api.queries import GetUser
from domain.errors import AuthError, Fault, NotFoundError, ValidationError
from domain.identity.commands import (
    ChangePassword,
    DisableUser,
    Password,
    RegisterUser,
    Role,
    Roles,
    UpdateUser,
    Username,
)
from domain.messages import Command, Query
from infrastructure.api_keys import keys_of
from infrastructure.credentials import Beside
from infrastructure.read_models import UserView
from infrastructure.repositories.identity import sessions_of
from infrastructure.users import is_known, list_users

AnyRequest = Request[Any, Any, Any]

DEFAULT_ROLES: Final[tuple[Role, ...]] = ("user",)


class NewUser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to be able to log in; a `user`, if no roles are named."""

    username: Username
    password: Password
    roles: Roles | None = None

    def command(self) -> RegisterUser:
        return RegisterUser(username=self.username, roles=self.roles or DEFAULT_ROLES)


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A password instead of the one before."""

    password: Password


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing at all: `{}`, or no body."""


class UserPage(msgspec.Struct, frozen=True):
    """A page of users, newest first."""

    items: list[UserView]
    next: str | None


def _resource(user: str, _command: Command, _job: UUID) -> str:
    return f"/v1/users/{user}"


def _query(user: str, _command: Command, _job: UUID, _seq: int) -> Query:
    return GetUser(user=UUID(user))


def roles_faults(command: RegisterUser | UpdateUser) -> Iterator[Fault]:
    """A role is given once."""
    if len(set(command.roles)) != len(command.roles):
        yield Fault("#/roles", "must not name a role twice")


# The user has the id of its command, which in a replay is not the one that this request would have made.
REGISTER_USER: Final = Form(
    RegisterUser,
    "/v1/users",
    lambda _user, _command, job: f"/v1/users/{job}",
    lambda _user, _command, job, _seq: GetUser(user=job),
    roles_faults,
)
UPDATE_USER: Final = Form(UpdateUser, "/v1/users/{user}", _resource, _query, roles_faults, status=200)
CHANGE_PASSWORD: Final = Form(ChangePassword, "/v1/users/{user}/password", _resource, _query, status=200)
DISABLE_USER: Final = Form(DisableUser, "/v1/users/{user}/disable", _resource, _query, status=200)


# -- routes -----------------------------------------------------------------------------------------------------------


@post(
    "/v1/users",
    status_code=202,
    summary="Make a user who can log in",
    body=NewUser,
    command=True,
    answers={201: UserView, 202: JobView},
    refusals=("username_taken",),
)
async def register_user(request: AnyRequest) -> Response[bytes]:
    document, body = await read_command(request, NewUser)
    job = uuid7()

    async def may_register() -> None:
        _require_admin(request)

    intent = Intent(
        REGISTER_USER,
        str(job),
        _masked(request, document),
        Attempt(None if body.faults else body.value().command(), body.faults),
        may_register,
        may_register,
        type="user",
        job=job,
        extra=_extra(request, job, lambda: body.value().password),
    )
    return await accept(request, intent)


@patch(
    "/v1/users/{user:str}",
    status_code=202,
    summary="Give a user other roles",
    body=UpdateUser,
    command=True,
    answers={200: UserView, 202: JobView},
    refusals=("precondition_failed",),
)
async def update_user(request: AnyRequest, user: FromPath[str]) -> Response[bytes]:
    document, attempt = await read_command(request, UpdateUser)
    return await _accept(request, user, UPDATE_USER, document, attempt)


@post(
    "/v1/users/{user:str}/password",
    status_code=202,
    summary="Change a user's password, or one's own; all their sessions end",
    body=NewPassword,
    command=True,
    answers={200: UserView, 202: JobView},
)
async def change_password(request: AnyRequest, user: FromPath[str]) -> Response[bytes]:
    document, body = await read_command(request, NewPassword)
    return await _accept(
        request,
        user,
        CHANGE_PASSWORD,
        _masked(request, document),
        Attempt(None if body.faults else ChangePassword(), body.faults),
        password=lambda: body.value().password,
        ends_sessions="password changed",
    )


@post(
    "/v1/users/{user:str}/disable",
    status_code=202,
    summary="Shut a user out, for good; all their sessions end",
    body=NoBody,
    command=True,
    answers={200: UserView, 202: JobView},
    refusals=("precondition_failed",),
)
async def disable_user(request: AnyRequest, user: FromPath[str]) -> Response[bytes]:
    document, body = await read_command(request, NoBody)
    attempt = Attempt(None if body.faults else DisableUser(), body.faults)
    return await _accept(request, user, DISABLE_USER, document, attempt, ends_sessions="user disabled")


@get("/v1/users", query=PARAMETERS, codes=("forbidden",))
async def find_users(request: AnyRequest) -> UserPage:
    """The users there are, newest first."""
    try:
        page = page_of(request)
    except ValidationError as error:
        if error.code == "validation_failed":
            _require_admin(request)
        raise
    _require_admin(request)
    found = await list_users(services_of(request).pool, page.before, page.limit + 1)
    items = found[: page.limit]
    return UserPage(items, cursor(items[-1].id) if len(found) > page.limit else None)


ROUTES: Final[list[Any]] = [register_user, find_users, update_user, change_password, disable_user]


# -- who may, and what travels along ----------------------------------------------------------------------------------


def _require_admin(request: AnyRequest) -> None:
    """Raises AuthError (403), whoever it is about, and whether there is such a user or not."""
    if not caller(request).is_admin:
        raise AuthError("forbidden", "This needs the role admin.")


async def _accept(
    request: AnyRequest,
    user: str,
    form: Form[Any],
    document: Document,
    attempt: Attempt[Any],
    *,
    password: Callable[[], str] | None = None,
    ends_sessions: str = "",
) -> Response[bytes]:
    """Accepts a command to a user that exists. What brings a password may come from that user, too."""
    named = _named(user)

    async def may_ask() -> None:
        if password is not None and caller(request).user_id == named:
            return
        _require_admin(request)
        if named is None or not await is_known(services_of(request).pool, named):
            raise NotFoundError

    extra = _extra(request, named or UUID(int=0), password, ends_sessions)
    name = None if named is None else str(named)
    return await accept(request, Intent(form, name, document, attempt, may_ask, may_ask, type="user", extra=extra))


def _named(user: str) -> UUID | None:
    try:
        return id_of(user)
    except NotFoundError:
        return None


def _extra(
    request: AnyRequest, user: UUID, password: Callable[[], str] | None = None, ends_sessions: str = ""
) -> Extra:
    services = services_of(request)

    async def beside() -> Beside:
        hashed = None if password is None else await services.passwords.hash(password())
        return Beside(user, hashed, ends_sessions)

    async def drop_copies() -> None:
        sessions, keys = await sessions_of(services.pool, user), await keys_of(services.pool, user)
        await asyncio.gather(services.sessions.drop(sessions), services.api_keys.drop(keys))

    recorded: Callable[[], Awaitable[None]] | None = drop_copies if ends_sessions else None
    return Extra(f"user:{principal_of(request).user_id}", beside, recorded)


def _masked(request: AnyRequest, document: Document) -> Document:
    """The request as keys compare it, with a digest for the password.

    What is kept of a key is a hash of this. Without the secret key nobody can try passwords against it.
    """
    content = document.content
    if not isinstance(content, dict) or not isinstance(password := content.get("password"), str):
        return document
    secret = services_of(request).settings.secret_key.encode()
    said = b"password in a request\n" + password.encode("utf-8", "surrogatepass")
    return Document({**content, "password": hmac.digest(secret, said, "sha256").hex()}, document.unstorable)
