"""Closed periods: closing the books before a moment. Listing them is a read (`api.views`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath

from api.commands import Form, read_command
from api.jobs import JobView
from api.ledgers import accept_in
from api.queries import GetPeriod
from domain.clock import in_utc, unkept
from domain.errors import Fault
from domain.ledger.commands import ClosePeriod
from infrastructure.read_models import PeriodView


def period_faults(command: ClosePeriod) -> Iterator[Fault]:
    """There are no books from before there were years, nor from after."""
    if said := unkept(command.before):
        yield Fault("#/before", said)


CLOSE_PERIOD: Final = Form(
    ClosePeriod,
    "periods",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}/periods",
    lambda ledger, command, _job, seq: GetPeriod(ledger=ledger, before=in_utc(command.before), min_version=seq),
    period_faults,
    status=200,
)


@post(
    "/v1/ledgers/{ledger:str}/periods",
    status_code=202,
    summary="Refuse from now on whatever would take effect before a moment",
    body=ClosePeriod,
    command=True,
    answers={200: PeriodView, 202: JobView},
    refusals=("period_closed",),
)
async def close_period(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    """Forward only: what is closed stays closed. It makes no closing entries."""
    document, attempt = await read_command(request, ClosePeriod)
    return await accept_in(request, CLOSE_PERIOD, ledger, document, attempt, "owner")


ROUTES: Final[list[Any]] = [close_period]
