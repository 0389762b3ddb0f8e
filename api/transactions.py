"""Transactions: posting one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from litestar import Request, Response, post
from litestar.params import FromPath

from api.commands import Form
from api.jobs import JobView
from api.ledgers import accept_for
from api.queries import GetTransaction
from domain.clock import EARLIEST, format_time, in_utc
from domain.errors import Fault
from domain.ledger.commands import PostTransaction
from infrastructure.read_models import TransactionView

MOST_AHEAD: Final = timedelta(seconds=60)
"""What clocks may differ by."""


def post_faults(command: PostTransaction) -> Iterator[Fault]:
    """A transaction can't take effect in the future, nor before there were years."""
    if command.effective_at is None:
        return
    moment = in_utc(command.effective_at)
    if moment < EARLIEST:
        yield Fault("#/effective_at", f"must not be before {format_time(EARLIEST)}")
    if moment > datetime.now(UTC) + MOST_AHEAD:
        yield Fault("#/effective_at", "must not be more than 60 seconds in the future")


POST_TRANSACTION: Final = Form(
    PostTransaction,
    "transactions",
    lambda ledger, _command, job: f"/v1/ledgers/{ledger}/transactions/{job}",
    lambda ledger, _command, job, seq: GetTransaction(ledger=ledger, transaction=job, min_version=seq),
    post_faults,
)


@post(
    "/v1/ledgers/{ledger:str}/transactions",
    status_code=202,
    summary="Post a transaction",
    body=PostTransaction,
    command=True,
    answers={201: TransactionView, 202: JobView},
    refusals=(
        *("reference_taken", "account_not_found", "currency_mismatch", "amount_scale", "amount_overflow"),
        *("insufficient_funds", "max_balance_exceeded"),
    ),
)
async def post_transaction(request: Request[Any, Any, Any], ledger: FromPath[str]) -> Response[bytes]:
    return await accept_for(request, POST_TRANSACTION, ledger)


ROUTES: Final[list[Any]] = [post_transaction]
