"""API keys for machine clients: `POST`, `GET /v1/api-keys` and `DELETE /v1/api-keys/{key}`, for who has logged in.

They are no commands: a key is made, or ended, by the time the request is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
import structlog
from litestar import Request, Response, delete, get, post
from litestar.params import FromPath
from msgspec import Meta

from api.answers import Answer
from api.commands import REPLAYED, Envelope, request_hash
from api.context import services_of
from api.decoding import Document, invalid, parse_json, read_body, try_decode
from api.edge import caller, unauthorized
from api.jobs import id_of
from api.paging import PARAMETERS, cursor, page_of
from domain.clock import format_time
from domain.errors import Fault, NotFoundError
from domain.ledger.commands import LedgerId
from domain.text import LINE
from infrastructure.api_keys import ApiKey, Made, Wanted
from infrastructure.command_log import Asked, Held, reused
from infrastructure.principals import Scope, SessionPrincipal
from infrastructure.read_models import Time

log = structlog.get_logger(__name__)

AnyRequest = Request[Any, Any, Any]

MOST_LEDGERS: Final = 100

_encode: Final = msgspec.json.Encoder().encode


class NewApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key shall be good for. Without `ledgers`: every ledger of its owner's, those to come too."""

    name: Annotated[
        str, Meta(pattern=LINE, min_length=1, max_length=100, description="must be a line of 1 to 100 characters")
    ]
    scopes: Annotated[
        tuple[Annotated[Scope, Meta(description="must be ledger:read or ledger:write")], ...],
        Meta(
            min_length=1,
            max_length=2,
            description="must be one or both of ledger:read and ledger:write",
            extra_json_schema={"uniqueItems": True},
        ),
    ]
    ledgers: (
        Annotated[
            tuple[LedgerId, ...],
            Meta(
                min_length=1,
                max_length=MOST_LEDGERS,
                description=f"must be 1 to {MOST_LEDGERS} ledgers",
                extra_json_schema={"uniqueItems": True},
            ),
        ]
        | None
    ) = None
    expires_at: Annotated[datetime, Meta(tz=True, description="must be an RFC 3339 time with its offset")] | None = None


class ApiKeyView(msgspec.Struct, frozen=True):
    """An API key as JSON. `prefix` is how its secret begins, to tell keys apart."""

    id: UUID
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    ledgers: tuple[str, ...] | None
    expires_at: Time | None
    last_used_at: Time | None
    created_at: Time


class ApiKeyMade(ApiKeyView, frozen=True):
    """The same with its secret, which is shown only now: null where it was shown before."""

    secret: str | None


class ApiKeyPage(msgspec.Struct, frozen=True):
    """A page of keys, newest first."""

    items: list[ApiKeyView]
    next: str | None


@post(
    "/v1/api-keys",
    status_code=201,
    summary="Make an API key; its secret is shown only here",
    body=NewApiKey,
    keyed=True,
    codes=("idempotency_key_reused",),
    answers={201: ApiKeyMade},
)
async def make_key(request: AnyRequest) -> Response[bytes]:
    document = parse_json(await read_body(request))
    attempt = try_decode(document, NewApiKey)
    principal = caller(request)
    envelope = Envelope.of(request)
    asked, digest = _asked(request, envelope, document)
    faults = (*envelope.faults(), *attempt.faults)
    if not faults:
        faults = tuple(_faults(attempt.value()))
    if faults:
        held = None if asked is None else await services_of(request).recorder.find_key(asked)
        if held is None:
            raise invalid(faults)
        return await _replay(request, held, digest)
    made = await services_of(request).api_keys.make(_wanted(attempt.value(), principal, asked, digest))
    if made.key is not None:
        log.info("api_key_made", id=str(made.key.id), key=made.key.prefix, principal=principal.username)
    return await _answer(request, made, digest)


@get("/v1/api-keys", summary="One's own API keys, newest first, without those revoked", query=PARAMETERS)
async def list_keys(request: AnyRequest) -> ApiKeyPage:
    principal = caller(request)
    page = page_of(request)
    found = await services_of(request).api_keys.page(principal.user_id, page.before, page.limit + 1)
    items = [ApiKeyView(**_members(key)) for key in found[: page.limit]]
    return ApiKeyPage(items, cursor(items[-1].id) if len(found) > page.limit else None)


@delete(
    "/v1/api-keys/{key:str}",
    status_code=204,
    summary="Revoke an API key",
    codes=("payload_too_large", "unsupported_media_type"),
)
async def revoke_key(request: AnyRequest, key: FromPath[str]) -> None:
    await read_body(request)
    principal = caller(request)
    if not await services_of(request).api_keys.revoke(principal.user_id, id_of(key)):
        raise NotFoundError
    log.info("api_key_revoked", id=key, principal=principal.username)


def _asked(request: AnyRequest, envelope: Envelope, document: Document) -> tuple[Asked | None, bytes]:
    """The idempotency key in its scope, None without one that can be used; and what tells requests under it apart."""
    digest = request_hash(request.url.path, envelope.query, document.canonical())
    key = envelope.usable_key()
    return None if key is None else Asked(envelope.principal, f"user:{envelope.principal}", key), digest


def _faults(wanted: NewApiKey) -> Iterator[Fault]:
    """What the types can't say to be wrong."""
    yield from _repeated("scopes", wanted.scopes)
    yield from _repeated("ledgers", wanted.ledgers or ())
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        yield Fault("#/expires_at", "must lie in the future")


def _repeated(member: str, values: Sequence[str]) -> Iterator[Fault]:
    for index, value in enumerate(values):
        if value in values[:index]:
            yield Fault(f"#/{member}/{index}", "is there already")


def _wanted(body: NewApiKey, principal: SessionPrincipal, asked: Asked | None, digest: bytes) -> Wanted:
    return Wanted(
        principal.user_id,
        principal.is_admin,
        body.name,
        body.scopes,
        body.ledgers,
        body.expires_at,
        asked,
        digest,
    )


async def _answer(request: AnyRequest, made: Made, digest: bytes) -> Response[bytes]:
    if made.held is not None:
        return await _replay(request, made.held, digest)
    if made.key is None:
        # disabled since the request came in, and with that logged out
        raise unauthorized()
    return _shown(made.key, made.secret, {})


async def _replay(request: AnyRequest, held: Held, digest: bytes) -> Response[bytes]:
    """The key that the same request has made, as it is now. Raises DomainError (422) when it was another request."""
    if held.request_hash != digest:
        raise reused(None)
    key = await services_of(request).api_keys.read(held.command)
    if key is None:
        raise NotFoundError
    return _shown(key, None, REPLAYED)


def _shown(key: ApiKey, secret: str | None, headers: dict[str, str]) -> Response[bytes]:
    headers = {**headers, "location": f"/v1/api-keys/{key.id}"}
    body = _encode(ApiKeyMade(**_members(key), secret=secret))
    return Answer(body, 201, headers)


def _members(key: ApiKey) -> dict[str, Any]:
    times = {"expires_at": key.expires_at, "last_used_at": key.last_used_at, "created_at": key.created_at}
    return {
        **msgspec.structs.asdict(key),
        **{name: None if moment is None else format_time(moment) for name, moment in times.items()},
    }


ROUTES: Final[list[Any]] = [make_key, list_keys, revoke_key]
