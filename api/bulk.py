"""Bulk: many commands to one ledger in one request, each a job of its own, applied in the order of the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Request, Response, post
from litestar.params import FromPath
from msgspec import Meta
from uuid_utils.compat import uuid7

from api.access import may_replay
from api.accounts import OPEN_ACCOUNT
from api.batches import BatchView, batch_path, batch_response, batch_view
from api.commands import REPLAYED, AnyRequest, Envelope, Form, faults_of, request_hash, same_request
from api.context import services_of
from api.decoding import (
    BULK_LIMIT,
    JSON_OR_LINES,
    MAX_FAULTS,
    Attempt,
    Document,
    canonical,
    invalid,
    media_type_of,
    parse_json,
    parse_lines,
    read_body,
    try_decode,
)
from api.edge import edge_of, principal_of
from api.ledgers import admit
from api.preferences import is_key
from api.recording import Recorder, draft_of, encode
from api.transactions import POST_TRANSACTION
from api.waiting import all_finished
from domain.catalog import KIND_OF
from domain.errors import DomainError, Fault, InfrastructureError
from domain.ledger.commands import OpenAccount, PostTransaction
from domain.messages import Command
from domain.text import LINE
from infrastructure.command_log import Asked, Draft, Key, Submission

LINES: Final = b"application/x-ndjson"
MOST_COMMANDS: Final = 10_000

ItemKey = Annotated[str, Meta(min_length=1, max_length=255, description="must be 1 to 255 characters")]
Label = Annotated[
    str, Meta(pattern=LINE, min_length=1, max_length=255, description="must be a line of 1 to 255 characters")
]


class OpenAccountItem(OpenAccount, frozen=True, tag="open_account", tag_field="kind"):
    """Open an account, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


class PostTransactionItem(PostTransaction, frozen=True, tag="post_transaction", tag_field="kind"):
    """Post a transaction, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


Item = OpenAccountItem | PostTransactionItem


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request: commands in the order in which they are to be applied."""

    commands: Annotated[
        tuple[Item, ...],
        Meta(min_length=1, max_length=MOST_COMMANDS, description=f"must be 1 to {MOST_COMMANDS} commands"),
    ]
    atomic: bool | None = None


class Accepted(msgspec.Struct, frozen=True):
    """The batch and its jobs in the order of the request, an older job for a replayed command."""

    batch: UUID
    jobs: tuple[UUID, ...]


FORMS: Final[Mapping[type[Command], Form[Any]]] = {
    OpenAccountItem: OPEN_ACCOUNT,
    PostTransactionItem: POST_TRANSACTION,
}
_OWN_MEMBERS: Final = ("kind", "idempotency_key", "label")


