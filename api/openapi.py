"""`/openapi.json`, made from the routes themselves: what they declare (`api.routes`), and what follows from that.

Bodies and answers come from the types that routes decode and encode, the problems of each status from `api.outcomes`,
examples from `api.samples`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from litestar import Litestar, Request, Response, get

from api.jobs import JobView
from api.outcomes import HEADERS, answer_headers, codes_of, problem_headers, problem_schema, tells_of_a_job
from api.problems import Problem
from api.rehearsals import RehearsalView
from api.routes import Operation, operations
from api.samples import sample
from domain.errors import CATALOGUE
from domain.ledger.commands import AccountName, CurrencyCode, LedgerId

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_LIST: Final = re.compile(r"ListView_(\w+?)(?:View)?_$")

_ABOUT: Final = (
    "A double-entry ledger service. Commands are accepted durably and answered at once; `Prefer: wait=N` waits for "
    "their outcome. Every error is a problem (RFC 9457); `/problems` lists the codes. HEAD is answered wherever GET "
    "is, OPTIONS everywhere; any other method is 405 `method_not_allowed`, and `Allow` names those there are."
)
_TAGS: Final[Mapping[str, str]] = {
    "auth": "Logging in and out, and the sessions that come of it.",
    "users": "Who there is.",
    "api-keys": "Credentials for machines, with a part of their owner's authority.",
    "ledgers": "Sets of books.",
    "grants": "Who may use a ledger, and how.",
    "periods": "Books that are closed.",
    "schedules": "Commands that are repeated.",
    "currencies": "Currencies of a ledger's own; those of ISO 4217 are known.",
    "accounts": "What money is in.",
    "transactions": "What moves money.",
    "commands": "Many commands in one request.",
    "jobs": "What became of commands.",
    "batches": "What became of the commands of a bulk request.",
    "balances": "Sums over accounts.",
    "trial-balance": "Whether the books balance.",
    "exports": "Files: the journal, statements, the ledger as text for other programs.",
    "journal": "Every event, with its exact bytes.",
    "health": "For probes.",
    "metrics": "For Prometheus.",
}
_DONE: Final[Mapping[int, str]] = {
    200: "As it is now.",
    201: "Done: this is what was made.",
    202: "Accepted: it will be done.",
    204: "Done.",
    304: "Nothing has changed since.",
    503: "Not all that is needed answers.",
}

_PLAIN: Final = {"type": "string", "pattern": "^[^\\u0000]*$"}
_WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
_TIME: Final = {"type": "string", "format": "date-time"}
_ID: Final = {"type": "string", "format": "uuid"}

# A name is a type that routes decode, where the schema is to be that type's.
_QUERY: Final[Mapping[str, tuple[str, Any]]] = {
    "limit": ("Items on a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    "cursor": ("`next` of the page before.", {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}),
    "min_version": (
        "Answer from data at least this new (a job's `seq`): waits up to a second, then 409.",
        _WHOLE,
    ),
    "after": ("The seq to begin behind.", _WHOLE),
    "prefix": ("Beginning of account names.", {**_PLAIN, "maxLength": 519}),
    "currency": ("A currency's code.", CurrencyCode),
    "account": ("An account's name.", AccountName),
    "reference": ("A transaction's reference.", {**_PLAIN, "maxLength": 255}),
    "status": ("A status.", {"type": "string"}),
    "ledger": ("A ledger's id.", _PLAIN),
    "kind": ("A kind of command.", {"type": "string"}),
    "from": ("Effective at or after this time.", _TIME),
    "to": ("Effective before this time.", _TIME),
    "effective_at": ("As it was with what took effect up to this time, which holds never do.", _TIME),
    "recorded_at": ("As it was with what was recorded up to this time.", _TIME),
    "seq": ("As it was with what was recorded up to this `seq`: repeats an answer that names it.", _WHOLE),
    "validate_only": (
        "Answers what would become of it, and the accounts it touches as they would be then; nothing is written, and "
        "`Idempotency-Key` and `Prefer` are ignored.",
        {"type": "boolean", "default": False},
    ),
    "atomic": (
        "For `application/x-ndjson` what the member `atomic` is for JSON, with which it is refused.",
        {"type": "boolean", "default": False},
    ),
}
_PATH: Final[Mapping[str, tuple[str, Any]]] = {
    "ledger": ("A ledger's id.", LedgerId),
    "account": ("An account's name.", AccountName),
}
_SAMPLES: Final = {"ledger": "acme", "account": "wallets:alice"}

_PARAMETERS: Final[Mapping[str, Json]] = {
    "CorrelationId": {
        "name": "X-Correlation-ID",
        "description": "1 to 64 of `[A-Za-z0-9._-]`, to find the request again; anything else is replaced.",
        "schema": {"type": "string"},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "description": "The same key with the same request answers with the same job.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
    "Prefer": {
        "name": "Prefer",
        "description": "`wait=N` waits up to N seconds (at most 30) for the outcome. Anything else is ignored.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "description": "The ETag of an answer one has: 304 as long as it is the newest.",
        "schema": {"type": "string"},
    },
}

_SECURITY: Final[Mapping[str, Json]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The access token of `POST /auth/login` or `POST /auth/refresh`.",
    },
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "dbk_…",
        "description": "An API key, good for what its scopes name, in the ledgers it names.",
    },
}


def describe(app: Litestar) -> Json:
    """The OpenAPI 3.1 document of an application's routes."""
    found = list(operations(app))
    document = _Document(found)
    paths: dict[str, Json] = {}
    for operation in found:
        paths.setdefault(operation.path, {})[operation.method.lower()] = document.operation(operation)
    tags = dict.fromkeys(operation.tag for operation in found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Daybook", "version": version("daybook"), "description": _ABOUT},
        "tags": [{"name": tag, "description": _TAGS[tag]} if tag in _TAGS else {"name": tag} for tag in tags],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": document.schemas.components,
            "responses": dict(sorted(document.responses.items())),
            "parameters": {name: {"in": "header", **what} for name, what in _PARAMETERS.items()},
            "headers": {name: header.described() for name, header in HEADERS.items()},
            "securitySchemes": dict(_SECURITY),
        },
    }


