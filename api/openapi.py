"""`/openapi.json`, made from the routes themselves: decorators say what bodies, parameters and answers there are.

A route may carry `body=` (the type of its request), `lines=` (the type of a line, where that is another way to send
it), `query=` (names of its parameters), `answers=` (status → type), `media=` (what it answers with, if not JSON),
`command=True` (it takes an idempotency key), `awaitable=True` (it takes `Prefer: wait`, as every command does) and
`versioned=True` (its answers have an ETag); summaries come from `summary=` or the docstring. What every route has in
common, headers and problems, is added here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final, get_args, get_type_hints

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from api.jobs import JobView
from api.problems import Problem
from api.targets import target_of

_REF: Final = "#/components/schemas/{name}"

_PLACEHOLDER: Final = re.compile(r"\{(\w+)(:\w+)?\}")

_PARAMETERS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "limit": ("Items on a page.", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
    "cursor": ("`next` of the page before.", {"type": "string"}),
    "min_version": (
        "Answer from data at least this new (a job's `result.seq`): waits up to a second, then 409.",
        {"type": "integer", "minimum": 0},
    ),
    "after": ("The seq to begin behind.", {"type": "integer", "minimum": 0}),
    "prefix": ("Beginning of account names.", {"type": "string"}),
    "currency": ("A currency's code.", {"type": "string"}),
    "account": ("An account's name.", {"type": "string"}),
    "reference": ("A transaction's reference.", {"type": "string"}),
    "status": ("A status.", {"type": "string"}),
    "ledger": ("A ledger's id.", {"type": "string"}),
    "kind": ("A kind of command.", {"type": "string"}),
    "from": ("Effective at or after this time.", {"type": "string", "format": "date-time"}),
    "atomic": ("For lines what the member `atomic` is for JSON.", {"type": "boolean", "default": False}),
    "to": ("Effective before this time.", {"type": "string", "format": "date-time"}),
}

_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request answers with the same job.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_PREFER: Final = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N` waits up to N seconds (at most 30) for the outcome.",
    "schema": {"type": "string"},
}
_IF_NONE_MATCH: Final = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an answer one has: 304 as long as it is the newest.",
    "schema": {"type": "string"},
}


def describe(app: Litestar) -> dict[str, Any]:
    """The OpenAPI 3.1 document of an application's routes."""
    handlers = list(_handlers(app))
    schemas = _Schemas(handlers)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, handler in handlers:
        operation = _operation(path, handler, schemas)
        paths.setdefault(_PLACEHOLDER.sub(r"{\1}", path), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Daybook",
            "version": version("daybook"),
            "description": "A double-entry ledger service. Commands are accepted durably and answered at once; "
            "`Prefer: wait=N` waits for their outcome. Every error is a problem (RFC 9457); /problems lists the codes.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _handlers(app: Litestar) -> Iterable[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    if method in ("GET", "POST", "PUT", "PATCH", "DELETE") and handler.opt.get("described", True):
                        yield route.path_format, str(method), handler


class _Schemas:
    """JSON Schemas of every type that a route names, by reference."""

    def __init__(self, handlers: list[tuple[str, str, HTTPRouteHandler]]) -> None:
        self._types: list[Any] = [Problem, JobView]
        for _, _, handler in handlers:
            kinds = (*_bodies(handler).values(), *_answers(handler).values())
            self._types += [kind for kind in kinds if kind is not None]
        unique = list({repr(kind): kind for kind in self._types}.values())
        found, self.components = msgspec.json.schema_components(unique, ref_template=_REF)
        self._found = {repr(kind): schema for kind, schema in zip(unique, found, strict=True)}

    def of(self, kind: Any) -> dict[str, Any]:
        return self._found[repr(kind)]


def _bodies(handler: HTTPRouteHandler) -> dict[str, Any]:
    """The types of its request, by media type."""
    bodies = {"application/json": handler.opt.get("body"), "application/x-ndjson": handler.opt.get("lines")}
    return {media: kind for media, kind in bodies.items() if kind is not None}


def _headers(handler: HTTPRouteHandler) -> list[dict[str, Any]]:
    is_command = handler.opt.get("command", False)
    chosen = {
        "key": (_KEY, is_command),
        "prefer": (_PREFER, is_command or handler.opt.get("awaitable", False)),
        "match": (_IF_NONE_MATCH, handler.opt.get("versioned", False)),
    }
    return [header for header, taken in chosen.values() if taken]


def _answers(handler: HTTPRouteHandler) -> dict[int, Any]:
    """What the route answers when all is well: as declared, else what its function returns."""
    if "answers" in handler.opt:
        return dict(handler.opt["answers"])
    if handler.responses:
        return {status: spec.data_container for status, spec in handler.responses.items()}
    returned = get_type_hints(handler.fn).get("return")
    returned = get_args(returned)[0] if get_args(returned) else returned
    is_struct = isinstance(returned, type) and issubclass(returned, msgspec.Struct)
    return {handler.status_code or 200: returned if is_struct else None}


def _operation(path: str, handler: HTTPRouteHandler, schemas: _Schemas) -> dict[str, Any]:
    summary = handler.summary or (handler.fn.__doc__ or "").partition("\n")[0].rstrip(".")
    names = [match[1] for match in _PLACEHOLDER.finditer(path)]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    parameters += [_parameter(name) for name in handler.opt.get("query", ())]
    media = handler.opt.get("media", "application/json")
    responses = {str(status): _answer(status, kind, media, schemas) for status, kind in _answers(handler).items()}
    if handler.opt.get("versioned"):
        responses["304"] = {"description": "Nothing has changed since."}
    responses["default"] = {
        "description": "A problem: see `code`.",
        "content": {"application/problem+json": {"schema": schemas.of(Problem)}},
    }
    operation: dict[str, Any] = {
        "operationId": handler.fn.__name__,
        "tags": [_tag(path)],
        "summary": summary,
        "parameters": parameters + _headers(handler),
        "responses": responses,
    }
    if bodies := _bodies(handler):
        content = {media: {"schema": schemas.of(kind)} for media, kind in bodies.items()}
        operation["requestBody"] = {"required": True, "content": content}
    if target_of(path, b"").protected:
        operation["security"] = [{"token": []}]
    return operation


def _parameter(name: str) -> dict[str, Any]:
    description, schema = _PARAMETERS[name]
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _answer(status: int, kind: Any, media: str, schemas: _Schemas) -> dict[str, Any]:
    says = {"description": "Accepted: it will be done." if status == 202 else "Done."}
    if kind is None and media == "application/json":
        return says
    schema = {"type": "string"} if kind is None else schemas.of(kind)
    return {**says, "content": {media: {"schema": schema}}}


def _tag(path: str) -> str:
    """The noun that a path is about: its last part that is not a name or a verb."""
    parts = [part for part in path.split("/") if part and not part.startswith("{") and part != "v1"]
    nested = parts[1:] if parts[0] == "ledgers" and len(parts) > 1 else parts
    return nested[0]


@lru_cache(maxsize=1)
def _encoded(app: Litestar) -> bytes:
    return msgspec.json.encode(describe(app))


@get("/openapi.json", described=False)
async def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
    """This API, for machines."""
    return Response(_encoded(request.app), media_type="application/vnd.oai.openapi+json")


ROUTES: Final = [openapi]
