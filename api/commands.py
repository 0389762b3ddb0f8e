"""Commands on their way from a request to the daybook, and their answers.

Every command route decodes its body and hands an `Intent` to `accept`, which refuses in the order of the contract:
replay look-up, 404 and 403, 422, a full mailbox. The look-up is made only when something would be refused: otherwise
the daybook itself finds out whether a key was used, in the transaction that would write the command.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import nullcontext
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from litestar import Request, Response
from uuid_utils.compat import uuid7

from api.access import may_replay
from api.answers import Answer
from api.context import services_of
from api.decoding import Attempt, Document, invalid, parse_json, query_of, read_body, try_decode
from api.edge import edge_of, principal_of
from api.jobs import job_path, job_problem, job_response
from api.preferences import key_faults, key_of, wait_of
from api.problems import problem_of, problem_response
from api.recording import Address, Recorder, encode, time_of
from api.rehearsals import PARAMETER, answer_rehearsal, is_rehearsal, rehearsal_faults
from api.waiting import within
from domain.catalog import KIND_OF
from domain.clock import unkept
from domain.errors import DomainError, Fault, InfrastructureError
from domain.messages import Command, Query
from infrastructure import rehearsal
from infrastructure.command_log import Asked, Held, Job, Key, Receipt, reused
from infrastructure.credentials import Beside
from infrastructure.postgres import OUTSIDE

B = TypeVar("B")
C = TypeVar("C", bound=Command)

AnyRequest = Request[Any, Any, Any]

REPLAYED: Final = {"idempotent-replayed": "true"}


class Form(msgspec.Struct, Generic[C], frozen=True):
    """What the API knows of a kind of command, alike for its own route and in bulk.

    `path` is its route within the ledger, `resource` what it makes or changes, `query` asks for that at a version or
    newer, and `faults` finds what a type can't say to be wrong. `status` is that of an awaited success: 201 for what
    makes something, 204 for what deletes it (then nothing is asked), else 200.
    """

    command: type[C]
    path: str
    resource: Callable[[str, C, UUID], str]
    query: Callable[[str, C, UUID, int], Query]
    faults: Callable[[C], Iterable[Fault]] = lambda _: ()
    status: int = 201


class Intent(msgspec.Struct, Generic[C], frozen=True):
    """What a request asks for. `name` is the ledger's id, or the user's; None if not even that could be read.

    `admit` raises 404 and 403 for who may not ask. `admit_reader` does so for who may not see what came of it, such as
    the submitter of a replay whose grant is gone: the job is still theirs to see, the ledger's contents are not.
    """

    form: Form[C]
    name: str | None
    document: Document
    attempt: Attempt[C]
    admit: Callable[[], Awaitable[None]]
    admit_reader: Callable[[], Awaitable[None]]
    reserves: bool = False
    type: str = "ledger"
    job: UUID = msgspec.field(default_factory=uuid7)
    extra: Extra | None = None

    @property
    def actor(self) -> str:
        return f"{self.type}:{self.name}"

    @property
    def scope(self) -> str:
        """The actor that idempotency keys belong to."""
        return self.actor if self.extra is None else self.extra.scope


class Extra(msgspec.Struct, frozen=True):
    """What a command to a user has beyond one to a ledger.

    Its keys belong to `scope`, the submitter's own actor. `beside` makes what is written with the command, once that is
    known to be in order. `recorded` is called when the command is written down, now or long ago, before any answer.
    """

    scope: str
    beside: Callable[[], Awaitable[Beside]]
    recorded: Callable[[], Awaitable[None]] | None = None


class Envelope(msgspec.Struct, frozen=True):
    """What every command's request carries beside its body."""

    principal: UUID
    correlation_id: str
    key: str | None
    wait_s: int | None
    query: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, request: AnyRequest) -> Envelope:
        query = tuple(query_of(request))
        edge = edge_of(request)
        return cls(principal_of(request).user_id, edge.correlation_id, key_of(request), wait_of(request), query)

    def faults(self, *known: str) -> list[Fault]:
        """What is wrong with the key, and every parameter of the query but the known ones: none is just ignored."""
        names = dict.fromkeys(name for name, _ in self.query if name not in (*known, PARAMETER))
        return [
            *(() if self.is_rehearsal else key_faults(self.key)),
            *rehearsal_faults(self.query),
            *(Fault(f"#/{name}", "is no parameter of this address") for name in names),
        ]

    @property
    def is_rehearsal(self) -> bool:
        """Whether nothing is to be written, nor any key taken."""
        return bool(self.query) and is_rehearsal(self.query)

    def usable_key(self) -> str | None:
        return None if key_faults(self.key) else self.key


def request_hash(path: str, query: Iterable[tuple[str, str]], body: bytes, method: str = "POST") -> bytes:
    """What tells whether two requests under one key are the same. `body` comes in its canonical form."""
    return sha256(b"\n".join((method.encode(), path.encode(), encode(sorted(query)), body))).digest()


async def read_command(request: AnyRequest, kind: type[B]) -> tuple[Document, Attempt[B]]:
    """The body: 413, 415 and 400 are raised here, 422 waits in the attempt."""
    document = parse_json(await read_body(request))
    return document, try_decode(document, kind)


