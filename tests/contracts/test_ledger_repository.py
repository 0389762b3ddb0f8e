"""Loading a ledger and saving what a turn changed: the same promises from the fake and from Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Protocol
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg import Record
from hypothesis import given
from hypothesis import settings as effort

from domain.decision import GENESIS, Decision, Head, Link, decide
from domain.ledger.commands import CreateLedger, OpenAccount, PostTransaction
from domain.ledger.model import Ledger
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

_numbers = count()


class Store(Protocol):
    """A ledger repository, as these tests drive it."""

    def add_user(self, user: UUID, *, active: bool = True, roles: Iterable[str] = ("user",)) -> None: ...
    def grant(self, ledger: str, user: UUID, role: str) -> None: ...
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
    ledger = store.load(shelf.id, EVERYTHING)
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

    def load(self, ledger_id: str, commands: Sequence[Recorded]) -> Ledger:
        return self._runner.run(ledgers.load(self._db, ledger_id, commands))

    def save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
        self._runner.run(self._save(ledger, links, now))

    async def _save(self, ledger: Ledger, links: Sequence[Link], now: datetime) -> None:
        async with self._db.transaction():
            await ledgers.save(self._db, ledger, links, now)


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
