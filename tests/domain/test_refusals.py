"""Which rule refuses what, in which words, and which comes first when a command breaks several.

Every row of `REFUSALS` is a command to the books of `standard_books`. The precedence below is the contract's (section
2, "At apply"): codes in this order, then postings in theirs.
"""

from __future__ import annotations

from itertools import chain, combinations
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from domain.errors import CATALOGUE, Fault
from domain.ledger.events import MetadataChanged
from domain.ledger.model import Member
from domain.messages import Command, Refusal
from tests.books import (
    ADA,
    DAN,
    EVE,
    KIM,
    NOBODY,
    Books,
    create,
    grant,
    member,
    open_account,
    post,
    record,
    register,
    revoke,
    standard_books,
    update,
)

PRECEDENCE = (
    "not_found",
    "validation_failed",
    "account_exists",
    "currency_exists",
    "reference_taken",
    "account_not_found",
    "currency_unknown",
    "currency_mismatch",
    "amount_scale",
    "precondition_failed",
    "amount_overflow",
    "insufficient_funds",
    "max_balance_exceeded",
)


class Row(NamedTuple):
    """A command that is refused: with which code, where, which value is at fault there, and in which words.

    What is wrong with a user in the path, nothing can point at.
    """

    command: Command
    code: str
    pointer: str | None
    place: str
    detail: str

    @property
    def refusal(self) -> Refusal:
        faults = () if self.pointer is None else (Fault(self.pointer, self.place),)
        return Refusal(self.code, self.detail, faults)


BANK, ALICE, BOB, TOKYO, VAULT = "assets:bank", "wallets:alice", "wallets:bob", "assets:tokyo", "assets:vault"
TOO_MUCH = "9" * 37

