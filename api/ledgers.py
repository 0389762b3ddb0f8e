"""Ledgers: creating one, changing its metadata; and how a command gets into one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeVar

from litestar import Request, Response, patch, post
from litestar.params import FromPath

from api.access import Role, authorise, authorise_creation
from api.commands import Form, Intent, accept, read_command
from api.decoding import Attempt, Document, parse_json, read_body, try_decode
from api.edge import caller, principal_of
from api.jobs import JobView
from api.queries import GetLedger
from domain.errors import Fault, NotFoundError
from domain.ledger.commands import MAX_METADATA, CreateLedger, MetadataChanges, UpdateLedger
from domain.messages import Command
from infrastructure.principals import Scope
from infrastructure.read_models import LedgerView

C = TypeVar("C", bound=Command)

_LEDGER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

CREATE_LEDGER: Final = Form(
    CreateLedger,
    "/v1/ledgers",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}",
    lambda ledger, _command, _job, seq: GetLedger(ledger=ledger, min_version=seq),
)


class Describing(Protocol):
    """A command that merges into metadata."""

    @property
    def metadata(self) -> MetadataChanges: ...


def metadata_faults(command: Describing) -> Iterator[Fault]:
    """More keys than there may be when everything that was there before is gone."""
    if sum(value is not None for value in command.metadata.values()) > MAX_METADATA:
        yield Fault("#/metadata", f"must not set more than {MAX_METADATA} keys")


UPDATE_LEDGER: Final = Form(
    UpdateLedger,
    "",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}",
    lambda ledger, _command, _job, seq: GetLedger(ledger=ledger, min_version=seq),
    metadata_faults,
    status=200,
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


@patch(
    "/v1/ledgers/{ledger:str}",
    status_code=202,
    summary="Merge into a ledger's metadata; null takes a key away",
    body=UpdateLedger,
    command=True,
    answers={200: LedgerView, 202: JobView},
)
async def update_ledger(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    document = parse_json(await read_body(request), nulls=True)
    return await accept_in(request, UPDATE_LEDGER, ledger, document, try_decode(document, UpdateLedger), "owner")


async def accept_for(request: Request[Any, Any, Any], form: Form[Any], ledger: str) -> Response[bytes]:
    """Accepts a command to a ledger of which one must be a writer; its body says all."""
    document, attempt = await read_command(request, form.command)
    return await accept_in(request, form, ledger, document, attempt, "writer")


async def accept_in(
    request: Request[Any, Any, Any],
    form: Form[C],
    ledger: str,
    document: Document,
    attempt: Attempt[C],
    role: Role,
    *,
    exists: bool = True,
    keys: bool = True,
) -> Response[bytes]:
    """Accepts a command to a ledger in which one must have the role.

    Without `exists` its path names what can't be; without `keys` it is closed to API keys.
    """

    async def may_command() -> None:
        await admit(request, ledger, role)
        if not exists:
            raise NotFoundError
        if not keys:
            caller(request)

    async def may_read() -> None:
        await admit(request, ledger, "reader", "ledger:write")

    known = ledger if _LEDGER.fullmatch(ledger) else None
    return await accept(request, Intent(form, known, document, attempt, may_command, may_read))


ROUTES: Final[list[Any]] = [create_ledger, update_ledger]
