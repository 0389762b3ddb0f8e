"""Loading a ledger and saving what a turn changed: the same promises from the fake and from Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from asyncpg import Record
from hypothesis import given
from hypothesis import settings as effort
from msgspec.structs import replace

from domain.decision import GENESIS, Decision, Head, Link, decide
from domain.ledger.commands import (
    CreateLedger,
    OpenAccount,
    PostTransaction,
    ReverseTransaction,
    UpdateTransaction,
    VoidTransaction,
)
from domain.ledger.handlers import touches
from domain.ledger.model import Ledger, Line, Touches, Transaction
from domain.messages import Command, Recorded
from infrastructure.repositories import ledger as ledgers
from infrastructure.settings import Settings
from tests.books import (
    ADA,
    CODES,
    DAN,
    EVE,
    KIM,
    LARGEST,
    NOON,
    RULES,
    Books,
    create,
    everybody,
    grant,
    open_account,
    post,
    record,
    register,
    revoke,
    runs_in_turns,
    state_of,
    update,
)
from tests.every_kind import EVERY_KIND, NAMING_ALL, OLD, REFUSED, YESTERDAY, capture, every_kind, hold, job
from tests.fakes import FakeLedgers

NAMES = tuple(f"a:{number}" for number in range(5))
REFERENCES = ("r-1", "r-2", "r-3")
EVERYTHING = [
    *[record(open_account(name), number) for number, name in enumerate(NAMES)],
    *[record(register(code, 0), number) for number, code in enumerate(CODES)],
    *[record(post(("a:0", "a:1", "1"), reference=reference), number) for number, reference in enumerate(REFERENCES)],
    *[record(revoke(user), number) for number, user in enumerate((ADA, KIM, DAN, EVE))],
]
"""Commands that together ask for all that the random ones touch."""

ADD_USER = "INSERT INTO users (id, username, roles, status) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
ADD_GRANT = "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, $3)"
ADD_COMMAND = """
INSERT INTO commands (id, actor, position, kind, status, payload, principal, correlation_id)
VALUES ($1, $2, $3, 'post_transaction', CASE WHEN $3::bigint IS NULL THEN 'scheduled' ELSE 'accepted' END, '', $1, 'c')
"""

_numbers = count()


def in_memory(commands: Sequence[Recorded], shelf: Shelf) -> Books:
    """The same on a ledger that is never stored."""
    books, needed = Books(), Touches.none()
    for recorded in commands:
        touches(recorded.command, needed)
    books.ledger.id, books.head, books.ledger.named = shelf.id, shelf.head, needed.transactions
    books.decide(commands)
    return books


class Store(Protocol):
    """A ledger repository, as these tests drive it."""

    def add_user(self, user: UUID, *, active: bool = True, roles: Iterable[str] = ("user",)) -> None: ...
    def grant(self, ledger: str, user: UUID, role: str) -> None: ...
    def wait(self, ledger: str, transaction: UUID, position: int | None) -> None: ...
    def load(self, ledger_id: str, commands: Sequence[Recorded]) -> Ledger: ...
    def save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None: ...


class Shelf:
    """One ledger in a store. Each `turn` loads, decides and saves as a turn does."""

    def __init__(self, store: Store) -> None:
        self.id = f"shelf-{next(_numbers)}-{uuid4().hex[:6]}"
        self.store = store
        self.head = Head(f"ledger:{self.id}", 1, 0, GENESIS)
        self._numbers = count(1)
        for user, member in everybody().items():
            store.add_user(user, active=member.active, roles=member.roles)
        store.grant(self.id, ADA, "owner")

    def turn(self, *commands: Command, saving: bool = True) -> Decision:
        return self.decide([record(command, next(self._numbers)) for command in commands], saving=saving)

    def decide(self, commands: Sequence[Recorded], now: datetime = NOON, *, saving: bool = True) -> Decision:
        ledger = self.store.load(self.id, commands)
        decision = decide(ledger, self.head, commands, now, RULES)
        if saving and decision.links:
            self.store.save(ledger, decision.links, now)
            self.head = decision.head
        return decision

    def load(self, *commands: Command) -> Ledger:
        return self.store.load(self.id, [record(command, number) for number, command in enumerate(commands)])


class LedgerRepositories:
    """The promises."""

    @pytest.fixture
    def shelf(self, store: Store) -> Shelf:
        return Shelf(store)

    def test_what_was_never_created_has_no_record_but_may_have_an_owner(self, shelf: Shelf) -> None:
        ledger = shelf.load(create())
        assert (ledger.profile, ledger.accounts, ledger.references) == (None, {}, set())
        assert ledger.may(ADA, "owner")

    def test_a_ledger_comes_back_as_it_was_created(self, shelf: Shelf) -> None:
        shelf.turn(CreateLedger(id=shelf.id, name="Köln & Söhne", metadata={"b": "2", "a": '"1"'}))
        profile = shelf.load(create()).profile
        assert profile is not None
        assert (profile.id, profile.name, profile.owner) == (shelf.id, "Köln & Söhne", ADA)
        assert (profile.metadata, profile.created_at, profile.version) == ({"b": "2", "a": '"1"'}, NOON, 1)

    def test_an_account_comes_back_as_it_was_opened(self, shelf: Shelf) -> None:
        opening = OpenAccount(
            name="fees",
            currency="KWD",
            type="income",
            min_balance="-1.5",
            max_balance="20",
            metadata={"ключ": "значение"},
        )
        later = NOON + timedelta(microseconds=1)
        shelf.turn(create())
        shelf.decide([record(opening, 7)], later)
        account = shelf.load(opening).accounts["fees"]
        assert (account.currency, account.scale, account.type, account.status) == ("KWD", 3, "income", "open")
        assert (account.min_balance, account.max_balance) == (-1500, 20000)
        assert (account.metadata, account.opened_at, account.version) == ({"ключ": "значение"}, later, 2)

    def test_postings_move_what_was_opened_before_and_in_the_same_turn(self, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("old"))
        shelf.turn(open_account("new"), post(("old", "new", "1.25")), post(("old", "new", "2")))
        accounts = shelf.load(post(("old", "new", "1"))).accounts
        sums = {name: (account.posted_debits, account.posted_credits) for name, account in accounts.items()}
        assert sums == {"old": (325, 0), "new": (0, 325)}
        assert {account.version for account in accounts.values()} == {5}

    def test_only_what_is_asked_for_is_loaded(self, shelf: Shelf) -> None:
        shelf.turn(create(), register("POINTS", 4), *[open_account(name) for name in ("a", "b", "c")])
        shelf.turn(post(("a", "b", "1"), reference="r"))
        ledger = shelf.load(post(("a", "c", "1"), reference="s"))
        assert ledger.accounts.keys() == {"a", "c"}
        assert ledger.references == set()
        assert ledger.currencies.scale_of("POINTS") is None
        assert shelf.load(post(("a", "b", "1"), reference="r")).references == {"r"}
        assert shelf.load(register("POINTS", 0)).currencies.scale_of("POINTS") == 4

    def test_a_currency_is_kept_at_first_use_and_its_scale_stays(self, shelf: Shelf) -> None:
        shelf.turn(create(), register("XAU", 5), open_account("gold", "XAU"), open_account("cash", "EUR"))
        again = shelf.load(open_account("more", "XAU"), open_account("other", "EUR")).currencies
        assert (again.scale_of("XAU"), again.scale_of("EUR"), again.first_used) == (5, 2, {})
        again.keep("EUR", 2)
        assert again.first_used == {}
        assert shelf.turn(open_account("more", "XAU"), open_account("other", "EUR")).outcomes[1].refusal is None

    @pytest.mark.parametrize(("role", "may"), [("reader", 1), ("writer", 2), ("owner", 3)])
    def test_roles_are_those_granted_on_this_ledger(self, store: Store, shelf: Shelf, role: str, may: int) -> None:
        eve = uuid4()
        store.grant(shelf.id, eve, role)
        ledger = store.load(shelf.id, [record(create(), 1, eve)])
        assert [ledger.may(eve, wanted) for wanted in ("reader", "writer", "owner")] == [n < may for n in range(3)]
        elsewhere = store.load(Shelf(store).id, [record(create(), 1, eve), record(create(), 2, uuid4())])
        assert not elsewhere.may(eve, "reader")

    @pytest.mark.parametrize(
        ("active", "roles", "may"), [(True, ["admin"], True), (True, ["operator"], False), (False, ["admin"], False)]
    )
    def test_administrators_own_every_ledger_while_they_are_not_disabled(
        self, store: Store, shelf: Shelf, active: bool, roles: list[str], may: bool
    ) -> None:
        anna = uuid4()
        store.add_user(anna, active=active, roles=roles)
        ledger = store.load(shelf.id, [record(create(), 1, anna)])
        assert (ledger.may(anna, "owner"), ledger.may(anna, "reader"), ledger.may_create(anna)) == (may, may, may)

    def test_who_is_disabled_has_nothing_whatever_was_granted(self, store: Store, shelf: Shelf) -> None:
        store.grant(shelf.id, DAN, "owner")
        ledger = store.load(shelf.id, [record(revoke(DAN), 1, DAN)])
        assert not ledger.may(DAN, "reader")
        assert ledger.members[DAN].grant == "owner"

    def test_a_grant_comes_back_as_it_was_given_last_and_not_at_all_once_it_is_revoked(self, shelf: Shelf) -> None:
        shelf.turn(create(), grant(EVE, "reader"), grant(KIM, "writer"))
        assert self.grants(shelf) == {ADA: "owner", EVE: "reader", KIM: "writer"}
        shelf.turn(revoke(EVE), grant(EVE, "owner"), grant(KIM, "reader"), revoke(KIM))
        assert self.grants(shelf) == {ADA: "owner", EVE: "owner"}
        shelf.turn(revoke(ADA))
        assert self.grants(shelf) == {EVE: "owner"}

    def grants(self, shelf: Shelf) -> dict[UUID, str]:
        return {
            user: member.grant for user, member in shelf.load(*map(revoke, everybody())).members.items() if member.grant
        }

    @pytest.mark.parametrize("named", [1, 2, 3])
    def test_of_the_other_owners_one_more_than_can_go_is_loaded(self, store: Store, shelf: Shelf, named: int) -> None:
        for _ in range(5):
            store.grant(shelf.id, uuid4(), "owner")
        commands = [record(revoke(uuid4()), number) for number in range(named)]
        owners = [m for m in store.load(shelf.id, commands).members.values() if m.active and m.grant == "owner"]
        assert named + 1 <= len(owners) <= named + 2
        assert [*store.load(shelf.id, [record(create(), 1)]).members] == [ADA]

    def test_metadata_comes_back_as_it_was_merged(self, shelf: Shelf) -> None:
        shelf.turn(CreateLedger(id=shelf.id, name="Acme", metadata={"zz": "1", "a": "2", "м": "3"}))
        shelf.turn(update(a=None, b='"'), update(zz="9"))
        profile = shelf.load(create()).profile
        assert profile is not None
        assert (profile.metadata, profile.version, profile.name) == ({"zz": "9", "b": '"', "м": "3"}, 3, "Acme")
        shelf.turn(open_account("a"))
        assert shelf.load(create()).profile == profile

    def test_what_a_turn_threw_away_leaves_nothing(self, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("a:0"), open_account("a:1"))
        before = state_of(shelf.store.load(shelf.id, EVERYTHING))
        shelf.turn(open_account("a:2"), post(("a:0", "a:1", "1"), reference="r-1"), register("POINTS", 0), saving=False)
        assert state_of(shelf.store.load(shelf.id, EVERYTHING)) == before

    def test_ledgers_do_not_mix(self, store: Store, shelf: Shelf) -> None:
        other = Shelf(store)
        for each, kind in ((shelf, "asset"), (other, "income")):
            each.turn(create(), open_account("a:0", kind=kind), open_account("a:1"))
        shelf.turn(post(("a:0", "a:1", "1"), reference="r-1"))
        untouched = other.store.load(other.id, EVERYTHING)
        assert untouched.accounts["a:0"].type == "income"
        assert (untouched.accounts["a:0"].balance, untouched.references) == (0, set())
        assert other.turn(post(("a:0", "a:1", "1"), reference="r-1")).outcomes[0].refusal is None

    @pytest.mark.parametrize(("scale", "unit"), [(0, "9" * 38), (18, "9" * 20 + "." + "9" * 18)])
    def test_38_digits_survive(self, shelf: Shelf, scale: int, unit: str) -> None:
        shelf.turn(
            create(),
            register("POINTS", scale),
            open_account("a", "POINTS", most=unit),
            open_account("b", "POINTS", least=f"-{unit}"),
        )
        # for an asset the credit is what leads down
        shelf.turn(post(("a", "b", unit)))
        accounts = shelf.load(post(("a", "b", "1"))).accounts
        assert (accounts["a"].balance, accounts["b"].balance) == (LARGEST, -LARGEST)
        assert (accounts["a"].max_balance, accounts["b"].min_balance) == (LARGEST, -LARGEST)
        refusal = shelf.turn(post(("a", "b", "1"))).outcomes[0].refusal
        assert refusal is not None
        assert refusal.code == "amount_overflow"

    def test_a_pending_transaction_comes_back_with_what_it_holds(self, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("a"), open_account("b", kind="liability"), open_account("c"))
        holding = replace(hold(("a", "b", "1.50"), ("c", "b", "2"), seconds=60), metadata={"ä": "ö"}, effective_at=OLD)
        shelf.decide([record(holding, 8)])
        ledger = shelf.load(VoidTransaction(transaction=job(8)))
        assert ledger.transactions == {
            job(8): Transaction(
                job(8), 5, 5, "pending", {"ä": "ö"}, OLD, [Line("a", "b", 150, 0, 150), Line("c", "b", 200, 0, 200)],
                NOON + timedelta(seconds=60),
            )
        }  # fmt: skip
        pending = {
            name: (one.pending_debits, one.pending_credits, one.version) for name, one in ledger.accounts.items()
        }
        assert pending == {"a": (150, 0, 5), "b": (0, 350, 5), "c": (200, 0, 5)}

    def test_a_plain_transaction_comes_back_when_it_is_named(self, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("a"), open_account("b"), open_account("c"))
        shelf.decide([record(post(("a", "b", "1"), ("b", "a", "0.5")), 8), record(post(("b", "c", "1")), 9)])
        ledger = shelf.load(ReverseTransaction(transaction=job(8)))
        lines = [Line("a", "b", 100, 100, 0), Line("b", "a", 50, 50, 0)]
        moment = NOON + timedelta(seconds=8)
        assert ledger.transactions == {job(8): Transaction(job(8), 5, 5, "posted", {}, moment, lines)}
        assert ledger.accounts.keys() == {"a", "b"}
        assert shelf.load(post(("a", "b", "1"))).transactions == {}
        assert (ledger.named, shelf.load(create()).named) == ({job(8)}, set())

    @pytest.mark.parametrize("width", [1, 2, 5, 100])
    def test_every_kind_of_command_in_turns_of_any_width(self, shelf: Shelf, width: int) -> None:
        commands = every_kind()
        expected = in_memory(commands, shelf)
        outcomes, events = [], []
        for start in range(0, len(commands), width):
            decision = shelf.decide(commands[start : start + width])
            outcomes += decision.outcomes
            events += [link.event for link in decision.links]
        refused = {number: one.refusal.code for number, one in enumerate(outcomes) if one.refusal is not None}
        assert refused == REFUSED
        assert events == [link.event for link in expected.links]
        ledger = shelf.store.load(shelf.id, [*EVERYTHING, *commands, *NAMING_ALL])
        assert state_of(ledger) == expected.state()
        assert ledger.closed_before == expected.ledger.closed_before == OLD
        assert ledger.transactions == expected.ledger.transactions
        assert {number: ledger.transactions[job(number)].status for number in (4, 5, 9, 12, 14, 17, 19, 35)} == {
            4: "posted", 5: "captured", 9: "captured", 12: "voided", 14: "captured", 17: "expired", 19: "posted",
            35: "pending",
        }  # fmt: skip
        ended = [number for number in (5, 9, 12, 14, 17, 35) if ledger.transactions[job(number)].expired]
        assert ended == [9, 17]
        links = [(ledger.transactions[job(n)].reverses, ledger.transactions[job(n)].reversed_by) for n in (5, 19, 20)]
        assert links == [(None, job(19)), (job(5), job(20)), (job(19), None)]

    def test_transactions_that_are_still_to_be_made_are_known_to_be(self, store: Store, shelf: Shelf) -> None:
        shelf.turn(create())
        waiting, late, scheduled, elsewhere, nobody = (uuid4() for _ in range(5))
        store.wait(shelf.id, waiting, 77)
        # its position was drawn in time, but it was not to be seen in time
        store.wait(shelf.id, late, 70)
        store.wait(shelf.id, scheduled, None)
        store.wait(Shelf(store).id, elsewhere, 78)
        voiding = [VoidTransaction(transaction=one) for one in (waiting, late, scheduled, elsewhere, nobody)]
        turn = [replace(record(post(("a", "b", "1")), 77), id=waiting), *(record(one, 78) for one in voiding)]
        ledger = store.load(shelf.id, turn)
        assert (ledger.waiting, ledger.transactions) == ({waiting: 77, late: None, scheduled: None}, {})
        assert ledger.awaits(late, 78)
        assert ledger.awaits(waiting, 76)
        assert not ledger.awaits(waiting, 77)
        assert ledger.awaits(scheduled, 1_000)

    def test_a_reloaded_ledger_equals_the_one_in_memory(self, store: Store) -> None:
        reload_and_compare(store)

    def test_any_transaction_that_can_be_asked_for_can_be_saved(self, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("a"), open_account("b"))
        odd = "\t\\\"'{}\N{ZERO WIDTH SPACE}\N{PILE OF POO}\x7f\x01"
        for moment in (datetime.min, datetime.max):
            command = PostTransaction(
                postings=post(*[("a", "b", "0.01")] * 1_000).postings,
                reference=f"{moment.year}{odd}",
                description=odd * 10,
                metadata={odd: odd},
                effective_at=moment.replace(tzinfo=NOON.tzinfo),
            )
            assert shelf.turn(command).outcomes[0].refusal is None
            assert shelf.load(command).references == {command.reference}


@given(turns=runs_in_turns())
@effort(max_examples=40, deadline=None)
def reload_and_compare(store: Store, turns: list[list[Recorded]]) -> None:
    """After any run of commands, in any turns, the store gives back what would be in memory had it all stayed there."""
    shelf, books = Shelf(store), Books()
    books.ledger.id, books.head = shelf.id, shelf.head
    for number, turn in enumerate(turns):
        now = NOON + timedelta(seconds=number)
        stored, kept = shelf.decide(turn, now), books.decide(turn, now)
        assert stored.outcomes == kept.outcomes
        assert [link.event for link in stored.links] == [link.event for link in kept.links]
    ledger = store.load(shelf.id, [*EVERYTHING, *NAMING_ALL])
    assert state_of(ledger) == books.state()


class TestFake(LedgerRepositories):
    @pytest.fixture
    def store(self) -> Store:
        return FakeLedgers()


class Postgres:
    """The real repository, each call in a transaction of its own."""

    def __init__(self, runner: asyncio.Runner, db: asyncpg.Connection[Record]) -> None:
        self._runner = runner
        self._db = db

    def add_user(self, user: UUID, *, active: bool = True, roles: Iterable[str] = ("user",)) -> None:
        status = "active" if active else "disabled"
        self._runner.run(self._db.execute(ADD_USER, user, f"user-{user}", list(roles), status))

    def grant(self, ledger: str, user: UUID, role: str) -> None:
        self.add_user(user)
        self._runner.run(self._db.execute(ADD_GRANT, ledger, user, role))

    def wait(self, ledger: str, transaction: UUID, position: int | None) -> None:
        self._runner.run(self._db.execute(ADD_COMMAND, transaction, f"ledger:{ledger}", position))

    def rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        rows = self._runner.run(self._db.fetch(statement, *arguments))
        return [
            tuple(msgspec.json.decode(value) if name == "metadata" else value for name, value in row.items())
            for row in rows
        ]

    def load(self, ledger_id: str, commands: Sequence[Recorded]) -> Ledger:
        return self._runner.run(ledgers.load(self._db, ledger_id, commands))

    def save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
        self._runner.run(self._save(ledger, links, now))

    async def _save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
        async with self._db.transaction():
            await ledgers.append(self._db, ledger, links, now)
            await ledgers.save(self._db, ledger, links, now)


class Witness:
    """A connection that remembers what was asked of it."""

    def __init__(self, db: asyncpg.Connection[Record]) -> None:
        self._db = db
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._db, name)

        def ask(first: str, *arguments: Any, **named: Any) -> Any:
            self.seen.append(first)
            return method(first, *arguments, **named)

        return ask


TABLES: Final = {
    "transactions": "SELECT id, status, version, reference, metadata, expires_at, reverses, reversed_by, expired"
    " FROM transactions WHERE ledger = $1 ORDER BY seq",
    "postings": "SELECT seq, posting, debit, credit, amount, effective_at FROM postings WHERE ledger = $1"
    " ORDER BY seq, posting",
    "holds": "SELECT seq, posting, debit, credit, currency, scale, amount, posted, held FROM holds WHERE ledger = $1"
    " ORDER BY seq, posting",
    "captures": "SELECT seq, id, transaction, amounts, effective_at, recorded_at FROM captures WHERE ledger = $1"
    " ORDER BY seq",
    "pending_sums": "SELECT account, seq, pending_debits, pending_credits FROM pending_sums WHERE ledger = $1"
    " ORDER BY account, seq",
    "account_changes": "SELECT account, seq, status, metadata FROM account_changes WHERE ledger = $1"
    " ORDER BY seq, account",
    "periods": "SELECT seq, before, closed_at FROM periods WHERE ledger = $1 ORDER BY seq",
}


@pytest.fixture(scope="module")
def postgres(shared_settings: Settings) -> Iterator[Postgres]:
    with asyncio.Runner() as runner:
        db = runner.run(asyncpg.connect(shared_settings.database_url))
        yield Postgres(runner, db)
        runner.run(db.close())


class TestPostgres(LedgerRepositories):
    @pytest.fixture
    def store(self, postgres: Postgres) -> Store:
        return postgres

    def test_projections_hold_what_the_journal_says(self, store: Store, shelf: Shelf) -> None:
        assert isinstance(store, Postgres)
        shelf.turn(create(), open_account("a"), open_account("b"), open_account("c", "JPY"))
        decision = shelf.turn(post(("a", "b", "1.50"), ("b", "a", "0.25"), reference="r"), post(("b", "a", "2")))
        rows = store._runner.run(
            store._db.fetch(
                "SELECT seq, posting, debit, credit, currency, scale, amount, id, reference, status, version"
                " FROM postings JOIN transactions USING (ledger, seq) WHERE ledger = $1 ORDER BY seq, posting",
                shelf.id,
            )
        )
        first, second = (outcome.command for outcome in decision.outcomes)
        assert [tuple(row) for row in rows] == [
            (5, 0, "a", "b", "USD", 2, 150, first, "r", "posted", 5),
            (5, 1, "b", "a", "USD", 2, 25, first, "r", "posted", 5),
            (6, 0, "b", "a", "USD", 2, 200, second, None, "posted", 6),
        ]
        counted = store._runner.run(store._db.fetchval("SELECT accounts FROM ledgers WHERE id = $1", shelf.id))
        assert counted == 3

    def test_a_grant_names_the_event_that_granted_it(self, store: Store, shelf: Shelf) -> None:
        assert isinstance(store, Postgres)
        shelf.turn(create(), grant(EVE, "reader"), grant(KIM, "writer"))
        shelf.decide([record(grant(EVE, "writer"), 9)], NOON + timedelta(seconds=1))
        rows = store._runner.run(
            store._db.fetch(
                "SELECT user_id, role, granted_at, seq FROM grants WHERE ledger = $1 ORDER BY seq DESC", shelf.id
            )
        )
        assert [tuple(row) for row in rows] == [
            (EVE, "writer", NOON + timedelta(seconds=1), 4),
            (KIM, "writer", NOON, 3),
            (ADA, "owner", NOON, 1),
        ]

    def test_tables_hold_the_same_whatever_the_width_of_turns(self, store: Store) -> None:
        assert isinstance(store, Postgres)
        tables = []
        for width in (1, 3, 100):
            shelf, commands = Shelf(store), every_kind()
            for start in range(0, len(commands), width):
                shelf.decide(commands[start : start + width])
            tables.append({table: store.rows(statement, shelf.id) for table, statement in TABLES.items()})
        assert tables[0] == tables[1] == tables[2]
        found = tables[0]
        applied = [number for number in range(len(EVERY_KIND)) if number not in REFUSED]
        seqs = {number: seq for seq, number in enumerate(applied, 1)}
        assert found["holds"][:3] == [
            (seqs[5], 0, "alice", "bob", "USD", 2, 4000, 4000, 0),
            (seqs[5], 1, "alice", "bob", "USD", 2, 500, 500, 0),
            (seqs[9], 0, "alice", "bob", "USD", 2, 1000, 300, 0),
        ]
        assert found["holds"][-2:] == [
            (seqs[35], 0, "alice", "bob", "USD", 2, 200, 50, 150),
            (seqs[35], 1, "alice", "bank", "USD", 2, 100, 0, 100),
        ]
        moments = {number: NOON + timedelta(seconds=number) for number in range(1_001)}
        assert found["captures"][:3] == [
            (seqs[6], job(6), job(5), [3000, 0], moments[6], NOON),
            (seqs[7], job(7), job(5), [400, 250], YESTERDAY, NOON),
            (seqs[8], job(8), job(5), [600, 250], moments[8], NOON),
        ]
        # nothing moved by the hold, nor where a capture took nothing; then what the reversal gave back
        assert [row for row in found["postings"] if seqs[5] <= row[0] <= seqs[9] or row[0] == seqs[19]] == [
            (seqs[6], 0, "alice", "bob", 3000, moments[6]),
            (seqs[7], 0, "alice", "bob", 400, YESTERDAY),
            (seqs[7], 1, "alice", "bob", 250, YESTERDAY),
            (seqs[8], 0, "alice", "bob", 600, moments[8]),
            (seqs[8], 1, "alice", "bob", 250, moments[8]),
            (seqs[19], 0, "bob", "alice", 4000, moments[19]),
            (seqs[19], 1, "bob", "alice", 500, moments[19]),
        ]
        assert [row[1:] for row in found["pending_sums"] if row[0] == "alice"][:4] == [
            (seqs[5], 4500, 0),
            (seqs[6], 1500, 0),
            (seqs[7], 850, 0),
            (seqs[8], 0, 0),
        ]
        assert {row[1] for row in found["pending_sums"]} == {
            seqs[number] for number in (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 35, 36)
        }
        assert found["account_changes"] == [
            ("alice", seqs[25], "open", {}),
            ("bob", seqs[26], "open", {}),
            ("bob", seqs[28], "frozen", {}),
            ("idle", seqs[30], "open", {}),
            ("idle", seqs[31], "open", {"x": "1"}),
        ]
        assert found["periods"] == [(seqs[32], OLD - timedelta(days=1), NOON), (seqs[33], OLD, NOON)]
        named = {row[0]: row[1:] for row in found["transactions"]}
        assert named[job(5)] == (
            "captured",
            seqs[23],
            "held",
            {"a": "é", "b": '"'},
            moments[1_000],
            None,
            job(19),
            False,
        )
        assert named[job(9)] == ("captured", seqs[11], None, {}, moments[11], None, None, True)
        assert named[job(20)] == ("posted", seqs[20], "again", {"a": "1", "b": "2"}, None, job(19), None, False)

    def test_plain_postings_touch_no_table_but_their_own(self, store: Store, shelf: Shelf) -> None:
        assert isinstance(store, Postgres)
        shelf.turn(create(), open_account("a"), open_account("b"))
        witness = Witness(store._db)
        run = store._runner.run
        commands = [record(post(("a", "b", "1")), number) for number in range(3)]
        ledger = run(ledgers.load(witness, shelf.id, commands))  # type: ignore[arg-type]
        decision = decide(ledger, shelf.head, commands, NOON, RULES)
        loading, witness.seen = witness.seen, []
        run(ledgers.append(witness, ledger, decision.links, NOON))  # type: ignore[arg-type]
        run(ledgers.save(witness, ledger, decision.links, NOON))  # type: ignore[arg-type]
        assert loading == [ledgers.PROFILE, ledgers.ACCOUNTS, ledgers.MEMBERS]
        assert witness.seen == ["transactions", "postings", ledgers.MOVE_ACCOUNTS]
        assert sorted(ledgers.views(ledger)) == ["account:a", "account:b"]

    def test_views_of_transactions_that_changed_are_old(self, store: Store, shelf: Shelf) -> None:
        shelf.turn(create(), open_account("a"), open_account("b"))
        shelf.decide([record(hold(("a", "b", "1")), 8), record(post(("a", "b", "1")), 9)])
        for command, changed in (
            (capture(8, "0.25"), {8}),
            (UpdateTransaction(transaction=job(9), metadata={"k": "v"}), {9}),
            (ReverseTransaction(transaction=job(9)), {9}),
            (VoidTransaction(transaction=job(8)), {8}),
        ):
            commands = [record(command, 10)]
            ledger = store.load(shelf.id, commands)
            decision = decide(ledger, shelf.head, commands, NOON, RULES)
            assert decision.links
            views = {view for view in ledgers.views(ledger) if view.startswith("transaction:")}
            assert views == {f"transaction:{job(number)}" for number in changed}
