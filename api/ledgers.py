"""Ledgers: creating one."""

from __future__ import annotations

import re
from typing import Any, Final

from litestar import Request, Response, post

from api.access import Role, authorise, authorise_creation
from api.commands import Form, Intent, accept, read_command
from api.edge import principal_of
from api.jobs import JobView
from api.queries import GetLedger
from domain.errors import NotFoundError
from domain.ledger.commands import CreateLedger
from infrastructure.principals import Scope
from infrastructure.read_models import LedgerView

_LEDGER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

CREATE_LEDGER: Final = Form(
    CreateLedger,
    "/v1/ledgers",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}",
    lambda ledger, _command, _job, seq: GetLedger(ledger=ledger, min_version=seq),
)


async def admit(request: Request[Any, Any, Any], ledger: str, role: Role, scope: Scope | None = None) -> None:
    """Raises NotFoundError for a name that no ledger can have, and what `authorise` raises."""
    if _LEDGER.fullmatch(ledger) is None:
        raise NotFoundError
    await authorise(request, ledger, role, scope)


@post(
    "/v1/ledgers",
    status_code=202,
    summary="Create a ledger; whoever does owns it",
    body=CreateLedger,
    command=True,
    answers={201: LedgerView, 202: JobView},
    codes=("ledger_exists",),
)
async def create_ledger(request: Request[Any, Any, Any]) -> Response[bytes]:
    document, attempt = await read_command(request, CreateLedger)
    wanted = document.content.get("id") if isinstance(document.content, dict) else None
    ledger = wanted if isinstance(wanted, str) and _LEDGER.fullmatch(wanted) else None

    async def may_create() -> None:
        authorise_creation(principal_of(request))

    async def may_read() -> None:
        await admit(request, ledger or "", "reader", "ledger:write")

    return await accept(request, Intent(CREATE_LEDGER, ledger, document, attempt, may_create, may_read, reserves=True))


async def accept_for(request: Request[Any, Any, Any], form: Form[Any], ledger: str) -> Response[bytes]:
    """Accepts a command to a ledger of which one must be a writer."""
    document, attempt = await read_command(request, form.command)

    async def may_write() -> None:
        await admit(request, ledger, "writer")

    async def may_read() -> None:
        await admit(request, ledger, "reader", "ledger:write")

    known = ledger if _LEDGER.fullmatch(ledger) else None
    return await accept(request, Intent(form, known, document, attempt, may_write, may_read))


ROUTES: Final[list[Any]] = [create_ledger]
