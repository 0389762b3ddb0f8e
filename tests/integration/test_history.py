"""What ledgers were, against a fold of their journals; and the runs that make it cheap, sealed at random moments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.ledger.commands import PostTransaction
from domain.messages import Command
from infrastructure import history, snapshots
from infrastructure.history import Behind, Range
from infrastructure.read_models import LineView
from infrastructure.settings import Settings
from infrastructure.snapshots import Shape
from tests.books import capture, describe, freeze, hold, open_account, post, reverse, unfreeze, void
from tests.turns import Desk, at_a_desk
from workers.snapshots import Snapshots

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
SMALL = Shape(run=3, runs=2, chunk=2)


def day(number: int) -> datetime:
    return NEW_YEAR + timedelta(days=number)


# -- what a journal comes to, worked out anew -------------------------------------------------------------------------


class Line(NamedTuple):
    """A movement: sorted as statements sort them."""

    effective_at: datetime
    seq: int
    posting: int
    debit: str
    credit: str
    minor: int
    transaction: str
    entry: str


@dataclass
class Was:
    """An account after some event."""

    kind: str
    version: int
    status: str = "open"
    metadata: dict[str, str] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=lambda: {"debit": 0, "credit": 0})


class Books:
    """A journal up to a seq."""

    def __init__(self, journal: Sequence[dict[str, Any]], seq: int) -> None:
        self.accounts: dict[str, Was] = {}
        self.lines: list[Line] = []
        for entry in journal[:seq]:
            self._take(entry["type"], entry["seq"], entry["data"])
        self.lines.sort()

    def _take(self, kind: str, seq: int, data: dict[str, Any]) -> None:
        if kind == "AccountOpened":
            self.accounts[data["name"]] = Was(data["type"], seq, metadata=data["metadata"])
        elif kind in ("TransactionPosted", "TransactionReversed"):
            self._move(seq, data, data["transaction"])
        elif kind == "TransactionHeld":
            self._hold(seq, data["postings"], {"amount": 1})
        elif kind in ("TransactionCaptured", "TransactionVoided"):
            self._hold(seq, data["postings"], {"amount": -1, "released": -1})
            if kind == "TransactionCaptured":
                self._move(seq, data, data["capture"])
        elif kind in ("AccountFrozen", "AccountUnfrozen", "AccountMetadataChanged"):
            account = self.accounts[data["name"]]
            account.version = seq
            account.metadata = data.get("metadata", account.metadata)
            account.status = {"AccountFrozen": "frozen", "AccountUnfrozen": "open"}.get(kind, account.status)

    def _hold(self, seq: int, postings: Sequence[dict[str, str]], signs: dict[str, int]) -> None:
        for line in postings:
            change = sum(sign * minor(line[name]) for name, sign in signs.items())
            for side in ("debit", "credit"):
                self.accounts[line[side]].held[side] += change
                self.accounts[line[side]].version = seq

    def _move(self, seq: int, data: dict[str, Any], entry: str) -> None:
        moment = datetime.fromisoformat(data["effective_at"])
        for number, line in enumerate(data["postings"]):
            for side in ("debit", "credit"):
                self.accounts[line[side]].version = seq
            if minor(line["amount"]):
                moved = (line["debit"], line["credit"], minor(line["amount"]))
                self.lines.append(Line(moment, seq, number, *moved, data["transaction"], entry))

    def sums(self, account: str, until: Callable[[datetime], bool] = lambda _: True) -> tuple[int, int]:
        """Debits and credits of movements whose time fits."""
        fitting = [line for line in self.lines if until(line.effective_at)]
        debits, credits = ([line for line in fitting if account == getattr(line, side)] for side in ("debit", "credit"))
        return sum(line.minor for line in debits), sum(line.minor for line in credits)

    def net(self, account: str, sums: tuple[int, int]) -> int:
        net = sums[0] - sums[1]
        return net if self.accounts[account].kind in ("asset", "expense") else -net

    def account(self, name: str, effective_at: datetime | None) -> dict[str, object]:
        was = self.accounts[name]
        sums = self.sums(name, lambda moment: effective_at is None or moment <= effective_at)
        balance = self.net(name, sums)
        outgoing = was.held["credit" if was.kind in ("asset", "expense") else "debit"]
        held = (was.held["debit"], was.held["credit"], balance - outgoing) if effective_at is None else (None,) * 3
        return {
            "name": name, "status": was.status, "metadata": was.metadata, "version": was.version,
            "posted_debits": sums[0], "posted_credits": sums[1], "balance": balance,
            "pending_debits": held[0], "pending_credits": held[1], "available": held[2],
        }  # fmt: skip


MONEY = ("posted_debits", "posted_credits", "pending_debits", "pending_credits", "balance", "available")


def minor(text: str) -> int:
    return int(text.replace(".", ""))


def shown(view: object, *also: str) -> dict[str, object]:
    """The figures of a view as whole numbers, and the other members as they are."""
    found = {name: getattr(view, name) for name in (*MONEY, *also)}
    return found | {name: minor(found[name]) for name in MONEY if found[name] is not None}


# -- random histories, told by commands -------------------------------------------------------------------------------


async def live(desk: Desk, random: Random, commands: int) -> None:
    """Gives the desk random commands in turns of random widths, and has runs sealed at random moments."""
    names, held, made = ["bank", "till"], list[UUID](), list[UUID]()
    sweep = Snapshots(desk.turns.work_pool, shape=SMALL, share=1, quiet=timedelta(0))
    for number in range(commands):
        command = _command(random, names, held, made, number)
        ids = await desk.accept(command)
        if isinstance(command, PostTransaction):
            (held if command.pending else made).extend(ids)
        if random.random() < 0.3:
            await desk.empty()
        if random.random() < 0.1:
            await sweep.run()
    await desk.empty()


def _command(random: Random, names: list[str], held: Sequence[UUID], made: Sequence[UUID], number: int) -> Command:
    kind = random.choices(
        ("open", "post", "hold", "capture", "void", "reverse", "freeze", "unfreeze", "describe"),
        (4, 40, 15, 15, 4, 6, 3, 5, 4),
    )[0]
    moment = random.choice((None, *(day(number) for number in range(6))))
    pending = random.choice(held[-4:]) if held else uuid4()
    if kind == "open":
        names.append(f"a{number}")
        return open_account(names[-1], kind=random.choice(("asset", "liability", "equity", "income")))
    if kind in ("post", "hold"):
        lines = [
            (*random.sample(names, 2), f"{random.randint(0, 9)}.{random.randint(1, 99):02}")
            for _ in range(random.choice((1, 1, 2, 5)))
        ]
        return replace(post(*lines) if kind == "post" else hold(*lines), effective_at=moment)
    if kind == "capture":
        return capture(pending, final=random.random() < 0.7, effective_at=moment)
    if kind == "reverse":
        return reverse(random.choice((*made[-4:], pending)))
    if kind == "void":
        return void(pending)
    name = random.choice(names)
    if kind == "describe":
        return describe(name, colour=f"{number}")
    return freeze(name) if kind == "freeze" else unfreeze(name)


@pytest.mark.parametrize("seed", [1, 2, 3])
@at_a_desk
async def test_whatever_was_is_told_as_the_journal_has_it(desk: Desk, seed: int) -> None:
    random = Random(seed)
    await live(desk, random, 120)
    journal = await desk.journal()
    kinds = {entry["type"] for entry in journal}
    assert {"TransactionCaptured", "TransactionReversed", "TransactionVoided", "AccountFrozen"} <= kinds
    assert await desk.db.fetchval("SELECT count(*) FROM sealed_runs WHERE ledger = $1 AND level = 1", desk.ledger) > 2
    for seq in random.sample(range(len(journal) + 1), 12):
        books = Books(journal, seq)
        for effective_at in (None, day(-1), random.choice(journal)["recorded_at"], day(random.randrange(6))):
            moment = datetime.fromisoformat(effective_at) if isinstance(effective_at, str) else effective_at
            await _compare_accounts(desk, books, seq, moment)
            await _compare_sums(desk, books, seq, moment)
        for account in random.sample(sorted(books.accounts), min(2, len(books.accounts))):
            await _compare_statement(desk.db, desk.ledger, books, account, seq, random)


async def _compare_accounts(desk: Desk, books: Books, seq: int, effective_at: datetime | None) -> None:
    expected = [books.account(name, effective_at) for name in sorted(books.accounts)]
    listed, after = [], ""
    while True:
        page = await history.list_accounts(desk.db, desk.ledger, "", None, after, 4, seq, effective_at)
        listed += [shown(view, "name", "status", "metadata", "version") for view in page.items]
        if page.last is None:
            break
        after = str(page.last[0])
    assert listed == expected, (seq, effective_at)
    for name in ("bank", "a-stranger"):
        view = await history.find_account(desk.db, desk.ledger, name, seq, effective_at)
        if name not in books.accounts:
            assert view is None
        else:
            assert view is not None and view.seq == seq
            assert shown(view, "name", "status", "metadata", "version") in expected


async def _compare_sums(desk: Desk, books: Books, seq: int, effective_at: datetime | None) -> None:
    accounts = [books.account(name, effective_at) | {"kind": was.kind} for name, was in books.accounts.items()]
    by_kind = {
        kind: list(some)
        for kind, some in groupby(
            sorted(accounts, key=lambda account: str(account["kind"])), lambda account: str(account["kind"])
        )
    }
    page = await history.list_balances(desk.db, desk.ledger, "", ("", ""), 100, seq, effective_at)
    assert [view.type for view in page.items] == sorted(by_kind)
    for view in page.items:
        some = by_kind[view.type]
        assert view.accounts == len(some)
        for name, figure in shown(view).items():
            assert figure == (None if some[0][name] is None else sum(account[name] for account in some))  # type: ignore[misc]
    trial = await history.find_trial_balance(desk.db, desk.ledger, seq, effective_at)
    nets = [sums[0] - sums[1] for name in books.accounts if (sums := _posted(books, name, effective_at))]
    if books.accounts:
        assert minor(trial[0].debits) == sum(net for net in nets if net > 0) == minor(trial[0].credits)
        assert minor(trial[0].difference) == 0
    else:
        assert trial == []


def _posted(books: Books, name: str, effective_at: datetime | None) -> tuple[int, int]:
    return books.sums(name, lambda moment: effective_at is None or moment <= effective_at)


async def _compare_statement(
    db: asyncpg.Connection[Record], ledger: str, books: Books, account: str, seq: int, random: Random
) -> None:
    start, end = (random.choice((None, day(-1), *(day(number) for number in range(7)))) for _ in range(2))
    within = [
        line
        for line in books.lines
        if account in (line.debit, line.credit)
        and (start is None or line.effective_at >= start)
        and (end is None or line.effective_at < end)
    ]
    opening = 0 if start is None else books.net(account, books.sums(account, lambda moment: moment < start))
    closing = books.net(account, books.sums(account, lambda moment: end is None or moment < end))
    balance, expected = opening, []
    for line in within:
        side = "debit" if line.debit == account else "credit"
        other = line.credit if side == "debit" else line.debit
        balance += books.net(account, (line.minor, 0) if side == "debit" else (0, line.minor))
        named = (line.transaction, line.entry, other, side)
        expected.append((line.effective_at, line.seq, line.posting, line.minor, balance, *named))
    found: list[LineView] = []
    behind: Behind | None = None
    limit = random.randint(1, 9)
    while True:
        page = await history.find_statement(db, ledger, account, Range(start, end), seq, behind, limit)
        assert page is not None
        assert (minor(page.opening), minor(page.closing)) == (opening, closing)
        assert len(page.items) == limit or page.last is None
        found += page.items
        behind = page.last
        if behind is None:
            break
    assert [
        (
            datetime.fromisoformat(line.effective_at), line.seq, line.posting, minor(line.amount), minor(line.balance),
            str(line.transaction), str(line.entry), line.counterparty, line.direction,
        )
        for line in found
    ] == expected, (account, seq, start, end)  # fmt: skip


# -- random histories, written by SQL ---------------------------------------------------------------------------------

ACCOUNTS = {"a": "asset", "b": "liability", "c": "asset"}
SIDES = st.sampled_from([("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 5), st.lists(st.tuples(SIDES, st.integers(1, 99)), min_size=1, max_size=4)),
        st.sampled_from("abc"),
    ),
    max_size=60,
)
SHAPES = st.builds(Shape, st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))

OPEN = """
INSERT INTO accounts (ledger, name, currency, scale, type, metadata, opened_at, version, opened_seq)
VALUES ($1, $2, 'USD', 2, $3, '{}', now(), 1, 1)
"""
TRANSACTION = ("ledger", "id", "seq", "status", "metadata", "effective_at", "recorded_at", "version")
POSTING = ("ledger", "seq", "posting", "debit", "credit", "currency", "scale", "amount", "effective_at")


async def write(db: asyncpg.Connection[Record], ledger: str, seq: int, line: Any) -> None:
    """One transaction, as a turn keeps it."""
    number, postings = line
    row = (ledger, uuid4(), seq, "posted", "{}", day(number), NEW_YEAR, seq)
    await db.copy_records_to_table("transactions", records=[row], columns=TRANSACTION)
    rows = [
        (ledger, seq, place, *sides, "USD", 2, amount, day(number)) for place, (sides, amount) in enumerate(postings)
    ]
    await db.copy_records_to_table("postings", records=rows, columns=POSTING)


async def seal(db: asyncpg.Connection[Record], ledger: str, account: str, shape: Shape = SMALL) -> bool:
    async with db.transaction():
        return await snapshots.seal(db, ledger, account, shape)


def with_a_ledger(url: str, test: Callable[[asyncpg.Connection[Record], str], Awaitable[None]]) -> None:
    """Runs a test with a ledger of its own that has the three accounts."""

    async def run() -> None:
        db, ledger = await asyncpg.connect(url), f"h-{uuid4().hex[:12]}"
        try:
            for name, kind in ACCOUNTS.items():
                await db.execute(OPEN, ledger, name, kind)
            await test(db, ledger)
        finally:
            await db.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, shape=SHAPES, seed=st.integers(0, 1_000))
def test_runs_of_any_shape_sealed_at_any_moment_tell_the_same(
    shared_settings: Settings, steps: list[Any], shape: Shape, seed: int
) -> None:
    async def compare(db: asyncpg.Connection[Record], ledger: str) -> None:
        random, books, seq = Random(seed), Books((), 0), 1
        books.accounts = {name: Was(kind, 1) for name, kind in ACCOUNTS.items()}
        for step in steps:
            if isinstance(step, str):
                await seal(db, ledger, step, shape)
                continue
            seq += 1
            await write(db, ledger, seq, step)
            books.lines += [
                Line(day(step[0]), seq, place, *sides, amount, "", "") for place, (sides, amount) in enumerate(step[1])
            ]
        rows = await db.fetch("SELECT seq, id FROM transactions WHERE ledger = $1", ledger)
        ids = {row["seq"]: str(row["id"]) for row in rows}
        books.lines = sorted(line._replace(transaction=ids[line.seq], entry=ids[line.seq]) for line in books.lines)
        everything = books.lines
        for upto in {seq, random.randint(1, seq)}:
            books.lines = [line for line in everything if line.seq <= upto]
            for name in ACCOUNTS:
                moment = day(random.randint(-1, 5))
                view = await history.find_account(db, ledger, name, upto, moment)
                assert view is not None
                assert minor(view.balance) == books.account(name, moment)["balance"]
                await _compare_statement(db, ledger, books, name, upto, random)

    with_a_ledger(shared_settings.database_url, compare)


def test_what_is_sealed_is_not_looked_up_again(shared_settings: Settings) -> None:
    """Answers come from runs as far as there are any: what is changed below them afterwards is not seen."""

    async def look(db: asyncpg.Connection[Record], ledger: str) -> None:
        for seq in range(2, 12):
            await write(db, ledger, seq, (seq % 3, [(("a", "b"), 100)]))
        while await seal(db, ledger, "a"):
            pass
        rows = await db.fetch("SELECT level, last_seq FROM sealed_runs WHERE ledger = $1 ORDER BY 1, 2", ledger)
        assert [(row["level"], row["last_seq"]) for row in rows] == [(0, 4), (0, 7), (0, 10), (1, 7)]
        # of postings only the one behind the last run is left
        await db.execute("DELETE FROM postings WHERE ledger = $1 AND seq <= 10", ledger)
        for seq, moment, balance in ((11, day(9), 1_000), (11, day(1), 600), (8, day(9), 600), (8, day(0), 200)):
            view = await history.find_account(db, ledger, "a", seq, moment)
            assert view is not None
            # 8 lies within the run of 8 to 10, whose postings are gone
            assert minor(view.balance) == balance, (seq, moment)

    with_a_ledger(shared_settings.database_url, look)


def test_all_movements_at_one_moment_are_paged_through(shared_settings: Settings) -> None:
    async def look(db: asyncpg.Connection[Record], ledger: str) -> None:
        books = Books((), 0)
        books.accounts = {name: Was(kind, 1) for name, kind in ACCOUNTS.items()}
        for seq in range(2, 20):
            await write(db, ledger, seq, (3, [(("a", "b"), seq), (("b", "a"), 1), (("a", "b"), 2)]))
        rows = await db.fetch("SELECT seq, id FROM transactions WHERE ledger = $1", ledger)
        for row in rows:
            named = (str(row["id"]), str(row["id"]))
            for place, (sides, amount) in enumerate(((("a", "b"), row["seq"]), (("b", "a"), 1), (("a", "b"), 2))):
                books.lines.append(Line(day(3), row["seq"], place, *sides, amount, *named))
        books.lines.sort()
        while await seal(db, ledger, "a"):
            pass
        for number in range(20):
            await _compare_statement(db, ledger, books, "a", 19, Random(number))

    with_a_ledger(shared_settings.database_url, look)


# -- moments ----------------------------------------------------------------------------------------------------------


@at_a_desk
async def test_a_time_means_the_last_turn_recorded_by_then(desk: Desk) -> None:
    await desk.accept(post(("bank", "till", "1.00")), post(("bank", "till", "2.00")))
    await desk.take()
    await desk.accept(post(("bank", "till", "4.00")))
    await desk.take()
    journal = await desk.journal()
    times = [datetime.fromisoformat(entry["recorded_at"]) for entry in journal]
    head, tick = len(journal), timedelta(microseconds=1)
    # of two turns at one moment the later one counts
    await desk.db.execute(
        "INSERT INTO turns (actor, seq, recorded_at, turn) VALUES ($1, $2, $3, $4)",
        desk.actor, head - 2, times[-2], uuid4(),
    )  # fmt: skip
    for recorded_at, seq, expected in (
        (None, None, head),
        (times[-1], None, head),
        (times[-1] + timedelta(days=1), None, head),
        (times[-1] - tick, None, head - 1),
        (times[-2], None, head - 1),
        (times[0] - tick, None, 0),
        (None, 4, 4),
        (times[-2], 4, 4),
        (times[0] - tick, 4, 0),
        (times[-2], head + 5, head - 1),
        (None, head + 5, head),
    ):
        moment = await history.find_moment(desk.db, desk.ledger, recorded_at, seq)
        assert moment == (1, head, expected), (recorded_at, seq)
    assert await history.find_moment(desk.db, "no-such-ledger", None, None) is None


# -- the sweep --------------------------------------------------------------------------------------------------------


@at_a_desk
async def test_a_sweep_seals_what_there_is_and_no_more(desk: Desk) -> None:
    sweep = Snapshots(desk.turns.work_pool, shape=SMALL, share=1, quiet=timedelta(0))
    count = "SELECT count(*) FROM sealed_runs WHERE ledger = $1"
    await desk.accept(*[post(("bank", "till", "1.00")) for _ in range(8)])
    await desk.take()
    # the ledger is not quiet yet
    await Snapshots(desk.turns.work_pool, shape=SMALL, share=1).run()
    assert await desk.db.fetchval(count, desk.ledger) == 0
    # 8 movements of each: two runs, and the long one of both
    await sweep.run()
    assert await desk.db.fetchval(count, desk.ledger) == 6
    await sweep.run()
    assert await desk.db.fetchval(count, desk.ledger) == 6
    await desk.accept(post(("bank", "till", "1.00")))
    await desk.take()
    # one without any time to spend stops, and the next one takes up
    await Snapshots(desk.turns.work_pool, shape=SMALL, share=1, quiet=timedelta(0), time_s=-1).run()
    assert await desk.db.fetchval(count, desk.ledger) == 6
    await asyncio.gather(sweep.run(), sweep.run())
    assert await desk.db.fetchval(count, desk.ledger) == 8
    # all of it can be made again
    rows = "SELECT * FROM {} WHERE ledger = $1 ORDER BY account, level, last_seq"
    before = [await desk.db.fetch(rows.format(table), desk.ledger) for table in ("sealed_runs", "sealed_chunks")]
    for table in ("sealed_runs", "sealed_chunks", "sealed_upto"):
        await desk.db.execute(f"DELETE FROM {table} WHERE ledger = $1", desk.ledger)
    await sweep.run()
    after = [await desk.db.fetch(rows.format(table), desk.ledger) for table in ("sealed_runs", "sealed_chunks")]
    assert after == before


@at_a_desk
async def test_a_look_ends_where_it_has_seen_enough(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.accept(*[post(("bank", "till", "1.00")) for _ in range(8)])
    await desk.take()
    head = len(await desk.journal())
    for most, after, expected in ((3, 0, 6), (3, 6, 9), (3, 9, head), (50, 0, head)):
        monkeypatch.setattr(snapshots, "MOST_SEEN", most)
        found = snapshots.Behind(desk.ledger, after, head)
        assert await snapshots.look(desk.db, found, share=1) == (expected, ["bank", "till"])
    # nobody is looked at twice in vain
    assert await snapshots.look(desk.db, snapshots.Behind(desk.ledger, head, head), share=1) == (head, [])
    assert await snapshots.look(desk.db, snapshots.Behind(desk.ledger, 0, head), share=0) == (head, [])
