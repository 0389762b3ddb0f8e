"""Grants: letting users into a ledger, and out again. Listing them is a read (`api.views`)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, delete, put
from litestar.params import FromPath

from api.commands import Form
from api.decoding import Attempt, parse_json, read_body, try_decode
from api.jobs import JobView, id_of
from api.ledgers import accept_in
from api.queries import GetGrant, GetLedger
from domain.errors import NotFoundError
from domain.ledger.commands import GrantAccess, RevokeAccess, Role
from infrastructure.read_models import GrantView

AnyRequest = Request[Any, Any, Any]


class GrantBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user is to be from now on."""

    role: Role


class NoBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing at all: `{}`, or no body."""


GRANT_ACCESS: Final = Form(
    GrantAccess,
    "grants/{user}",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}/grants",
    lambda ledger, command, _job, seq: GetGrant(ledger=ledger, user=command.user, min_version=seq),
    status=200,
)

REVOKE_ACCESS: Final = Form(
    RevokeAccess,
    "grants/{user}",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}/grants",
    lambda ledger, _command, _job, seq: GetLedger(ledger=ledger, min_version=seq),
    status=204,
)


@put(
    "/v1/ledgers/{ledger:str}/grants/{user:str}",
    status_code=202,
    summary="Let a user into a ledger, or change what they may do there",
    body=GrantBody,
    command=True,
    answers={200: GrantView, 202: JobView},
    keys=(),
    refusals=("precondition_failed",),
)
async def grant_access(request: AnyRequest, ledger: FromPath[str], user: FromPath[str]) -> Response[bytes]:
    document = parse_json(await read_body(request))
    body = try_decode(document, GrantBody)
    named = _named(user)
    command = None if body.faults else GrantAccess(user=named or UUID(int=0), role=body.value().role)
    attempt = Attempt(command, body.faults)
    exists = named is not None
    return await accept_in(request, GRANT_ACCESS, ledger, document, attempt, "owner", exists=exists, keys=False)


@delete(
    "/v1/ledgers/{ledger:str}/grants/{user:str}",
    status_code=202,
    summary="Take away what was granted to a user",
    command=True,
    answers={202: JobView, 204: None},
    keys=(),
    codes=("payload_too_large", "unsupported_media_type"),
    refusals=("precondition_failed",),
)
async def revoke_access(request: AnyRequest, ledger: FromPath[str], user: FromPath[str]) -> Response[bytes]:
    document = parse_json(await read_body(request))
    body = try_decode(document, NoBody)
    named = _named(user)
    command = RevokeAccess(user=named or UUID(int=0))
    attempt = Attempt(command, body.faults)
    exists = named is not None
    return await accept_in(request, REVOKE_ACCESS, ledger, document, attempt, "owner", exists=exists, keys=False)


def _named(user: str) -> UUID | None:
    """The id in the path; None for a text that is none."""
    try:
        return id_of(user)
    except NotFoundError:
        return None


ROUTES: Final[list[Any]] = [grant_access, revoke_access]
