"""`daybook verify` finds nothing wrong with true books, and every kind of tampering by its name."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256

import asyncpg
import pytest

from cli.audit import audit
from cli.audit_books import Books
from cli.audit_grants import Register
from cli.audit_shelf import LINES_LOADED, LOADED, Line, Shelf, Transaction
from cli.chain import Wrong
from cli.findings import Counts, Findings
from cli.verify import verify
from infrastructure import postgres
from infrastructure import settings as configuration
from infrastructure.embedded import Addresses
from infrastructure.settings import Settings
from tests.conftest import database_url, run_sql
from tests.integration.test_grants import change, give, take
from tests.integration.test_history import SMALL, seal
from tests.service import User, open_books, posting, running_service

Patch = pytest.MonkeyPatch


async def fill(user: User) -> str:
    """A ledger with a bit of everything: seqs 1 to 3 open it, 4 and 5 add to it, 6 to 9 are transactions."""
    ledger = await open_books(user)
    root = f"/v1/ledgers/{ledger}"
    body = {"name": "points", "currency": "PTS", "type": "equity", "min_balance": "-5", "metadata": {"b": "1", "a": ""}}
    assert (await user.post(f"{root}/currencies", {"code": "PTS", "scale": 0}, prefer="wait=10")).status_code == 201
    assert (await user.post(f"{root}/accounts", body, prefer="wait=10")).status_code == 201
    for number in range(4):
        lines = posting("1.50")["postings"] * (number + 1)
        sent = {"postings": lines, "reference": f"r{number}", "metadata": {"n": str(number)}, "description": "d"}
        assert (await user.post(f"{root}/transactions", sent, prefer="wait=10")).status_code == 201
    return ledger


async def let_in(owner: User, ledger: str, *guests: User) -> None:
    """Seqs 10 to 15: two guests, one of whom is promoted, and one who is put out; and metadata, changed twice."""
    reader, gone = guests
    for user, role in ((reader, "writer"), (gone, "owner"), (reader, "reader")):
        assert (await give(owner, ledger, user, role)).status_code == 200
    assert (await take(owner, ledger, gone)).status_code == 204
    for metadata in ({"a": "1", "b": "2"}, {"b": None, "c": "3"}):
        assert (await change(owner, ledger, metadata)).status_code == 200


async def deepen(owner: User, ledger: str) -> None:
    """Seqs 16 to 27: holds, captured in part, voided and still there; a reversal; what changes, freezes and closes."""
    root = f"/v1/ledgers/{ledger}"

    async def done(path: str, body: object, status: int = 200) -> str:
        answer = await owner.post(f"{root}/{path}", body, prefer="wait=10")
        assert answer.status_code == status, answer.text
        return answer.headers["daybook-job"]

    held = await done("transactions", {**posting("9.00"), "pending": True, "reference": "h"}, 201)
    await done(f"transactions/{held}/capture", {"amount": "4.00", "final": False})
    await done(f"transactions/{held}/void", {})
    late = {"pending": True, "expires_at": "2099-01-01T00:00:00Z"}
    lines = posting("2.00")["postings"] + posting("3.00")["postings"]
    await done("transactions", {"postings": lines, **late}, 201)
    posted = await done("transactions", {**posting("8.00"), "effective_at": "2026-01-01T00:00:00Z"}, 201)
    await done(f"transactions/{posted}/reverse", {"reference": "back"}, 201)
    for step in ("freeze", "unfreeze"):
        await done(f"accounts/points/{step}", {})
    for path in ("accounts/points", f"transactions/{posted}"):
        changed = await owner.client.patch(
            f"{root}/{path}", json={"metadata": {"z": "9"}}, headers={**owner.headers, "prefer": "wait=10"}
        )
        assert changed.status_code == 200, changed.text
    await done("accounts/points/close", {})
    await done("periods", {"before": "2025-01-01T00:00:00Z"}, 200)


async def seal_bank(url: str, ledger: str) -> None:
    """Runs of a few movements of the bank's."""
    db = await asyncpg.connect(url)
    while await seal(db, ledger, "assets:bank", SMALL):
        pass
    await db.close()