class _Schemas:
    """JSON Schemas of every type that a route names, by reference."""

    def __init__(self, found: Iterable[Operation]) -> None:
        kinds: list[Any] = [Problem, JobView, RehearsalView]
        for operation in found:
            kinds += operation.bodies.values()
            # msgspec has no union of types that it could not tell apart
            kinds += [part for kind in operation.answers.values() if kind is not None for part in _alternatives(kind)]
        kinds += [kind for _, kind in (*_QUERY.values(), *_PATH.values()) if not isinstance(kind, dict)]
        unique = list({repr(kind): kind for kind in kinds}.values())
        schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
        self.components: Final[dict[str, Json]] = {_named(name): _portable(part) for name, part in components.items()}
        self._found = {repr(kind): _portable(schema) for kind, schema in zip(unique, schemas, strict=True)}

    def of(self, kind: Any) -> Json:
        """A type's, or a schema as it is."""
        if isinstance(kind, dict):
            return dict(kind)
        if repr(kind) in self._found:
            return dict(self._found[repr(kind)])
        return {"anyOf": [self.of(part) for part in _alternatives(kind)]}


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; any other type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _portable(schema: Any, place: str = "") -> Any:
    """With patterns as JSON Schema has them: Python's own marks of the beginning and the end mean nothing there."""
    if isinstance(schema, dict):
        return {name: _portable(part, name) for name, part in schema.items()}
    if isinstance(schema, str):
        changes = {"pattern": schema.replace("\\A", "^").replace("\\Z", "$"), "$ref": _named(schema)}
        return changes.get(place, schema)
    return [_portable(part) for part in schema] if isinstance(schema, list | tuple) else schema


def _named(name: str) -> str:
    """The name of a schema; a list's is after its items."""
    return _LIST.sub(r"\1List", name)


