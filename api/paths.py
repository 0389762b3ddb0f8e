"""What paths name below a ledger, and the bodies of commands about it: the command's members but what its path says."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from api.decoding import Attempt, Document, try_decode
from api.jobs import id_of
from domain.errors import NotFoundError
from domain.ledger.commands import AccountName
from domain.messages import Command

C = TypeVar("C", bound=Command)


@cache
def body_of(command: type[Command], named: str) -> type[msgspec.Struct]:
    """The type of a request's body: all members of the command but the one that its path names."""
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        (field.name, field.type) if field.required else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(command)
        if field.name != named
    ]
    return msgspec.defstruct(
        f"{command.__name__}Body",
        members,
        namespace={"__doc__": command.__doc__},
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )


def command_about(command: type[C], named: str, value: object, document: Document) -> Attempt[C]:
    """The command that a body asks of what the path names. Raises ValidationError (400) for unknown members."""
    body = try_decode(document, body_of(command, named))
    if body.faults:
        return Attempt(None, body.faults)
    members = msgspec.structs.asdict(body.value())
    return Attempt(command(**{named: value}, **members), ())


def id_in(path: str) -> UUID | None:
    """The id that a path names; None for a text that is none."""
    try:
        return id_of(path)
    except NotFoundError:
        return None


def is_account(path: str) -> bool:
    """Whether an account could have the name that a path has."""
    try:
        msgspec.convert(path, AccountName)
    except msgspec.ValidationError:
        return False
    return True
