"""Entries of the mailbox that are all or nothing: what one of their commands is refused for undoes them all."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.catalog import RULES
from domain.decision import GENESIS, Decision, Head, decide
from domain.ledger.commands import (
    CaptureTransaction,
    CloseAccount,
    FreezeAccount,
    Posting,
    PostTransaction,
    ReverseTransaction,
    UnfreezeAccount,
    VoidTransaction,
)
from domain.ledger.model import Ledger, Written
from domain.messages import Command, Recorded
from tests.books import ADA, CODES, NOON, Books, create, everybody, open_account, post, record
from tests.fakes import FakeLedgers

NAMES = tuple(f"a:{number}" for number in range(5))
OPENED: tuple[Command, ...] = (
    create(),
    open_account("a:0"),
    open_account("a:1", kind="liability", least="-90"),
    open_account("a:2", kind="liability", most="150"),
    open_account("a:3", "JPY", kind="equity"),
    FreezeAccount(account="a:3"),
    post(("a:0", "a:1", "100"), reference="taken"),
    replace(post(("a:0", "a:1", "30"), ("a:1", "a:2", "20")), pending=True),
)


def entry(position: int, *commands: Command, first: int = 100) -> list[Recorded]:
    """The commands as one entry of the mailbox."""
    numbered = [record(command, first + line) for line, command in enumerate(commands)]
    return [replace(each, position=position, line=line) for line, each in enumerate(numbered)]


@st.composite
def mailboxes(draw: st.DrawFn) -> list[list[Recorded]]:
    """Random entries, many of them atomic, of commands that name each other's transactions."""
    pairs = st.permutations(NAMES[:3]).map(lambda names: (names[0], names[1]))
    numbers = st.sampled_from((len(OPENED) - 2, len(OPENED) - 1, *range(len(OPENED), len(OPENED) + 12)))
    named = numbers.map(lambda number: record(create(), number).id)
    amounts = st.sampled_from(("1", "25", "40.5", "90", "available"))
    postings = st.builds(lambda pair, amount: Posting(pair[0], pair[1], amount), pairs, amounts)
    transactions = st.builds(
        PostTransaction,
        postings=st.lists(postings, min_size=1, max_size=2).map(tuple),
        reference=st.sampled_from((None, None, "r-1", "r-2")),
        pending=st.booleans(),
    )
    changes = (
        st.builds(
            CaptureTransaction, transaction=named, amount=st.sampled_from((None, None, "1")), final=st.booleans()
        ),
        st.builds(VoidTransaction, transaction=named),
        st.builds(ReverseTransaction, transaction=named, reference=st.sampled_from((None, "r-3"))),
        st.sampled_from(("a:1", "a:3", "a:3")).flatmap(
            lambda name: st.sampled_from(
                (FreezeAccount(account=name), UnfreezeAccount(account=name), CloseAccount(account=name))
            )
        ),
        st.builds(open_account, st.sampled_from(("a:0", "a:4", "a:4")), st.sampled_from(CODES[:4])),
    )
    lists = draw(
        st.lists(
            st.tuples(st.booleans(), st.lists(st.one_of(transactions, transactions, *changes), min_size=1, max_size=3)),
            min_size=1,
            max_size=8,
        )
    )
    mailbox = [[record(command, number)] for number, command in enumerate(OPENED)]
    number = len(OPENED)
    for atomic, commands in lists:
        if atomic:
            mailbox.append(entry(number, *commands, first=number))
        else:
            mailbox += [[record(command, number + line)] for line, command in enumerate(commands)]
        number += len(commands)
    return mailbox


def flat(mailbox: Iterable[Iterable[Recorded]]) -> list[Recorded]:
    return [recorded for one in mailbox for recorded in one]


def a_store() -> FakeLedgers:
    store = FakeLedgers()
    for user, member in everybody().items():
        store.add_user(user, active=member.active, roles=member.roles)
    store.grant("acme", ADA, "owner")
    return store


def in_memory(run: list[Recorded], others: list[Recorded]) -> tuple[Ledger, Decision]:
    """Decides `run` on what was loaded for `others`, too."""
    ledger = a_store().load("acme", others)
    return ledger, decide(ledger, Head("ledger:acme", 1, 0, GENESIS), run, NOON, RULES)


def all_of(ledger: Ledger) -> dict[str, Any]:
    """Everything that the ledger holds, to compare with."""
    held = msgspec.structs.asdict(ledger)
    # what was asked for is no part of what there is
    del held["named"]
    held["accounts"] = {name: replace(account, written=Written()) for name, account in ledger.accounts.items()}
    held["currencies"] = ({code: ledger.currencies.scale_of(code) for code in CODES}, ledger.currencies.first_used)
    return deepcopy(held)