REFUSALS = {
    "a grant to nobody": Row(grant(NOBODY, "reader"), "not_found", None, "", f"There is no user {NOBODY}."),
    "a grant to somebody disabled": Row(grant(DAN, "reader"), "not_found", None, "", f"There is no user {DAN}."),
    "a grant taken from nobody": Row(revoke(NOBODY), "not_found", None, "", f"Nothing was granted to {NOBODY}."),
    "a grant taken from who has none": Row(revoke(EVE), "not_found", None, "", f"Nothing was granted to {EVE}."),
    "the last owner demoted": Row(
        grant(ADA, "writer"),
        "precondition_failed",
        None,
        "",
        f"{ADA} is the last owner of acme: make another one first.",
    ),
    "the last owner gone": Row(
        revoke(ADA), "precondition_failed", None, "", f"{ADA} is the last owner of acme: make another one first."
    ),
    "more metadata than fits": Row(
        update(**{f"k{number}": "" for number in range(51)}),
        "validation_failed",
        "#/metadata",
        "must leave at most 50 keys",
        "That would make 51 keys of metadata; 50 is the most.",
    ),
    "a currency by ISO 4217": Row(
        register("USD", 2), "currency_exists", "#/code", "USD", "USD is known already, with scale 2."
    ),
    "a currency registered twice": Row(
        register("POINTS", 3), "currency_exists", "#/code", "POINTS", "POINTS is known already, with scale 0."
    ),
    "an account opened twice": Row(
        open_account(BANK), "account_exists", "#/name", BANK, "There is an account assets:bank already."
    ),
    "an account in a currency nobody knows": Row(
        open_account("new", "SHELLS"),
        "currency_unknown",
        "#/currency",
        "SHELLS",
        "SHELLS is neither an ISO 4217 currency nor registered in this ledger.",
    ),
    "an ISO code without a minor unit": Row(
        open_account("new", "XAU"),
        "currency_unknown",
        "#/currency",
        "XAU",
        "XAU is neither an ISO 4217 currency nor registered in this ledger.",
    ),
    "a minimum too fine for the currency": Row(
        open_account("new", least="-1.001"),
        "amount_scale",
        "#/min_balance",
        "-1.001",
        "-1.001 has more decimals than the 2 of USD.",
    ),
    "a maximum too fine for the currency": Row(
        open_account("new", "JPY", most="1.0"),
        "amount_scale",
        "#/max_balance",
        "1.0",
        "1.0 has more decimals than the 0 of JPY.",
    ),
    "a minimum too large": Row(
        open_account("new", least=f"-{TOO_MUCH}"),
        "amount_overflow",
        "#/min_balance",
        f"-{TOO_MUCH}",
        "A limit must stay below 10^38 minor units.",
    ),
    "a maximum too large": Row(
        open_account("new", least="0", most=TOO_MUCH),
        "amount_overflow",
        "#/max_balance",
        TOO_MUCH,
        "A limit must stay below 10^38 minor units.",
    ),
    "a reference used before": Row(
        post((BANK, BOB, "1"), reference="taken"),
        "reference_taken",
        "#/reference",
        "taken",
        "taken names another transaction.",
    ),
    "a debit of no account": Row(
        post((BANK, ALICE, "1"), ("ghost", ALICE, "1")),
        "account_not_found",
        "#/postings/1",
        "ghost",
        "There is no account ghost.",
    ),
    "a credit to no account": Row(
        post((BANK, "ghost", "1")), "account_not_found", "#/postings/0", "ghost", "There is no account ghost."
    ),
    "two accounts, two currencies": Row(
        post((BANK, TOKYO, "1")),
        "currency_mismatch",
        "#/postings/0",
        TOKYO,
        "assets:bank is in USD and assets:tokyo is in JPY.",
    ),
    "an amount too fine for the currency": Row(
        post((BANK, ALICE, "1"), (BANK, ALICE, "1.001")),
        "amount_scale",
        "#/postings/1/amount",
        "1.001",
        "1.001 has more decimals than the 2 of USD.",
    ),
    "zeros too many for the currency": Row(
        post((BANK, ALICE, "1.000")),
        "amount_scale",
        "#/postings/0/amount",
        "1.000",
        "1.000 has more decimals than the 2 of USD.",
    ),
    "a total of debits at 10^38": Row(
        post((VAULT, BANK, "0.01")),
        "amount_overflow",
        "#/postings/0",
        VAULT,
        "A total of assets:vault would reach 10^38 minor units.",
    ),
    "a total at 10^38 that the balance would not show": Row(
        post((VAULT, BANK, "0.01"), (BANK, VAULT, "0.01")),
        "amount_overflow",
        "#/postings/0",
        VAULT,
        "A total of assets:vault would reach 10^38 minor units.",
    ),
    "more than Alice has": Row(
        post((ALICE, BANK, "75")),
        "insufficient_funds",
        "#/postings/0",
        ALICE,
        "wallets:alice has 60.00 USD available; 75.00 needed.",
    ),
    "more than Alice has, in two postings": Row(
        post((BOB, BANK, "1"), (ALICE, BANK, "30"), (ALICE, BOB, "30.01")),
        "insufficient_funds",
        "#/postings/1",
        ALICE,
        "wallets:alice has 60.00 USD available; 60.01 needed.",
    ),
    "more than an overdraft covers": Row(
        post(("wallets:carol", BANK, "50.01")),
        "insufficient_funds",
        "#/postings/0",
        "wallets:carol",
        "wallets:carol has 0.00 USD available and may not fall below -50.00; 50.01 needed.",
    ),
    "more than Bob may have": Row(
        post((BANK, BOB, "10.01")),
        "max_balance_exceeded",
        "#/postings/0",
        BOB,
        "wallets:bob has 90.00 USD and may not rise above 100.00; 10.01 more would.",
    ),
}


def books() -> Books:
    made = standard_books()
    for outcome in made.run(
        register("POINTS", 0), open_account("wallets:carol", kind="liability", least="-50"), open_account("wallets:dan")
    ):
        assert outcome.refusal is None
    return made


