"""Grants: letting users into a ledger, and out again. Listing them is a read (`api.views`)."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from litestar import Request, Response, delete, put
from litestar.params import FromPath

from api.commands import Form
from api.decoding import parse_json, read_body
from api.jobs import JobView
from api.ledgers import accept_in
from api.paths import body_of, command_about, id_in
from api.queries import GetGrant, GetLedger
from domain.ledger.commands import GrantAccess, RevokeAccess
from infrastructure.read_models import GrantView

AnyRequest = Request[Any, Any, Any]


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
    body=body_of(GrantAccess, "user"),
    command=True,
    answers={200: GrantView, 202: JobView},
    keys=(),
    refusals=("precondition_failed",),
)
async def grant_access(request: AnyRequest, ledger: FromPath[str], user: FromPath[str]) -> Response[bytes]:
    return await _accept(request, GRANT_ACCESS, ledger, user)


@delete(
    "/v1/ledgers/{ledger:str}/grants/{user:str}",
    status_code=202,
    summary="Take away what was granted to a user",
    body=body_of(RevokeAccess, "user"),
    command=True,
    answers={202: JobView, 204: None},
    keys=(),
    refusals=("precondition_failed",),
)
async def revoke_access(request: AnyRequest, ledger: FromPath[str], user: FromPath[str]) -> Response[bytes]:
    return await _accept(request, REVOKE_ACCESS, ledger, user)


async def _accept(request: AnyRequest, form: Form[Any], ledger: str, user: str) -> Response[bytes]:
    document, named = parse_json(await read_body(request)), id_in(user)
    attempt = command_about(form.command, "user", named or UUID(int=0), document)
    exists = named is not None
    return await accept_in(request, form, ledger, document, attempt, "owner", exists=exists, keys=False)


ROUTES: Final[list[Any]] = [grant_access, revoke_access]
