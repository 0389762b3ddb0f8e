"""What is kept of a ledger is made again from its journal, to the last field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.audit import audit
from cli.findings import Counts, Findings
from domain.ledger.commands import (
    CloseAccount,
    ClosePeriod,
    FreezeAccount,
    GrantAccess,
    RegisterCurrency,
    RevokeAccess,
    UnfreezeAccount,
    UpdateAccount,
    UpdateLedger,
    UpdateTransaction,
    VoidTransaction,
)
from infrastructure import projecting
from infrastructure.projecting import project
from infrastructure.schema import metadata
from tests.books import open_account
from tests.integration.test_exports import fill, post
from tests.integration.test_history import seal
from tests.turns import Desk, at_a_desk

PROJECTIONS = (
    *("ledgers", "grants", "currencies", "accounts", "account_changes", "pending_sums", "periods"),
    *("transactions", "postings", "holds", "captures"),
)
# A reservation grants before there is an event, by a clock of its own.
DUMP = "SELECT to_jsonb(row) - 'granted_at' AS row FROM {table} AS row WHERE {column} = $1 ORDER BY 1"


async def dump(desk: Desk) -> dict[str, list[str]]:
    """Everything that is kept of the ledger, by table."""
    return {
        table: [
            row["row"]
            for row in await desk.db.fetch(
                DUMP.format(table=table, column="id" if table == "ledgers" else "ledger"), desk.ledger
            )
        ]
        for table in PROJECTIONS
    }


async def live(desk: Desk) -> None:
    """A ledger to which everything has happened that can happen to one, in several turns."""
    await desk.accept(GrantAccess(user=desk.owner, role="owner"))
    await desk.empty()
    await fill(desk)
    soon = datetime.now(UTC) + timedelta(days=1)
    ids = await desk.accept(
        post("bank", "till", "5", pending=True, expires_at=soon),
        post("bank", "till", "6", pending=True),
        open_account("spare"),
        UpdateLedger(metadata={"b": "1", "a": "2"}),
        GrantAccess(user=desk.stranger, role="writer"),
    )
    await desk.empty()
    ids += await desk.accept(
        VoidTransaction(transaction=ids[1]),
        UpdateTransaction(transaction=ids[0], metadata={"k": "v"}),
        FreezeAccount(account="till"),
        UpdateAccount(account="till", metadata={"x": "y"}),
        UnfreezeAccount(account="till"),
        CloseAccount(account="spare"),
        ClosePeriod(before=datetime(2025, 1, 1, tzinfo=UTC)),
        RevokeAccess(user=desk.stranger),
        GrantAccess(user=desk.stranger, role="reader"),
    )
    await desk.empty()
    assert set(await desk.statuses(ids)) == {"succeeded"}


async def rebuilt(desk: Desk) -> int:
    async with desk.db.transaction():
        return sum([events async for events in project(desk.db, desk.ledger)])


async def agrees(desk: Desk) -> dict[str, Any]:
    findings = Findings(3)
    async with desk.db.transaction(isolation="repeatable_read", readonly=True):
        await audit(desk.db, desk.ledger, findings, Counts(), lambda _: None)
    return findings.shown


@at_a_desk
async def test_everything_is_made_again(desk: Desk) -> None:
    await live(desk)
    await seal(desk.db, desk.ledger, "bank")
    before, events = await dump(desk), len(await desk.journal())
    assert all(before.values()), "every table has something"
    assert await agrees(desk) == {}
    for table in PROJECTIONS[2:]:
        await desk.db.execute(f"DELETE FROM {table} WHERE ledger = $1", desk.ledger)
    await desk.db.execute("UPDATE ledgers SET name = 'x', accounts = 99 WHERE id = $1", desk.ledger)
    assert await agrees(desk) != {}
    for page, naming in ((1, 1), (3, 1), (2_000, 1), (2_000, 100)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(projecting, "PAGE_EVENTS", page)
            patch.setattr(projecting, "MOST_NAMING", naming)
            assert await rebuilt(desk) == events
        assert await dump(desk) == before
    assert await agrees(desk) == {}
    # and it goes on from there
    ids = await desk.accept(post("bank", "till", "1"))
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"]
    assert await agrees(desk) == {}


@at_a_desk
async def test_a_journal_that_can_t_be_read_leaves_all_as_it_was(desk: Desk) -> None:
    await live(desk)
    before = await dump(desk)
    await desk.db.execute("SET session_replication_role = replica")
    await desk.db.execute("UPDATE journal SET event = 'nonsense' WHERE actor = $1 AND seq = 5", desk.actor)
    await desk.db.execute("SET session_replication_role = DEFAULT")
    with pytest.raises(ValueError):
        await rebuilt(desk)
    assert await dump(desk) == before


@at_a_desk
async def test_no_turn_runs_meanwhile(desk: Desk) -> None:
    ids = await desk.accept(RegisterCurrency(code="XYZ", scale=2))
    async with desk.db.transaction():
        _ = [events async for events in project(desk.db, desk.ledger)]
        assert (await desk.take()).value == "busy"
    await desk.empty()
    assert await desk.statuses(ids) == ["succeeded"]


def test_names_are_of_tables_that_are_there() -> None:
    assert set(PROJECTIONS) <= set(metadata.tables)
    assert {words.split()[0] for words in projecting.REMOVE.split("DELETE FROM ")[1:]} <= set(metadata.tables)
