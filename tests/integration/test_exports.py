"""What is written of a ledger is read again by those who understand it, with the same balances."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pyarrow.parquet
import pytest
from beancount import loader
from beancount.core import data as beans
from beancount.core import realization
from uuid_utils.compat import uuid7

from domain.ledger.commands import (
    CaptureTransaction,
    OpenAccount,
    Posting,
    PostTransaction,
    RegisterCurrency,
    ReverseTransaction,
)
from infrastructure import exports
from infrastructure.exports import Export, Wanted
from infrastructure.postgres import open_pool
from tests.turns import Desk, at_a_desk
from workers.exports import run as engine
from workers.exports.rows import COLUMNS
from workers.exports.text import Beancount, Opened

DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
AWKWARD = 'say "hi" \\ back;\nnew | line (x) * !'


def post(debit: str, credit: str, amount: str, **more: Any) -> PostTransaction:
    return PostTransaction(postings=(Posting(debit, credit, amount),), **more)


async def fill(desk: Desk) -> None:
    """Names and texts that programs stumble over; several currencies; holds, captures, a reversal, backdating."""
    ids = await desk.accept(
        RegisterCurrency(code="P0INTS", scale=0),
        RegisterCurrency(code="TRUE", scale=3),
        OpenAccount(name="a-b:c_d:9.x", currency="USD", type="liability"),
        OpenAccount(name="a--b:-c:x-", currency="USD", type="income"),
        OpenAccount(name="p", currency="P0INTS", type="equity"),
        OpenAccount(name="q", currency="P0INTS", type="expense"),
        OpenAccount(name="t", currency="TRUE", type="asset"),
        OpenAccount(name="u", currency="TRUE", type="equity"),
        post("bank", "a-b:c_d:9.x", "100.00", reference='ref ") ; 1', description=AWKWARD, effective_at=DAY),
        post("bank", "a--b:-c:x-", "7.25", effective_at=DAY - timedelta(days=40), metadata={"k": "ü"}),
        post("q", "p", "12"),
        post("t", "u", "0.001"),
        post("a-b:c_d:9.x", "bank", "40.00", pending=True, reference="held", description="to be captured"),
        post("bank", "a--b:-c:x-", "1.00"),
    )
    held, posted = ids[-2:]
    ids += await desk.accept(
        CaptureTransaction(transaction=held, amount="30.00", final=False, effective_at=DAY + timedelta(days=2)),
        ReverseTransaction(transaction=posted),
    )
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"] * len(ids)


async def export(desk: Desk, wanted: Wanted) -> tuple[Export, bytes]:
    """What comes of it, and the file."""
    async with await open_pool(desk.settings, application="test", size=2) as pool:
        made = await exports.add(pool, uuid7(), desk.ledger, desk.owner, msgspec.json.encode(wanted), "c-1")
        assert made is not None
        await engine.run(pool, made.id)
        found = await exports.find(pool, desk.ledger, made.id)
        assert found is not None
        return found, await content(pool, found.id)


async def content(pool: asyncpg.Pool[asyncpg.Record], made: UUID) -> bytes:
    parts = []
    while (part := await exports.part(pool, made, len(parts))) is not None:
        parts.append(part)
    return b"".join(parts)


async def balances(desk: Desk) -> dict[str, Decimal]:
    """Debits less credits of every account, by what the service keeps."""
    rows = await desk.db.fetch(
        "SELECT name, scale, posted_debits - posted_credits AS net FROM accounts WHERE ledger = $1", desk.ledger
    )
    return {row["name"]: row["net"].scaleb(-row["scale"]) for row in rows}


@at_a_desk
async def test_the_journal_as_lines_is_the_journal(desk: Desk) -> None:
    await fill(desk)
    made, file = await export(desk, Wanted("journal", "ndjson"))
    assert (made.status, made.done, made.total, made.size) == ("succeeded", made.seq, made.seq, len(file))
    previous = bytes(32)
    for number, line in enumerate(map(json.loads, file.splitlines()), start=1):
        assert (line["seq"], line["previous_hash"]) == (number, previous.hex())
        previous = sha256(previous + line["event"].encode()).digest()
        assert line["hash"] == previous.hex()
    assert number == made.seq


@at_a_desk
async def test_the_journal_as_a_table_moves_the_same_money(desk: Desk) -> None:
    await fill(desk)
    _, text = await export(desk, Wanted("journal", "csv"))
    _, packed = await export(desk, Wanted("journal", "parquet"))
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    table = pyarrow.parquet.read_table(io.BytesIO(packed)).to_pylist()
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in table] == rows
    assert tuple(rows[0]) == COLUMNS
    nets: dict[str, Decimal] = {}
    for row in rows:
        if row["type"] in ("TransactionPosted", "TransactionCaptured", "TransactionReversed"):
            nets[row["debit"]] = nets.get(row["debit"], Decimal()) + Decimal(row["amount"])
            nets[row["credit"]] = nets.get(row["credit"], Decimal()) - Decimal(row["amount"])
    expected = await balances(desk)
    assert {name: nets.get(name, Decimal()) for name in expected} == expected
    assert AWKWARD in {row["description"] for row in rows}


@at_a_desk
async def test_a_statement_runs_to_the_balance(desk: Desk) -> None:
    await fill(desk)
    made, text = await export(desk, Wanted("statement", "csv", "bank"))
    _, lines = await export(desk, Wanted("statement", "ndjson", "bank"))
    assert (made.status, made.done) == ("succeeded", 5)
    rows = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    assert [row["balance"] for row in rows] == ["7.25", "107.25", "77.25", "78.25", "77.25"]
    assert [json.loads(line)["seq"] for line in lines.splitlines()] == [int(row["seq"]) for row in rows]
    _, part = await export(desk, Wanted("statement", "csv", "bank", DAY, DAY + timedelta(days=1)))
    assert [row["amount"] for row in csv.DictReader(io.StringIO(part.decode()))] == ["100.00"]
    missing, _ = await export(desk, Wanted("statement", "csv", "nowhere"))
    assert (missing.status, missing.problem) == ("failed", "There is no account nowhere.")


@at_a_desk
async def test_beancount_finds_every_balance_again(desk: Desk) -> None:
    await fill(desk)
    made, file = await export(desk, Wanted("ledger", "beancount"))
    assert made.status == "succeeded"
    entries, errors, _ = loader.load_string(file.decode())
    assert errors == []
    names = {entry.account: entry.meta["name"] for entry in entries if isinstance(entry, beans.Open)}
    found = {}
    for account in realization.iter_children(realization.realize(entries)):
        if account.account in names:
            positions = account.balance.get_positions()
            found[names[account.account]] = sum((one.units.number for one in positions), Decimal())
    assert found == await balances(desk)
    asserted = [entry for entry in entries if isinstance(entry, beans.Balance)]
    assert len(asserted) == len(found)


@at_a_desk
async def test_beancount_refuses_a_balance_that_is_wrong(desk: Desk) -> None:
    await fill(desk)
    _, file = await export(desk, Wanted("ledger", "beancount"))
    assert b"  77.25 ~ 0 USD\n" in file
    _, errors, _ = loader.load_string(file.decode().replace("  77.25 ~", "  77.26 ~"))
    assert [type(error).__name__ for error in errors] == ["BalanceError"]


def test_no_two_accounts_have_one_name_in_beancount() -> None:
    dialect = Beancount()
    parts = ("a-b", "a_b", "a.b", "a--b", "ab", "-ab", "x-ab", "xx-ab", "_ab", ".ab", "0ab", "a-ub", "a-db", "-", "x-")
    written = [next(dialect.opened(Opened(name, "USD", 2, "asset"))) for name in parts]
    assert len(set(written)) == len(parts)


@at_a_desk
async def test_one_at_a_time_and_again_after_a_crash(desk: Desk) -> None:
    await fill(desk)
    async with await open_pool(desk.settings, application="test", size=2) as pool:
        made = await exports.add(
            pool, uuid7(), desk.ledger, desk.owner, msgspec.json.encode(Wanted("journal", "csv")), "c"
        )
        assert made is not None
        lost = uuid4()
        assert await exports.claim(pool, made.id, lost) is not None
        assert await exports.write(pool, made.id, lost, 0, b"half of it", 3)
        # somebody is at it: nobody else begins
        await engine.run(pool, made.id)
        assert await content(pool, made.id) == b"half of it"
        await desk.db.execute("UPDATE exports SET leased_until = clock_timestamp() WHERE id = $1", made.id)
        assert made.id in await exports.waiting(pool, 0, 1_000)
        await engine.run(pool, made.id)
        whole = await content(pool, made.id)
        assert whole.startswith(b"seq,type,")
        # who comes late writes nothing
        assert not await exports.write(pool, made.id, lost, 9, b"late", 9)
        await exports.finish(pool, made.id, lost, "late")
        found = await exports.find(pool, desk.ledger, made.id)
        assert found is not None
        assert (found.status, found.attempts, found.size) == ("succeeded", 2, len(whole))


@at_a_desk
async def test_what_breaks_its_workers_is_given_up(desk: Desk) -> None:
    async with await open_pool(desk.settings, application="test", size=2) as pool:
        made = await exports.add(pool, uuid7(), desk.ledger, desk.owner, b'{"what":"moon","format":"csv"}', "c")
        assert made is not None
        for attempt in range(exports.MOST_ATTEMPTS):
            await exports.tidy(pool, 10, "broken")
            found = await exports.find(pool, desk.ledger, made.id)
            assert found is not None and (found.status, found.attempts) == (
                "running" if attempt else "accepted",
                attempt,
            )
            with pytest.raises(msgspec.ValidationError):
                await engine.run(pool, made.id)
        await exports.tidy(pool, 10, "broken")
        found = await exports.find(pool, desk.ledger, made.id)
        assert found is not None and (found.status, found.problem) == ("failed", "broken")
        # and after a day it is gone
        await desk.db.execute("UPDATE exports SET expires_at = clock_timestamp() WHERE id = $1", made.id)
        await exports.tidy(pool, 10, "broken")
        assert await exports.find(pool, desk.ledger, made.id) is None


@at_a_desk
async def test_a_user_keeps_so_many_and_no_more(desk: Desk) -> None:
    request = msgspec.json.encode(Wanted("journal", "csv"))
    made = [
        await exports.add(desk.db, uuid7(), desk.ledger, desk.owner, request, "c") for _ in range(exports.MOST_KEPT + 1)
    ]
    assert [one is not None for one in made] == [True] * exports.MOST_KEPT + [False]
    assert await exports.add(desk.db, uuid7(), desk.ledger, desk.stranger, request, "c") is not None