@post(
    "/v1/ledgers/{ledger:str}/commands",
    status_code=202,
    summary="Submit up to 10,000 commands in order",
    body=Bulk,
    lines=Item,
    query=("atomic",),
    command=True,
    answers={200: BatchView, 202: Accepted},
)
async def submit_commands(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    document = _parse(request, await read_body(request, BULK_LIMIT, JSON_OR_LINES))
    attempt = try_decode(document, Bulk)
    envelope = Envelope.of(request)
    recorder = services_of(request).recorder
    batch = uuid7()
    actor = f"ledger:{ledger}"
    keys = _batch_keys(request, envelope, document, batch)
    try:
        await admit(request, ledger, "writer")
        drafts, item_keys = _drafts(_checked(attempt, envelope, _parameters(request)), document, ledger)
        await recorder.depths.admit(actor, len(drafts))
    except DomainError:
        keyed = (*keys, *_keys_of(document, ledger)) if may_replay(principal_of(request), actor) else ()
        held = await _look_up(recorder, actor, envelope, keyed)
        if held is None:
            raise
        return await _replay(recorder, envelope, held)
    receipt = await recorder.submit(
        Submission(actor, envelope.principal, envelope.correlation_id, drafts, (*keys, *item_keys), batch)
    )
    if receipt.replay is not None:
        return await _replay(recorder, envelope, receipt.replay)
    headers = {} if receipt.accepted_at is not None else REPLAYED
    return await _answer(recorder, envelope, Accepted(batch, receipt.jobs), actor, headers)


async def _answer(
    recorder: Recorder, envelope: Envelope, accepted: Accepted, actor: str, headers: Mapping[str, str]
) -> Response[bytes]:
    headers = {**headers, "location": batch_path(accepted.batch)}
    if envelope.wait_s is not None:
        headers["preference-applied"] = "wait"
        if await all_finished(recorder.log, recorder.waiters, actor, accepted.jobs, envelope.wait_s):
            found = await recorder.log.find_batch(accepted.batch)
            if found is not None:
                return batch_response(await batch_view(recorder.log, found), headers)
    headers["retry-after"] = "1"
    return Response(encode(accepted), status_code=202, media_type="application/json", headers=headers)


async def _replay(recorder: Recorder, envelope: Envelope, held: UUID) -> Response[bytes]:
    found = await recorder.log.find_batch(held)
    if found is None:
        raise InfrastructureError("The batch of this key can't be read.")
    return await _answer(recorder, envelope, Accepted(found.id, found.jobs), found.actor, REPLAYED)


def _parse(request: AnyRequest, raw: bytes) -> Document:
    """The body as one document, however it was sent."""
    if media_type_of(edge_of(request).headers) != LINES:
        return parse_json(raw)
    lines = parse_lines(raw, MOST_COMMANDS)
    content: dict[str, Any] = {"commands": [line.content for line in lines]}
    atomic = request.query_params.getall("atomic", [])
    if atomic:
        given = ",".join(atomic)
        content["atomic"] = {"true": True, "false": False}.get(given, given)
    unstorable = [_within(index, fault) for index, line in enumerate(lines) for fault in line.unstorable]
    return Document(content, tuple(unstorable))


def _within(index: int, fault: Fault) -> Fault:
    """A fault of a command as a fault of the request."""
    return Fault(f"#/commands/{index}{fault.pointer[1:]}", fault.detail)


def _parameters(request: AnyRequest) -> tuple[str, ...]:
    """Those that the query may have: JSON says by itself whether it is atomic."""
    return ("atomic",) if media_type_of(edge_of(request).headers) == LINES else ()


def _checked(attempt: Attempt[Bulk], envelope: Envelope, known: tuple[str, ...]) -> Bulk:
    """The decoded request. Raises ValidationError naming at most 100 faults."""
    faults = [*envelope.faults(*known), *attempt.faults]
    if faults:
        raise invalid(faults)
    bulk = attempt.value()
    if bulk.atomic:
        faults.append(Fault("#/atomic", "must be false: commands are applied independently of each other"))
    for index, item in enumerate(bulk.commands):
        faults.extend(_within(index, fault) for fault in faults_of(FORMS[type(item)], item))
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise invalid(faults)
    return bulk


def _drafts(bulk: Bulk, document: Document, ledger: str) -> tuple[tuple[Draft, ...], list[Key]]:
    drafts = []
    keys = []
    for index, item in enumerate(bulk.commands):
        form = FORMS[type(item)]
        job = uuid7()
        kind, names = _PLAIN[type(item)]
        command = form.command(**{name: getattr(item, name) for name in names})
        drafts.append(draft_of(kind, command, job, form.resource(ledger, command, job)))
        if item.idempotency_key is not None:
            keys.append(_item_key(document.content["commands"][index], index, ledger, form, job))
    return tuple(drafts), keys


_PLAIN: Final = {item: (KIND_OF[form.command], form.command.__struct_fields__) for item, form in FORMS.items()}


def _item_key(content: dict[str, Any], index: int, ledger: str, form: Form[Any], job: UUID) -> Key:
    """An item is the same request as the single command of its route."""
    body = canonical({name: value for name, value in content.items() if name not in _OWN_MEMBERS})
    digest = request_hash(f"/v1/ledgers/{ledger}/{form.path}", (), body)
    return Key(content["idempotency_key"], digest, job, f"#/commands/{index}")


def _batch_keys(request: AnyRequest, envelope: Envelope, document: Document, batch: UUID) -> tuple[Key, ...]:
    key = envelope.usable_key()
    if key is None:
        return ()
    return (Key(key, request_hash(request.url.path, envelope.query, document.canonical()), batch),)


def _keys_of(document: Document, ledger: str) -> Iterator[Key]:
    """The keys of those commands that could have been accepted before, in a request that is refused as a whole."""
    forms = {KIND_OF[form.command]: form for form in FORMS.values()}
    content = document.content
    commands = content.get("commands") if isinstance(content, dict) else None
    for index, item in enumerate(commands if isinstance(commands, list) else ()):
        key = item.get("idempotency_key") if isinstance(item, dict) else None
        form = forms.get(str(item.get("kind"))) if isinstance(key, str) and is_key(key) else None
        if form is not None and index < MOST_COMMANDS:
            yield _item_key(item, index, ledger, form, UUID(int=0))


async def _look_up(recorder: Recorder, actor: str, envelope: Envelope, keys: tuple[Key, ...]) -> UUID | None:
    """The batch that answers a request that would be refused otherwise.

    Raises DomainError when another request has used one of its keys.
    """
    asked = [Asked(envelope.principal, actor, key.key) for key in keys]
    found = await recorder.log.find_keys(asked) if asked else []
    answers = [(key, same_request(held, key)) for key, held in zip(keys, found, strict=True) if held is not None]
    return next((held for key, held in answers if key.place is None), None)


ROUTES: Final[list[Any]] = [submit_commands]