def refusal_of(made: Books, command: Command, *, stranger: bool = False) -> Refusal | None:
    return made.run(command, principal=EVE if stranger else ADA)[0].refusal


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(row: Row) -> None:
    made = books()
    before, head = made.state(), made.head
    assert refusal_of(made, row.command) == row.refusal
    assert (made.state(), made.head) == (before, head)


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_who_was_granted_nothing_learns_nothing(row: Row) -> None:
    assert refusal_of(books(), row.command, stranger=True) == Refusal("not_found", "There is no ledger acme.")


OF_WRITERS = [register("SHELLS", 0), open_account("new"), post((BANK, ALICE, "1"))]
OF_OWNERS = [update(a="1"), grant(KIM, "reader"), grant(EVE, "reader"), revoke(EVE)]


@pytest.mark.parametrize("command", [*OF_WRITERS, *OF_OWNERS])
def test_a_ledger_that_was_never_created_refuses_its_owner_too(command: Command) -> None:
    assert refusal_of(Books(), command) == Refusal("not_found", "There is no ledger acme.")


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (member("reader"), []),
        (member("writer"), OF_WRITERS),
        (member("owner"), [*OF_WRITERS, *OF_OWNERS]),
        (member(roles=["admin"]), [*OF_WRITERS, *OF_OWNERS[:-1]]),
        (member(roles=["operator"]), []),
        (member("owner", active=False), []),
        (member("owner", roles=["admin"], active=False), []),
    ],
)
def test_authority_is_looked_at_when_the_command_is_applied(who: Member, may: list[Command]) -> None:
    for command in (*OF_WRITERS, *OF_OWNERS):
        made = books()
        made.ledger.members[EVE] = replace(who)
        refusal = refusal_of(made, command, stranger=True)
        assert (refusal is None) == (command in may), command
        assert refusal is None or refusal.code == "not_found"


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (member(), True),
        (member(roles=["admin"]), True),
        (member(roles=["operator"]), False),
        (member(roles=[]), False),
        (member(active=False), False),
        (member(roles=["admin"], active=False), False),
    ],
)
def test_who_creates_a_ledger_must_still_be_allowed_to_when_that_is_applied(who: Member, may: bool) -> None:
    made = Books()
    made.ledger.members[EVE] = replace(who)
    refusal = refusal_of(made, create(), stranger=True)
    expected = Refusal("not_found", "There is nobody to own the ledger acme.")
    assert refusal == (None if may else expected)
    assert (made.ledger.profile is not None) == may


def test_a_writer_whose_grant_is_gone_is_refused_as_a_stranger_is() -> None:
    made = books()
    made.run(grant(EVE, "writer"))
    assert refusal_of(made, OF_WRITERS[0], stranger=True) is None
    made.run(revoke(EVE))
    assert refusal_of(made, OF_WRITERS[1], stranger=True) == Refusal("not_found", "There is no ledger acme.")


def test_what_is_granted_counts_for_the_next_command_of_the_same_turn() -> None:
    made = books()
    commands = [
        record(command, number, who)
        for number, (who, command) in enumerate(
            [
                (EVE, open_account("one")),
                (ADA, grant(EVE, "writer")),
                (EVE, open_account("two")),
                (EVE, grant(KIM, "reader")),
                (ADA, grant(EVE, "owner")),
                (EVE, revoke(ADA)),
                (ADA, open_account("three")),
                (EVE, grant(ADA, "reader")),
                (ADA, open_account("four")),
            ],
            100,
        )
    ]
    refused = [outcome.refusal is not None for outcome in made.decide(commands).outcomes]
    assert refused == [True, False, False, True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("other", "may"),
    [
        (member("owner"), True),
        (member("owner", active=False), False),
        (member("writer"), False),
        (member(roles=["admin"]), False),
    ],
)
def test_a_ledger_keeps_an_owner_who_can_log_in(other: Member, may: bool) -> None:
    for command in (revoke(ADA), grant(ADA, "reader")):
        made = books()
        made.ledger.members[KIM] = replace(other)
        assert (code_of(made, command) is None) == may
        assert refusal_of(made, grant(ADA, "owner")) is None or may


