"""Request bodies, decoded strictly and in the order the contract wants its refusals.

    raw = await read_body(request)              # 413, then 415
    document = parse_json(raw)                  # 400: syntax, encoding, duplicate members, nesting
    attempt = try_decode(document, OpenAccount) # 400: unknown members
    …replay look-up, 404, 403…
    command = attempt.value()                   # 422, with a pointer for every fault

Where nothing has to come in between, `decode` does the last three steps. A `null` member counts as absent and is gone
from the document. The fast path is one pass of the json module and one of msgspec; only when those find something wrong
does `_Inspection` walk the document beside its type to name every fault.

A type says what is wrong in its own words: `Annotated[str, Meta(pattern=…, description="must be …")]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from domain.clock import is_rfc3339
from domain.errors import DomainError, Fault, InfrastructureError, ValidationError

if TYPE_CHECKING:
    from litestar import Request

T = TypeVar("T")

BODY_LIMIT: Final = 1 << 20
BULK_LIMIT: Final = 16 << 20
MOST_HELD: Final = 256 << 20
MAX_NESTING: Final = 32
MAX_FAULTS: Final = 100

JSON: Final = frozenset({b"application/json"})
JSON_OR_LINES: Final = frozenset({b"application/json", b"application/x-ndjson"})

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_CONTAINERS: Final = (dict, list)


class Document(msgspec.Struct, frozen=True):
    """A body that is well-formed JSON.

    `unstorable` names strings with NUL or half a surrogate pair, which no text column takes.
    """

    content: Any
    unstorable: tuple[Fault, ...] = ()

    def canonical(self) -> bytes:
        """The same bytes for the same content, however it was written: what idempotency compares."""
        return canonical(self.content)


class Attempt(Generic[T]):
    """A decoded body, or what is wrong with its values: which of the two shows when `value` is called."""

    __slots__ = ("_value", "faults")

    def __init__(self, value: T | None, faults: tuple[Fault, ...]) -> None:
        self._value = value
        self.faults = faults

    def value(self) -> T:
        """The decoded body. Raises ValidationError (422) naming every fault, at most 100."""
        if self.faults or self._value is None:
            raise invalid(self.faults)
        return self._value


def invalid(faults: Iterable[Fault]) -> ValidationError:
    """422 `validation_failed` for these faults, of which at most 100 are named."""
    found = tuple(faults)
    return ValidationError(f"{len(found)} error{'' if len(found) == 1 else 's'}", found[:MAX_FAULTS])


def canonical(content: Any) -> bytes:
    """JSON with sorted members and no spaces."""
    try:
        return msgspec.json.encode(content, order="sorted")
    except UnicodeEncodeError:
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


async def read_body(
    request: Request[Any, Any, Any], limit: int = BODY_LIMIT, media_types: frozenset[bytes] = JSON
) -> bytes:
    """The raw body, at most `limit` bytes, whether its length was announced or not.

    Raises DomainError: 413 `payload_too_large`, 415 `unsupported_media_type`; InfrastructureError (503) while too much
    is being received altogether.
    """
    headers = request.scope["state"]["edge"].headers
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > limit:
        _too_large(limit)
    raw = await _receive(request, limit)
    if raw and (media_type_of(headers) not in media_types or not _is_utf8(headers)):
        raise DomainError(
            "unsupported_media_type",
            f"Send the body as {' or '.join(sorted(map(bytes.decode, media_types)))}, in UTF-8.",
        )
    if b"content-encoding" in headers:
        raise DomainError("unsupported_media_type", "Send the body without Content-Encoding.")
    return raw


def media_type_of(headers: dict[bytes, bytes]) -> bytes:
    """The media type of a request's body, in lower case and without parameters."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def _is_utf8(headers: dict[bytes, bytes]) -> bool:
    """Whether the body's media type names no other charset than UTF-8."""
    for parameter in headers.get(b"content-type", b"").split(b";")[1:]:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"charset" and value.strip().strip(b'"').lower() != b"utf-8":
            return False
    return True


