"""Accounts: opening one."""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath

from api.commands import Form
from api.jobs import JobView
from api.ledgers import accept_for
from api.queries import GetAccount
from domain.ledger.commands import OpenAccount
from infrastructure.read_models import AccountView

OPEN_ACCOUNT: Final = Form(
    OpenAccount,
    "accounts",
    lambda ledger, command, _job: f"/v1/ledgers/{ledger}/accounts/{command.name}",
    lambda ledger, command, _job, seq: GetAccount(ledger=ledger, name=command.name, min_version=seq),
)


@post(
    "/v1/ledgers/{ledger:str}/accounts",
    status_code=202,
    summary="Open an account",
    body=OpenAccount,
    command=True,
    answers={201: AccountView, 202: JobView},
    refusals=("account_exists", "currency_unknown", "amount_scale", "amount_overflow"),
)
async def open_account(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    return await accept_for(request, OPEN_ACCOUNT, ledger)


ROUTES: Final[list[Any]] = [open_account]