@pytest.fixture(scope="module")
def books(servers: Addresses, template: str) -> Iterator[tuple[Settings, str]]:
    """A database with two filled ledgers, to be cloned; and the id of the second."""

    async def make() -> str:
        async with running_service(chosen, monkeypatch) as service:
            await fill(await service.user())
            owner = await service.user()
            ledger = await fill(owner)
            await let_in(owner, ledger, await service.user(), await service.user())
            await deepen(owner, ledger)
            await seal_bank(chosen.database_url, ledger)
            return ledger

    name = f"books_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    chosen = Settings(
        database_url=database_url(servers, name), redis_url=servers.redis_url, secret_key=secrets.token_urlsafe(48)
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        ledger = asyncio.run(make())
    yield chosen, ledger
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def ledger(books: tuple[Settings, str], servers: Addresses, monkeypatch: Patch) -> Iterator[str]:
    """The id of a filled ledger, in a database of this test's own, which `verify` and `tamper` find."""
    filled, ledger = books
    name = f"test_{secrets.token_hex(6)}"
    run_sql(servers.database_url, f"CREATE DATABASE {name} TEMPLATE {filled.database_url.rpartition('/')[2]}")
    own = replace(filled, database_url=database_url(servers, name))
    monkeypatch.setattr(configuration, "load", lambda: own)
    yield ledger
    run_sql(servers.database_url, f"DROP DATABASE {name} WITH (FORCE)")


def run(capsys: pytest.CaptureFixture[str], ledger: str | None = None) -> tuple[int, dict[str, dict[str, object]]]:
    """Status and differences."""
    capsys.readouterr()
    status = 0
    try:
        verify(ledger=ledger, as_json=True)
    except SystemExit as ended:
        status = int(str(ended.code))
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is (status == 0)
    return status, found["differences"]


Change = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[None]]


def audited(books: tuple[Settings, str], change: Change) -> Findings:
    """What is found after a change, which is taken back: by a superuser whom no trigger holds back."""

    async def execute() -> Findings:
        settings, ledger = books
        db = await asyncpg.connect(settings.database_url)
        transaction = db.transaction(isolation="repeatable_read")
        await transaction.start()
        await db.execute("SET LOCAL session_replication_role = replica")
        await change(db)
        findings = Findings(3)
        await audit(db, ledger, findings, Counts(), lambda _: None)
        await transaction.rollback()
        await db.close()
        return findings

    return asyncio.run(execute())


async def run_all(db: asyncpg.Connection[asyncpg.Record], ledger: str, *statements: str) -> None:
    """Runs statements, each of which must change something; `$ledger` is the ledger's id."""
    for statement in statements:
        assert (await db.execute(statement.replace("$ledger", ledger))).split()[-1] != "0", statement


def tamper(ledger: str, *statements: str) -> None:
    """The same for good."""

    async def execute() -> None:
        db = await asyncpg.connect(configuration.load().database_url)
        await db.execute("SET session_replication_role = replica")
        await run_all(db, ledger, *statements)
        await db.close()

    asyncio.run(execute())


def test_true_books_agree(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, {})
    assert run(capsys, ledger) == (0, {})
    verify()
    told = capsys.readouterr().out
    assert "2 ledgers, 36 events, 6 accounts, 12 transactions, 23 postings, 3 holds" in told
    assert "3 grants" in told
    assert "Everything agrees" in told
    with pytest.raises(SystemExit) as ended:
        verify(ledger="no-such")
    assert ended.value.code == 2


OWN = "WHERE ledger = '$ledger'"
IN_JOURNAL = "WHERE actor = 'ledger:$ledger'"


