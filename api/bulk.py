"""Bulk: many commands to one ledger in one request, each a job of its own, applied in the order of the request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from string import Formatter
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from litestar import Response, post
from litestar.params import FromPath
from msgspec import Meta
from uuid_utils.compat import uuid7

from api.access import may_replay
from api.accounts import CLOSE_ACCOUNT, FREEZE_ACCOUNT, OPEN_ACCOUNT, UNFREEZE_ACCOUNT
from api.answers import Answer
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
from api.labels import Labels, find_labels, with_ids
from api.ledgers import admit
from api.preferences import is_key
from api.recording import Recorder, draft_of, encode
from api.rehearsals import answer_rehearsal
from api.transactions import CAPTURE_TRANSACTION, POST_TRANSACTION, REVERSE_TRANSACTION, VOID_TRANSACTION
from api.waiting import all_finished
from domain.catalog import KIND_OF
from domain.errors import DomainError, Fault, InfrastructureError
from domain.ledger.commands import (
    CaptureTransaction,
    CloseAccount,
    FreezeAccount,
    OpenAccount,
    PostTransaction,
    ReverseTransaction,
    UnfreezeAccount,
    VoidTransaction,
)
from domain.messages import Command
from domain.text import LINE
from infrastructure import rehearsal
from infrastructure.command_log import Asked, Draft, Held, Key, StaleNames, Submission
from infrastructure.rehearsal import Wanted
from infrastructure.repositories.widths import weigh, weighed

LINES: Final = b"application/x-ndjson"
MOST_COMMANDS: Final = 10_000
MOST_POSTINGS: Final = 50_000
"""Of an atomic batch, which one turn takes as a whole."""
TRIES: Final = 3
"""Of a request whose labels name commands that somebody else is sending, too."""

ItemKey = Annotated[str, Meta(min_length=1, max_length=255, description="must be 1 to 255 characters")]
Label = Annotated[
    str, Meta(pattern=LINE, min_length=1, max_length=255, description="must be a line of 1 to 255 characters")
]


TransactionName = Annotated[UUID, Meta(description="must be a UUID, or # and the label of an earlier command")]


class OpenAccountItem(OpenAccount, frozen=True, tag="open_account", tag_field="kind"):
    """Open an account, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


class PostTransactionItem(PostTransaction, frozen=True, tag="post_transaction", tag_field="kind"):
    """Post a transaction, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


class CaptureTransactionItem(
    CaptureTransaction, frozen=True, kw_only=True, tag="capture_transaction", tag_field="kind"
):
    """Capture what a transaction holds, as a line of a bulk request."""

    transaction: TransactionName
    idempotency_key: ItemKey | None = None
    label: Label | None = None


class VoidTransactionItem(VoidTransaction, frozen=True, kw_only=True, tag="void_transaction", tag_field="kind"):
    """Release what a transaction holds, as a line of a bulk request."""

    transaction: TransactionName
    idempotency_key: ItemKey | None = None
    label: Label | None = None


class ReverseTransactionItem(
    ReverseTransaction, frozen=True, kw_only=True, tag="reverse_transaction", tag_field="kind"
):
    """Reverse a transaction, as a line of a bulk request."""

    transaction: TransactionName
    idempotency_key: ItemKey | None = None
    label: Label | None = None


class FreezeAccountItem(FreezeAccount, frozen=True, tag="freeze_account", tag_field="kind"):
    """Freeze an account, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


class UnfreezeAccountItem(UnfreezeAccount, frozen=True, tag="unfreeze_account", tag_field="kind"):
    """Let an account be used again, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


class CloseAccountItem(CloseAccount, frozen=True, tag="close_account", tag_field="kind"):
    """Close an account, as a line of a bulk request."""

    idempotency_key: ItemKey | None = None
    label: Label | None = None


Item = (
    OpenAccountItem
    | PostTransactionItem
    | CaptureTransactionItem
    | VoidTransactionItem
    | ReverseTransactionItem
    | FreezeAccountItem
    | UnfreezeAccountItem
    | CloseAccountItem
)


class Bulk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request: commands in the order in which they are to be applied; if it is `atomic`, all of them or none."""

    commands: Annotated[
        tuple[Item, ...],
        Meta(min_length=1, max_length=MOST_COMMANDS, description=f"must be 1 to {MOST_COMMANDS} commands"),
    ]
    atomic: bool | None = None