class _Intake:
    """Bytes of bodies that this process is receiving, so that many large and slow ones do not fill its memory."""

    held = 0


async def _receive(request: Request[Any, Any, Any], limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                raise malformed("The connection ended before the body did.")
            chunk = message["body"]
            size += len(chunk)
            _Intake.held += len(chunk)
            if size > limit:
                _too_large(limit)
            if _Intake.held > MOST_HELD:
                raise InfrastructureError("Too many large requests are being received.")
            chunks.append(chunk)
            if not message["more_body"]:
                return b"".join(chunks)
    finally:
        _Intake.held -= size


def _too_large(limit: int) -> NoReturn:
    raise DomainError("payload_too_large", f"The body is larger than {limit} bytes.")


def malformed(detail: str, faults: tuple[Fault, ...] = ()) -> ValidationError:
    """400 `malformed_request`."""
    return ValidationError(detail, faults, "malformed_request")


def query_of(request: Request[Any, Any, Any]) -> list[tuple[str, str]]:
    """Names and values of the query in their order, empty values included. Raises ValidationError (400)."""
    query = request.scope["query_string"]
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="strict") if query else []
    except UnicodeDecodeError:
        raise malformed("The query is not UTF-8.") from None


def parse_json(raw: bytes, *, nulls: bool = False) -> Document:
    """Parses a body; no body at all is an empty object. `nulls`: below its members nulls mean something, and stay.

    Raises ValidationError (400).
    """
    if not raw:
        return Document({})
    text = _text_of(raw)
    content = _parse(text, _nulls_decoder if nulls else _decoder)
    if nulls and isinstance(content, dict):
        content = {name: value for name, value in content.items() if value is not None}
    if _nesting_exceeds(content, MAX_NESTING):
        raise malformed(f"The body is nested deeper than {MAX_NESTING} levels.")
    return Document(content, tuple(_unstorable(content, "#")) if "\\u" in text else ())


def parse_lines(raw: bytes, most: int) -> list[Document]:
    """Parses newline-delimited JSON; empty lines don't count. Raises ValidationError (400).

    Of more than `most` lines all but one are left out, so that the type finds them to be too many in its turn.
    """
    documents: list[Document] = []
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        if len(documents) > most:
            break
        try:
            documents.append(parse_json(line))
        except ValidationError as error:
            pointer = f"#/commands/{len(documents)}"
            raise malformed(f"Line {number}: {error.detail}", (Fault(pointer, error.detail),)) from None
    return documents


def try_decode(document: Document, kind: type[T]) -> Attempt[T]:
    """Converts a document. Raises ValidationError (400) for unknown members; other faults wait in the Attempt."""
    places = _misread(document.content, _times_in(cast(Hashable, kind)))
    faults = (*document.unstorable, *(Fault(f"#{place}", _WORDS[datetime]) for place in places))
    try:
        value = msgspec.convert(document.content, kind)
    except (msgspec.ValidationError, OverflowError):
        found = _Inspection()
        found.check(document.content, kind, "#")
        if found.unknown:
            raise malformed(
                f"{found.unknown[0].pointer} is not a known member.", tuple(found.unknown[:MAX_FAULTS])
            ) from None
        return Attempt(None, _one_each((*faults, *found.faults)))
    return Attempt(value, _one_each(faults))


def _one_each(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """The first fault of each place."""
    return tuple({fault.pointer: fault for fault in reversed(faults)}.values())[::-1] if faults else faults


def decode(document: Document, kind: type[T]) -> T:
    """Converts a document. Raises ValidationError: 400 for unknown members, 422 for everything else."""
    return try_decode(document, kind).value()


# -- syntax -----------------------------------------------------------------------------------------------------------


class _Duplicate(Exception):
    """A member that an object has twice."""


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise malformed("The body is not UTF-8.") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Duplicate(next(name for name in names if names.count(name) > 1))
    if None in members.values():
        return {name: value for name, value in pairs if value is not None}
    return members


def _members_and_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    return members if len(members) == len(pairs) else _members(pairs)


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", "", 0)


_decoder: Final = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_no_constant)
_nulls_decoder: Final = json.JSONDecoder(object_pairs_hook=_members_and_nulls, parse_constant=_no_constant)


