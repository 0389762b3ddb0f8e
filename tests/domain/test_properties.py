"""What holds for any run of commands, however it is cut into turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.decision import GENESIS, Decision, Head, Link, Outcome, decide
from domain.ledger.events import AccountOpened, TransactionPosted
from domain.messages import Balance, Recorded
from domain.money import LIMIT_MINOR, parse_minor
from tests.books import (
    ADA,
    LARGEST,
    NOON,
    RULES,
    SOME_OPEN,
    Books,
    create,
    everybody,
    open_account,
    post,
    runs,
    runs_in_turns,
)
from tests.domain.test_refusals import PRECEDENCE
from tests.fakes import FakeLedgers

NORMAL = {"asset": 1, "expense": 1, "liability": -1, "equity": -1, "income": -1}


class Bookkeeper:
    """Keeps its own books by hand, from the events alone."""

    def __init__(self) -> None:
        self.opened: dict[str, AccountOpened] = {}
        self.debits: dict[str, int] = defaultdict(int)
        self.credits: dict[str, int] = defaultdict(int)

    def note(self, link: Link) -> None:
        event = link.entry.data
        if isinstance(event, AccountOpened):
            assert event.name not in self.opened
            self.opened[event.name] = event
        elif isinstance(event, TransactionPosted):
            for line in event.postings:
                minor = parse_minor(line.amount, self.opened[line.debit].scale)
                assert minor > 0
                assert line.currency == self.opened[line.debit].currency == self.opened[line.credit].currency
                self.debits[line.debit] += minor
                self.credits[line.credit] += minor

    def balance(self, name: str) -> int:
        return (self.debits[name] - self.credits[name]) * NORMAL[self.opened[name].type]

    def agrees_with(self, said: Balance) -> bool:
        scale = self.opened[said.account].scale
        figures = [said.posted_debits, said.posted_credits, said.balance, said.available]
        own = [self.debits[said.account], self.credits[said.account], *[self.balance(said.account)] * 2]
        return [parse_minor(figure, scale) for figure in figures] == own

    def keeps_limits(self, name: str) -> bool:
        event, balance = self.opened[name], self.balance(name)
        least = None if event.min_balance is None else parse_minor(event.min_balance, event.scale)
        most = None if event.max_balance is None else parse_minor(event.max_balance, event.scale)
        return (least is None or balance >= least) and (most is None or balance <= most)


@given(runs())
def test_every_event_carries_the_balances_that_follow_from_those_before(run: list[Recorded]) -> None:
    books, keeper = Books(), Bookkeeper()
    books.decide(run)
    for link in books.links:
        keeper.note(link)
        assert all(keeper.agrees_with(said) for said in link.entry.balances)
        assert len({said.account for said in link.entry.balances}) == len(link.entry.balances)


@given(runs())
def test_in_every_currency_debits_equal_credits_at_every_moment(run: list[Recorded]) -> None:
    books = Books()
    books.decide(run)
    sums: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for link in books.links:
        for said in link.entry.balances:
            scale = books.account(said.account).scale
            sums[said.currency][said.account] = (
                parse_minor(said.posted_debits, scale),
                parse_minor(said.posted_credits, scale),
            )
        for accounts in sums.values():
            assert sum(debits for debits, _ in accounts.values()) == sum(credits for _, credits in accounts.values())


@given(runs())
def test_limits_hold_at_every_moment_and_no_total_is_too_large(run: list[Recorded]) -> None:
    books, keeper = Books(), Bookkeeper()
    books.decide(run)
    for link in books.links:
        keeper.note(link)
        for said in link.entry.balances:
            assert keeper.keeps_limits(said.account)
            assert keeper.debits[said.account] < LIMIT_MINOR
            assert keeper.credits[said.account] < LIMIT_MINOR


@given(runs())
def test_a_refusal_undoes_nothing_and_does_nothing(run: list[Recorded]) -> None:
    books = Books()
    for recorded in run:
        before, head = books.state(), books.head
        outcome = books.decide([recorded]).outcomes[0]
        if outcome.refusal is not None:
            assert (books.state(), books.head, outcome.seq) == (before, head, None)
        else:
            assert outcome.seq == books.head.seq > head.seq


@given(runs())
def test_a_run_without_its_refused_commands_comes_to_the_same(run: list[Recorded]) -> None:
    books, again = Books(), Books()
    refused = {outcome.command for outcome in books.decide(run).outcomes if outcome.refusal is not None}
    again.decide([recorded for recorded in run if recorded.id not in refused])
    assert [link.event for link in again.links] == [link.event for link in books.links]
    assert again.state() == books.state()


@given(runs())
def test_the_chain_of_hashes_can_be_recomputed(run: list[Recorded]) -> None:
    books = Books()
    books.decide(run)
    last = GENESIS
    for seq, link in enumerate(books.links, start=1):
        last = sha256(last + link.event).digest()
        assert link.hash == last
        assert link.entry.seq == seq
        assert msgspec.json.decode(link.event)["id"] == f"ledger:acme/1/{seq}"
    assert books.head == Head("ledger:acme", 1, len(books.links), last)


def in_turns(turns: Sequence[Sequence[Recorded]]) -> tuple[list[bytes], list[Outcome], Head]:
    """As turns do it: each loads what its own commands need from a store, decides, and saves."""
    store = FakeLedgers()
    for user, member in everybody().items():
        store.add_user(user, active=member.active, roles=member.roles)
    store.grant("acme", ADA, "owner")
    head = Head("ledger:acme", 1, 0, GENESIS)
    decisions: list[Decision] = []
    for commands in turns:
        ledger = store.load("acme", commands)
        decisions.append(decide(ledger, head, commands, NOON, RULES))
        head = decisions[-1].head
        store.save(ledger, decisions[-1].links, NOON)
    events = [link.event for decision in decisions for link in decision.links]
    return events, [outcome for decision in decisions for outcome in decision.outcomes], head


@given(runs_in_turns())
def test_any_cut_into_turns_gives_the_same_journal_byte_for_byte(turns: list[list[Recorded]]) -> None:
    whole = [recorded for turn in turns for recorded in turn]
    assert in_turns(turns) == in_turns([whole])


def test_random_runs_meet_every_outcome() -> None:
    """The properties would prove little if some rule were never broken, or every command refused."""
    met: set[str | None] = set()

    @given(runs())
    @settings(derandomize=True, max_examples=200)
    def look(run: list[Recorded]) -> None:
        refusals = [outcome.refusal for outcome in Books().decide(run).outcomes]
        met.update(refusal.code if refusal else None for refusal in refusals[len(SOME_OPEN) :])

    look()
    assert met == {None, *PRECEDENCE}


# -- amounts at the edge ----------------------------------------------------------------------------------------------


def edge_books(debits: int) -> Books:
    """Account `a` has debits of so many minor units of a currency without decimals, `b` as many credits."""
    books = Books(create(), open_account("a", "JPY"), open_account("b", "JPY", "income"))
    if debits:
        books.run(post(("a", "b", str(debits))))
    return books


@given(st.integers(0, LARGEST), st.integers(1, LARGEST))
def test_totals_go_up_to_the_limit_and_not_beyond(before: int, amount: int) -> None:
    books = edge_books(before)
    (outcome,) = books.run(post(("a", "b", str(amount))))
    fits = before + amount <= LARGEST
    assert (outcome.refusal is None) == fits
    assert fits or (outcome.refusal is not None and outcome.refusal.code == "amount_overflow")
    assert books.account("a").balance == books.account("b").balance == (before + amount if fits else before)


@pytest.mark.parametrize(("before", "amount", "fits"), [(0, LARGEST, True), (1, LARGEST, False), (LARGEST, 1, False)])
def test_the_last_unit_before_the_limit_fits(before: int, amount: int, fits: bool) -> None:
    (outcome,) = edge_books(before).run(post(("a", "b", str(amount))))
    assert (outcome.refusal is None) == fits


@given(st.lists(st.integers(1, LARGEST), min_size=2, max_size=4))
@settings(max_examples=50)
def test_the_postings_of_a_transaction_are_added_up_before_the_limit_is_tested(amounts: list[int]) -> None:
    books = edge_books(0)
    (outcome,) = books.run(post(*[("a", "b", str(amount)) for amount in amounts]))
    assert (outcome.refusal is None) == (sum(amounts) <= LARGEST)


def test_amounts_of_38_digits_are_exact_to_the_last_one() -> None:
    books = edge_books(0)
    books.run(post(("a", "b", str(LARGEST - 1))), post(("b", "a", "1")))
    said = books.links[-1].entry.balances
    assert [(each.account, each.balance) for each in said] == [("b", str(LARGEST - 2)), ("a", str(LARGEST - 2))]
