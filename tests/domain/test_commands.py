"""What a request's values may look like: the patterns and bounds of the commands' fields."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from domain.catalog import KIND_OF, KINDS
from domain.ledger.commands import (
    AccountName,
    Amount,
    Bounds,
    CapturedAmount,
    CaptureTransaction,
    CloseAccount,
    ClosePeriod,
    CreateLedger,
    CurrencyCode,
    ExpireTransaction,
    FreezeAccount,
    GrantAccess,
    LedgerId,
    MaxBalance,
    Metadata,
    MetadataChanges,
    MinBalance,
    OpenAccount,
    PostedAmount,
    Posting,
    PostTransaction,
    Precondition,
    RegisterCurrency,
    ReverseTransaction,
    RevokeAccess,
    Scale,
    SignedAmount,
    UnfreezeAccount,
    UpdateAccount,
    UpdateLedger,
    UpdateTransaction,
    VoidTransaction,
)
from domain.ledger.handlers import touches, weight
from domain.ledger.model import Touches
from domain.messages import Command
from tests.books import EVE, NOON, capture, hold, post, void

GOOD: list[tuple[Any, list[Any]]] = [
    (Amount, ["1", "0.01", "10", "1.5", "1.50", "100.00", "9" * 38, "0." + "0" * 17 + "1", "0.10"]),
    (MinBalance, ["0", "0.00", "-1", "-0.01", "-12.50", "-" + "9" * 38]),
    (MaxBalance, ["0", "0.00", "1", "0.01", "12.50", "9" * 38 + "." + "9" * 18]),
    (
        AccountName,
        ["a", "assets:bank", "a.b", "...", ".hidden", "a:..b", "x" * 64, ":".join("abcdefgh"), "-", "_", "0"],
    ),
    (LedgerId, ["a", "0", "acme", "acme-2", "a" * 63, "0-"]),
    (CurrencyCode, ["USD", "XBT", "POINTS", "A00", "A" * 16]),
    (Scale, [0, 2, 18]),
    (PostedAmount, ["available", "1", "0.01", "9" * 38]),
    (CapturedAmount, ["0", "0.00", "1", "0.01", "9" * 38]),
    (SignedAmount, ["0", "0.00", "1", "-1", "-0.01", "-" + "9" * 38, "9" * 38]),
    (MetadataChanges, [{}, {"k": None}, {str(number): None for number in range(100)}]),
    (Metadata, [{}, {"k": ""}, {"k" * 40: "v" * 500}, {str(number): "" for number in range(50)}]),
]
BAD: list[tuple[Any, list[Any]]] = [
    (
        Amount,
        [
            "",
            "0",
            "0.0",
            "0.00",
            "-1",
            "+1",
            "01",
            "00.1",
            "1.",
            ".5",
            "1e3",
            "1,5",
            " 1",
            "1 ",
            "1\n",
            "١",
            "½",
            "NaN",
        ],
    ),
    (
        Amount,
        ["1" + "0" * 38, "0." + "0" * 18 + "1", "1." + "0" * 19, "1_000", "0x1", 1, 1.5, None, True],
    ),
    (MinBalance, ["", "-0", "-0.00", "1", "0.01", "--1", "-01", "-1.", "-", "- 1", "-1\n", "-" + "9" * 39, -1]),
    (MaxBalance, ["", "-0", "-0.0", "-1", "01", "1.", "1\n", "9" * 39, "0." + "0" * 19, 0]),
    (AccountName, ["", ":", "a:", ":a", "a::b", ".", "..", "a:.", "..:a", "a:..:b", "A", "a b", "é", "a/b", "a\n"]),
    (AccountName, ["x" * 65, ":".join("abcdefghi")]),
    (LedgerId, ["", "-a", "A", "a_b", "a.b", "a:b", "a" * 64, "a\n", "é"]),
    (CurrencyCode, ["", "US", "usd", "1SD", "US D", "A" * 17, "USD\n", "USÐ"]),
    (PostedAmount, ["", "0", "0.00", "-1", "Available", "available ", " available", "availableavailable", "all", None]),
    (CapturedAmount, ["", "-0", "-1", "01", ".5", "1.", "9" * 39, "available", 0, None]),
    (SignedAmount, ["", "-0", "-0.00", "+1", "--1", "01", "-01", "1.", "9" * 39, "1e3", 1, None]),
    (MetadataChanges, [{"": None}, {"k" * 41: None}, {"k": "v" * 501}, {str(n): None for n in range(101)}, {"k": 1}]),
    (Scale, [-1, 19, "2", 2.5, True]),
    (
        Metadata,
        [{"": "v"}, {"k" * 41: ""}, {"k": "v" * 501}, {str(n): "" for n in range(51)}, {"k": 1}, {"k": None}, []],
    ),
]


def each(table: list[tuple[Any, list[Any]]]) -> list[Any]:
    names = {id(kind): name for name, kind in globals().items()}
    return [
        pytest.param(kind, value, id=f"{names[id(kind)]}-{str(value)[:20]!a}") for kind, many in table for value in many
    ]


@pytest.mark.parametrize(("kind", "value"), each(GOOD))
def test_accepts(kind: Any, value: Any) -> None:
    assert msgspec.convert(value, kind) == value


@pytest.mark.parametrize(("kind", "value"), each(BAD))
def test_refuses(kind: Any, value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, kind)


LINE = {"debit": "a", "credit": "b", "amount": "1"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CreateLedger, {"id": "acme", "name": ""}),
        (CreateLedger, {"id": "acme", "name": "n" * 201}),
        (CreateLedger, {"id": "acme"}),
        (RegisterCurrency, {"code": "POINTS"}),
        (OpenAccount, {"name": "a", "currency": "USD", "type": "wallet"}),
        (OpenAccount, {"name": "a", "currency": "USD", "type": "asset", "min_balance": "0.01"}),
        (OpenAccount, {"name": "a", "currency": "USD", "type": "asset", "max_balance": "-0.01"}),
        (OpenAccount, {"name": "a", "currency": "USD", "type": "asset", "colour": "red"}),
        (Posting, LINE | {"credit": "a"}),
        (Posting, LINE | {"currency": "USD"}),
        (PostTransaction, {"postings": []}),
        (PostTransaction, {"postings": [LINE] * 1_001}),
        (PostTransaction, {"postings": [LINE], "reference": ""}),
        (PostTransaction, {"postings": [LINE], "reference": "r" * 256}),
        (PostTransaction, {"postings": [LINE], "description": "d" * 1_001}),
        (PostTransaction, {"postings": [LINE], "effective_at": "2026-11-22T12:00:00"}),
        (PostTransaction, {"postings": [LINE], "effective_at": "2026-11-22"}),
        (PostTransaction, {"postings": [LINE], "pending": "yes"}),
        (PostTransaction, {"postings": [LINE], "colour": "red"}),
        (PostTransaction, {"postings": [LINE], "preconditions": [{"account": "a"}]}),
        (Posting, LINE | {"up_to": "1"}),
        (Posting, LINE | {"amount": "available", "up_to": "0"}),
        (Posting, LINE | {"amount": "available", "up_to": "available"}),
        (Bounds, {}),
        (Bounds, {"gt": "1"}),
        (Bounds, {"eq": 1}),
        (Precondition, {"account": "a", "version": 0}),
        (Precondition, {"account": "a", "balance": {}}),
        (PostTransaction, {"postings": [LINE], "preconditions": [{"account": "a", "version": 1}] * 101}),
        (PostTransaction, {"postings": [LINE], "expires_at": "2026-11-22T12:00:00"}),
        (PostTransaction, {"postings": [LINE], "execute_at": "tomorrow"}),
        (UpdateAccount, {"account": "a"}),
        (UpdateTransaction, {"transaction": "T1", "metadata": {}}),
        (FreezeAccount, {"account": "A"}),
        (CaptureTransaction, {"transaction": str(EVE), "amount": "0"}),
        (CaptureTransaction, {"transaction": str(EVE), "amounts": []}),
        (CaptureTransaction, {"transaction": str(EVE), "amounts": ["1"] * 1_001}),
        (CaptureTransaction, {"transaction": str(EVE), "amounts": ["available"]}),
        (CaptureTransaction, {"transaction": str(EVE), "final": "no"}),
        (ReverseTransaction, {"transaction": str(EVE), "postings": [LINE]}),
        (ClosePeriod, {}),
        (ClosePeriod, {"before": "2026-11-22"}),
    ],
)
def test_refuses_the_body(kind: type, body: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, kind)


KEPT: list[Command] = [
    CreateLedger(id="acme", name="Acme", metadata={"a": "b"}),
    RegisterCurrency(code="POINTS", scale=18),
    OpenAccount(name="a", currency="USD", type="asset", min_balance="-1", max_balance="0"),
    PostTransaction(
        postings=(Posting("a", "b", "1"),) * 1_000, reference="r", description="", effective_at=NOON, metadata={}
    ),
    PostTransaction(
        postings=(Posting("a", "b", "available", "5"),),
        pending=True,
        expires_at=NOON,
        execute_at=NOON,
        preconditions=(
            Precondition("a", version=1, balance=Bounds(gte="-1")),
            Precondition("b", available=Bounds(eq="0")),
        ),
    ),
    UpdateLedger(metadata={"a": None, "b": ""}),
    UpdateAccount(account="a", metadata={"a": None}),
    UpdateTransaction(transaction=EVE, metadata={}),
    CaptureTransaction(transaction=EVE, amounts=("0", "1.50"), final=False, effective_at=NOON, execute_at=NOON),
    CaptureTransaction(transaction=EVE, amount="1"),
    VoidTransaction(transaction=EVE),
    ExpireTransaction(transaction=EVE),
    ReverseTransaction(transaction=EVE, effective_at=NOON, reference="r", description="d", metadata={"a": "b"}),
    FreezeAccount(account="a"),
    UnfreezeAccount(account="a", execute_at=NOON),
    CloseAccount(account="a"),
    GrantAccess(user=EVE, role="reader"),
    RevokeAccess(user=EVE),
    ClosePeriod(before=NOON),
]


@pytest.mark.parametrize("command", KEPT)
def test_comes_back_from_the_daybook_as_it_went(command: Command) -> None:
    kind = KIND_OF[type(command)]
    assert msgspec.json.decode(msgspec.json.encode(command), type=KINDS[kind]) == command


def test_what_is_not_set_is_not_kept() -> None:
    assert msgspec.json.encode(post(("a", "b", "1"))) == b'{"postings":[{"debit":"a","credit":"b","amount":"1"}]}'


def test_a_transaction_weighs_its_postings() -> None:
    assert weight(post(*[("a", "b", "1")] * 7)) == weight(hold(*[("a", "b", "1")] * 7)) == 7
    assert weight(capture(EVE, "1", "0", "2")) == 3
    assert weight(capture(EVE)) == weight(void(EVE)) == 1
    assert weight(RegisterCurrency(code="POINTS", scale=2)) == 1


def test_accounts_that_preconditions_name_are_loaded() -> None:
    needed = Touches.none()
    touches(replace(post(("a", "b", "1")), preconditions=(Precondition("c", version=1),)), needed)
    assert needed.accounts == {"a", "b", "c"}