def refused(mailbox: list[list[Recorded]], decision: Decision) -> set[UUID]:
    """The commands of atomic entries that were refused. Each of those is refused as a whole, for one reason."""
    outcomes = {outcome.command: outcome for outcome in decision.outcomes}
    found: set[UUID] = set()
    for one in mailbox:
        if one[0].line is None:
            continue
        refusals = [outcomes[recorded.id].refusal for recorded in one]
        if all(refusal is None for refusal in refusals):
            continue
        culprits = [
            recorded.id
            for recorded, refusal in zip(one, refusals, strict=True)
            if refusal is not None and refusal.caused_by is None
        ]
        assert len(culprits) == 1
        for recorded, refusal in zip(one, refusals, strict=True):
            assert refusal is not None and outcomes[recorded.id].seq is None
            assert (refusal.code == "batch_rejected") == (recorded.id != culprits[0])
            assert refusal.caused_by == (None if recorded.id == culprits[0] else culprits[0])
        found |= {recorded.id for recorded in one}
    return found


@given(mailboxes())
def test_an_entry_that_is_refused_leaves_all_as_if_it_had_never_been_there(mailbox: list[list[Recorded]]) -> None:
    run = flat(mailbox)
    ledger, decision = in_memory(run, run)
    gone = refused(mailbox, decision)
    without, again = in_memory([recorded for recorded in run if recorded.id not in gone], run)
    assert [(link.event, link.hash) for link in decision.links] == [(link.event, link.hash) for link in again.links]
    assert [outcome for outcome in decision.outcomes if outcome.command not in gone] == again.outcomes
    assert decision.head == again.head
    assert all_of(ledger) == all_of(without)


@given(mailboxes(), st.data())
def test_any_cut_between_entries_gives_the_same_journal(mailbox: list[list[Recorded]], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(mailbox)), max_size=3)))
    turns = [flat(mailbox[start:end]) for start, end in zip([0, *cuts], [*cuts, len(mailbox)], strict=True)]
    store, head, outcomes, events = a_store(), Head("ledger:acme", 1, 0, GENESIS), [], []
    for turn in turns:
        ledger = store.load("acme", turn)
        decision = decide(ledger, head, turn, NOON, RULES)
        head = decision.head
        events += [link.event for link in decision.links]
        outcomes += decision.outcomes
        if decision.links:
            store.save(ledger, decision.links, NOON)
    whole = in_memory(flat(mailbox), flat(mailbox))[1]
    assert (events, outcomes, head) == ([link.event for link in whole.links], whole.outcomes, whole.head)


def test_random_entries_are_refused_and_succeed_and_change_what_others_made() -> None:
    """The properties would prove little otherwise."""
    met: set[tuple[str, bool]] = set()

    @given(mailboxes())
    @settings(derandomize=True, max_examples=200)
    def look(mailbox: list[list[Recorded]]) -> None:
        run = flat(mailbox)
        _, decision = in_memory(run, run)
        for recorded, outcome in zip(run, decision.outcomes, strict=True):
            if recorded.line is not None:
                met.add((recorded.kind, outcome.refusal is None))

    look()
    kinds = {"post_transaction", "capture_transaction", "void_transaction", "reverse_transaction", "open_account"}
    kinds |= {"freeze_account", "unfreeze_account", "close_account"}
    assert len({(kind, success) for kind in kinds for success in (True, False)} - met) <= 2


def test_one_that_is_refused_takes_along_those_before_and_behind_it() -> None:
    books = Books(*OPENED)
    state, head = all_of(books.ledger), books.head
    commands = entry(
        50,
        open_account("a:4", "KWD"),
        post(("a:1", "a:2", "10"), reference="new"),
        FreezeAccount(account="a:2"),
        post(("a:1", "a:2", "1")),
        UnfreezeAccount(account="a:2"),
    )
    decision = books.decide(commands)
    codes = [outcome.refusal.code for outcome in decision.outcomes if outcome.refusal is not None]
    assert codes == ["batch_rejected"] * 3 + ["account_frozen", "batch_rejected"]
    assert (decision.links, decision.head, all_of(books.ledger)) == ([], head, state)
    # what it would have taken is free: the name, the reference, the currency's first use
    assert [outcome.refusal for outcome in books.run(*[each.command for each in commands[:2]])] == [None, None]