@pytest.mark.parametrize(
    ("kinds", "statement"),
    [
        ({"account"}, f"UPDATE accounts SET posted_debits = posted_debits + 1 {OWN} AND name = 'assets:bank'"),
        ({"account"}, f"UPDATE accounts SET posted_credits = posted_credits + 1 {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET pending_debits = 1 {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET version = version + 1 {OWN} AND name = 'assets:bank'"),
        ({"account"}, f"UPDATE accounts SET min_balance = -6 {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET max_balance = 6 {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET status = 'frozen' {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET type = 'income' {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET currency = 'EUR' {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET scale = 1 {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET metadata = '{{}}' {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET opened_at = opened_at + interval '1 us' {OWN} AND name = 'points'"),
        ({"account"}, f"UPDATE accounts SET name = 'pointz' {OWN} AND name = 'points'"),
        ({"account"}, f"DELETE FROM accounts {OWN} AND name = 'wallets:alice'"),
        ({"account"}, f"DELETE FROM accounts {OWN} AND name = 'assets:bank'"),
        ({"account"}, "INSERT INTO accounts (ledger, name, currency, scale, type, metadata, opened_at, version)"
                      " VALUES ('$ledger', 'zzz', 'USD', 2, 'asset', '{}', now(), 2)"),
        ({"transaction"}, f"UPDATE transactions SET reference = 'x' {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET description = NULL {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET metadata = '{{}}' {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET status = 'voided' {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET version = 8 {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET id = gen_random_uuid() {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET effective_at = effective_at - interval '1 us' {OWN} AND seq = 7"),
        ({"transaction"}, f"UPDATE transactions SET recorded_at = recorded_at - interval '1 us' {OWN} AND seq = 7"),
        ({"transaction"}, f"DELETE FROM transactions {OWN} AND seq = 7"),
        ({"transaction"}, f"DELETE FROM transactions {OWN} AND seq = 9"),
        ({"transaction"}, f"UPDATE transactions SET seq = 90 {OWN} AND seq = 9"),
        ({"transaction"}, f"UPDATE transactions SET expires_at = now() {OWN} AND status = 'pending'"),
        ({"transaction"}, f"UPDATE transactions SET status = 'voided' {OWN} AND status = 'captured'"),
        ({"transaction"}, f"UPDATE transactions SET expired = true {OWN} AND status = 'captured'"),
        ({"transaction"}, f"UPDATE transactions SET reversed_by = NULL {OWN} AND reversed_by IS NOT NULL"),
        ({"transaction"}, f"UPDATE transactions SET reverses = id {OWN} AND reverses IS NOT NULL"),
        ({"hold"}, f"UPDATE holds SET held = held - 1 {OWN} AND held > 0 AND posting = 1"),
        ({"hold"}, f"UPDATE holds SET posted = posted - 1 {OWN} AND posted > 0"),
        ({"hold"}, f"DELETE FROM holds {OWN} AND posting = 1"),
        ({"hold"}, "INSERT INTO holds SELECT ledger, 7, 0, debit, credit, currency, scale, amount, 0, 0"
                   f" FROM holds {OWN} LIMIT 1"),
        ({"capture"}, f"UPDATE captures SET amounts = '{{401}}' {OWN}"),
        ({"capture"}, f"UPDATE captures SET effective_at = effective_at - interval '1 us' {OWN}"),
        ({"capture"}, f"UPDATE captures SET transaction = id {OWN}"),
        ({"capture"}, f"DELETE FROM captures {OWN}"),
        ({"pending sum"}, f"UPDATE pending_sums SET pending_debits = pending_debits + 1 {OWN} AND seq = 16"
                          " AND account = 'assets:bank'"),
        ({"pending sum"}, f"DELETE FROM pending_sums {OWN} AND account = 'assets:bank' AND seq = 17"),
        ({"account change"}, f"UPDATE account_changes SET status = 'open' {OWN} AND status = 'frozen'"),
        ({"account change"}, f"UPDATE account_changes SET metadata = '{{}}' {OWN} AND status = 'frozen'"),
        ({"account change"}, f"DELETE FROM account_changes {OWN} AND status = 'frozen'"),
        ({"period"}, f"UPDATE periods SET before = before - interval '1 us' {OWN}"),
        ({"period"}, f"DELETE FROM periods {OWN}"),
        ({"ledger"}, "UPDATE ledgers SET closed_before = NULL WHERE id = '$ledger'"),
        ({"account"}, f"UPDATE accounts SET opened_seq = opened_seq + 1 {OWN} AND name = 'points'"),
        ({"turn"}, f"DELETE FROM turns {IN_JOURNAL} AND seq = 7"),
        ({"turn"}, f"UPDATE turns SET recorded_at = recorded_at + interval '1 us' {IN_JOURNAL} AND seq = 7"),
        ({"run"}, f"UPDATE sealed_runs SET debits = debits + 1 {OWN} AND level = 0 AND last_seq <= 8"),
        ({"run"}, f"UPDATE sealed_chunks SET debits[1] = debits[1] + 1 {OWN} AND cardinality(debits) = 1"
                  " AND level = 0 AND run <= 8"),
        ({"posting", "run"}, f"UPDATE postings SET amount = amount + 1 {OWN} AND seq = 8 AND posting = 2"),
        ({"posting", "run"}, f"UPDATE postings SET debit = credit, credit = debit {OWN} AND seq = 8 AND posting = 2"),
        ({"posting"}, f"UPDATE postings SET currency = 'EUR' {OWN} AND seq = 8 AND posting = 2"),
        ({"posting", "run"}, f"DELETE FROM postings {OWN} AND seq = 8 AND posting = 1"),
        ({"posting", "run"}, f"UPDATE postings SET seq = 5 {OWN} AND seq = 8 AND posting = 1"),
        ({"posting", "run"}, "INSERT INTO postings SELECT ledger, seq, 9, debit, credit, currency, scale, amount,"
                      f" effective_at FROM postings {OWN} AND seq = 8 AND posting = 1"),
        ({"ledger"}, "UPDATE ledgers SET accounts = accounts + 1 WHERE id = '$ledger'"),
        ({"ledger"}, "UPDATE ledgers SET name = 'x' WHERE id = '$ledger'"),
        ({"ledger"}, "UPDATE ledgers SET owner = gen_random_uuid() WHERE id = '$ledger'"),
        ({"ledger"}, "UPDATE ledgers SET version = 2 WHERE id = '$ledger'"),
        ({"ledger"}, "DELETE FROM ledgers WHERE id = '$ledger'"),
        ({"ledger"}, "UPDATE ledgers SET metadata = '{}' WHERE id = '$ledger'"),
        ({"grant"}, f"UPDATE grants SET role = 'owner' {OWN} AND role = 'reader'"),
        ({"grant"}, f"UPDATE grants SET role = 'writer' {OWN} AND role = 'owner'"),
        ({"grant"}, f"UPDATE grants SET granted_at = granted_at + interval '1 us' {OWN} AND role = 'reader'"),
        ({"grant"}, f"UPDATE grants SET granted_at = now() {OWN} AND role = 'owner'"),
        ({"grant"}, f"UPDATE grants SET seq = 1 {OWN} AND role = 'reader'"),
        ({"grant"}, f"DELETE FROM grants {OWN} AND role = 'reader'"),
        ({"grant"}, f"DELETE FROM grants {OWN} AND role = 'owner'"),
        ({"grant"}, "INSERT INTO grants SELECT '$ledger', id, 'reader' FROM users WHERE id NOT IN"
                    f" (SELECT user_id FROM grants {OWN}) LIMIT 1"),
        ({"grant"}, f"UPDATE grants SET user_id = gen_random_uuid() {OWN} AND role = 'reader'"),
        ({"currency"}, f"UPDATE currencies SET scale = 3 {OWN} AND code = 'USD'"),
        ({"currency"}, f"DELETE FROM currencies {OWN} AND code = 'PTS'"),
        ({"currency"}, "INSERT INTO currencies VALUES ('$ledger', 'XXX', 2)"),
        ({"actor"}, f"UPDATE actors SET seq = 8 {IN_JOURNAL}"),
        ({"actor"}, f"UPDATE actors SET head = '\\x00' {IN_JOURNAL}"),
        ({"actor"}, f"UPDATE actors SET epoch = 0 {IN_JOURNAL}"),
        ({"actor"}, f"DELETE FROM actors {IN_JOURNAL}"),
        ({"seq", "hash", "account", "event balance", "transaction"}, f"DELETE FROM journal {IN_JOURNAL} AND seq = 7"),
        ({"actor", "account", "transaction", "grant"}, f"DELETE FROM journal {IN_JOURNAL} AND seq >= 9"),
        ({"hash"}, f"UPDATE journal SET hash = sha256(hash) {IN_JOURNAL} AND seq = 7"),
        ({"event"}, f"UPDATE journal SET epoch = 2 {IN_JOURNAL} AND seq = 9"),
        ({"hash", "event"}, f"UPDATE journal SET event = 'nonsense' {IN_JOURNAL} AND seq = 9"),
        ({"hash", "transaction"}, "UPDATE journal SET event ="
                                  " replace(convert_from(event, 'UTF8'), '\"r2\"', '\"r9\"')::bytea"
                                  f" {IN_JOURNAL} AND seq = 8"),
    ],
)  # fmt: skip
def test_tampering_is_found_by_its_kind(books: tuple[Settings, str], kinds: set[str], statement: str) -> None:
    async def tampering(db: asyncpg.Connection[asyncpg.Record]) -> None:
        await run_all(db, books[1], statement)

    found = audited(books, tampering)
    assert kinds <= found.counts.keys(), found
    assert all(found.shown.values())
    if len(kinds) == 1:
        assert kinds == found.counts.keys() or kinds == {"event"}
        assert found.counts.total() <= 2, found


