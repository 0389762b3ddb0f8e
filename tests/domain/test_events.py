"""Events: what each command states, exactly as the journal keeps it, and what the appliers make of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec
import pytest
from msgspec.structs import replace

from domain.catalog import APPLIERS
from domain.decision import GENESIS, Head, Stamp
from domain.ledger import handlers
from domain.ledger.commands import CreateLedger, ExpireTransaction, OpenAccount, Posting, PostTransaction
from domain.ledger.events import (
    AccessGranted,
    AccessRevoked,
    AccountClosed,
    AccountFrozen,
    AccountMetadataChanged,
    AccountOpened,
    AccountUnfrozen,
    CurrencyRegistered,
    LedgerCreated,
    MetadataChanged,
    PeriodClosed,
    PostedLine,
    ScheduleCancelled,
    ScheduleCreated,
    SchedulePaused,
    ScheduleResumed,
    TransactionCaptured,
    TransactionExpired,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.ledger.model import SERVICE, Grant, Ledger
from domain.ledger.schedules import CancelSchedule, PauseSchedule, ResumeSchedule
from domain.messages import Command, Entry, Event, Recorded
from tests.books import (
    ADA,
    EVE,
    KIM,
    NOON,
    Books,
    capture,
    close,
    close_period,
    create,
    daily,
    describe,
    empty_ledger,
    expire,
    freeze,
    grant,
    hold,
    job,
    open_account,
    post,
    record,
    register,
    reverse,
    revoke,
    unfreeze,
    update,
    void,
)


def scheduled(event: str, number: int) -> str:
    """An event that says nothing but which schedule it is about."""
    return (
        f'{{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"{event}",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        f'"correlation_id":"correlation-9","data":{{"schedule":"{job(number)}"}},"balances":[]}}'
    )


# These bytes are hashed, stored and published. Whoever changes them breaks every reader of journals.
GOLDEN: dict[type[Event], tuple[Command, str]] = {
    LedgerCreated: (
        CreateLedger(id="acme", name='Acme "Köln"', metadata={"tier": "1"}),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"LedgerCreated",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"id":"acme","name":"Acme \\"Köln\\"",'
        '"owner":"01890000-0000-7000-8000-00000000ada0","metadata":{"tier":"1"}},"balances":[]}',
    ),
    MetadataChanged: (
        update(tier=None, city="Köln", a=""),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"MetadataChanged",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"metadata":{"a":"","city":"Köln"}},"balances":[]}',
    ),
    AccessGranted: (
        grant(EVE, "writer"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccessGranted",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"user":"01890000-0000-7000-8000-00000000e4e0","role":"writer"},'
        '"balances":[]}',
    ),
    AccessRevoked: (
        revoke(KIM),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccessRevoked",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"user":"01890000-0000-7000-8000-00000000c100"},"balances":[]}',
    ),
    CurrencyRegistered: (
        register("POINTS", 4),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"CurrencyRegistered",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"code":"POINTS","scale":4},"balances":[]}',
    ),
    AccountOpened: (
        OpenAccount(name="fees", currency="USD", type="income", min_balance="-1.5"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccountOpened",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"name":"fees","currency":"USD","scale":2,"type":"income",'
        '"min_balance":"-1.50","max_balance":null,"metadata":{}},"balances":[{"account":"fees","currency":"USD",'
        '"posted_debits":"0.00","posted_credits":"0.00","pending_debits":"0.00","pending_credits":"0.00",'
        '"balance":"0.00","available":"0.00"}]}',
    ),
    TransactionPosted: (
        PostTransaction(
            postings=(Posting("bank", "alice", "100"), Posting("alice", "bob", "0.5")),
            reference="dep-1",
            metadata={"b": "2", "a": "1"},
            effective_at=datetime(2026, 11, 1, 8, tzinfo=UTC),
        ),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionPosted",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000009","postings":['
        '{"debit":"bank","credit":"alice","amount":"100.00","currency":"USD"},'
        '{"debit":"alice","credit":"bob","amount":"0.50","currency":"USD"}],"reference":"dep-1","description":null,'
        '"metadata":{"b":"2","a":"1"},"effective_at":"2026-11-01T08:00:00.000000Z"},"balances":['
        '{"account":"bank","currency":"USD","posted_debits":"100.00","posted_credits":"0.00","pending_debits":"0.00",'
        '"pending_credits":"0.00","balance":"100.00","available":"100.00"},'
        '{"account":"alice","currency":"USD","posted_debits":"0.50","posted_credits":"100.00","pending_debits":"0.00",'
        '"pending_credits":"0.00","balance":"99.50","available":"99.50"},'
        '{"account":"bob","currency":"USD","posted_debits":"0.00","posted_credits":"0.50","pending_debits":"0.00",'
        '"pending_credits":"0.00","balance":"0.50","available":"0.50"}]}',
    ),
    AccountMetadataChanged: (
        describe("idle", tier="1", a=None, city="Köln"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccountMetadataChanged",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"name":"idle","metadata":{"city":"Köln","tier":"1"}},'
        '"balances":[{"account":"idle","currency":"JPY","posted_debits":"0","posted_credits":"0",'
        '"pending_debits":"0","pending_credits":"0","balance":"0","available":"0"}]}',
    ),
    AccountFrozen: (
        freeze("idle"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccountFrozen",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"name":"idle"},"balances":[{"account":"idle","currency":"JPY",'
        '"posted_debits":"0","posted_credits":"0","pending_debits":"0","pending_credits":"0","balance":"0",'
        '"available":"0"}]}',
    ),
    AccountUnfrozen: (
        unfreeze("ice"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccountUnfrozen",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"name":"ice"},"balances":[{"account":"ice","currency":"KWD",'
        '"posted_debits":"0.000","posted_credits":"0.000","pending_debits":"0.000","pending_credits":"0.000",'
        '"balance":"0.000","available":"0.000"}]}',
    ),
    AccountClosed: (
        close("idle"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"AccountClosed",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"name":"idle"},"balances":[{"account":"idle","currency":"JPY",'
        '"posted_debits":"0","posted_credits":"0","pending_debits":"0","pending_credits":"0","balance":"0",'
        '"available":"0"}]}',
    ),
    TransactionHeld: (
        hold(("bank", "bert", "2.5"), reference="auth-1", expires_at=NOON + timedelta(days=7)),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionHeld",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000009",'
        '"postings":[{"debit":"bank","credit":"bert","amount":"2.50","currency":"USD"}],"reference":"auth-1",'
        '"description":null,"metadata":{},"effective_at":"2026-11-22T12:00:09.000000Z",'
        '"expires_at":"2026-11-29T12:00:00.000000Z"},"balances":[{"account":"bank","currency":"USD",'
        '"posted_debits":"0.00","posted_credits":"0.00","pending_debits":"2.50","pending_credits":"0.00",'
        '"balance":"0.00","available":"0.00"},{"account":"bert","currency":"USD","posted_debits":"0.00",'
        '"posted_credits":"8.00","pending_debits":"0.00","pending_credits":"47.50","balance":"8.00",'
        '"available":"8.00"}]}',
    ),
    TransactionMetadataChanged: (
        describe(job(2), order="17"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionMetadataChanged",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000002",'
        '"metadata":{"order":"17"}},"balances":[]}',
    ),
    TransactionCaptured: (
        capture(job(2), "30", "0", final=False, effective_at=NOON),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionCaptured",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000002",'
        '"capture":"01900000-0000-7000-8000-000000000009","status":"pending","postings":[{"debit":"carla",'
        '"credit":"bert","amount":"30.00","released":"0.00","held":"10.00","currency":"USD"},{"debit":"carla",'
        '"credit":"till","amount":"0.00","released":"0.00","held":"5.00","currency":"USD"}],'
        '"effective_at":"2026-11-22T12:00:00.000000Z"},"balances":[{"account":"carla","currency":"USD",'
        '"posted_debits":"32.00","posted_credits":"101.00","pending_debits":"20.00","pending_credits":"0.00",'
        '"balance":"69.00","available":"49.00"},{"account":"bert","currency":"USD","posted_debits":"0.00",'
        '"posted_credits":"38.00","pending_debits":"0.00","pending_credits":"15.00","balance":"38.00",'
        '"available":"38.00"}]}',
    ),
    TransactionVoided: (
        void(job(2)),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionVoided",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000002",'
        '"status":"voided","postings":[{"debit":"carla","credit":"bert","amount":"0.00","released":"40.00",'
        '"held":"0.00","currency":"USD"},{"debit":"carla","credit":"till","amount":"0.00","released":"5.00",'
        '"held":"0.00","currency":"USD"}]},"balances":[{"account":"carla","currency":"USD","posted_debits":"2.00",'
        '"posted_credits":"101.00","pending_debits":"5.00","pending_credits":"0.00","balance":"99.00",'
        '"available":"94.00"},{"account":"bert","currency":"USD","posted_debits":"0.00","posted_credits":"8.00",'
        '"pending_debits":"0.00","pending_credits":"5.00","balance":"8.00","available":"8.00"},{"account":"till",'
        '"currency":"USD","posted_debits":"107.00","posted_credits":"0.00","pending_debits":"0.00",'
        '"pending_credits":"0.00","balance":"107.00","available":"107.00"}]}',
    ),
    TransactionExpired: (
        expire(job(3)),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionExpired",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000003",'
        '"status":"captured","postings":[{"debit":"carla","credit":"bert","amount":"0.00","released":"5.00",'
        '"held":"0.00","currency":"USD"}]},"balances":[{"account":"carla","currency":"USD","posted_debits":"2.00",'
        '"posted_credits":"101.00","pending_debits":"45.00","pending_credits":"0.00","balance":"99.00",'
        '"available":"54.00"},{"account":"bert","currency":"USD","posted_debits":"0.00","posted_credits":"8.00",'
        '"pending_debits":"0.00","pending_credits":"40.00","balance":"8.00","available":"8.00"}]}',
    ),
    TransactionReversed: (
        replace(reverse(job(4), reference="refund-1"), metadata={"why": "returned"}),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"TransactionReversed",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"transaction":"01900000-0000-7000-8000-000000000009",'
        '"reverses":"01900000-0000-7000-8000-000000000004","postings":[{"debit":"bert","credit":"till",'
        '"amount":"6.00","currency":"USD"},{"debit":"carla","credit":"till","amount":"1.00","currency":"USD"}],'
        '"reference":"refund-1","description":null,"metadata":{"why":"returned"},'
        '"effective_at":"2026-11-22T12:00:09.000000Z"},"balances":[{"account":"bert","currency":"USD",'
        '"posted_debits":"6.00","posted_credits":"8.00","pending_debits":"0.00","pending_credits":"45.00",'
        '"balance":"2.00","available":"2.00"},{"account":"till","currency":"USD","posted_debits":"107.00",'
        '"posted_credits":"7.00","pending_debits":"0.00","pending_credits":"5.00","balance":"100.00",'
        '"available":"95.00"},{"account":"carla","currency":"USD","posted_debits":"3.00","posted_credits":"101.00",'
        '"pending_debits":"50.00","pending_credits":"0.00","balance":"98.00","available":"48.00"}]}',
    ),
    PeriodClosed: (
        close_period(datetime(2026, 11, 1, tzinfo=UTC)),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"PeriodClosed",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"before":"2026-11-01T00:00:00.000000Z"},"balances":[]}',
    ),
    ScheduleCreated: (
        daily(EVE, missed="once"),
        '{"actor":"ledger:acme","epoch":3,"seq":8,"id":"ledger:acme/3/8","type":"ScheduleCreated",'
        '"recorded_at":"2026-11-22T12:00:00.000007Z","command":"01900000-0000-7000-8000-000000000009",'
        '"correlation_id":"correlation-9","data":{"schedule":"01890000-0000-7000-8000-00000000e4e0",'
        '"principal":"01890000-0000-7000-8000-00000000ada0","command":{"kind":"post_transaction",'
        '"postings":[{"debit":"assets:bank","credit":"wallets:alice","amount":"0.01"}]},"every":"P1D","rrule":null,'
        '"starts_at":"2026-11-23T12:00:09.000000Z","missed":"once","created_at":"2026-11-22T12:00:09.000000Z"},'
        '"balances":[]}',
    ),
    SchedulePaused: (PauseSchedule(schedule=job(1)), scheduled("SchedulePaused", 1)),
    ScheduleResumed: (ResumeSchedule(schedule=job(2)), scheduled("ScheduleResumed", 2)),
    ScheduleCancelled: (CancelSchedule(schedule=job(1)), scheduled("ScheduleCancelled", 1)),
}

HAPPENED: dict[int, Command] = {
    1: post(("till", "carla", "100")),
    2: hold(("carla", "bert", "40"), ("carla", "till", "5")),
    3: hold(("carla", "bert", "7"), expires_at=NOON + timedelta(seconds=9)),
    4: post(("till", "bert", "6"), ("till", "carla", "1")),
    5: capture(job(3), "2", final=False),
}
"""What the books hold when the pinned commands come, by number."""


def some_books() -> Books:
    books = Books(create(), open_account("bank"), open_account("alice", kind="liability", least="0"))
    books.run(open_account("bob", kind="liability"), grant(KIM, "reader"))
    books.run(
        open_account("till"), open_account("bert", kind="liability"), open_account("carla", kind="liability", least="0")
    )
    books.run(open_account("idle", "JPY"), open_account("ice", "KWD"), freeze("ice"))
    books.run(daily(job(1)), daily(job(2)), PauseSchedule(schedule=job(2)))
    for number, command in HAPPENED.items():
        assert books.decide([record(command, number)]).outcomes[0].refusal is None
    books.head = Head("ledger:acme", 3, 7, GENESIS)
    return books


def ninth(command: Command) -> Recorded:
    return record(command, 9, SERVICE if isinstance(command, ExpireTransaction) else ADA)


@pytest.mark.parametrize(("command", "line"), GOLDEN.values(), ids=[event.__name__ for event in GOLDEN])
def test_the_bytes_of_an_event_never_change(command: Command, line: str) -> None:
    decision = some_books().decide([ninth(command)], NOON.replace(microsecond=7))
    assert decision.links[0].event.decode() == line
    assert decision.links[0].hash == sha256(GENESIS + line.encode()).digest()
    assert decision.head == Head("ledger:acme", 3, 8, decision.links[0].hash)
    assert decision.outcomes[0].seq == 8


@pytest.mark.parametrize("event", handlers.APPLIERS, ids=[event.__name__ for event in handlers.APPLIERS])
def test_every_event_is_pinned_and_reads_back(event: type[Event]) -> None:
    command, line = GOLDEN[event]
    raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    assert raw.keys() == {field.name for field in msgspec.structs.fields(Entry)}
    data = msgspec.json.decode(raw["data"], type=event)
    assert data == some_books().decide([ninth(command)]).links[0].entry.data


def test_a_transaction_is_dated_when_it_was_accepted_if_it_does_not_say() -> None:
    books = some_books()
    accepted = record(post(("bank", "alice", "1")), 30)
    books.decide([accepted])
    event = books.links[-1].entry.data
    assert isinstance(event, TransactionPosted)
    assert event.effective_at == "2026-11-22T12:00:30.000000Z"
    assert event.transaction == accepted.id


# -- appliers ---------------------------------------------------------------------------------------------------------

STAMP = Stamp(5, NOON)


def apply(event: Event, ledger: Ledger) -> list[str]:
    return APPLIERS[type(event)](event, ledger, STAMP)


def test_a_created_ledger_has_a_record() -> None:
    ledger = empty_ledger()
    assert apply(LedgerCreated(id="acme", name="Acme", owner=ADA, metadata={"a": "b"}), ledger) == []
    assert ledger.profile is not None
    assert (ledger.profile.name, ledger.profile.owner, ledger.profile.metadata) == ("Acme", ADA, {"a": "b"})
    assert (ledger.profile.created_at, ledger.profile.version) == (NOON, 5)
    assert ledger.granted == {ADA: Grant("owner", 5, NOON)}
    assert apply(MetadataChanged(metadata={"c": "d"}), ledger) == []
    assert (ledger.profile.name, ledger.profile.metadata) == ("Acme", {"c": "d"})


def test_what_was_granted_is_kept_until_it_is_revoked() -> None:
    ledger = empty_ledger()
    for user, event, role in (
        (EVE, AccessGranted(user=EVE, role="reader"), "reader"),
        (EVE, AccessGranted(user=EVE, role="owner"), "owner"),
        (ADA, AccessRevoked(user=ADA), None),
    ):
        assert apply(event, ledger) == []
        assert ledger.members[user].grant == role
        assert ledger.granted[user] == Grant(role, 5, NOON)
    assert ledger.may(EVE, "owner")
    assert not ledger.may(ADA, "reader")


def test_a_registered_currency_is_known_and_kept() -> None:
    ledger = empty_ledger()
    assert apply(CurrencyRegistered(code="POINTS", scale=7), ledger) == []
    assert ledger.currencies.scale_of("POINTS") == 7
    assert ledger.currencies.first_used == {"POINTS": 7}


def opened(name: str = "a", kind: str = "asset", **changes: object) -> AccountOpened:
    values: dict[str, object] = {"min_balance": None, "max_balance": None, "metadata": {}, **changes}
    return AccountOpened(name=name, currency="KWD", scale=3, type=kind, **values)  # type: ignore[arg-type]


def test_an_opened_account_is_empty_and_its_currency_copied() -> None:
    ledger = empty_ledger()
    assert apply(opened(min_balance="-1.500", max_balance="2.000", metadata={"a": "b"}), ledger) == ["a"]
    account = ledger.accounts["a"]
    assert (account.min_balance, account.max_balance, account.scale) == (-1500, 2000, 3)
    assert (account.balance, account.available, account.status, account.version) == (0, 0, "open", 5)
    assert (account.opened_at, account.metadata) == (NOON, {"a": "b"})
    assert ledger.currencies.first_used == {"KWD": 3}
    assert ledger.opened == {"a"}
    apply(opened("b"), ledger)
    assert ledger.currencies.first_used == {"KWD": 3}


def test_a_posting_moves_one_sum_of_each_account() -> None:
    ledger = empty_ledger()
    for name, kind in (("a", "asset"), ("b", "income"), ("c", "expense")):
        apply(opened(name, kind), ledger)
    event = TransactionPosted(
        transaction=ADA,
        postings=(PostedLine("a", "b", "1.250", "KWD"), PostedLine("c", "a", "0.250", "KWD")),
        reference="r",
        description=None,
        metadata={},
        effective_at="2026-11-22T12:00:00.000000Z",
    )
    touched = APPLIERS[TransactionPosted](event, ledger, Stamp(6, NOON))
    assert touched == ["a", "b", "c"]
    sums = {account.name: (account.posted_debits, account.posted_credits) for account in ledger.accounts.values()}
    assert sums == {"a": (1250, 250), "b": (0, 1250), "c": (250, 0)}
    assert [account.balance for account in ledger.accounts.values()] == [1000, 1250, 250]
    assert {account.version for account in ledger.accounts.values()} == {6}
    assert ledger.changed == {"a", "b", "c"}
    assert ledger.references == {"r"}


@pytest.mark.parametrize(
    ("kind", "balance", "available"),
    [("asset", 70, 65), ("expense", 70, 65), ("liability", -70, -73), ("equity", -70, -73), ("income", -70, -73)],
)
def test_balances_by_type(kind: str, balance: int, available: int) -> None:
    ledger = empty_ledger()
    apply(opened("a", kind), ledger)
    account = ledger.accounts["a"]
    account.posted_debits, account.posted_credits = 100, 30
    account.pending_debits, account.pending_credits = 3, 5
    assert (account.balance, account.available) == (balance, available)
    snapshot = account.snapshot()
    assert (snapshot.posted_debits, snapshot.posted_credits) == ("0.100", "0.030")
    assert (snapshot.pending_debits, snapshot.pending_credits) == ("0.003", "0.005")
    assert (snapshot.balance, snapshot.available) == (account.money(balance), account.money(available))