def _parse(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise malformed(f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except _Duplicate as duplicate:
        raise malformed(f"The member {duplicate.args[0][:100]!r} occurs twice.") from None
    except RecursionError:
        raise malformed(f"The body is nested deeper than {MAX_NESTING} levels.") from None
    except ValueError:
        # the only thing left is a whole number of thousands of digits, which Python refuses to read
        raise invalid([Fault("#", "has a number of too many digits")]) from None


def _children(node: Any) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def _nesting_exceeds(content: Any, most: int) -> bool:
    level = [content] if isinstance(content, _CONTAINERS) else []
    for _ in range(most):
        level = [child for node in level for child in _children(node) if isinstance(child, _CONTAINERS)]
        if not level:
            return False
    return True


def _unstorable(node: Any, pointer: str) -> Iterator[Fault]:
    if isinstance(node, str):
        if _UNSTORABLE.search(node):
            yield Fault(pointer, "must be text without NUL and without halves of surrogate pairs")
    elif isinstance(node, dict):
        for name, value in node.items():
            if _UNSTORABLE.search(name):
                yield Fault(pointer, "must not have NUL or halves of surrogate pairs in its names")
            else:
                yield from _unstorable(value, _below(pointer, name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _unstorable(value, _below(pointer, str(index)))


def _below(pointer: str, name: str) -> str:
    """One step down a JSON pointer. What was a lone surrogate could not be sent, so it is shown as `?`."""
    step = name.replace("~", "~0").replace("/", "~1")
    return f"{pointer}/{step[:100].encode('utf-8', 'replace').decode()}"


# -- times ------------------------------------------------------------------------------------------------------------

# Where a type has times: here, in members, in elements, or nowhere.
_Times = bool | dict[str, Any] | list[Any]


@lru_cache(maxsize=256)
def _times_in(kind: Hashable) -> _Times:
    base, _ = _bare(kind)
    if get_origin(base) in (Union, UnionType):
        members: dict[str, Any] = {}
        for option in get_args(base):
            times = _times_in(option)
            if isinstance(times, dict):
                members |= times
            elif times:
                return times
        return members
    if _is_struct(base):
        fields = {field.encode_name: _times_in(field.type) for field in msgspec.structs.fields(base)}
        return {name: times for name, times in fields.items() if times}
    if get_origin(base) in (tuple, list):
        times = _times_in(get_args(base)[0])
        return [times] if times else False
    return base is datetime


def _misread(content: Any, times: _Times) -> Sequence[str]:
    """Pointers to times that msgspec takes and RFC 3339 does not have: a space for the `T`, an offset without colon."""
    if times is True:
        return () if not isinstance(content, str) or is_rfc3339(content) else ("",)
    if isinstance(times, dict) and isinstance(content, dict):
        given = [name for name in times if name in content]
        if not given:
            return ()
        return [_below("", name) + below for name in given for below in _misread(content[name], times[name])]
    if isinstance(times, list) and isinstance(content, list):
        within = times[0]
        return [f"/{index}{below}" for index, item in enumerate(content) for below in _misread(item, within)]
    return ()


# -- naming every fault -----------------------------------------------------------------------------------------------


class _Inspection:
    """Walks a document beside its type and collects every fault, and every member the type does not know."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.unknown: list[Fault] = []

    def check(self, value: Any, kind: Any, pointer: str, message: str | None = None) -> None:
        """`kind` is a type as a field declares it; `message` is what a fault says, unless the type knows better."""
        base, metas = _bare(kind)
        message = next((meta.description for meta in metas if meta.description), message)
        origin = get_origin(base)
        if origin in (Union, UnionType):
            self._check_union(value, base, pointer, message)
        elif isinstance(value, dict) and _is_struct(base):
            self._check_struct(value, base, pointer)
        elif isinstance(value, list) and origin in (tuple, list):
            if self._accepts(value, Annotated[(list[Any], *metas)] if metas else list, pointer, message):
                for index, item in enumerate(value):
                    self.check(item, get_args(base)[0], _below(pointer, str(index)))
        elif isinstance(value, dict) and origin is dict:
            if self._accepts(value, Annotated[(dict[str, Any], *metas)] if metas else dict, pointer, message):
                self._check_mapping(value, get_args(base), pointer, message)
        else:
            self._accepts(value, kind, pointer, message or _describe(base))

    def _check_union(self, value: Any, kind: Any, pointer: str, message: str | None) -> None:
        options = [option for option in get_args(kind) if option is not NoneType]
        if value is None and len(options) < len(get_args(kind)):
            return
        tag_field = options[0].__struct_config__.tag_field if _is_struct(options[0]) else None
        if tag_field is not None and isinstance(value, dict):
            self._check_tagged(value, options, tag_field, pointer)
        elif len(options) == 1:
            self.check(value, options[0], pointer, message)
        else:
            self._accepts(value, kind, pointer, message or _describe(kind))

    def _check_tagged(self, value: dict[str, Any], options: list[Any], tag_field: str, pointer: str) -> None:
        tags = {option.__struct_config__.tag: option for option in options}
        tag = value.get(tag_field)
        if isinstance(tag, str) and tag in tags:
            self._check_struct(value, tags[tag], pointer)
        else:
            detail = "is required" if tag is None else f"must be one of {', '.join(map(str, tags))}"
            self.faults.append(Fault(_below(pointer, tag_field), detail))

    def _check_struct(self, value: dict[str, Any], kind: Any, pointer: str) -> None:
        before = len(self.faults) + len(self.unknown)
        fields = msgspec.structs.fields(kind)
        config = kind.__struct_config__
        if config.forbid_unknown_fields:
            strange = value.keys() - {field.encode_name for field in fields} - {config.tag_field}
            self.unknown += [Fault(_below(pointer, name), "is not a known member") for name in sorted(strange)]
        for field in fields:
            place = _below(pointer, field.encode_name)
            if field.encode_name in value:
                self.check(value[field.encode_name], field.type, place)
            elif field.required:
                self.faults.append(Fault(place, "is required"))
        if len(self.faults) + len(self.unknown) == before:
            # each field is right by itself, so it is a rule about several of them
            self._accepts(value, kind, pointer, None)

    def _check_mapping(self, value: dict[str, Any], kinds: tuple[Any, ...], pointer: str, message: str | None) -> None:
        for name, item in value.items():
            before = len(self.faults)
            self.check(name, kinds[0], _below(pointer, name), message)
            if len(self.faults) == before:
                self.check(item, kinds[1], _below(pointer, name), message)

    def _accepts(self, value: Any, kind: Any, pointer: str, message: str | None) -> bool:
        try:
            msgspec.convert(value, kind)
        except (msgspec.ValidationError, OverflowError) as error:
            self.faults.append(Fault(pointer, message or str(error).partition(" - at `")[0]))
            return False
        return True


def _bare(kind: Any) -> tuple[Any, tuple[msgspec.Meta, ...]]:
    if get_origin(kind) is Annotated:
        return kind.__origin__, tuple(meta for meta in kind.__metadata__ if isinstance(meta, msgspec.Meta))
    return kind, ()


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _describe(base: Any) -> str | None:
    if get_origin(base) in (Union, UnionType):
        return "must be an object" if all(_is_struct(option) for option in get_args(base)) else None
    if get_origin(base) is Literal:
        return f"must be one of {', '.join(map(str, get_args(base)))}"
    if _is_struct(base) or get_origin(base) is dict:
        return "must be an object"
    if get_origin(base) in (tuple, list):
        return "must be an array"
    return _WORDS.get(base)


_WORDS: Final[dict[Any, str]] = {
    str: "must be a string",
    int: "must be a whole number",
    bool: "must be true or false",
    UUID: "must be a UUID",
    datetime: "must be an RFC 3339 time with its offset",
}
