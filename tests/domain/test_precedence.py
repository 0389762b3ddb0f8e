"""When a command breaks several rules at once, the contract's first code names the refusal; of one code, the first
posting. Every subset of what a command can break is tried, for every kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from itertools import chain, combinations
from typing import Final

import pytest
from msgspec.structs import replace

from domain.ledger.commands import AVAILABLE, Posting, PostTransaction, Precondition
from domain.ledger.schedules import CancelSchedule, PauseSchedule, ResumeSchedule
from domain.messages import Command
from tests.books import (
    ADA,
    DAN,
    EVE,
    LARGEST,
    NOON,
    Books,
    capture,
    close,
    close_period,
    daily,
    describe,
    freeze,
    grant,
    hold,
    open_account,
    post,
    register,
    reverse,
    revoke,
    unfreeze,
    update,
    void,
)
from tests.domain.test_refusals import (
    ALICE,
    BANK,
    BOB,
    CLEO,
    DAILY,
    DANS,
    FRED,
    GHOST,
    HANA,
    HELD,
    LAST_YEAR,
    PAUSED,
    PRECEDENCE,
    TOKYO,
    TOO_MUCH,
    VAULT,
    books,
)

STRANGER: Final = "not_found"
# One posting for each code that breaks this rule and no other.
BREAKS: Final = {
    "validation_failed": (BANK, ALICE, AVAILABLE),
    "account_not_found": (BANK, "ghost", "1"),
    "currency_mismatch": (BANK, TOKYO, "1"),
    "amount_scale": (BANK, ALICE, "0.001"),
    "account_closed": (BANK, CLEO, "1"),
    "account_frozen": (BANK, FRED, "1"),
    "amount_overflow": (VAULT, BANK, "1"),
    "insufficient_funds": (ALICE, BANK, "75"),
    "max_balance_exceeded": (BANK, BOB, "50"),
}
FINE: Final = (BANK, DANS, "1")


def subsets(codes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(codes, size) for size in range(1, len(codes) + 1))


def first(broken: Collection[str]) -> str:
    return min(broken, key=PRECEDENCE.index)


def code_of(made: Books, command: Command, *, stranger: bool = False) -> str | None:
    return made.refusal(command, EVE if stranger else ADA)


def holding(*lines: tuple[str, str, str], reference: str | None = None) -> PostTransaction:
    """A vault is full, so of its holds only the sum can overflow."""
    return hold(*[(debit, credit, TOO_MUCH if debit == VAULT else amount) for debit, credit, amount in lines],
                reference=reference)  # fmt: skip


KINDS: Final = [post, holding]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", BREAKS)
def test_each_of_those_postings_breaks_its_own_rule(code: str, kind: Callable[..., PostTransaction]) -> None:
    assert code_of(books(), kind(BREAKS[code])) == code


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_else_a_transaction_breaks_the_first_code_counts(kind: Callable[..., PostTransaction]) -> None:
    made = books()
    for broken in subsets((STRANGER, "reference_taken", "period_closed", "precondition_failed", *BREAKS)):
        # the postings in the reverse order, so that only precedence can bring the right one to the front
        lines = [BREAKS[code] for code in reversed(broken) if code in BREAKS] or [FINE]
        command = replace(
            kind(*lines, reference="taken" if "reference_taken" in broken else None),
            effective_at=LAST_YEAR if "period_closed" in broken else None,
            preconditions=(Precondition(account=BANK, version=1),) if "precondition_failed" in broken else None,
        )
        assert code_of(made, command, stranger=STRANGER in broken) == first(broken), broken


@pytest.mark.parametrize("code", BREAKS)
def test_of_one_code_the_first_posting_counts(code: str) -> None:
    second = {
        "validation_failed": (TOKYO, BOB, AVAILABLE),
        "account_not_found": ("nobody", BANK, "1"),
        "currency_mismatch": (TOKYO, ALICE, "1"),
        "amount_scale": (BANK, ALICE, "5.123"),
        "account_closed": ("wallets:cora", BANK, "1"),
        "account_frozen": ("wallets:fritz", BANK, "1"),
        "amount_overflow": (BANK, "equity:vault", "1"),
        "insufficient_funds": ("wallets:carol", BANK, "75"),
        "max_balance_exceeded": (BANK, "wallets:eric", "75"),
    }[code]
    made = books()
    made.apply(open_account("wallets:eric", kind="liability", most="0"))
    made.account("equity:vault").posted_credits = LARGEST
    for name, status in (("wallets:cora", "closed"), ("wallets:fritz", "frozen")):
        made.apply(open_account(name))
        made.account(name).status = status
    for lines in ([FINE, BREAKS[code], second], [FINE, second, BREAKS[code]]):
        (outcome,) = made.run(post(*lines))
        assert outcome.refusal is not None
        assert outcome.refusal.code == code
        fault = outcome.refusal.faults[0]
        assert fault.pointer.startswith("#/postings/1")
        assert code == "validation_failed" or fault.detail in lines[1]


def test_a_posting_that_finds_nothing_and_one_that_asks_too_much_are_refused_in_their_order() -> None:
    made = books()
    nothing, too_much = Posting("wallets:carol", BANK, AVAILABLE), Posting(ALICE, BANK, "75")
    for postings, name in (((nothing, too_much), "wallets:carol"), ((too_much, nothing), ALICE)):
        (outcome,) = made.run(PostTransaction(postings=postings))
        assert outcome.refusal is not None
        assert (outcome.refusal.code, outcome.refusal.faults[0].detail) == ("insufficient_funds", name)
        assert outcome.refusal.faults[0].pointer == "#/postings/0"


def test_postings_come_before_preconditions() -> None:
    made = books()
    missing = (Precondition(account="nobody", version=1),)
    for command, place in (
        (replace(post((BANK, "ghost", "1")), preconditions=missing), "ghost"),
        (replace(post(FINE), preconditions=missing), "nobody"),
    ):
        (outcome,) = made.run(command)
        assert outcome.refusal is not None
        assert (outcome.refusal.code, outcome.refusal.faults[0].detail) == ("account_not_found", place)


def test_whatever_else_the_opening_of_an_account_breaks_the_first_code_counts() -> None:
    made = books()
    for broken in subsets((STRANGER, "account_exists", "currency_unknown", "amount_scale", "amount_overflow")):
        command = open_account(
            BANK if "account_exists" in broken else "new",
            "SHELLS" if "currency_unknown" in broken else "USD",
            least="-1.001" if "amount_scale" in broken else None,
            most=TOO_MUCH if "amount_overflow" in broken else None,
        )
        assert code_of(made, command, stranger=STRANGER in broken) == first(broken), broken


@pytest.mark.parametrize("ended", ["", "transaction_not_pending", "transaction_expired"])
def test_whatever_else_a_capture_breaks_the_first_code_counts(ended: str) -> None:
    made = books()
    late = NOON + timedelta(seconds=100) if ended == "transaction_expired" else None
    held = made.apply(hold((HANA, BANK, "4"), (VAULT, "equity:vault", "1"), expires_at=late))
    if ended == "transaction_not_pending":
        made.apply(void(held))
    if late is not None:
        # each command is accepted a second after the one before
        made.run(*[void(held)] * 100, principal=EVE)
    codes = [STRANGER, "validation_failed", "amount_scale", "capture_exceeds_hold", "period_closed", "amount_overflow"]
    for broken in subsets([*codes, *([ended] if ended else [])]):
        if ended and ended not in broken:
            continue
        command = capture(
            held,
            "9" if "capture_exceeds_hold" in broken else "1",
            "0.001" if "amount_scale" in broken else "1" if "amount_overflow" in broken else "0",
            *(["1"] if "validation_failed" in broken else []),
            effective_at=LAST_YEAR if "period_closed" in broken else None,
        )
        assert code_of(made, command, stranger=STRANGER in broken) == first(broken), broken


def test_whatever_else_a_reversal_breaks_the_first_code_counts() -> None:
    made = books()
    postings = {
        "account_closed": (BANK, "wallets:x"),
        "account_frozen": (BANK, "wallets:y"),
        "amount_overflow": (BANK, "assets:z"),
        "insufficient_funds": (BANK, "wallets:poor"),
        "max_balance_exceeded": ("wallets:rich", BANK),
    }
    made.apply(open_account("wallets:rich", kind="liability", most="0"))
    made.apply(open_account("wallets:poor", kind="liability", least="0"))
    for name in ("wallets:x", "wallets:y", "assets:z"):
        made.apply(open_account(name, kind="equity"))
    after = LAST_YEAR + timedelta(days=1)
    # everything that a reversal depends on, before the period is closed and the accounts become what they are
    made.ledger.closed_before = None
    originals = {
        (on, reversed_, old): made.apply(
            replace(
                post(*[(*postings[code], "1") for code in reversed(on)] or [FINE]),
                effective_at=LAST_YEAR if old else NOON,
            )
        )
        for on in [(), *subsets([*postings])]
        for reversed_ in (False, True)
        for old in (False, True)
    }
    for (_, reversed_, _), original in originals.items():
        if reversed_:
            made.apply(reverse(original))
    made.ledger.closed_before = NOON - timedelta(days=1)
    made.account("wallets:x").status, made.account("wallets:y").status = "closed", "frozen"
    made.account("assets:z").posted_debits = LARGEST
    poor, rich = made.account("wallets:poor"), made.account("wallets:rich")
    poor.posted_debits, rich.posted_credits = poor.posted_credits, rich.posted_debits
    codes = (STRANGER, "validation_failed", "reference_taken", "already_reversed", "period_closed", *postings)
    for broken in subsets(codes):
        old = "period_closed" in broken
        when = after if old else None
        if "validation_failed" in broken:
            when = (LAST_YEAR if old else NOON) - timedelta(seconds=1)
        on = tuple(code for code in broken if code in postings)
        command = reverse(
            originals[on, "already_reversed" in broken, old],
            effective_at=when,
            reference="taken" if "reference_taken" in broken else None,
        )
        assert code_of(made, command, stranger=STRANGER in broken) == first(broken), broken


def test_whatever_else_the_reversal_of_what_is_held_breaks_the_first_code_counts() -> None:
    made = books()
    held = made.apply(hold((HANA, BANK, "1")))
    for broken in subsets((STRANGER, "validation_failed", "reference_taken", "period_closed")):
        before = "validation_failed" in broken or "period_closed" in broken
        command = reverse(
            held,
            effective_at=LAST_YEAR if before else None,
            reference="taken" if "reference_taken" in broken else None,
        )
        found = code_of(made, command, stranger=STRANGER in broken)
        # in a closed period, what is held now is always dated before itself
        expected = {"validation_failed" if code == "period_closed" else code for code in broken}
        assert found == first({*expected, "transaction_not_reversible"}), broken


def test_whatever_else_closing_and_freezing_break_the_first_code_counts() -> None:
    made = books()
    made.account(CLEO).posted_debits += 1
    for command, expected in (
        (close(CLEO), "account_status"),
        (freeze(CLEO), "account_closed"),
        (unfreeze(CLEO), "account_closed"),
    ):
        assert code_of(made, command) == expected
        assert code_of(made, command, stranger=True) == STRANGER


MANY: Final = {f"k{number}": "" for number in range(51)}


def test_whatever_else_is_wrong_what_is_not_there_comes_first() -> None:
    made = books()
    owner, gone = made.ledger.members[ADA], made.ledger.members[DAN]
    assert code_of(made, describe("ghost", **MANY)) == "not_found"
    assert code_of(made, describe(GHOST, **MANY)) == "not_found"
    # the last owner, who was disabled, can't be told from nobody; to whom nothing was granted, nothing is left
    owner.grant, gone.grant = None, "owner"
    owner.roles = frozenset({"admin"})
    assert code_of(made, grant(DAN, "reader")) == "not_found"
    assert code_of(made, revoke(DAN)) == "precondition_failed"


@pytest.mark.parametrize(
    "command",
    [
        *(close("ghost"), close_period(LAST_YEAR), describe(ALICE, **MANY), describe(HELD, **MANY), update(**MANY)),
        *(register("USD", 2), grant(ADA, "reader"), revoke(ADA)),
        *(daily(DAILY), PauseSchedule(schedule=PAUSED), ResumeSchedule(schedule=DAILY), CancelSchedule(schedule=GHOST)),
    ],
)
def test_a_stranger_learns_nothing_else(command: Command) -> None:
    assert code_of(books(), command, stranger=True) == STRANGER