def test_one_of_two_owners_may_go_and_not_the_other() -> None:
    made = books()
    outcomes = made.run(grant(EVE, "owner"), revoke(EVE), grant(EVE, "owner"), grant(EVE, "writer"), revoke(ADA))
    assert [outcome.refusal.code if outcome.refusal else None for outcome in outcomes] == [
        *[None] * 4,
        "precondition_failed",
    ]


def test_somebody_disabled_can_be_put_out() -> None:
    made = books()
    made.ledger.members[DAN].grant = "owner"
    assert refusal_of(made, grant(DAN, "reader")) is not None
    assert refusal_of(made, revoke(DAN)) is None


def test_metadata_is_merged_and_what_is_null_goes() -> None:
    made = books()
    made.run(update(b="1", a="2"), update(b=None, c="3", ghost=None), update())
    assert [link.entry.data for link in made.links[-3:]] == [
        MetadataChanged(metadata={"a": "2", "b": "1"}),
        MetadataChanged(metadata={"a": "2", "c": "3"}),
        MetadataChanged(metadata={"a": "2", "c": "3"}),
    ]


def test_only_what_is_left_of_metadata_is_counted() -> None:
    made = books()
    fifty = {f"k{number}": "" for number in range(50)}
    assert refusal_of(made, update(**fifty)) is None
    assert code_of(made, update(one_more="")) == "validation_failed"
    assert refusal_of(made, update(**dict.fromkeys(fifty), **{f"l{number}": "" for number in range(50)})) is None


@pytest.mark.parametrize(
    "command",
    [
        post((ALICE, BANK, "60")),
        post((BANK, BOB, "10")),
        post(("wallets:carol", BANK, "50.00")),
        # in and out again: only where the whole transaction leaves an account counts
        post((ALICE, BANK, "75"), (BANK, ALICE, "15")),
        post((BANK, BOB, "500"), (BOB, ALICE, "490")),
        # an account without limits may go where it likes
        post((BOB, BANK, "1000")),
        post(("wallets:dan", BANK, "9999999")),
        post((BANK, ALICE, "1"), reference="new"),
        post((BANK, ALICE, "0.10")),
    ],
)
def test_not_refused(command: Command) -> None:
    assert refusal_of(books(), command) is None


@pytest.mark.parametrize(
    ("limited", "towards", "away"),
    [
        (open_account("x", kind="liability", least="0"), post(("x", BANK, "1")), post((BANK, "x", "1"))),
        (open_account("x", kind="asset", least="0"), post((BANK, "x", "1")), post(("x", BANK, "1"))),
        (open_account("x", kind="liability", most="0"), post((BANK, "x", "1")), post(("x", BANK, "1"))),
        (open_account("x", kind="asset", most="0"), post(("x", BANK, "1")), post((BANK, "x", "1"))),
    ],
)
def test_a_limit_stops_only_what_moves_towards_it(limited: Command, towards: Command, away: Command) -> None:
    made = books()
    made.run(limited)
    assert refusal_of(made, towards) is not None
    assert refusal_of(made, away) is None


def test_an_account_beyond_its_limit_may_move_back_towards_it() -> None:
    made = books()
    made.account(ALICE).min_balance = 10_000
    assert refusal_of(made, post((BANK, ALICE, "1"))) is None
    assert refusal_of(made, post((ALICE, BANK, "1"), (BANK, ALICE, "1"))) is None
    assert refusal_of(made, post((ALICE, BANK, "0.01"))) is not None


def test_holds_reserve_what_is_available_and_leave_room_below_the_maximum() -> None:
    made = books()
    made.account(ALICE).pending_debits = 2_000
    made.account(BOB).pending_credits = 1_000
    refusal = refusal_of(made, post((ALICE, BANK, "40.01")))
    assert refusal is not None
    assert refusal.detail == "wallets:alice has 40.00 USD available; 40.01 needed."
    assert refusal_of(made, post((ALICE, BANK, "40"))) is None
    refusal = refusal_of(made, post((BANK, BOB, "0.01")))
    assert refusal is not None
    assert refusal.code == "max_balance_exceeded"