async def rewrite(db: asyncpg.Connection[asyncpg.Record], ledger: str, first: int, old: str, new: str) -> None:
    """Changes an event's text and chains all that follow afresh, as a forger would who may write everywhere."""
    actor = f"ledger:{ledger}"
    head = await db.fetchval("SELECT hash FROM journal WHERE actor = $1 AND seq = $2", actor, first - 1)
    query = "SELECT seq, event FROM journal WHERE actor = $1 AND seq >= $2 ORDER BY seq"
    for row in await db.fetch(query, actor, first):
        event = row["event"].replace(old.encode(), new.encode()) if row["seq"] == first else row["event"]
        assert row["seq"] != first or event != row["event"]
        head = sha256(head + event).digest()
        update = "UPDATE journal SET event = $3, hash = $4 WHERE actor = $1 AND seq = $2"
        await db.execute(update, actor, row["seq"], event, head)
    await db.execute("UPDATE actors SET head = $2 WHERE actor = $1", actor, head)


@pytest.mark.parametrize(
    ("kinds", "seq", "old", "new"),
    [
        ({"event"}, 10, '"role":"writer"', '"role":"emperor"'),
        ({"grant"}, 12, '"role":"reader"', '"role":"writer"'),
        ({"grant"}, 12, '"type":"AccessGranted"', '"type":"AccessRevoked","was":"AccessGranted"'),
        ({"ledger"}, 15, '"c":"3"', '"c":"4"'),
        ({"event balance", "posting", "account"}, 6, '"amount":"1.50"', '"amount":"1.60"'),
        ({"event balance"}, 6, '"available":"1.50"', '"available":"1.60"'),
        ({"event balance"}, 6, '"balances":[', '"balances":[],"was":['),
        ({"event"}, 6, '"amount":"1.50"', '"amount":"1.5"'),
        ({"event"}, 6, '"seq":6', '"seq":7'),
        ({"event"}, 6, '"type":"TransactionPosted"', '"type":"TransactionPuffed"'),
        ({"event"}, 6, '"credit":"wallets:alice"', '"credit":"wallets:bob"'),
        ({"limit"}, 2, '"min_balance":null', '"min_balance":"2.00"'),
        ({"limit"}, 2, '"max_balance":null', '"max_balance":"2.00"'),
    ],
)
def test_a_forged_journal_that_is_chained_afresh_is_found_too(
    books: tuple[Settings, str], kinds: set[str], seq: int, old: str, new: str
) -> None:
    async def forging(db: asyncpg.Connection[asyncpg.Record]) -> None:
        if kinds == {"limit"} and "min" in old:
            # a bank that would have to have two dollars: let money leave it at once
            there, back = "assets:bank", "wallets:alice"
            swapped = f'"debit":"{back}","credit":"{there}"'
            await rewrite(db, books[1], 6, f'"debit":"{there}","credit":"{back}"', swapped)
        await rewrite(db, books[1], seq, old, new)

    found = audited(books, forging).counts.keys()
    assert kinds <= found
    assert not {"hash", "seq", "actor"} & found


