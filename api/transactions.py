"""Transactions: posting and holding them, and what becomes of them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from litestar import Request, Response, patch, post
from litestar.params import FromPath

from api.commands import Form
from api.decoding import parse_json, read_body
from api.jobs import JobView
from api.ledgers import accept_for, accept_in, metadata_faults
from api.paths import body_of, command_about, id_in
from api.queries import GetTransaction
from domain.clock import in_utc, unkept
from domain.errors import Fault
from domain.ledger.commands import (
    CaptureTransaction,
    PostTransaction,
    ReverseTransaction,
    UpdateTransaction,
    VoidTransaction,
)
from infrastructure.read_models import TransactionView

AnyRequest = Request[Any, Any, Any]

MOST_AHEAD: Final = timedelta(seconds=60)
"""What clocks may differ by."""


# -- what can be seen in a request alone ------------------------------------------------------------------------------


def effective_faults(effective_at: datetime | None) -> Iterator[Fault]:
    """Nothing can take effect in the future, nor before there were years."""
    if effective_at is None:
        return
    if in_utc(effective_at) > datetime.now(UTC) + MOST_AHEAD:
        yield Fault("#/effective_at", "must not be more than 60 seconds in the future")
    elif said := unkept(effective_at):
        yield Fault("#/effective_at", said)


def post_faults(command: PostTransaction) -> Iterator[Fault]:
    """When it takes effect, and when its hold ends."""
    yield from effective_faults(command.effective_at)
    if command.expires_at is None:
        return
    moment = in_utc(command.expires_at)
    if not command.pending:
        yield Fault("#/expires_at", "must be left out unless the transaction is pending")
    elif moment <= datetime.now(UTC):
        yield Fault("#/expires_at", "must lie in the future")
    elif command.execute_at is not None and moment <= in_utc(command.execute_at):
        yield Fault("#/expires_at", "must lie behind execute_at")
    elif said := unkept(moment):
        yield Fault("#/expires_at", said)


def capture_faults(command: CaptureTransaction) -> Iterator[Fault]:
    """How much is captured, which is said once, and when."""
    yield from effective_faults(command.effective_at)
    if command.amounts is None:
        return
    if command.amount is not None:
        yield Fault("#/amounts", "must be left out beside amount")
    if not any(amount.strip("0.") for amount in command.amounts):
        yield Fault("#/amounts", "must not all be zero")


def reverse_faults(command: ReverseTransaction) -> Iterator[Fault]:
    return effective_faults(command.effective_at)


# -- forms ------------------------------------------------------------------------------------------------------------


class AboutTransaction(Protocol):
    """A command to a transaction that is there, or on its way."""

    @property
    def transaction(self) -> UUID: ...


def _made_at(ledger: str, _command: object, job: UUID) -> str:
    return f"/v1/ledgers/{ledger}/transactions/{job}"


def _made(ledger: str, _command: object, job: UUID, seq: int) -> GetTransaction:
    return GetTransaction(ledger=ledger, transaction=job, min_version=seq)


def _changed_at(ledger: str, command: AboutTransaction, _job: UUID) -> str:
    return f"/v1/ledgers/{ledger}/transactions/{command.transaction}"


def _changed(ledger: str, command: AboutTransaction, _job: UUID, seq: int) -> GetTransaction:
    return GetTransaction(ledger=ledger, transaction=command.transaction, min_version=seq)


_ONE: Final = "transactions/{transaction}"

POST_TRANSACTION: Final = Form(PostTransaction, "transactions", _made_at, _made, post_faults)
UPDATE_TRANSACTION: Final = Form(UpdateTransaction, _ONE, _changed_at, _changed, metadata_faults, 200)
CAPTURE_TRANSACTION: Final = Form(CaptureTransaction, f"{_ONE}/capture", _changed_at, _changed, capture_faults, 200)
VOID_TRANSACTION: Final = Form(VoidTransaction, f"{_ONE}/void", _changed_at, _changed, status=200)
REVERSE_TRANSACTION: Final = Form(ReverseTransaction, f"{_ONE}/reverse", _made_at, _made, reverse_faults)

# -- routes -----------------------------------------------------------------------------------------------------------

TRANSACTION: Final = "/v1/ledgers/{ledger:str}/transactions/{transaction:str}"

_MOVING: Final = (
    *("batch_rejected", "amount_overflow", "period_closed", "account_closed", "account_frozen"),
    *("insufficient_funds", "max_balance_exceeded"),
)
"""What can refuse money that begins to move."""


@post(
    "/v1/ledgers/{ledger:str}/transactions",
    status_code=202,
    summary="Post a transaction, or hold its amounts",
    body=PostTransaction,
    command=True,
    answers={201: TransactionView, 202: JobView},
    refusals=(
        *("reference_taken", "account_not_found", "currency_mismatch", "amount_scale", "precondition_failed"),
        *_MOVING,
    ),
)
async def post_transaction(request: AnyRequest, ledger: FromPath[str]) -> Response[bytes]:
    return await accept_for(request, POST_TRANSACTION, ledger)


@patch(
    TRANSACTION,
    status_code=202,
    summary="Merge into a transaction's metadata; null takes a key away",
    body=body_of(UpdateTransaction, "transaction"),
    command=True,
    answers={200: TransactionView, 202: JobView},
)
async def update_transaction(request: AnyRequest, ledger: FromPath[str], transaction: FromPath[str]) -> Response[bytes]:
    return await _accept(request, UPDATE_TRANSACTION, ledger, transaction, nulls=True)


@post(
    f"{TRANSACTION}/capture",
    status_code=202,
    summary="Post what a transaction holds, in part or as a whole",
    body=body_of(CaptureTransaction, "transaction"),
    command=True,
    answers={200: TransactionView, 202: JobView},
    refusals=(
        *("amount_scale", "transaction_not_pending", "transaction_expired", "capture_exceeds_hold"),
        *("batch_rejected", "period_closed", "amount_overflow"),
    ),
)
async def capture_transaction(
    request: AnyRequest, ledger: FromPath[str], transaction: FromPath[str]
) -> Response[bytes]:
    """Without `amount` and `amounts`, all of it. Unless it is `final`, the rest stays held."""
    return await _accept(request, CAPTURE_TRANSACTION, ledger, transaction)


@post(
    f"{TRANSACTION}/void",
    status_code=202,
    summary="Release what a transaction still holds",
    body=body_of(VoidTransaction, "transaction"),
    command=True,
    answers={200: TransactionView, 202: JobView},
    refusals=("batch_rejected", "transaction_not_pending", "transaction_expired"),
)
async def void_transaction(request: AnyRequest, ledger: FromPath[str], transaction: FromPath[str]) -> Response[bytes]:
    return await _accept(request, VOID_TRANSACTION, ledger, transaction)


@post(
    f"{TRANSACTION}/reverse",
    status_code=202,
    summary="Undo what a transaction has posted, once, by a new one",
    body=body_of(ReverseTransaction, "transaction"),
    command=True,
    answers={201: TransactionView, 202: JobView},
    refusals=("reference_taken", "transaction_not_reversible", "already_reversed", *_MOVING),
)
async def reverse_transaction(
    request: AnyRequest, ledger: FromPath[str], transaction: FromPath[str]
) -> Response[bytes]:
    return await _accept(request, REVERSE_TRANSACTION, ledger, transaction)


async def _accept(
    request: AnyRequest, form: Form[Any], ledger: str, transaction: str, *, nulls: bool = False
) -> Response[bytes]:
    document = parse_json(await read_body(request), nulls=nulls)
    named = id_in(transaction)
    attempt = command_about(form.command, "transaction", named or UUID(int=0), document)
    return await accept_in(request, form, ledger, document, attempt, "writer", exists=named is not None)


ROUTES: Final[list[Any]] = [
    post_transaction,
    update_transaction,
    capture_transaction,
    void_transaction,
    reverse_transaction,
]