class _Document:
    """The parts of the document that operations share are collected as they are described."""

    def __init__(self, found: list[Operation]) -> None:
        self.schemas: Final = _Schemas(found)
        self.responses: Final[dict[str, Json]] = {}

    def operation(self, operation: Operation) -> Json:
        """An Operation Object."""
        described: Json = {"operationId": operation.id, "tags": [operation.tag], "summary": operation.summary}
        if operation.description:
            described["description"] = operation.description
        described["parameters"] = list(self._parameters(operation))
        if operation.bodies:
            described["requestBody"] = self._body(operation)
        described["responses"] = self._answers(operation)
        if operation.protected:
            keys = [{"key": [scope]} for scope in operation.keys]
            described["security"] = [{"token": []}, *keys]
        return described

    def _parameters(self, operation: Operation) -> Iterable[Json]:
        for name in operation.names:
            description, kind = _PATH.get(name, ("An id.", _ID))
            parameter = {"name": name, "in": "path", "required": True, "description": description}
            yield {**parameter, "schema": self._narrowed(kind), **_example(name)}
        for name in operation.query:
            description, kind = _QUERY[name]
            schema = self._narrowed(kind, operation.choices.get(name))
            yield {"name": name, "in": "query", "description": description, "schema": schema}
        taken = {
            "IdempotencyKey": operation.keyed,
            "Prefer": operation.awaitable,
            "IfNoneMatch": operation.versioned,
            "CorrelationId": True,
        }
        yield from ({"$ref": f"#/components/parameters/{name}"} for name, is_taken in taken.items() if is_taken)

    def _narrowed(self, kind: Any, choices: Iterable[str] | None = None) -> Json:
        schema = self.schemas.of(kind)
        schema.pop("description", None)
        return schema if choices is None else {**schema, "enum": list(choices)}

    def _body(self, operation: Operation) -> Json:
        content: Json = {}
        for media, kind in operation.bodies.items():
            schema = self.schemas.of(kind)
            content[media] = {"schema": schema, "example": sample(schema, self.schemas.components, whole=False)}
        required = any(_needs_members(self.schemas, kind) for kind in operation.bodies.values())
        body: Json = {"required": required, "content": content}
        if operation.lines is not None:
            body["description"] = "As `application/x-ndjson` one command a line: the schema is a line's."
        return body

    def _answers(self, operation: Operation) -> dict[str, Json]:
        answers = {status: self._answer(operation, status, kind) for status, kind in operation.answers.items()}
        if operation.command:
            answers[200] = self._or_rehearsal(operation, answers.get(200))
        if operation.versioned:
            answers[304] = self._answer(operation, 304, None)
        for status, codes in codes_of(operation).items():
            answers[status] = self._problem(operation, status, codes)
        return {str(status): answer for status, answer in sorted(answers.items())}

    def _answer(self, operation: Operation, status: int, kind: Any) -> Json:
        described: Json = {
            "description": _DONE.get(status, "Done."),
            "headers": _headers(answer_headers(operation, status)),
        }
        if kind is not None or (operation.media != "application/json" and status == 200):
            # of a stream of events each is an object to those who read them
            text: Json = {} if operation.media == "text/event-stream" else {"type": "string"}
            schema = text if kind is None else self.schemas.of(kind)
            described["content"] = {operation.media: {"schema": schema}}
            if operation.media == "application/x-ndjson":
                described["description"] = "One line each: the schema is a line's."
        return described

    def _or_rehearsal(self, operation: Operation, answer: Json | None) -> Json:
        """What a command answers with 200, with what it answers when it is only rehearsed."""
        told = self._answer(operation, 200, RehearsalView)
        told["description"] = "With `validate_only=true`: what would become of it."
        if answer is not None:
            schemas = [each["content"]["application/json"]["schema"] for each in (answer, told)]
            told["content"]["application/json"]["schema"] = {"anyOf": schemas}
            told["description"] = f"{answer['description']} {told['description']}"
        return told

    def _problem(self, operation: Operation, status: int, codes: tuple[str, ...]) -> Json:
        described: Json = {
            "description": " ".join(f"`{code}`: {CATALOGUE[code].advice}" for code in codes),
            "headers": _headers(problem_headers(operation, status)),
            "content": problem_schema(status, codes, self.schemas.of(Problem)),
        }
        if tells_of_a_job(operation, status):
            return described
        name = "Or".join("".join(part.capitalize() for part in code.split("_")) for code in codes)
        self.responses[name] = described
        return {"$ref": f"#/components/responses/{name}"}


def _headers(names: Iterable[str]) -> Json:
    return {HEADERS[name].name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _example(name: str) -> Json:
    return {"example": _SAMPLES[name]} if name in _SAMPLES else {}


def _needs_members(schemas: _Schemas, kind: Any) -> bool:
    """Whether a request without a body, which counts as an empty object, lacks something."""
    schema = schemas.of(kind)
    if "$ref" in schema:
        schema = schemas.components[schema["$ref"].rpartition("/")[2]]
    return "anyOf" in schema or bool(schema.get("required"))


@lru_cache(maxsize=1)
def document_of(app: Litestar) -> Json:
    """The application's document, described once."""
    return describe(app)


@lru_cache(maxsize=1)
def _encoded(app: Litestar) -> bytes:
    return msgspec.json.encode(document_of(app))


@get("/openapi.json", described=False)
async def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This API, for machines."""
    return Response(_encoded(request.app), media_type="application/vnd.oai.openapi+json")


ROUTES: Final = [openapi]