def test_a_journal_that_leaves_nobody_who_owns_the_ledger_is_wrong() -> None:
    ada, eve = "01890000-0000-7000-8000-00000000ada0", "01890000-0000-7000-8000-00000000e4e0"
    with closing(Register()) as register:
        register.give(ada, "owner", "2026-11-22T12:00:00.000000Z", 1)
        register.give(eve, "writer", "2026-11-22T12:00:00.000000Z", 2)
        for break_it in (lambda: register.give(ada, "reader", "", 3), lambda: register.take(ada)):
            with pytest.raises(Wrong, match="leaves nobody"):
                break_it()
            register.give(ada, "owner", "2026-11-22T12:00:00.000000Z", 4)
        register.take(eve)
        with pytest.raises(Wrong, match="not granted"):
            register.take(eve)


def test_only_the_first_of_many_are_written_out(ledger: str, capsys: pytest.CaptureFixture[str]) -> None:
    tamper(ledger, f"UPDATE postings SET amount = amount + 1 {OWN}")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        verify(ledger=ledger, show=3)
    told = capsys.readouterr().out
    assert "13 × posting" in told
    assert told.count("amount is 151, the journal makes it 150") == 3


def test_a_slow_machine_may_think_longer_than_transactions_are_left_idle(
    ledger: str, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    turn_page = Books.turn_page

    def slowly(books: Books) -> None:
        time.sleep(0.2)
        turn_page(books)

    monkeypatch.setattr(postgres, "IDLE_IN_TRANSACTION_MS", 50)
    monkeypatch.setattr(Books, "turn_page", slowly)
    assert run(capsys, ledger) == (0, {})


def test_of_transactions_as_of_accounts_no_more_is_in_memory_than_may_be() -> None:
    """However many postings each of them has: a stretch is measured while it is read."""
    with closing(Shelf()) as shelf:
        for seq in range(1, 100):
            shelf.put_transaction(wide(seq, 1_000))
            shelf.tidy()
            assert sum(len(one.lines) for one in shelf._transactions.values()) <= LINES_LOADED
        for seq in range(1, 100):
            assert shelf.transaction(str(seq)) == wide(seq, 1_000)
            shelf.tidy()
            assert sum(len(one.lines) for one in shelf._transactions.values()) <= LINES_LOADED
        assert list(shelf.transactions()) == [wide(seq, 1_000) for seq in range(1, 100)]


def wide(seq: int, postings: int) -> Transaction:
    """A transaction of so many postings."""
    lines = [Line("a", "b", "USD", 2, 1, 1, 0)] * postings
    return Transaction(str(seq), seq, seq, "posted", False, None, None, {}, "", "", lines)


def test_a_ledger_of_wide_transactions_takes_no_more_memory_for_more_of_them(
    ledger: str, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept is written down between any two events, not only at the end of a stretch."""
    kept: list[int] = []
    turn_page = Books.turn_page

    def watch(books: Books) -> None:
        kept.append(sum(len(one.lines) for one in books.shelf._transactions.values()))
        turn_page(books)

    monkeypatch.setattr(Shelf.tidy, "__defaults__", (LOADED, 2))
    monkeypatch.setattr(Books, "turn_page", watch)
    assert run(capsys, ledger) == (0, {})
    assert kept and max(kept) <= 2
