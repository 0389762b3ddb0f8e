"""Holds, captures, reversals and amounts `available`: what they leave behind, and what other ledgers got wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.ledger.commands import Posting, PostTransaction, Precondition
from domain.ledger.events import HeldLine, TransactionCaptured, TransactionHeld, TransactionPosted, TransactionReversed
from domain.ledger.model import DEBIT_NORMAL, SERVICE, Line
from domain.messages import Command
from tests.books import (
    ADA,
    LARGEST,
    NOON,
    Books,
    capture,
    capture_one,
    close,
    close_period,
    create,
    expire,
    freeze,
    hold,
    job,
    open_account,
    post,
    record,
    reverse,
    unfreeze,
    void,
)

BANK, ALICE, BOB, FEES = "assets:bank", "wallets:alice", "wallets:bob", "income:fees"


Ends = Callable[[UUID], Command]


def books() -> Books:
    """Alice, who may not owe anything, has 100.00; Bob may have 50.00 at most."""
    return Books(
        create(),
        open_account(BANK),
        open_account(ALICE, kind="liability", least="0"),
        open_account(BOB, kind="liability", most="50"),
        open_account(FEES, kind="income"),
        post((BANK, ALICE, "100")),
    )


def figures(made: Books, name: str) -> tuple[int, int]:
    """Balance and available, in cents."""
    return made.account(name).balance, made.account(name).available


# -- holds ------------------------------------------------------------------------------------------------------------


def test_a_hold_reserves_at_both_ends_and_moves_nothing() -> None:
    made = books()
    made.apply(hold((ALICE, BOB, "40")))
    assert figures(made, ALICE) == (10_000, 6_000)
    assert figures(made, BOB) == (0, 0)
    assert (made.account(ALICE).pending_debits, made.account(BOB).pending_credits) == (4_000, 4_000)


@pytest.mark.parametrize("kind", ["asset", "expense", "liability", "equity", "income"])
def test_limits_count_holds_in_both_directions(kind: str) -> None:
    def out(amount: str) -> tuple[str, str, str]:
        return (FEES, "x", amount) if kind in DEBIT_NORMAL else ("x", FEES, amount)

    def into(amount: str) -> tuple[str, str, str]:
        return ("x", FEES, amount) if kind in DEBIT_NORMAL else (FEES, "x", amount)

    made = books()
    made.apply(open_account("x", kind=kind, least="-10", most="10"))
    made.apply(hold(out("6")))
    made.apply(hold(into("7")))
    assert figures(made, "x") == (0, -600)
    # 4.00 are left down to the minimum, 3.00 up to the maximum, for holds and postings alike
    for make in (hold, post):
        assert made.refusal(make(out("4.01"))) == "insufficient_funds"
        assert made.refusal(make(into("3.01"))) == "max_balance_exceeded"
    made.apply(hold(out("4")))
    made.apply(post(into("3")))


def test_each_of_the_four_sums_goes_up_to_the_limit_by_itself() -> None:
    made = Books(create(), *[open_account(name, "JPY") for name in ("a", "b", "c")])
    held = made.apply(hold(("a", "b", str(LARGEST - 1))))
    made.apply(hold(("a", "b", "1")))
    for pair in (("a", "c"), ("c", "b")):
        assert made.refusal(hold((*pair, "1"))) == "amount_overflow"
    made.apply(post(("a", "b", "2")))
    # what is held has room, what was posted has not
    assert made.refusal(capture(held)) == "amount_overflow"
    assert made.refusal(capture_one(held, str(LARGEST - 2))) is None
    assert made.account("a").posted_debits == made.account("b").posted_credits == LARGEST
    for pair in (("a", "c"), ("c", "b")):
        assert made.refusal(post((*pair, "1"))) == "amount_overflow"


def test_captured_in_parts_until_nothing_is_held() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), (ALICE, FEES, "1")))
    made.apply(capture(held, "30", "0", final=False))
    assert made.transaction(held).status == "pending"
    assert made.transaction(held).lines == [Line(ALICE, BOB, 4_000, 3_000, 1_000), Line(ALICE, FEES, 100, 0, 100)]
    assert figures(made, ALICE) == (7_000, 5_900)
    made.apply(capture(held, "10", "1.00", final=False))
    assert made.transaction(held).status == "captured"
    assert figures(made, ALICE) == (5_900, 5_900)
    assert figures(made, BOB) == (4_000, 4_000)
    assert made.refusal(capture(held)) == made.refusal(void(held)) == "transaction_not_pending"


def test_a_final_capture_releases_the_rest() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40")))
    made.apply(capture_one(held, "15"))
    assert made.transaction(held).status == "captured"
    assert made.transaction(held).lines == [Line(ALICE, BOB, 4_000, 1_500, 0)]
    event = made.links[-1].entry.data
    assert isinstance(event, TransactionCaptured)
    assert event.postings == (HeldLine(ALICE, BOB, "15.00", "25.00", "0.00", "USD"),)
    assert figures(made, ALICE) == (8_500, 8_500)
    assert made.account(BOB).pending_credits == 0


@pytest.mark.parametrize(
    ("parts", "ends", "status"),
    [([], "void", "voided"), ([], "expire", "expired"), (["1"], "void", "captured"), (["1"], "expire", "captured")],
)
def test_what_ends_a_hold_without_capturing_it(parts: list[str], ends: str, status: str) -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=NOON + timedelta(seconds=20)))
    for part in parts:
        made.apply(capture_one(held, part, final=False))
    if ends == "void":
        made.apply(void(held))
    else:
        made.decide([record(expire(held), 50, SERVICE)])
    assert (made.transaction(held).status, made.transaction(held).expired) == (status, ends == "expire")
    left = 10_000 - 100 * len(parts)
    assert figures(made, ALICE) == (left, left)
    assert made.account(BOB).pending_credits == 0


def test_void_releases_once() -> None:
    made = books()
    one, other = made.apply(hold((ALICE, BOB, "40"))), made.apply(hold((ALICE, BOB, "5")))
    made.apply(void(one))
    assert made.refusal(void(one)) == "transaction_not_pending"
    assert (made.account(ALICE).pending_debits, made.transaction(other).status) == (500, "pending")


@pytest.mark.parametrize(("second", "code"), [(8, None), (9, "transaction_expired"), (10, "transaction_expired")])
@pytest.mark.parametrize("command", [capture, void])
@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("processed", [False, True])
def test_the_moment_of_expiry_counts_and_not_when_it_is_processed(
    second: int, code: str | None, command: Ends, taken: bool, processed: bool
) -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=NOON + timedelta(seconds=9)))
    if taken:
        made.apply(capture_one(held, "1", final=False))
    if processed and code:
        made.decide([record(expire(held), 9, SERVICE)])
        assert made.transaction(held).status == ("captured" if taken else "expired")
    (outcome,) = made.decide([record(command(held), second)]).outcomes
    assert (None if outcome.refusal is None else outcome.refusal.code) == code


def test_what_was_captured_to_the_end_is_not_pending_rather_than_expired() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=NOON + timedelta(seconds=20)))
    made.apply(capture_one(held, "1"))
    (outcome,) = made.decide([record(capture(held), 30)]).outcomes
    assert outcome.refusal is not None
    assert outcome.refusal.code == "transaction_not_pending"


def test_a_scheduled_capture_counts_from_when_it_was_to_be_executed() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=NOON + timedelta(seconds=60)))
    assert made.refusal(replace(capture(held), execute_at=NOON + timedelta(seconds=60))) == "transaction_expired"
    assert made.refusal(replace(capture(held), execute_at=NOON + timedelta(seconds=59))) is None
    event = made.links[-1].entry.data
    assert isinstance(event, TransactionCaptured)
    assert event.effective_at == "2026-11-22T12:00:59.000000Z"


@pytest.mark.parametrize(("seconds", "status"), [(None, "pending"), (49, "expired"), (50, "expired"), (51, "pending")])
def test_nothing_expires_before_its_time(seconds: int | None, status: str) -> None:
    made = books()
    expires_at = None if seconds is None else NOON + timedelta(seconds=seconds)
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=expires_at))
    (outcome,) = made.decide([record(expire(held), 50, SERVICE)]).outcomes
    assert made.transaction(held).status == status
    assert (outcome.refusal is None) == (status == "expired")


def test_what_expires_twice_releases_once() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), expires_at=NOON + timedelta(seconds=9)))
    outcomes = made.decide([record(expire(held), number, SERVICE) for number in (50, 51)]).outcomes
    assert [outcome.refusal is None for outcome in outcomes] == [True, False]
    assert figures(made, ALICE) == (10_000, 10_000)


@pytest.mark.parametrize("ending", [capture, void])
def test_what_is_held_can_be_ended_while_accounts_are_frozen(ending: Ends) -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40")))
    for name in (ALICE, BOB):
        made.apply(freeze(name))
    assert made.refusal(ending(held)) is None


def test_what_is_held_can_be_captured_although_limits_are_reached_meanwhile() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40")))
    made.apply(post((ALICE, BANK, "60")))
    made.apply(post((BANK, BOB, "10")))
    assert made.refusal(post((ALICE, BANK, "0.01"))) == "insufficient_funds"
    assert made.refusal(post((BANK, BOB, "0.01"))) == "max_balance_exceeded"
    made.apply(capture(held))
    assert (figures(made, ALICE), figures(made, BOB)) == ((0, 0), (5_000, 5_000))


@pytest.mark.parametrize("pending", [False, True])
def test_a_transaction_is_dated_when_it_was_to_be_executed_if_it_does_not_say(pending: bool) -> None:
    made = books()
    later = replace(post((ALICE, BOB, "1")), pending=pending, execute_at=NOON + timedelta(hours=1))
    assert made.transaction(made.apply(later)).effective_at == NOON + timedelta(hours=1)
    said = replace(later, effective_at=NOON - timedelta(hours=1))
    assert made.transaction(made.apply(said)).effective_at == NOON - timedelta(hours=1)


def test_a_capture_has_a_date_of_its_own() -> None:
    made = books()
    held = made.apply(replace(hold((ALICE, BOB, "40")), effective_at=NOON - timedelta(days=3)))
    made.apply(capture_one(held, "1", final=False))
    made.apply(capture(held, "2", final=False, effective_at=NOON - timedelta(days=9)))
    dates = [link.entry.data.effective_at for link in made.links if isinstance(link.entry.data, TransactionCaptured)]
    assert dates == ["2026-11-22T12:00:08.000000Z", "2026-11-13T12:00:00.000000Z"]
    assert made.transaction(held).effective_at == NOON - timedelta(days=3)


# -- in one turn, by ids that were only just given out -----------------------------------------------------------------


def test_commands_of_one_turn_follow_each_other() -> None:
    made = books()
    before = len(made.links)
    outcomes = made.run(
        hold((ALICE, BOB, "40")), capture_one(job(7), "15"), reverse(job(7)), reverse(job(7)), void(job(7))
    )
    assert [outcome.refusal.code if outcome.refusal else None for outcome in outcomes] == [
        *[None] * 3,
        "already_reversed",
        "transaction_not_pending",
    ]
    assert len(made.links) == before + 3
    assert figures(made, ALICE) == (10_000, 10_000)


def test_what_is_still_to_come_is_not_pending_yet_and_what_was_refused_never_was() -> None:
    made = books()
    made.ledger.waiting = {job(7): 7, job(9): None}
    too_much = hold((ALICE, BOB, "400"))
    codes = [
        outcome.refusal.code if outcome.refusal else None
        for outcome in made.decide(
            [
                record(command, number)
                for number, command in (
                    (5, capture(job(7))),
                    (6, reverse(job(7))),
                    (7, too_much),
                    (8, capture(job(7))),
                    (10, void(job(9))),
                    (11, reverse(job(9))),
                )
            ]
        ).outcomes
    ]
    assert codes == [
        "transaction_not_pending",
        "transaction_not_reversible",
        "insufficient_funds",
        # never there: its hold was refused, so nothing can be committed of it
        "not_found",
        "transaction_not_pending",
        "transaction_not_reversible",
    ]


# -- reversals --------------------------------------------------------------------------------------------------------


def test_a_reversal_swaps_what_was_posted_and_leaves_out_what_was_not() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40"), (ALICE, FEES, "2"), (ALICE, FEES, "1")))
    made.apply(capture(held, "10", "0", "1", final=False))
    made.apply(capture(held, "5", "0", "0"))
    undone = made.apply(reverse(held, reference="refund"))
    event = made.links[-1].entry.data
    assert isinstance(event, TransactionReversed)
    assert [(line.debit, line.credit, line.amount) for line in event.postings] == [
        (BOB, ALICE, "15.00"),
        (FEES, ALICE, "1.00"),
    ]
    original, reversal = made.transaction(held), made.transaction(undone)
    assert (original.status, original.reversed_by, original.reverses) == ("captured", undone, None)
    assert (reversal.status, reversal.reversed_by, reversal.reverses) == ("posted", None, held)
    assert original.version == reversal.version == reversal.seq
    assert "refund" in made.ledger.references
    assert [figures(made, name) for name in (ALICE, BOB, FEES)] == [(10_000, 10_000), (0, 0), (0, 0)]


def test_what_was_refunded_once_is_not_refunded_again() -> None:
    made = books()
    paid = made.apply(post((ALICE, BOB, "40")))
    made.apply(reverse(paid))
    for _ in range(2):
        assert made.refusal(reverse(paid)) == "already_reversed"
    assert figures(made, ALICE) == (10_000, 10_000)


@pytest.mark.parametrize("end", [freeze, close])
def test_what_was_captured_nothing_of_is_no_part_of_the_reversal(end: Callable[[str], Command]) -> None:
    made = books()
    held = made.apply(hold((ALICE, BANK, "40"), (BOB, FEES, "5")))
    made.apply(capture(held, "40", "0"))
    made.apply(end(FEES))
    undone = made.apply(reverse(held))
    assert [(line.debit, line.credit, line.posted) for line in made.transaction(undone).lines] == [(BANK, ALICE, 4_000)]


def test_a_reversal_can_be_reversed_and_so_on() -> None:
    made = books()
    paid = made.apply(post((ALICE, BOB, "40")))
    undone = made.apply(reverse(paid))
    redone = made.apply(reverse(undone))
    assert figures(made, BOB) == (4_000, 4_000)
    assert made.transaction(undone).reversed_by == redone
    assert made.refusal(reverse(paid)) == made.refusal(reverse(undone)) == "already_reversed"
    made.apply(reverse(redone))
    assert figures(made, BOB) == (0, 0)


@pytest.mark.parametrize(
    ("original", "asked", "execute", "dated"),
    [
        (-9, None, None, 80),
        (90, None, None, 90),
        (-9, None, 95, 95),
        (99, None, 95, 99),
        # a schedule's command may be executed late: the reversal is dated when it was asked for
        (-9, None, 40, 80),
        (-9, -9, None, -9),
        (-9, -8, 95, -8),
    ],
)
def test_when_a_reversal_takes_effect(original: int, asked: int | None, execute: int | None, dated: int) -> None:
    def at(seconds: int | None) -> datetime | None:
        return None if seconds is None else NOON + timedelta(seconds=seconds)

    made = books()
    paid = made.apply(replace(post((ALICE, BOB, "4")), effective_at=at(original)))
    made.decide([record(replace(reverse(paid), effective_at=at(asked), execute_at=at(execute)), 80)])
    assert made.transaction(job(80)).effective_at == at(dated)
    assert made.transaction(paid).reversed_by == job(80)


def test_closed_books_refuse_what_would_change_them_and_nothing_else() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "4")))
    paid = made.apply(replace(post((ALICE, FEES, "4")), effective_at=NOON - timedelta(days=3)))
    made.apply(close_period(NOON - timedelta(days=1)))
    for early in (NOON - timedelta(days=2), NOON - timedelta(days=1, microseconds=1)):
        for command in (post((ALICE, BOB, "1")), hold((ALICE, BOB, "1")), capture(held), reverse(paid)):
            assert made.refusal(replace(command, effective_at=early)) == "period_closed"
    made.apply(replace(post((ALICE, BOB, "1")), effective_at=NOON - timedelta(days=1)))
    made.apply(replace(reverse(paid), effective_at=NOON - timedelta(days=1)))
    made.apply(void(held))
    made.apply(close_period(NOON))


# -- accounts ---------------------------------------------------------------------------------------------------------


def test_a_frozen_account_can_be_used_again_and_a_closed_one_never() -> None:
    made = books()
    made.apply(freeze(ALICE))
    assert made.refusal(post((ALICE, BOB, "1"))) == "account_frozen"
    made.apply(unfreeze(ALICE))
    made.apply(post((ALICE, BANK, "100")))
    made.apply(freeze(ALICE))
    made.apply(close(ALICE))
    assert made.account(ALICE).status == "closed"
    assert made.refusal(open_account(ALICE)) == "account_exists"
    for command, code in ((unfreeze(ALICE), "account_closed"), (post((BANK, ALICE, "1")), "account_closed")):
        assert made.refusal(command) == code
    assert [(each.status, each.seq) for each in made.ledger.accounts_before] == [
        ("open", 7),
        ("frozen", 8),
        ("open", 10),
        ("frozen", 11),
    ]


def test_an_account_is_closed_only_when_nothing_is_held_of_it() -> None:
    made = books()
    for line in ((BANK, FEES, "1"), (FEES, BANK, "1")):
        held = made.apply(hold(line))
        assert made.refusal(close(FEES)) == "account_not_empty"
        made.apply(void(held))
    made.apply(close(FEES))


# -- all there is -----------------------------------------------------------------------------------------------------


def sweep(*postings: tuple[str, str, str, str | None], pending: bool = False) -> PostTransaction:
    return PostTransaction(postings=tuple(Posting(*posting) for posting in postings), pending=pending)


@pytest.mark.parametrize(
    ("command", "amounts"),
    [
        (sweep((ALICE, BOB, "available", None)), ["70.00"]),
        (sweep((ALICE, BANK, "available", "25.5")), ["25.50"]),
        (sweep((ALICE, BANK, "available", "1000")), ["70.00"]),
        # what a posting before leaves, and what it brings
        (sweep((ALICE, BANK, "20", None), (ALICE, FEES, "available", None)), ["20.00", "50.00"]),
        (sweep((BANK, ALICE, "5", None), (ALICE, FEES, "available", None)), ["5.00", "75.00"]),
        (sweep((ALICE, FEES, "available", "10"), (ALICE, BANK, "available", None)), ["10.00", "60.00"]),
        # held, it makes nothing available
        (
            sweep(
                (ALICE, FEES, "available", "10"),
                (FEES, ALICE, "3", None),
                (ALICE, FEES, "available", None),
                pending=True,
            ),
            ["10.00", "3.00", "60.00"],
        ),
    ],
)
def test_amounts_available_come_to_what_is_left(command: PostTransaction, amounts: list[str]) -> None:
    made = books()
    made.account(BOB).max_balance = None
    made.apply(hold((ALICE, BOB, "30")))
    made.apply(command)
    event = made.links[-1].entry.data
    assert isinstance(event, TransactionHeld if command.pending else TransactionPosted)
    assert [line.amount for line in event.postings] == amounts


def test_where_both_accounts_pay_the_poorer_one_decides() -> None:
    for have, comes_to in (("30", "30.00"), ("300", "100.00")):
        made = books()
        made.apply(open_account("till"))
        made.apply(post(("till", FEES, have)))
        made.apply(sweep((ALICE, "till", "available", None)))
        event = made.links[-1].entry.data
        assert isinstance(event, TransactionPosted)
        assert event.postings[0].amount == comes_to


def test_all_there_is_leaves_an_overdraft_alone() -> None:
    made = books()
    made.apply(open_account("x", kind="liability", least="-50"))
    assert made.refusal(sweep(("x", BANK, "available", None))) == "insufficient_funds"
    made.apply(post((BANK, "x", "7")))
    made.apply(sweep(("x", BANK, "available", None)))
    assert figures(made, "x") == (0, 0)
    made.apply(post(("x", BANK, "7")))
    assert made.refusal(sweep(("x", BANK, "available", None))) == "insufficient_funds"


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.none() | st.integers(1, 10**6), st.booleans())
def test_all_there_is_never_takes_more(has: int, held: int, most: int | None, pending: bool) -> None:
    def text(minor: int) -> str:
        return f"{minor // 100}.{minor % 100:02}"

    made = Books(create(), open_account(BANK), open_account(ALICE, kind="liability", least="0"))
    made.apply(post((BANK, ALICE, text(has))))
    if 0 < held <= has:
        made.apply(hold((ALICE, BANK, text(held))))
    free = made.account(ALICE).available
    command = sweep((ALICE, BANK, "available", None if most is None else text(most)), pending=pending)
    assert made.refusal(command) == (None if free else "insufficient_funds")
    assert made.account(ALICE).available == max(0, free - (free if most is None else most))


# -- preconditions ----------------------------------------------------------------------------------------------------


def test_preconditions_look_at_what_is_before_the_command_and_not_after() -> None:
    made = books()
    only_once = replace(post((ALICE, BANK, "10")), preconditions=(Precondition(account=ALICE, version=6),))
    assert made.refusal(only_once) is None
    assert made.refusal(only_once) == "precondition_failed"
    made.apply(replace(post((ALICE, BANK, "10")), preconditions=(Precondition(account=ALICE, version=7),)))


def test_a_precondition_may_be_about_an_account_that_nothing_is_posted_to() -> None:
    made = books()
    guarded = replace(post((ALICE, BANK, "10")), preconditions=(Precondition(account=BOB, version=4),))
    assert made.refusal(guarded) is None
    made.apply(post((ALICE, BOB, "1")))
    assert made.refusal(guarded) == "precondition_failed"


# -- what users of other ledgers reported ------------------------------------------------------------------------------


def test_a_credit_limit_counts_what_is_held() -> None:
    """A balance may be overdrawn to a limit; several authorisations together may not go further."""
    made = books()
    made.apply(open_account("card", kind="liability", least="-100"))
    held = [made.apply(hold(("card", BANK, "40"))) for _ in range(2)]
    assert made.refusal(hold(("card", BANK, "40"))) == "insufficient_funds"
    made.apply(void(held[0]))
    made.apply(hold(("card", BANK, "40")))
    made.apply(capture(held[1]))
    assert figures(made, "card") == (-4_000, -8_000)
    assert made.refusal(post(("card", BANK, "20.01"))) == "insufficient_funds"


def test_a_hold_that_was_refused_can_be_neither_committed_nor_released() -> None:
    made = books()
    (outcome,) = made.run(hold((ALICE, BOB, "100.01")))
    assert outcome.refusal is not None
    for command in (capture(outcome.command), void(outcome.command), reverse(outcome.command)):
        assert made.refusal(command) == "not_found"
    assert figures(made, ALICE) == (10_000, 10_000)


def test_one_refusal_among_many_fails_alone() -> None:
    """Siblings on one account neither abort together nor run again one by one."""
    made = books()
    payments: list[Command] = [post((ALICE, BANK, amount)) for amount in ("30", "80", "30", "41", "40", "0.01")]
    refused = [outcome.refusal is not None for outcome in made.run(*payments)]
    assert refused == [False, True, False, True, False, True]
    assert figures(made, ALICE) == (0, 0)


def test_what_was_captured_in_part_is_refunded_in_part() -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "40")))
    made.apply(capture_one(held, "25"))
    made.apply(reverse(held))
    assert (figures(made, ALICE), figures(made, BOB)) == ((10_000, 10_000), (0, 0))
    assert made.refusal(reverse(held)) == "already_reversed"


def test_a_reference_stays_taken_by_what_was_voided_or_expired_and_not_by_what_was_refused() -> None:
    made = books()
    made.apply(void(made.apply(hold((ALICE, BOB, "1"), reference="voided"))))
    expiring = made.apply(hold((ALICE, BOB, "1"), reference="expired", expires_at=NOON + timedelta(seconds=9)))
    made.apply(expire(expiring), SERVICE)
    made.run(hold((ALICE, BOB, "1000"), reference="refused"))
    codes = [made.refusal(post((ALICE, BOB, "1"), reference=name)) for name in ("voided", "expired", "refused")]
    assert codes == ["reference_taken", "reference_taken", None]


@pytest.mark.parametrize("ending", [capture, void])
def test_nobody_else_asks_in_the_name_of_the_service(ending: Ends) -> None:
    made = books()
    held = made.apply(hold((ALICE, BOB, "1"), expires_at=NOON + timedelta(seconds=1)))
    assert made.refusal(expire(held), ADA) == "not_found"
    assert made.refusal(ending(held), SERVICE) == "not_found"
