"""Errors as the client sees them: RFC 9457 problems, made in one place from the catalogue of codes.

Never a stack trace, never SQL: what is unexpected goes to the log, and the client gets its correlation id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from msgspec import UNSET, Meta, UnsetType

from api.answers import Answer
from api.edge import edge_of
from domain.errors import CATALOGUE, DomainError, Fault, InfrastructureError, ValidationError
from infrastructure.metrics import meter

if TYPE_CHECKING:
    from litestar import Request
    from litestar.types import Scope, Send

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

_CODE_OF_STATUS: Final = {
    400: "malformed_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_failed",
    429: "rate_limited",
    503: "unavailable",
}

# What the driver raises while Postgres is gone, starting, stopping or too busy to answer in time.
_POSTGRES_GONE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)

_encode: Final = msgspec.json.Encoder().encode


Code = Annotated[str, Meta(extra_json_schema={"enum": sorted(CATALOGUE)})]
Reference = Annotated[str, Meta(extra_json_schema={"format": "uri-reference"})]


class Problem(msgspec.Struct, frozen=True):
    """The body of every answer that is an error. `errors` and `job` are null when there is nothing to say.

    `caused_by`, the job that was refused, comes with `batch_rejected` alone.
    """

    type: Reference
    title: str
    status: int
    detail: str
    instance: str
    code: Code
    correlation_id: str | None
    job: str | None
    errors: tuple[Fault, ...] | None
    caused_by: UUID | UnsetType = UNSET


def status_of(code: str) -> int:
    """The HTTP status that a code of the catalogue has."""
    return CATALOGUE[code].status


def problem(
    code: str,
    detail: str,
    *,
    instance: str,
    correlation_id: str | None,
    job: str | None = None,
    faults: Iterable[Fault] = (),
    caused_by: UUID | None = None,
) -> Problem:
    """The problem of a code, for an answer or to stand inside one (a job's `problem`, a batch's refusals)."""
    kind = CATALOGUE[code]
    errors = tuple(faults) or None
    return Problem(
        f"/problems/{code}",
        kind.title,
        kind.status,
        detail,
        instance,
        code,
        correlation_id,
        job,
        errors,
        UNSET if caused_by is None else caused_by,
    )


def problem_bytes(
    code: str,
    detail: str,
    *,
    instance: str,
    correlation_id: str | None,
    job: str | None = None,
    faults: Iterable[Fault] = (),
) -> bytes:
    """The same as JSON."""
    return _encode(problem(code, detail, instance=instance, correlation_id=correlation_id, job=job, faults=faults))


def problem_response(content: Problem, headers: dict[str, str] | None = None) -> Response[bytes]:
    """An answer that is a problem, for route handlers that have more to tell than an exception carries."""
    return Answer(_encode(content), content.status, headers, MEDIA_TYPE)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's one exception handler: whatever a route raises becomes a problem."""
    return problem_of(request, error)


def problem_of(request: Request[Any, Any, Any], error: Exception, job: str | None = None) -> Response[bytes]:
    """Any exception as a problem. `job` is what the request has become all the same."""
    known = translate(error)
    _count(request.scope, known.code)
    content = problem(
        known.code,
        known.detail,
        instance=request.scope["path"],
        correlation_id=edge_of(request).correlation_id,
        job=job,
        faults=known.faults,
    )
    return problem_response(content, {**_headers_of(error), **headers_of(known)})


async def send_problem(scope: Scope, send: Send, error: DomainError, headers: dict[str, str] | None = None) -> None:
    """Answers with a problem from outside the router."""
    _count(scope, error.code)
    body = problem_bytes(
        error.code,
        error.detail,
        instance=scope["path"],
        correlation_id=scope["state"]["edge"].correlation_id,
        faults=error.faults,
    )
    more = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **headers_of(error), **(headers or {})}
    start = [(name.encode(), value.encode()) for name, value in more.items()]
    await send({"type": "http.response.start", "status": status_of(error.code), "headers": start})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _count(scope: Mapping[str, Any], code: str) -> None:
    if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
        meter.command_refused(code)


def translate(error: Exception) -> DomainError:
    """Any exception as one that has a code. What is our own fault is logged with its traceback."""
    if isinstance(error, DomainError):
        known = error
    elif isinstance(error, HTTPException):
        known = _from_litestar(error)
    elif isinstance(error, _POSTGRES_GONE):
        known = InfrastructureError("The database can't be reached.")
    else:
        known = DomainError("internal_error", "Something went wrong here.")
    if status_of(known.code) == 500:
        log.error("request_failed", exc_info=error)
    elif isinstance(known, InfrastructureError) and known.code == "unavailable":
        log.warning("unavailable", reason=known.detail, cause=repr(error.__cause__ or error))
    return known


def headers_of(error: DomainError) -> dict[str, str]:
    """The headers that belong to a code."""
    if status_of(error.code) == 401:
        return {"www-authenticate": "Bearer"}
    if isinstance(error, InfrastructureError):
        return {"retry-after": str(error.retry_after_s)}
    return {}


def _from_litestar(error: HTTPException) -> DomainError:
    if isinstance(error, ValidationException):
        places = [item.get("key", "") for item in error.extra or [] if isinstance(item, dict)]
        faults = [Fault(f"?{place}", "is not valid") for place in places]
        return ValidationError(counted(faults), tuple(faults))
    code = _CODE_OF_STATUS.get(error.status_code, "internal_error")
    return DomainError(code, _DETAILS.get(code, error.detail))


def counted(faults: list[Fault]) -> str:
    """`1 error`, `2 errors`: the detail of a validation problem."""
    return f"{len(faults)} error{'' if len(faults) == 1 else 's'}"


def _headers_of(error: Exception) -> dict[str, str]:
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if "allow" in headers:
        methods = {*headers["allow"].split(", "), "OPTIONS"}
        # every GET is a HEAD, too: see `api.semantics`
        headers["allow"] = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
    return headers


_DETAILS: Final = {
    "not_found": "There is nothing here.",
    "method_not_allowed": "This address does not take that method; the Allow header names those it does.",
    "payload_too_large": "The body is too large.",
    "internal_error": "Something went wrong here.",
}