# -- precedence -------------------------------------------------------------------------------------------------------

# One posting for each code that breaks this rule and no other.
BREAKS = {
    "account_not_found": (BANK, "ghost", "1"),
    "currency_mismatch": (BANK, TOKYO, "1"),
    "amount_scale": (BANK, ALICE, "0.001"),
    "amount_overflow": (VAULT, BANK, "1"),
    "insufficient_funds": (ALICE, BANK, "75"),
    "max_balance_exceeded": (BANK, BOB, "50"),
}
FINE = (BANK, "wallets:dan", "1")


def subsets(codes: tuple[str, ...]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(codes, size) for size in range(1, len(codes) + 1)))


def code_of(made: Books, command: Command, *, stranger: bool = False) -> str | None:
    refusal = refusal_of(made, command, stranger=stranger)
    return None if refusal is None else refusal.code


@pytest.mark.parametrize("code", BREAKS)
def test_each_of_those_postings_breaks_its_own_rule(code: str) -> None:
    assert code_of(books(), post(BREAKS[code])) == code


def test_whatever_else_a_transaction_breaks_the_first_code_counts() -> None:
    made = books()
    codes = ("not_found", "reference_taken", *BREAKS)
    for broken in subsets(codes):
        # the postings in the reverse order, so that only precedence can bring the right one to the front
        lines = [BREAKS[code] for code in reversed(broken) if code in BREAKS] or [FINE]
        command = post(*lines, reference="taken" if "reference_taken" in broken else None)
        found = code_of(made, command, stranger="not_found" in broken)
        assert found == min(broken, key=PRECEDENCE.index), broken


@pytest.mark.parametrize("code", BREAKS)
def test_of_one_code_the_first_posting_counts(code: str) -> None:
    second = {
        "account_not_found": ("nobody", BANK, "1"),
        "currency_mismatch": (TOKYO, ALICE, "1"),
        "amount_scale": (BANK, ALICE, "5.123"),
        "amount_overflow": (BANK, "equity:vault", "1"),
        "insufficient_funds": ("wallets:carol", BANK, "75"),
        "max_balance_exceeded": (BANK, "wallets:eric", "75"),
    }[code]
    made = books()
    made.run(open_account("wallets:eric", kind="liability", most="0"))
    for lines in ([FINE, BREAKS[code], second], [FINE, second, BREAKS[code]]):
        refusal = refusal_of(made, post(*lines))
        assert refusal is not None
        assert refusal.code == code
        assert refusal.faults[0].pointer.startswith("#/postings/1")
        assert refusal.faults[0].detail in lines[1]


def test_whatever_else_the_opening_of_an_account_breaks_the_first_code_counts() -> None:
    made = books()
    for broken in subsets(("not_found", "account_exists", "currency_unknown", "amount_scale", "amount_overflow")):
        command = open_account(
            BANK if "account_exists" in broken else "new",
            "SHELLS" if "currency_unknown" in broken else "USD",
            least="-1.001" if "amount_scale" in broken else None,
            most=TOO_MUCH if "amount_overflow" in broken else None,
        )
        assert code_of(made, command, stranger="not_found" in broken) == min(broken, key=PRECEDENCE.index), broken


def test_a_stranger_does_not_learn_which_currencies_there_are() -> None:
    assert code_of(books(), register("USD", 2), stranger=True) == "not_found"


def test_creating_is_never_refused_since_the_id_was_reserved() -> None:
    made = Books()
    assert refusal_of(made, create()) is None


def test_the_table_knows_every_code_that_a_command_can_be_refused_with() -> None:
    assert {row.code for row in REFUSALS.values()} | {"not_found"} == set(PRECEDENCE)
    assert set(PRECEDENCE) <= CATALOGUE.keys()