class Accepted(msgspec.Struct, frozen=True):
    """The batch and its jobs in the order of the request, an older job for a replayed command.

    Ids grow with time, and a batch has its own before its jobs: so a job with a lower id is an older one.
    """

    batch: UUID
    jobs: tuple[UUID, ...]


FORMS: Final[Mapping[type[Command], Form[Any]]] = {
    OpenAccountItem: OPEN_ACCOUNT,
    PostTransactionItem: POST_TRANSACTION,
    CaptureTransactionItem: CAPTURE_TRANSACTION,
    VoidTransactionItem: VOID_TRANSACTION,
    ReverseTransactionItem: REVERSE_TRANSACTION,
    FreezeAccountItem: FREEZE_ACCOUNT,
    UnfreezeAccountItem: UNFREEZE_ACCOUNT,
    CloseAccountItem: CLOSE_ACCOUNT,
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
async def submit_commands(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    document = _parse(request, await read_body(request, BULK_LIMIT, JSON_OR_LINES))
    sheet = Sheet.of(document, ledger)
    attempt = try_decode(sheet.with_ids(), Bulk)
    envelope = Envelope.of(request)
    if envelope.is_rehearsal:
        return await _rehearse(request, envelope, sheet, attempt)
    for _ in range(TRIES):
        try:
            return await _submit(request, envelope, sheet, attempt)
        except StaleNames as error:
            stale = error
    raise stale


async def _submit(
    request: AnyRequest,
    envelope: Envelope,
    sheet: Sheet,
    attempt: Attempt[Bulk],
    happened: frozenset[int] = frozenset(),
) -> Response[bytes]:
    recorder = services_of(request).recorder
    names = await _names(recorder, envelope, sheet)
    keys = _batch_keys(request, envelope, sheet)
    try:
        await admit(request, sheet.ledger, "writer")
        bulk = _checked(attempt, envelope, sheet, _parameters(request), happened)
        drafts, item_keys = _drafts(bulk, sheet, names)
        if bulk.atomic:
            await _bound(request, sheet.ledger, drafts)
        await recorder.depths.admit(sheet.actor, len(drafts))
    except DomainError as error:
        if not may_replay(principal_of(request), sheet.actor):
            raise
        held, older = await _look_up(recorder, sheet.actor, envelope, keys, _keys_of(sheet, names))
        if held is not None:
            return await _replay(recorder, envelope, held)
        if error.code != "validation_failed" or older <= happened:
            raise
        # what was in time when it was accepted may be late by now, and is the same command still
        return await _submit(request, envelope, sheet, attempt, older)
    receipt = await recorder.submit(
        Submission(
            sheet.actor,
            envelope.principal,
            envelope.correlation_id,
            drafts,
            (*keys, *item_keys),
            sheet.batch,
            atomic=bool(bulk.atomic),
            named=names.fresh,
        )
    )
    if receipt.replay is not None:
        return await _replay(recorder, envelope, receipt.replay)
    headers = {} if receipt.accepted_at is not None else REPLAYED
    return await _answer(recorder, envelope, Accepted(sheet.batch, receipt.jobs), sheet.actor, headers)


async def _rehearse(request: AnyRequest, envelope: Envelope, sheet: Sheet, attempt: Attempt[Bulk]) -> Response[bytes]:
    await admit(request, sheet.ledger, "writer")
    bulk = _checked(attempt, envelope, sheet, _parameters(request))
    transactions = {index: sheet.jobs[target] for index, target in sheet.labels.named.items()}
    wanted = [
        Wanted(sheet.jobs[index], _command(item, transactions.get(index))) for index, item in enumerate(bulk.commands)
    ]
    asked = rehearsal.Request(
        sheet.actor, envelope.principal, envelope.correlation_id, wanted, atomic=bool(bulk.atomic)
    )
    return await answer_rehearsal(request, asked, "#/commands/{}")


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
    return Answer(encode(accepted), 202, headers)


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


class Sheet(msgspec.Struct, frozen=True):
    """A request's document, the ids that it and its commands get, and the labels by which some name others."""

    document: Document
    ledger: str
    batch: UUID
    jobs: tuple[UUID, ...]
    labels: Labels

    @classmethod
    def of(cls, document: Document, ledger: str) -> Sheet:
        commands, batch = _commands(document), uuid7()
        # of too many commands none is accepted
        jobs = tuple(uuid7() for _ in commands[:MOST_COMMANDS])
        return cls(document, ledger, batch, jobs, find_labels(commands[:MOST_COMMANDS]))

    @property
    def actor(self) -> str:
        return f"ledger:{self.ledger}"

    def with_ids(self) -> Document:
        """The document with an id wherever a command names a label; which one is of no matter yet."""
        if not self.labels.all:
            return self.document
        ids = dict.fromkeys(self.labels.all, str(UUID(int=0)))
        content = {**self.document.content, "commands": with_ids(_commands(self.document), ids)}
        return Document(content, self.document.unstorable)


class Names(msgspec.Struct, frozen=True):
    """The transactions that labels stand for, by the index of the command that names one.

    `fresh` are the jobs among them whose keys were free when it was looked.
    """

    transactions: Mapping[int, UUID]
    fresh: frozenset[UUID] = frozenset()


async def _names(recorder: Recorder, envelope: Envelope, sheet: Sheet) -> Names:
    """What labels stand for: jobs of this request, or the older one that a key stands for."""
    labels, commands = sheet.labels.named, _commands(sheet.document)
    if not labels:
        return Names({})
    keyed = sorted({target for target in labels.values() if _key_in(commands[target]) is not None})
    asked = [Asked(envelope.principal, sheet.actor, _key_in(commands[target]) or "") for target in keyed]
    found = dict(zip(keyed, await recorder.log.find_keys(asked) if asked else (), strict=True))
    transactions: dict[int, UUID] = {}
    jobs: dict[int, UUID] = {}
    for target in sorted(set(labels.values())):
        # one that names another itself comes behind it
        if target in labels:
            transactions[target] = jobs[labels[target]]
        jobs[target] = _job(sheet, target, transactions, found.get(target))
    transactions |= {index: jobs[target] for index, target in labels.items()}
    fresh = frozenset(jobs[target] for target in keyed if found[target] is None)
    return Names(transactions, fresh)


def _job(sheet: Sheet, index: int, transactions: Mapping[int, UUID], held: Held | None) -> UUID:
    if held is None:
        return sheet.jobs[index]
    key = _item_key(sheet, index, Names(transactions), sheet.jobs[index])
    return held.command if key is not None and key.request_hash == held.request_hash else sheet.jobs[index]


def _commands(document: Document) -> list[Any]:
    commands = document.content.get("commands") if isinstance(document.content, dict) else None
    return commands if isinstance(commands, list) else []


def _key_in(item: object) -> str | None:
    key = item.get("idempotency_key") if isinstance(item, dict) else None
    return key if isinstance(key, str) and is_key(key) else None


def _checked(
    attempt: Attempt[Bulk],
    envelope: Envelope,
    sheet: Sheet,
    known: tuple[str, ...],
    happened: frozenset[int] = frozenset(),
) -> Bulk:
    """The decoded request. Raises ValidationError naming at most 100 faults.

    Commands that have `happened` were found to be in order when they were accepted.
    """
    faults = [*envelope.faults(*known), *attempt.faults, *sheet.labels.faults]
    if faults:
        raise invalid(faults)
    bulk = attempt.value()
    if bulk.atomic:
        faults += _atomic_faults(bulk)
    for index, item in enumerate(bulk.commands):
        if index in happened:
            continue
        faults.extend(_within(index, fault) for fault in faults_of(FORMS[type(item)], item))
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise invalid(faults)
    return bulk


def _atomic_faults(bulk: Bulk) -> Iterator[Fault]:
    postings = sum(len(item.postings) for item in bulk.commands if isinstance(item, PostTransactionItem))
    if postings > MOST_POSTINGS:
        yield Fault("#/commands", f"must have at most {MOST_POSTINGS} postings if they are atomic")
    for index, item in enumerate(bulk.commands):
        if item.execute_at is not None:
            yield Fault(f"#/commands/{index}/execute_at", "must be left out if the commands are atomic")


async def _bound(request: AnyRequest, ledger: str, drafts: Sequence[Draft]) -> None:
    """Raises ValidationError if commands that go together name more than a turn takes."""
    commands = [weighed(draft.id, draft.kind, draft.weight, draft.payload) for draft in drafts]
    naming = [command.transaction is not None for command in commands]
    if any(naming):
        weights = await weigh(services_of(request).pool, ledger, commands, MOST_POSTINGS)
        if sum(compress(weights, naming)) > MOST_POSTINGS:
            raise invalid([Fault("#/commands", f"must name at most {MOST_POSTINGS} postings if they are atomic")])


def _drafts(bulk: Bulk, sheet: Sheet, names: Names) -> tuple[tuple[Draft, ...], list[Key]]:
    drafts = []
    keys = []
    for index, item in enumerate(bulk.commands):
        form = FORMS[type(item)]
        job = sheet.jobs[index]
        command = _command(item, names.transactions.get(index))
        drafts.append(draft_of(KIND_OF[form.command], command, job, form.resource(sheet.ledger, command, job)))
        if item.idempotency_key is not None and (key := _item_key(sheet, index, names, job)) is not None:
            keys.append(key)
    return tuple(drafts), keys


def _command(item: Any, transaction: UUID | None) -> Command:
    """The command that an item is, about `transaction` if it names that by a label."""
    form = FORMS[type(item)]
    given = {name: getattr(item, name) for name in form.command.__struct_fields__}
    if transaction is not None:
        given["transaction"] = transaction
    command: Command = form.command(**given)
    return command


_PLACES: Final = {
    form.path: tuple(name for _, name, _, _ in Formatter().parse(form.path) if name) for form in FORMS.values()
}
"""What the path of each form names."""
_FORM_OF: Final = {KIND_OF[form.command]: form for form in FORMS.values()}


def _item_key(sheet: Sheet, index: int, names: Names, job: UUID) -> Key | None:
    """An item is the same request as the single command of its route. None for one that could be no request."""
    content = _commands(sheet.document)[index]
    key, form = _key_in(content), _FORM_OF.get(str(content.get("kind")))
    if key is None or form is None:
        return None
    places = _PLACES[form.path]
    named = {place: content.get(place) for place in places}
    if index in names.transactions:
        named["transaction"] = str(names.transactions[index])
    if not all(isinstance(value, str) for value in named.values()):
        return None
    body = canonical({name: value for name, value in content.items() if name not in (*_OWN_MEMBERS, *places)})
    digest = request_hash(f"/v1/ledgers/{sheet.ledger}/{form.path.format_map(named)}", (), body)
    return Key(key, digest, job, f"#/commands/{index}")


def _batch_keys(request: AnyRequest, envelope: Envelope, sheet: Sheet) -> tuple[Key, ...]:
    key = envelope.usable_key()
    if key is None:
        return ()
    return (Key(key, request_hash(request.url.path, envelope.query, sheet.document.canonical()), sheet.batch),)


def _keys_of(sheet: Sheet, names: Names) -> dict[int, Key]:
    """The keys of those commands that could have been accepted before, in a request that is refused as a whole."""
    keys = {}
    for index, item in enumerate(_commands(sheet.document)[:MOST_COMMANDS]):
        if _key_in(item) is not None and (key := _item_key(sheet, index, names, UUID(int=0))) is not None:
            keys[index] = key
    return keys


async def _look_up(
    recorder: Recorder, actor: str, envelope: Envelope, of_batch: tuple[Key, ...], of_items: Mapping[int, Key]
) -> tuple[UUID | None, frozenset[int]]:
    """The batch that answers a request that would be refused otherwise, and which of its commands happened already.

    Raises DomainError when another request has used one of its keys.
    """
    keys = (*of_batch, *of_items.values())
    asked = [Asked(envelope.principal, actor, key.key) for key in keys]
    found = await recorder.log.find_keys(asked) if asked else []
    answers = [None if held is None else same_request(held, key) for key, held in zip(keys, found, strict=True)]
    older = frozenset(index for index, held in zip(of_items, answers[len(of_batch) :], strict=True) if held is not None)
    return next(iter(answers[: len(of_batch)]), None), older


ROUTES: Final[list[Any]] = [submit_commands]
