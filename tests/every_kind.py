"""A run of commands of every kind that changes what is in a ledger, a few of them refused; numbers name commands."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from domain.ledger.commands import (
    CaptureTransaction,
    CloseAccount,
    ClosePeriod,
    ExpireTransaction,
    FreezeAccount,
    PostTransaction,
    ReverseTransaction,
    UnfreezeAccount,
    UpdateAccount,
    UpdateTransaction,
    VoidTransaction,
)
from domain.ledger.model import SERVICE
from domain.messages import Command, Recorded
from tests.books import ADA, NOON, create, open_account, post, record


def job(number: int) -> UUID:
    """The id of the command with this number, and of the transaction it makes."""
    return record(create(), number).id


def hold(*lines: tuple[str, str, str], seconds: int | None = None, reference: str | None = None) -> PostTransaction:
    """A pending transaction that expires so many seconds after noon."""
    expires_at = None if seconds is None else NOON + timedelta(seconds=seconds)
    return replace(post(*lines, reference=reference), pending=True, expires_at=expires_at)


def capture(
    number: int, *amounts: str, final: bool = False, effective_at: datetime | None = None
) -> CaptureTransaction:
    return CaptureTransaction(transaction=job(number), amounts=amounts or None, final=final, effective_at=effective_at)


YESTERDAY: Final = NOON - timedelta(days=1)
OLD: Final = NOON - timedelta(days=2)
EVERY_KIND: Final[list[Command]] = [
    create(),
    open_account("bank"),
    open_account("alice", kind="liability", least="0"),
    open_account("bob", kind="liability"),
    post(("bank", "alice", "100"), reference="dep"),
    # 5: captured in three parts, the second of them dated back
    hold(("alice", "bob", "40"), ("alice", "bob", "5"), seconds=1_000, reference="held"),
    capture(5, "30", "0"),
    capture(5, "4", "2.5", effective_at=YESTERDAY),
    capture(5, final=True),
    # 9: captured in part, then expired
    hold(("alice", "bob", "10"), seconds=11),
    capture(9, "3"),
    ExpireTransaction(transaction=job(9)),
    # 12: voided
    hold(("bank", "alice", "7")),
    VoidTransaction(transaction=job(12)),
    # 14: captured in part, then voided
    hold(("alice", "bob", "1")),
    capture(14, "0.4"),
    VoidTransaction(transaction=job(14)),
    # 17: expired whole
    hold(("alice", "bob", "1"), seconds=18),
    ExpireTransaction(transaction=job(17)),
    # 19 and 20: what was captured is reversed, and that again
    ReverseTransaction(transaction=job(5)),
    ReverseTransaction(transaction=job(19), reference="again", metadata={"b": "2", "a": "1"}),
    ReverseTransaction(transaction=job(5)),
    UpdateTransaction(transaction=job(5), metadata={"z": "1", "a": "é"}),
    UpdateTransaction(transaction=job(5), metadata={"z": None, "b": '"'}),
    UpdateTransaction(transaction=job(4), metadata={"k": "v"}),
    UpdateAccount(account="alice", metadata={"vip": "yes"}),
    FreezeAccount(account="bob"),
    post(("alice", "bob", "1")),
    UnfreezeAccount(account="bob"),
    open_account("idle"),
    UpdateAccount(account="idle", metadata={"x": "1"}),
    CloseAccount(account="idle"),
    ClosePeriod(before=OLD - timedelta(days=1)),
    ClosePeriod(before=OLD),
    replace(post(("bank", "alice", "1")), effective_at=OLD - timedelta(microseconds=1)),
    # 35: still pending, with something captured of it
    hold(("alice", "bob", "2"), ("alice", "bank", "1"), seconds=1_000),
    capture(35, "0.5", "0"),
    UpdateTransaction(transaction=job(35), metadata={"p": "q"}),
]
REFUSED: Final = {21: "already_reversed", 27: "account_frozen", 34: "period_closed"}
NAMING_ALL: Final = [record(UpdateTransaction(transaction=job(number), metadata={}), 0) for number in range(40)]


def every_kind() -> list[Recorded]:
    """Each of them as a turn takes it: what expires is asked for by the service."""
    return [
        record(command, number, SERVICE if isinstance(command, ExpireTransaction) else ADA)
        for number, command in enumerate(EVERY_KIND)
    ]
