"""What holds for any run of commands, however it is cut into turns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from hashlib import sha256
from random import Random
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.catalog import RULES
from domain.decision import GENESIS, Decision, Head, Link, Outcome, decide
from domain.ledger.commands import CaptureTransaction, ExpireTransaction, VoidTransaction
from domain.ledger.events import (
    AccountOpened,
    PostedLine,
    TransactionCaptured,
    TransactionExpired,
    TransactionHeld,
    TransactionPosted,
    TransactionReversed,
    TransactionVoided,
)
from domain.ledger.handlers import KINDS
from domain.messages import Balance, Recorded
from domain.money import LIMIT_MINOR, parse_minor
from tests.books import (
    ADA,
    LARGEST,
    NOON,
    Books,
    create,
    everybody,
    open_account,
    post,
    run_of,
    runs,
    runs_in_turns,
)
from tests.domain.test_refusals import PRECEDENCE
from tests.fakes import FakeLedgers

OF_ACCOUNTS = {
    "account_closed",
    "account_frozen",
    "insufficient_funds",
    "max_balance_exceeded",
}
NORMAL = {"asset": 1, "expense": 1, "liability": -1, "equity": -1, "income": -1}


class Bookkeeper:
    """Keeps its own books by hand, from the events alone: what was posted, and what each transaction still holds."""

    def __init__(self) -> None:
        self.opened: dict[str, AccountOpened] = {}
        self.debits: dict[str, int] = defaultdict(int)
        self.credits: dict[str, int] = defaultdict(int)
        self.held: dict[UUID, list[tuple[str, str, int]]] = {}
        self.posted: dict[UUID, list[tuple[str, str, int]]] = {}

    def note(self, link: Link) -> None:
        event = link.entry.data
        if isinstance(event, AccountOpened):
            assert event.name not in self.opened
            self.opened[event.name] = event
        elif isinstance(event, TransactionPosted | TransactionReversed):
            self.posted[event.transaction] = self._lines(event.postings)
            self._post(self.posted[event.transaction])
        elif isinstance(event, TransactionHeld):
            self.held[event.transaction] = self._lines(event.postings)
            self.posted[event.transaction] = [(debit, credit, 0) for debit, credit, _ in self.held[event.transaction]]
        elif isinstance(event, TransactionCaptured | TransactionVoided | TransactionExpired):
            self._settle(event)
        if isinstance(event, TransactionReversed):
            undone = [(credit, debit, minor) for debit, credit, minor in self.posted[event.reverses] if minor]
            assert self.posted[event.transaction] == undone

    def _lines(self, postings: Sequence[PostedLine]) -> list[tuple[str, str, int]]:
        lines = []
        for line in postings:
            minor = self.minor(line.amount, line.debit)
            assert minor > 0
            assert line.currency == self.opened[line.debit].currency == self.opened[line.credit].currency
            lines.append((line.debit, line.credit, minor))
        return lines

    def _post(self, lines: Sequence[tuple[str, str, int]]) -> None:
        for debit, credit, minor in lines:
            self.debits[debit] += minor
            self.credits[credit] += minor

    def _settle(self, event: TransactionCaptured | TransactionVoided | TransactionExpired) -> None:
        before, taken, left = self.held[event.transaction], [], []
        for (debit, credit, held), line in zip(before, event.postings, strict=True):
            amount, released, rest = (self.minor(text, debit) for text in (line.amount, line.released, line.held))
            assert (line.debit, line.credit, amount + released + rest) == (debit, credit, held)
            taken.append((debit, credit, amount))
            left.append((debit, credit, rest))
        self.held[event.transaction] = left
        self._post(taken)
        self.posted[event.transaction] = [
            (debit, credit, posted + amount)
            for (debit, credit, posted), (_, _, amount) in zip(self.posted[event.transaction], taken, strict=True)
        ]
        captured, pending = self._any(self.posted[event.transaction]), self._any(left)
        ended = {TransactionVoided: "voided", TransactionExpired: "expired"}.get(type(event), "")
        assert event.status == ("pending" if pending else "captured" if captured else ended)
        assert self._any(taken) == isinstance(event, TransactionCaptured)

    def _any(self, lines: Sequence[tuple[str, str, int]]) -> bool:
        return any(minor for _, _, minor in lines)

    def minor(self, text: str, account: str) -> int:
        return parse_minor(text, self.opened[account].scale)

    def pending(self, name: str) -> tuple[int, int]:
        lines = [line for lines in self.held.values() for line in lines]
        return (
            sum(minor for debit, _, minor in lines if debit == name),
            sum(minor for _, credit, minor in lines if credit == name),
        )

    def balance(self, name: str) -> int:
        return (self.debits[name] - self.credits[name]) * NORMAL[self.opened[name].type]

    def outgoing(self, name: str) -> int:
        return self.pending(name)[NORMAL[self.opened[name].type] > 0]

    def incoming(self, name: str) -> int:
        return self.pending(name)[NORMAL[self.opened[name].type] < 0]

    def agrees_with(self, said: Balance) -> bool:
        name = said.account
        figures = [said.posted_debits, said.posted_credits, said.pending_debits, said.pending_credits]
        own = [self.debits[name], self.credits[name], *self.pending(name)]
        figures += [said.balance, said.available]
        own += [self.balance(name), self.balance(name) - self.outgoing(name)]
        return [self.minor(figure, name) for figure in figures] == own

    def keeps_limits(self, name: str) -> bool:
        event, balance = self.opened[name], self.balance(name)
        least = None if event.min_balance is None else parse_minor(event.min_balance, event.scale)
        most = None if event.max_balance is None else parse_minor(event.max_balance, event.scale)
        return (least is None or balance - self.outgoing(name) >= least) and (
            most is None or balance + self.incoming(name) <= most
        )


@given(runs())
def test_every_event_carries_the_balances_that_follow_from_those_before(run: list[Recorded]) -> None:
    books, keeper = Books(), Bookkeeper()
    books.decide(run)
    for link in books.links:
        keeper.note(link)
        assert all(keeper.agrees_with(said) for said in link.entry.balances)
        assert len({said.account for said in link.entry.balances}) == len(link.entry.balances)
    for name, account in books.ledger.accounts.items():
        assert (account.pending_debits, account.pending_credits) == keeper.pending(name)


@given(runs())
def test_in_every_currency_debits_equal_credits_at_every_moment(run: list[Recorded]) -> None:
    books = Books()
    books.decide(run)
    sums: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for link in books.links:
        for said in link.entry.balances:
            scale = books.account(said.account).scale
            figures = (said.posted_debits, said.posted_credits, said.pending_debits, said.pending_credits)
            sums[said.currency][said.account] = tuple(parse_minor(figure, scale) for figure in figures)
        for accounts in sums.values():
            debits, credits, held, reserved = (sum(figures) for figures in zip(*accounts.values(), strict=True))
            assert (debits, held) == (credits, reserved)


@given(runs())
def test_limits_hold_at_every_moment_and_no_total_is_too_large(run: list[Recorded]) -> None:
    books, keeper = Books(), Bookkeeper()
    books.decide(run)
    for link in books.links:
        keeper.note(link)
        for said in link.entry.balances:
            assert keeper.keeps_limits(said.account)
            totals = (keeper.debits[said.account], keeper.credits[said.account], *keeper.pending(said.account))
            assert all(0 <= total < LIMIT_MINOR for total in totals)


@given(runs())
def test_captures_voids_and_expiry_are_never_refused_for_a_limit_or_a_status(run: list[Recorded]) -> None:
    for recorded, outcome in zip(run, Books().decide(run).outcomes, strict=True):
        if isinstance(recorded.command, CaptureTransaction | VoidTransaction | ExpireTransaction):
            assert outcome.refusal is None or outcome.refusal.code not in OF_ACCOUNTS


@given(runs())
def test_what_is_to_be_saved_names_all_that_changed(run: list[Recorded]) -> None:
    books = Books()
    ledger = books.ledger
    for recorded in run:
        traits, pending, transactions = traits_of(books), pending_of(books), deepcopy(ledger.transactions)
        ledger.pending_sums, ledger.accounts_before = [], []
        ledger.changed, ledger.altered = set(), set()
        seq = books.head.seq + 1
        books.decide([recorded])
        were = {each.account: (each.status, each.metadata) for each in ledger.accounts_before}
        assert {name for name, was in traits.items() if traits_of(books)[name] != was} <= were.keys()
        assert all(traits[name] == was for name, was in were.items())
        sums = {each.account: (each.debits, each.credits) for each in ledger.pending_sums}
        assert sums == {name: figures for name, figures in pending_of(books).items() if name in sums}
        assert {n for n, figures in pending_of(books).items() if figures != pending.get(n, (0, 0))} <= sums.keys()
        assert {each.seq for each in ledger.pending_sums} | {each.seq for each in ledger.accounts_before} <= {seq}
        assert ledger.altered == {each for each, was in transactions.items() if ledger.transactions[each] != was}
        assert {ledger.accounts[name].version for name in ledger.changed} <= {seq}
        assert were.keys() | sums.keys() <= ledger.changed


def traits_of(books: Books) -> dict[str, tuple[str, dict[str, str]]]:
    return {name: (account.status, account.metadata) for name, account in books.ledger.accounts.items()}


def pending_of(books: Books) -> dict[str, tuple[int, int]]:
    return {name: (a.pending_debits, a.pending_credits) for name, a in books.ledger.accounts.items()}


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
    met: set[tuple[str, str | None]] = set()
    dice = Random(1)
    for _ in range(400):
        run = run_of([dice.randrange(2**32) for _ in range(25)])
        for recorded, outcome in zip(run, Books().decide(run).outcomes, strict=True):
            met.add((recorded.kind, outcome.refusal.code if outcome.refusal else None))
    assert {code for _, code in met} == {None, *PRECEDENCE}
    assert {kind for kind, code in met if code is None} == KINDS.keys()


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
