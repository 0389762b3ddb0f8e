"""Accounts: opening, describing, freezing and closing them."""

from __future__ import annotations

from typing import Any, Final, Protocol

from litestar import Request, Response, patch, post
from litestar.params import FromPath

from api.commands import Form
from api.decoding import parse_json, read_body
from api.jobs import JobView
from api.ledgers import accept_for, accept_in, metadata_faults
from api.paths import body_of, command_about, is_account
from api.queries import GetAccount
from domain.ledger.commands import CloseAccount, FreezeAccount, OpenAccount, UnfreezeAccount, UpdateAccount
from infrastructure.read_models import AccountView

AnyRequest = Request[Any, Any, Any]

OPEN_ACCOUNT: Final = Form(
    OpenAccount,
    "accounts",
    lambda ledger, command, _job: f"/v1/ledgers/{ledger}/accounts/{command.name}",
    lambda ledger, command, _job, seq: GetAccount(ledger=ledger, name=command.name, min_version=seq),
)


class AboutAccount(Protocol):
    """A command to an account that is there."""

    @property
    def account(self) -> str: ...


def _place(ledger: str, command: AboutAccount, _job: object) -> str:
    return f"/v1/ledgers/{ledger}/accounts/{command.account}"


def _account(ledger: str, command: AboutAccount, _job: object, seq: int) -> GetAccount:
    return GetAccount(ledger=ledger, name=command.account, min_version=seq)


UPDATE_ACCOUNT: Final = Form(UpdateAccount, "accounts/{account}", _place, _account, metadata_faults, 200)
FREEZE_ACCOUNT: Final = Form(FreezeAccount, "accounts/{account}/freeze", _place, _account, status=200)
UNFREEZE_ACCOUNT: Final = Form(UnfreezeAccount, "accounts/{account}/unfreeze", _place, _account, status=200)
CLOSE_ACCOUNT: Final = Form(CloseAccount, "accounts/{account}/close", _place, _account, status=200)

ACCOUNT: Final = "/v1/ledgers/{ledger:str}/accounts/{account:str}"


@post(
    "/v1/ledgers/{ledger:str}/accounts",
    status_code=202,
    summary="Open an account",
    body=OpenAccount,
    command=True,
    answers={201: AccountView, 202: JobView},
    refusals=("batch_rejected", "account_exists", "currency_unknown", "amount_scale", "amount_overflow"),
)
async def open_account(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    return await accept_for(request, OPEN_ACCOUNT, ledger)


@patch(
    ACCOUNT,
    status_code=202,
    summary="Merge into an account's metadata; null takes a key away",
    body=body_of(UpdateAccount, "account"),
    command=True,
    answers={200: AccountView, 202: JobView},
)
async def update_account(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Response[bytes]:
    return await _accept(request, UPDATE_ACCOUNT, ledger, account, nulls=True)


@post(
    f"{ACCOUNT}/freeze",
    status_code=202,
    summary="Let nothing new touch an account",
    body=body_of(FreezeAccount, "account"),
    command=True,
    answers={200: AccountView, 202: JobView},
    refusals=("batch_rejected", "account_closed", "account_status"),
)
async def freeze_account(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Response[bytes]:
    """No posting, hold or reversal. What is held already may still be captured, voided or expire."""
    return await _accept(request, FREEZE_ACCOUNT, ledger, account)


@post(
    f"{ACCOUNT}/unfreeze",
    status_code=202,
    summary="Let an account be used again",
    body=body_of(UnfreezeAccount, "account"),
    command=True,
    answers={200: AccountView, 202: JobView},
    refusals=("batch_rejected", "account_closed", "account_status"),
)
async def unfreeze_account(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Response[bytes]:
    return await _accept(request, UNFREEZE_ACCOUNT, ledger, account)


@post(
    f"{ACCOUNT}/close",
    status_code=202,
    summary="Close an empty account for ever",
    body=body_of(CloseAccount, "account"),
    command=True,
    answers={200: AccountView, 202: JobView},
    refusals=("batch_rejected", "account_status", "account_not_empty"),
)
async def close_account(request: AnyRequest, ledger: FromPath[str], account: FromPath[str]) -> Response[bytes]:
    """Its balance and all that is held must be zero. Its name is never given out again."""
    return await _accept(request, CLOSE_ACCOUNT, ledger, account)


async def _accept(
    request: AnyRequest, form: Form[Any], ledger: str, account: str, *, nulls: bool = False
) -> Response[bytes]:
    document = parse_json(await read_body(request), nulls=nulls)
    attempt = command_about(form.command, "account", account, document)
    return await accept_in(request, form, ledger, document, attempt, "writer", exists=is_account(account))


ROUTES: Final[list[Any]] = [open_account, update_account, freeze_account, unfreeze_account, close_account]
