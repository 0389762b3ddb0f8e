"""Exports: the journal, a statement or the whole ledger as a file, written in the background and then downloaded.

They change nothing in the ledger, so they are no commands. Whoever may read the ledger may have its exports, as long as
they may: the grant is looked at again when the file is downloaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from typing import Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
from asyncpg import Record
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath
from litestar.response import Stream
from msgspec import Meta
from uuid_utils.compat import uuid7

from api.answers import Answer
from api.context import services_of
from api.decoding import invalid, parse_json, query_of, read_body, try_decode
from api.edge import edge_of, principal_of
from api.jobs import id_of
from api.ledgers import admit
from api.paging import PARAMETERS, cursor, page_of
from api.preferences import wait_of
from domain.clock import format_time, in_utc
from domain.errors import DomainError, Fault, NotFoundError
from domain.ledger.commands import AccountName, Moment
from infrastructure import exports
from infrastructure.exports import MOST_KEPT, Export, Format, Status, Wanted, What
from infrastructure.read_models import Time

AnyRequest = Request[Any, Any, Any]

TABLES: Final = ("csv", "ndjson", "parquet")
FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "journal": TABLES,
    "statement": TABLES,
    "ledger": ("beancount", "hledger"),
}
ENDINGS: Final = {"beancount": "beancount", "hledger": "journal"}
LOOK_S: Final = 0.1
"""Between looks, while a request waits for its export."""

_encode: Final = msgspec.json.Encoder().encode
_wanted: Final = msgspec.json.Decoder(Wanted).decode


class NewExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from", "end": "to"}):
    """What to write: the `journal`, the `statement` of an `account` from and to a moment, or the `ledger` as text."""

    what: Annotated[What, Meta(description="must be journal, statement or ledger")]
    format: Annotated[Format, Meta(description="must be csv, ndjson, parquet, beancount or hledger")]
    account: AccountName | None = None
    start: Moment | None = None
    end: Moment | None = None


class Progress(msgspec.Struct, frozen=True):
    """Events that were read, of how many; of a statement lines, of a number that is not known before."""

    done: int
    total: int | None


class ExportLinks(msgspec.Struct, frozen=True):
    """Where to go from an export. `download` is null until there is something to download."""

    self_: str = msgspec.field(name="self")
    download: str | None


class ExportView(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """An export as JSON. It shows the ledger as it was at `seq`. `problem` says why it failed; `size` is in bytes."""

    id: UUID
    ledger: str
    what: What
    format: Format
    account: str | None
    start: Time | None
    end: Time | None
    seq: int
    status: Status
    progress: Progress
    size: int
    problem: str | None
    created_at: Time
    finished_at: Time | None
    expires_at: Time | None
    links: ExportLinks


class ExportPage(msgspec.Struct, frozen=True):
    """A page of exports, newest first."""

    items: list[ExportView]
    next: str | None


@post(
    "/v1/ledgers/{ledger:str}/exports",
    status_code=202,
    summary="Have a file written: the journal, a statement, or the ledger as text",
    body=NewExport,
    answers={201: ExportView, 202: ExportView},
    keys=("ledger:read",),
    codes=("not_found", "precondition_failed"),
    awaitable=True,
)
async def make_export(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    attempt = try_decode(parse_json(await read_body(request)), NewExport)
    await admit(request, ledger, "reader", "ledger:read")
    faults = [
        *attempt.faults,
        *(Fault(f"#/{name}", "is no parameter of this address") for name, _ in query_of(request)),
    ]
    if not faults:
        faults = list(_faults(attempt.value()))
    if faults:
        raise invalid(faults)
    body = attempt.value()
    wanted = Wanted(body.what, body.format, body.account, body.start, body.end)
    services = services_of(request)
    user = principal_of(request).user_id
    made = await exports.add(services.pool, uuid7(), ledger, user, _encode(wanted), edge_of(request).correlation_id)
    if made is None:
        raise DomainError(
            "precondition_failed", f"You keep {MOST_KEPT} exports of this ledger already: delete one of them first."
        )
    services.recorder.bell.ring_export(str(made.id))
    return await _answer(request, made, 202)


@get(
    "/v1/ledgers/{ledger:str}/exports",
    summary="Exports of the ledger, newest first",
    query=PARAMETERS,
    answers={200: ExportPage},
    codes=("not_found",),
)
async def list_exports(request: AnyRequest, ledger: FromPath[str]) -> ExportPage:
    await admit(request, ledger, "reader")
    page = page_of(request)
    found = await exports.listed(services_of(request).pool, ledger, page.before, page.limit + 1)
    items = [_view(export) for export in found[: page.limit]]
    return ExportPage(items, cursor(items[-1].id) if len(found) > page.limit else None)


@get(
    "/v1/ledgers/{ledger:str}/exports/{export:str}",
    summary="One export; Prefer: wait=N waits until it has ended",
    answers={200: ExportView},
    codes=("not_found",),
    awaitable=True,
)
async def get_export(request: AnyRequest, ledger: FromPath[str], export: FromPath[str]) -> Response[bytes]:
    await admit(request, ledger, "reader")
    return await _answer(request, await _find(request, ledger, export), 200)


@get(
    "/v1/ledgers/{ledger:str}/exports/{export:str}/download",
    summary="The file of an export",
    media="application/octet-stream",
    codes=("not_found",),
)
async def download(request: AnyRequest, ledger: FromPath[str], export: FromPath[str]) -> Stream:
    await admit(request, ledger, "reader")
    found = await _find(request, ledger, export)
    if found.status != "succeeded":
        raise NotFoundError("The file is not written yet." if found.finished_at is None else "No file came of it.")
    wanted = _wanted(found.request)
    name = f"{ledger}-{wanted.what}-{found.seq}.{ENDINGS.get(wanted.format, wanted.format)}"
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "content-length": str(found.size),
    }
    content = _content(services_of(request).pool, found.id)
    return Stream(content, headers=headers, media_type="application/octet-stream")


@delete(
    "/v1/ledgers/{ledger:str}/exports/{export:str}",
    status_code=204,
    summary="Forget an export and its file; one that is being written stops",
    keys=("ledger:read",),
    codes=("not_found", "payload_too_large", "unsupported_media_type"),
)
async def delete_export(request: AnyRequest, ledger: FromPath[str], export: FromPath[str]) -> None:
    await read_body(request)
    await admit(request, ledger, "reader", "ledger:read")
    if not await exports.remove(services_of(request).pool, ledger, id_of(export)):
        raise NotFoundError


async def _find(request: AnyRequest, ledger: str, export: str) -> Export:
    found = await exports.find(services_of(request).pool, ledger, id_of(export))
    if found is None:
        raise NotFoundError
    return found


async def _answer(request: AnyRequest, export: Export, status: int) -> Response[bytes]:
    """The export as it is, or as it ends within the time that is to be waited."""
    seconds, headers = wait_of(request), {}
    if seconds is not None:
        headers["preference-applied"] = "wait"
        export = await _ended(services_of(request).pool, export, seconds)
    ended = export.finished_at is not None
    if not ended:
        headers["retry-after"] = "1"
    if status == 202:
        headers["location"] = _path(export)
        status = 201 if ended else 202
    return Answer(_encode(_view(export)), status, headers)


async def _ended(pool: asyncpg.Pool[Record], export: Export, seconds: int) -> Export:
    deadline = time.monotonic() + seconds
    while export.finished_at is None and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_S)
        export = await exports.find(pool, export.ledger, export.id) or export
    return export


async def _content(pool: asyncpg.Pool[Record], export: UUID) -> AsyncIterator[bytes]:
    number = 0
    while (part := await exports.part(pool, export, number)) is not None:
        yield part
        number += 1


def _faults(wanted: NewExport) -> Iterator[Fault]:
    """What the types can't say to be wrong."""
    formats = FORMATS[wanted.what]
    if wanted.format not in formats:
        yield Fault("#/format", f"must be one of {', '.join(formats)} for a {wanted.what}")
    elif wanted.format == "parquet" and find_spec("pyarrow") is None:
        yield Fault("#/format", "needs pyarrow, which the operator has not installed")
    if wanted.what == "statement":
        if wanted.account is None:
            yield Fault("#/account", "is required for a statement")
        if wanted.start is not None and wanted.end is not None and in_utc(wanted.start) > in_utc(wanted.end):
            yield Fault("#/to", "must not be before from")
        return
    for name, value in (("account", wanted.account), ("from", wanted.start), ("to", wanted.end)):
        if value is not None:
            yield Fault(f"#/{name}", "is for a statement only")


def _path(export: Export) -> str:
    return f"/v1/ledgers/{export.ledger}/exports/{export.id}"


def _view(export: Export) -> ExportView:
    wanted, path = _wanted(export.request), _path(export)
    return ExportView(
        export.id,
        export.ledger,
        wanted.what,
        wanted.format,
        wanted.account,
        _time(wanted.start),
        _time(wanted.end),
        export.seq,
        export.status,
        Progress(export.done, export.total),
        export.size,
        export.problem,
        format_time(export.created_at),
        _time(export.finished_at),
        _time(export.expires_at),
        ExportLinks(path, f"{path}/download" if export.status == "succeeded" else None),
    )


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


ROUTES: Final[list[Any]] = [make_export, list_exports, get_export, download, delete_export]
