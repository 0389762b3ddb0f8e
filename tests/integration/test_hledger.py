"""hledger, a program of other people's, reads what is written for it: `make test-hledger`."""

from __future__ import annotations

import csv
import io
import subprocess
from decimal import Decimal

import pytest

from infrastructure.exports import Wanted
from tests.integration.test_exports import balances, export, fill
from tests.turns import Desk, at_a_desk

pytestmark = pytest.mark.hledger


def hledger(journal: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["hledger", "-f", "-", *arguments], input=journal, capture_output=True, check=False)


@at_a_desk
async def test_hledger_finds_every_balance_again(desk: Desk) -> None:
    await fill(desk)
    _, journal = await export(desk, Wanted("ledger", "hledger"))
    # strictly: accounts and commodities declared, every assertion of a balance true
    checked = hledger(journal, "check", "--strict")
    assert checked.returncode == 0, checked.stderr.decode()
    told = hledger(journal, "balance", "--flat", "--empty", "--no-total", "-O", "csv")
    found = {row["account"]: row["balance"] for row in csv.DictReader(io.StringIO(told.stdout.decode()))}
    expected = await balances(desk)
    assert {name: Decimal(text.split(" ")[0]) for name, text in found.items()} == expected


@at_a_desk
async def test_hledger_refuses_a_balance_that_is_wrong(desk: Desk) -> None:
    await fill(desk)
    _, journal = await export(desk, Wanted("ledger", "hledger"))
    assert b" = 77.25 USD" in journal
    checked = hledger(journal.replace(b" = 77.25 USD", b" = 77.26 USD"), "check", "--strict")
    assert checked.returncode != 0 and b"balance assertion" in checked.stderr
