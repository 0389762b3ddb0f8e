"""`?validate_only=true`: what would become of commands, and of the accounts they touch, with nothing written."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from litestar import Request, Response

from api.answers import Answer
from api.context import services_of
from api.edge import edge_of
from api.problems import Problem, problem
from domain.errors import Fault
from infrastructure import rehearsal
from infrastructure.read_models import AccountView

AnyRequest = Request[Any, Any, Any]

PARAMETER: Final = "validate_only"

_encode: Final = msgspec.json.Encoder().encode


class RehearsalView(msgspec.Struct, frozen=True):
    """Whether commands would succeed, the first refusal if not, and the accounts touched as they would be then."""

    valid: bool
    problem: Problem | None
    balances: list[AccountView]


def is_rehearsal(query: tuple[tuple[str, str], ...]) -> bool:
    return dict(query).get(PARAMETER) == "true"


def rehearsal_faults(query: tuple[tuple[str, str], ...]) -> list[Fault]:
    """What is wrong with the parameter, if it is there."""
    given = [value for name, value in query if name == PARAMETER]
    return [Fault(f"#/{PARAMETER}", "must be true or false")] if given and given not in (["true"], ["false"]) else []


async def answer_rehearsal(request: AnyRequest, asked: rehearsal.Request, place: str = "#") -> Response[bytes]:
    """200, whatever would become of them. `place` is where the request has each command, by its number."""
    done = await rehearsal.rehearse(services_of(request).pool, asked)
    found = None
    for number, outcome in enumerate(done.outcomes):
        # in an atomic batch others are refused because of this one
        if outcome.refusal is not None and outcome.refusal.caused_by is None:
            within = place.format(number)
            found = problem(
                outcome.refusal.code,
                outcome.refusal.detail,
                instance=request.scope["path"],
                correlation_id=edge_of(request).correlation_id,
                faults=[Fault(within + fault.pointer[1:], fault.detail) for fault in outcome.refusal.faults],
            )
            break
    view = RehearsalView(found is None, found, done.accounts)
    return Answer(_encode(view))