async def accept(request: AnyRequest, intent: Intent[C]) -> Response[bytes]:
    """Accepts one command, or answers what its key stands for, or only what would become of it."""
    envelope = Envelope.of(request)
    if envelope.is_rehearsal:
        return await _rehearse(request, intent, envelope)
    recorder = services_of(request).recorder
    key = _key(request, intent, envelope)
    try:
        await intent.admit()
        command = _checked(intent, envelope)
        beside = None if intent.extra is None else await intent.extra.beside()
        await recorder.depths.admit(intent.actor, 1)
    except DomainError:
        held = None if key is None else await _look_up(recorder, intent.scope, envelope, key)
        if held is None:
            raise
        return await _replay(request, intent, envelope, held)
    address = Address(
        intent.job,
        intent.actor,
        envelope.principal,
        envelope.correlation_id,
        intent.form.resource(intent.name or "", command, intent.job),
        key,
        intent.name if intent.reserves else None,
        intent.scope,
        beside,
    )
    return await _record(request, intent, envelope, command, address)


async def _rehearse(request: AnyRequest, intent: Intent[C], envelope: Envelope) -> Response[bytes]:
    await intent.admit()
    command = _checked(intent, envelope)
    asked = rehearsal.Request(
        intent.actor,
        envelope.principal,
        envelope.correlation_id,
        (rehearsal.Wanted(intent.job, command),),
        reserves=intent.name if intent.reserves else None,
    )
    return await answer_rehearsal(request, asked)


async def _record(
    request: AnyRequest, intent: Intent[C], envelope: Envelope, command: C, address: Address
) -> Response[bytes]:
    recorder = services_of(request).recorder
    waiting = nullcontext() if envelope.wait_s is None else recorder.waiters.expecting(address.actor, address.job)
    with waiting as future:
        receipt = await recorder.commands.dispatch(command, address)
        if receipt.replay is None:
            await _note_recorded(intent)
            job = _fresh(command, address, receipt)
            if future is not None and envelope.wait_s is not None and not job.is_scheduled:
                job = await within(future, envelope.wait_s) or job
    if receipt.replay is not None:
        return await _replay(request, intent, envelope, receipt.replay)
    return await _answer(request, intent, envelope, job, {})


async def _replay(request: AnyRequest, intent: Intent[C], envelope: Envelope, held: UUID) -> Response[bytes]:
    recorder = services_of(request).recorder
    job = await recorder.log.find_job(held)
    if job is None:
        raise InfrastructureError("The job of this key can't be read.")
    await _note_recorded(intent)
    if envelope.wait_s is not None and not job.finished and not job.is_scheduled:
        job = await recorder.waiters.outcome(job.actor, job.id, envelope.wait_s) or job
    return await _answer(request, intent, envelope, job, REPLAYED)


async def _note_recorded(intent: Intent[C]) -> None:
    if intent.extra is not None and intent.extra.recorded is not None:
        await intent.extra.recorded()


async def _answer(
    request: AnyRequest, intent: Intent[C], envelope: Envelope, job: Job, headers: dict[str, str]
) -> Response[bytes]:
    path = job_path(job.id)
    headers = {**headers, "daybook-job": str(job.id)}
    if envelope.wait_s is None:
        return job_response(job, 202, {**headers, "location": path})
    headers["preference-applied"] = "wait"
    if not job.finished:
        return job_response(job, 202, {**headers, "location": path})
    problem = job_problem(job)
    if problem is not None:
        return problem_response(problem, headers)
    status = intent.form.status
    if status == 204:
        return Response(b"", status_code=204, headers=headers)
    try:
        await intent.admit_reader()
        query = intent.form.query(intent.name or "", intent.attempt.value(), job.id, job.seq or 0)
        answer = await services_of(request).queries.ask(query)
    except (DomainError, *OUTSIDE) as error:
        # what came of it can't be shown, but it has come of it: without the job it would look as if nothing had
        refused = problem_of(request, error, str(job.id))
        refused.headers.update(headers)
        return refused
    if status == 201:
        headers["location"] = job.resource or path
    return Answer(answer.body, status, headers)


def _key(request: AnyRequest, intent: Intent[C], envelope: Envelope) -> Key | None:
    """The request's key in its scope, None without one that could have been used."""
    if intent.name is None or (key := envelope.usable_key()) is None:
        return None
    if not may_replay(principal_of(request), intent.actor):
        return None
    body = intent.document.canonical()
    return Key(key, request_hash(request.url.path, envelope.query, body, edge_of(request).method), intent.job)


async def _look_up(recorder: Recorder, actor: str, envelope: Envelope, key: Key) -> UUID | None:
    """The job that answers the request, None if its key is free. Raises DomainError when another request has it."""
    held = await recorder.find_key(Asked(envelope.principal, actor, key.key))
    return None if held is None else same_request(held, key)


def same_request(held: Held, key: Key) -> UUID:
    """What the key stands for. Raises DomainError (422 `idempotency_key_reused`) when another request used it."""
    if held.request_hash != key.request_hash:
        raise reused(key.place)
    return held.command


def _checked(intent: Intent[C], envelope: Envelope) -> C:
    faults = (*envelope.faults(), *intent.attempt.faults)
    if faults:
        raise invalid(faults)
    command = intent.attempt.value()
    if found := tuple(faults_of(intent.form, command)):
        raise invalid(found)
    return command


def faults_of(form: Form[C], command: C) -> Iterator[Fault]:
    """What a type can't say to be wrong with a command: of any to a ledger, and of its kind."""
    moment = time_of(command)
    if moment is not None and (said := unkept(moment)):
        yield Fault("#/execute_at", said)
    yield from form.faults(command)


def _fresh(command: Command, address: Address, receipt: Receipt) -> Job:
    """The job of a command that has just been accepted."""
    if receipt.accepted_at is None:
        raise AssertionError("accepted without a time")
    execute_at = time_of(command)
    later = execute_at is not None and execute_at > receipt.accepted_at
    return Job(
        address.job,
        address.actor,
        KIND_OF[type(command)],
        "scheduled" if later else "accepted",
        address.principal,
        address.correlation_id,
        address.resource,
        None,
        receipt.accepted_at,
        execute_at,
    )
