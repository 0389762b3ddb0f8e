"""Currencies of a ledger: registering one's own."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath

from api.commands import Form
from api.jobs import JobView
from api.ledgers import accept_for
from api.queries import GetCurrency
from domain.ledger.commands import RegisterCurrency
from infrastructure.read_models import CurrencyView

REGISTER_CURRENCY: Final = Form(
    RegisterCurrency,
    "currencies",
    lambda ledger, _command, _job: f"/v1/ledgers/{ledger}/currencies",
    lambda ledger, command, _job, seq: GetCurrency(ledger=ledger, code=command.code, min_version=seq),
)


@post(
    "/v1/ledgers/{ledger:str}/currencies",
    status_code=202,
    summary="Register a currency of one's own",
    body=RegisterCurrency,
    command=True,
    answers={201: CurrencyView, 202: JobView},
    refusals=("currency_exists",),
)
async def register_currency(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    return await accept_for(request, REGISTER_CURRENCY, ledger)


ROUTES: Final[list[Any]] = [register_currency]
