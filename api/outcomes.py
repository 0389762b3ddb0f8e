"""What an operation can answer beside success: codes by status, and the headers of every answer.

Most of it follows from what a route is: one with a body can be too large, one below a login can be refused, a command
can meet a full mailbox. The rest a route declares: `codes=` when it refuses on receipt, `refusals=` when a rule refuses
the command as it is applied, which an awaited answer shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from api.problems import MEDIA_TYPE, status_of
from api.routes import Operation
from domain.errors import CATALOGUE

# Whatever is asked, the request may be no HTTP, too frequent, or meet a fault of ours.
_ANY: Final = ("malformed_request", "rate_limited", "internal_error")
_STORES: Final = ("unavailable",)
_LOGIN: Final = ("unauthorized", "forbidden")
_BODY: Final = ("payload_too_large", "unsupported_media_type", "validation_failed")
_COMMAND: Final = ("not_found", "idempotency_key_reused", "mailbox_full")
_JOB: Final = ("not_found", "command_failed", "command_cancelled", "unavailable")


class Header(msgspec.Struct, frozen=True):
    """A header of answers. `sure` is whether it is always there."""

    name: str
    description: str
    schema: Mapping[str, Any]
    sure: bool = False

    def described(self) -> dict[str, Any]:
        """As a Header Object."""
        return {"description": self.description, "required": self.sure, "schema": self.schema}


_TEXT: Final = {"type": "string"}
_UUID: Final = {"type": "string", "format": "uuid"}
_SECONDS: Final = {"type": "integer", "minimum": 1}
_REFERENCE: Final = {"type": "string", "format": "uri-reference"}

HEADERS: Final[Mapping[str, Header]] = {
    "CorrelationId": Header(
        "X-Correlation-ID",
        "The request's own, if that could be taken, else a new one. Logs, jobs and events have it, too.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        sure=True,
    ),
    "ContentTypeOptions": Header(
        "X-Content-Type-Options", "The media type is what it says.", {"const": "nosniff"}, sure=True
    ),
    "FrameOptions": Header("X-Frame-Options", "Not to be shown in a frame.", {"const": "DENY"}, sure=True),
    "ReferrerPolicy": Header("Referrer-Policy", "Addresses are told to nobody.", {"const": "no-referrer"}, sure=True),
    "ContentSecurityPolicy": Header(
        "Content-Security-Policy", "Browsers do nothing with an answer but show it.", _TEXT, sure=True
    ),
    "StrictTransportSecurity": Header(
        "Strict-Transport-Security", "Sent where clients come by HTTPS: they stay there.", _TEXT
    ),
    "RateLimit": Header(
        "RateLimit",
        'The limit that the request counted against, and what is left of it: `"principal";r=4999`.',
        {"type": "string", "pattern": '^"[a-z-]+";r=[0-9]+(;t=[0-9]+)?$'},
    ),
    "RateLimitPolicy": Header(
        "RateLimit-Policy",
        'That limit, `q` requests in `w` seconds: `"principal";q=5000;w=1`.',
        {"type": "string", "pattern": '^"[a-z-]+";q=[0-9]+;w=[0-9]+$'},
    ),
    "CacheControl": Header(
        "Cache-Control", "`no-store` with everything that needs a login, and with whatever came with one.", _TEXT
    ),
    "Challenge": Header("WWW-Authenticate", "How to say who one is.", _TEXT, sure=True),
    "RetryAfter": Header("Retry-After", "Seconds to wait before the next try.", _SECONDS, sure=True),
    "AskAgain": Header("Retry-After", "Seconds until it is worth asking again, while it is unfinished.", _SECONDS),
    "ETag": Header(
        "ETag",
        '`"{epoch}.{version}"`, for If-None-Match.',
        {"type": "string", "pattern": '^"[0-9]+\\.[0-9]+"$'},
    ),
    "Location": Header("Location", "What was made; while it is not yet, the job or the batch.", _REFERENCE, sure=True),
    "LocationIfAny": Header("Location", "The batch, if there is one.", _REFERENCE),
    "Job": Header("Daybook-Job", "The id of the command's job.", _UUID, sure=True),
    "JobIfAny": Header("Daybook-Job", "The id of the command's job, if there is one.", _UUID),
    "Replayed": Header(
        "Idempotent-Replayed", "The key was used before; this answer is about that request's job.", {"const": "true"}
    ),
    "Unbuffered": Header("X-Accel-Buffering", "Proxies pass on events as they come.", {"const": "no"}),
    "Disposition": Header("Content-Disposition", "A name for the file.", _TEXT, sure=True),
    "Applied": Header("Preference-Applied", "The answer was waited for.", {"const": "wait"}),
}

_ALWAYS: Final = (
    "CorrelationId",
    *("ContentTypeOptions", "FrameOptions", "ReferrerPolicy", "ContentSecurityPolicy", "StrictTransportSecurity"),
    *("RateLimit", "RateLimitPolicy"),
)


def codes_of(operation: Operation) -> dict[int, tuple[str, ...]]:
    """The codes of every problem that an operation can answer with, by status."""
    groups = (
        (_ANY, True),
        (_STORES, not operation.path.startswith("/health/")),
        (_LOGIN, operation.protected),
        (("not_found",), bool(operation.names)),
        (_BODY, bool(operation.bodies) or operation.command),
        (("validation_failed",), bool(operation.query)),
        (("version_not_reached",), "min_version" in operation.query),
        (_COMMAND, operation.command),
        (_JOB, operation.one_job),
        (operation.codes, True),
        (operation.refusals, True),
    )
    codes = {code for group, meant in groups if meant for code in group}
    found: dict[int, tuple[str, ...]] = {}
    for code in CATALOGUE:
        if code in codes and status_of(code) not in operation.answers:
            found[status_of(code)] = (*found.get(status_of(code), ()), code)
    return dict(sorted(found.items()))


def problem_headers(operation: Operation, status: int) -> tuple[str, ...]:
    """What a problem comes with, as keys of `HEADERS`."""
    more = {401: ("Challenge",), 429: ("RetryAfter",), 503: ("RetryAfter",)}.get(status, ())
    of_a_job = ("JobIfAny", "Replayed", "Applied") if tells_of_a_job(operation, status) else ()
    return (*_ALWAYS, "CacheControl", *more, *of_a_job)


def tells_of_a_job(operation: Operation, status: int) -> bool:
    """Whether a problem with this status may be the outcome of a command that was waited for."""
    return operation.one_job and status in {status_of(code) for code in (*_JOB, *operation.refusals)}


def answer_headers(operation: Operation, status: int) -> tuple[str, ...]:
    """What success comes with, as keys of `HEADERS`."""
    # what a rehearsal answers, besides what may come with the outcome of a command
    told = operation.command and status == 200
    chosen = {
        "CacheControl": True,
        "ETag": operation.versioned and status in (200, 304),
        "Location": status in (201, 202) if operation.awaitable else operation.keyed,
        "LocationIfAny": told and not operation.one_job,
        "Job": operation.one_job and not told,
        "JobIfAny": operation.one_job and told,
        "Replayed": operation.keyed,
        "Applied": operation.command or operation.awaitable,
        "Disposition": operation.media == "application/octet-stream" and status == 200,
        "Unbuffered": operation.media == "text/event-stream" and status == 200,
        "AskAgain": status == 202 or (operation.awaitable and status == 200),
        "RetryAfter": status == 503,
    }
    return (*_ALWAYS, *(name for name, sent in chosen.items() if sent))


def problem_schema(status: int, codes: tuple[str, ...], problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem that has this status and one of these codes."""
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": list(codes)}}}
    return {MEDIA_TYPE: {"schema": {"allOf": [dict(problem), narrowed]}}}
