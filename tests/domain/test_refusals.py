"""Which rule refuses what, in which words, and which comes first when a command breaks several.

Every row of `REFUSALS` is a command to the books of `standard_books`. The precedence below is the contract's (section
2, "At apply"): codes in this order, then postings in theirs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from msgspec.structs import replace

from domain.catalog import KIND_OF
from domain.errors import CATALOGUE, Fault
from domain.ledger.commands import Bounds, CreateLedger, Posting, PostTransaction, Precondition
from domain.ledger.events import MetadataChanged
from domain.ledger.model import SERVICE, Member
from domain.ledger.schedules import CancelSchedule, PauseSchedule, ResumeSchedule
from domain.messages import Command, Refusal
from tests.books import (
    ADA,
    DAN,
    EVE,
    KIM,
    NOBODY,
    NOON,
    Books,
    capture,
    capture_one,
    close,
    close_period,
    create,
    daily,
    describe,
    expire,
    freeze,
    grant,
    hold,
    job,
    member,
    open_account,
    post,
    record,
    register,
    reverse,
    revoke,
    standard_books,
    unfreeze,
    update,
    void,
)
from tests.domain.test_users import REFUSALS as OF_USERS

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
    "transaction_not_pending",
    "transaction_expired",
    "transaction_not_reversible",
    "already_reversed",
    "capture_exceeds_hold",
    "period_closed",
    "account_closed",
    "account_frozen",
    "account_status",
    "account_not_empty",
    "precondition_failed",
    "amount_overflow",
    "insufficient_funds",
    "max_balance_exceeded",
)


class Row(NamedTuple):
    """A command that is refused: with which code, where, which value is at fault there, and in which words.

    What is wrong with a user in the path, nothing can point at. `who` asks for it.
    """

    command: Command
    code: str
    pointer: str | None
    place: str
    detail: str
    who: UUID = ADA

    @property
    def refusal(self) -> Refusal:
        faults = () if self.pointer is None else (Fault(self.pointer, self.place),)
        return Refusal(self.code, self.detail, faults)


BANK, ALICE, BOB, TOKYO, VAULT = "assets:bank", "wallets:alice", "wallets:bob", "assets:tokyo", "assets:vault"
CAROL, DANS, HANA, FRED, CLEO = (f"wallets:{name}" for name in ("carol", "dan", "hana", "fred", "cleo"))
TOO_MUCH = "9" * 37
LAST_YEAR, LAST_NIGHT = NOON - timedelta(days=330), NOON - timedelta(hours=12)

MORE: dict[str, tuple[Command, UUID]] = {
    "points": (register("POINTS", 0), ADA),
    "carol": (open_account(CAROL, kind="liability", least="-50"), ADA),
    "dan": (open_account(DANS), ADA),
    "hana": (open_account(HANA, kind="liability", least="0"), ADA),
    "fred": (open_account(FRED), ADA),
    "cleo": (open_account(CLEO), ADA),
    "plain": (post((BANK, HANA, "100")), ADA),
    "fred's": (post((FRED, DANS, "1")), ADA),
    "cleo's": (post((CLEO, DANS, "1")), ADA),
    "cleo's back": (post((DANS, CLEO, "1")), ADA),
    "bob's": (post((BOB, BANK, "50")), ADA),
    "bob's back": (post((BANK, BOB, "50")), ADA),
    "old": (replace(post((DANS, BANK, "1")), effective_at=LAST_YEAR), ADA),
    "held": (hold((HANA, BANK, "40")), ADA),
    "pair": (hold((HANA, BANK, "10"), (HANA, DANS, "5")), ADA),
    "voided": (hold((HANA, BANK, "1")), ADA),
    "voiding": (void(job(9 + 16)), ADA),
    "expired": (hold((HANA, BANK, "1"), expires_at=NOON + timedelta(seconds=9 + 19)), ADA),
    "expiry": (expire(job(9 + 18)), SERVICE),
    "late": (hold((HANA, BANK, "2"), expires_at=NOON + timedelta(seconds=9 + 21)), ADA),
    "reversed": (post((DANS, BANK, "3")), ADA),
    "reversal": (reverse(job(9 + 21)), ADA),
    "brim": (hold((VAULT, "equity:vault", "1")), ADA),
    "vault's": (reverse(job(9)), ADA),
    "frozen": (freeze(FRED), ADA),
    "closed": (close(CLEO), ADA),
    "period": (close_period(NOON - timedelta(days=1)), ADA),
    "daily": (daily(), ADA),
    "pausing": (daily(), ADA),
    "paused": (PauseSchedule(schedule=job(10 + 28)), ADA),
    "ending": (daily(), ADA),
    "cancelled": (CancelSchedule(schedule=job(10 + 30)), ADA),
    "long": (hold((BANK, DANS, "1"), expires_at=NOON + timedelta(hours=1)), ADA),
}
"""What happens to the standard books, which are nine commands, before anything is refused; and who asks for it."""
JOBS = {name: job(10 + index) for index, name in enumerate(MORE)}
PLAIN, HELD, PAIR, VOIDED, EXPIRED, LATE = (
    JOBS[name] for name in ("plain", "held", "pair", "voided", "expired", "late")
)
REVERSED, BRIM, GHOST, SCHEDULED = JOBS["reversed"], JOBS["brim"], job(998), job(999)
DAILY, PAUSED, CANCELLED = JOBS["daily"], JOBS["pausing"], JOBS["ending"]


def balancing(debit: str, credit: str, most: str | None = None) -> PostTransaction:
    return PostTransaction(postings=(Posting(debit, credit, "available", most),))


def provided(**expected: Any) -> PostTransaction:
    """A transaction that nothing stands in the way of, provided that an account is as expected."""
    return replace(post((BANK, DANS, "1")), preconditions=(Precondition(**expected),))


def nowhere(command: Command, code: str, detail: str) -> Row:
    """What is wrong is not in the request, or is its path."""
    return Row(command, code, None, "", detail)


def at(pointer: str, place: str, command: Command, code: str, detail: str) -> Row:
    return Row(command, code, pointer, place, detail)


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


OF_ACCOUNTS = {
    "an account described that is not there": nowhere(
        describe("ghost", a="1"), "not_found", "There is no account ghost."
    ),
    "an account frozen that is not there": nowhere(freeze("ghost"), "not_found", "There is no account ghost."),
    "an account unfrozen that is not there": nowhere(unfreeze("ghost"), "not_found", "There is no account ghost."),
    "an account closed that is not there": nowhere(close("ghost"), "not_found", "There is no account ghost."),
    "more metadata than fits an account": at(
        "#/metadata",
        "must leave at most 50 keys",
        describe(ALICE, **{f"k{number}": "" for number in range(51)}),
        "validation_failed",
        "That would make 51 keys of metadata; 50 is the most.",
    ),
    "frozen twice": nowhere(freeze(FRED), "account_status", "wallets:fred is frozen already."),
    "unfrozen without being frozen": nowhere(unfreeze(BANK), "account_status", "assets:bank is not frozen."),
    "closed twice": nowhere(close(CLEO), "account_status", "wallets:cleo is closed already."),
    "frozen after closing": nowhere(
        freeze(CLEO), "account_closed", "wallets:cleo is closed for good; use another account."
    ),
    "unfrozen after closing": nowhere(
        unfreeze(CLEO), "account_closed", "wallets:cleo is closed for good; use another account."
    ),
    "closed with money in it": nowhere(
        close(ALICE), "account_not_empty", "wallets:alice has a balance of 60.00 USD; all of it must be zero."
    ),
    "closed with something held": nowhere(
        close("equity:vault"),
        "account_not_empty",
        "equity:vault has a balance of 0.00 USD, pending debits of 0.00 and pending credits of 1.00; "
        "all of it must be zero.",
    ),
    "a debit of a frozen account": at(
        "#/postings/1",
        FRED,
        post((BANK, DANS, "1"), (FRED, BANK, "1")),
        "account_frozen",
        "wallets:fred is frozen; unfreeze it first.",
    ),
    "a hold on a frozen account": at(
        "#/postings/0",
        FRED,
        hold((BANK, FRED, "1")),
        "account_frozen",
        "wallets:fred is frozen; unfreeze it first.",
    ),
    "a credit of a closed account": at(
        "#/postings/0",
        CLEO,
        post((BANK, CLEO, "1")),
        "account_closed",
        "wallets:cleo is closed for good; use another account.",
    ),
    "a posting of before the account was closed": at(
        "#/postings/0",
        CLEO,
        replace(post((BANK, CLEO, "1")), effective_at=LAST_NIGHT),
        "account_closed",
        "wallets:cleo is closed for good; use another account.",
    ),
}
OF_PERIODS = {
    "a posting before the end of a closed period": at(
        "#/effective_at",
        "2026-11-21T11:59:59.999999Z",
        replace(post((BANK, DANS, "1")), effective_at=NOON - timedelta(days=1, microseconds=1)),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z; this would take effect at "
        "2026-11-21T11:59:59.999999Z.",
    ),
    "a hold before the end of a closed period": at(
        "#/effective_at",
        "2025-12-27T12:00:00.000000Z",
        replace(hold((BANK, DANS, "1")), effective_at=LAST_YEAR),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z; this would take effect at "
        "2025-12-27T12:00:00.000000Z.",
    ),
    "a capture before the end of a closed period": at(
        "#/effective_at",
        "2025-12-27T12:00:00.000000Z",
        capture(HELD, effective_at=LAST_YEAR),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z; this would take effect at "
        "2025-12-27T12:00:00.000000Z.",
    ),
    "a reversal before the end of a closed period": at(
        "#/effective_at",
        "2025-12-28T12:00:00.000000Z",
        reverse(JOBS["old"], effective_at=LAST_YEAR + timedelta(days=1)),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z; this would take effect at "
        "2025-12-28T12:00:00.000000Z.",
    ),
    "a period opened again": at(
        "#/before",
        "2025-12-27T12:00:00.000000Z",
        close_period(LAST_YEAR),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z already; close them before a later moment.",
    ),
    "a period closed twice": at(
        "#/before",
        "2026-11-21T12:00:00.000000Z",
        close_period(NOON - timedelta(days=1)),
        "period_closed",
        "The books are closed before 2026-11-21T12:00:00.000000Z already; close them before a later moment.",
    ),
}
OF_POSTINGS = {
    "all there is of accounts that both grow": at(
        "#/postings/0/amount",
        "must be a decimal string where nothing is taken",
        balancing(BANK, ALICE),
        "validation_failed",
        "The posting raises both assets:bank and wallets:alice, so there is nothing to take all of.",
    ),
    "at most too fine an amount": at(
        "#/postings/0/up_to",
        "1.001",
        balancing(ALICE, BANK, "1.001"),
        "amount_scale",
        "1.001 has more decimals than the 2 of USD.",
    ),
    "all of nothing": at(
        "#/postings/0",
        CAROL,
        balancing(CAROL, BANK),
        "insufficient_funds",
        "wallets:carol has 0.00 USD available; there is nothing left for this posting.",
    ),
    "all that a posting before has left": at(
        "#/postings/1",
        ALICE,
        PostTransaction(postings=(Posting(ALICE, BANK, "60"), Posting(ALICE, BOB, "available"))),
        "insufficient_funds",
        "wallets:alice has 60.00 USD available; there is nothing left for this posting.",
    ),
    "more than is not held": at(
        "#/postings/0",
        HANA,
        post((HANA, BANK, "43.01")),
        "insufficient_funds",
        "wallets:hana has 43.00 USD available; 43.01 needed.",
    ),
    "more held than is not held": at(
        "#/postings/0",
        HANA,
        hold((HANA, BANK, "43.01")),
        "insufficient_funds",
        "wallets:hana has 43.00 USD available; 43.01 needed.",
    ),
    "more held than an overdraft covers": at(
        "#/postings/0",
        CAROL,
        hold((CAROL, BANK, "50.01")),
        "insufficient_funds",
        "wallets:carol has 0.00 USD available and may not fall below -50.00; 50.01 needed.",
    ),
    "held for what is held itself": at(
        "#/postings/0",
        CAROL,
        # incoming holds make nothing available
        hold((CAROL, BANK, "60"), (BANK, CAROL, "60")),
        "insufficient_funds",
        "wallets:carol has 0.00 USD available and may not fall below -50.00; 60.00 needed.",
    ),
    "more held than Bob may have": at(
        "#/postings/0",
        BOB,
        hold((BANK, BOB, "10.01")),
        "max_balance_exceeded",
        "wallets:bob has 90.00 USD and may not rise above 100.00; 10.01 more would.",
    ),
    "a total of holds at 10^38": at(
        "#/postings/0",
        BANK,
        hold((BANK, DANS, TOO_MUCH)),
        "amount_overflow",
        "A total of assets:bank would reach 10^38 minor units.",
    ),
    "provided that nobody has": at(
        "#/preconditions/0/account",
        "ghost",
        provided(account="ghost", version=1),
        "account_not_found",
        "There is no account ghost.",
    ),
    "provided too fine a balance": at(
        "#/preconditions/0/available/lte",
        "0.001",
        provided(account=ALICE, available=Bounds(lte="0.001")),
        "amount_scale",
        "0.001 has more decimals than the 2 of USD.",
    ),
    "provided another version": at(
        "#/preconditions/0/version",
        ALICE,
        provided(account=ALICE, version=9),
        "precondition_failed",
        "wallets:alice has version 8; 9 expected.",
    ),
    "provided exactly another balance": at(
        "#/preconditions/0/balance/eq",
        ALICE,
        provided(account=ALICE, version=8, balance=Bounds(eq="59.99")),
        "precondition_failed",
        "wallets:alice has a balance of 60.00 USD; exactly 59.99 expected.",
    ),
    "provided a larger balance": at(
        "#/preconditions/0/balance/gte",
        HANA,
        provided(account=HANA, balance=Bounds(gte="100.01")),
        "precondition_failed",
        "wallets:hana has a balance of 100.00 USD; at least 100.01 expected.",
    ),
    "provided less is available": at(
        "#/preconditions/0/available/lte",
        HANA,
        provided(account=HANA, balance=Bounds(gte="100"), available=Bounds(gte="-1", lte="42.99")),
        "precondition_failed",
        "wallets:hana has 43.00 USD available; at most 42.99 expected.",
    ),
}
OF_HOLDS = {
    "a capture of no transaction": nowhere(capture(GHOST), "not_found", f"There is no transaction {GHOST}."),
    "a void of no transaction": nowhere(void(GHOST), "not_found", f"There is no transaction {GHOST}."),
    "a reversal of no transaction": nowhere(reverse(GHOST), "not_found", f"There is no transaction {GHOST}."),
    "a transaction described that is not there": nowhere(
        describe(GHOST, a="1"), "not_found", f"There is no transaction {GHOST}."
    ),
    "more metadata than fits a transaction": at(
        "#/metadata",
        "must leave at most 50 keys",
        describe(PLAIN, **{f"k{number}": "" for number in range(51)}),
        "validation_failed",
        "That would make 51 keys of metadata; 50 is the most.",
    ),
    "a capture of what is scheduled": nowhere(
        capture(SCHEDULED), "transaction_not_pending", f"{SCHEDULED} has not been applied yet; wait until it is."
    ),
    "a void of what is scheduled": nowhere(
        void(SCHEDULED), "transaction_not_pending", f"{SCHEDULED} has not been applied yet; wait until it is."
    ),
    "a reversal of what is scheduled": nowhere(
        reverse(SCHEDULED), "transaction_not_reversible", f"{SCHEDULED} has not been applied yet; wait until it is."
    ),
    "one amount of two postings": at(
        "#/amount",
        "must be left out for a transaction of 2 postings",
        capture_one(PAIR, "1"),
        "validation_failed",
        f"{PAIR} has 2 postings; send amounts, one for each.",
    ),
    "too few amounts": at(
        "#/amounts",
        "must be 2 amounts, one a posting",
        capture(PAIR, "1"),
        "validation_failed",
        f"{PAIR} has 2 postings; 1 amounts were sent.",
    ),
    "amounts of nothing": at(
        "#/amounts",
        "must not all be zero",
        capture(PAIR, "0", "0.00"),
        "validation_failed",
        "A capture of nothing changes nothing; void the transaction to release it.",
    ),
    "an amount and amounts": at(
        "#/amounts",
        "must be left out beside amount",
        replace(capture_one(HELD, "1"), amounts=("1",)),
        "validation_failed",
        "Either amount or amounts says how much is captured.",
    ),
    "a capture too fine": at(
        "#/amount",
        "0.001",
        capture_one(HELD, "0.001"),
        "amount_scale",
        "0.001 has more decimals than the 2 of USD.",
    ),
    "one of two captures too fine": at(
        "#/amounts/1",
        "0.000",
        capture(PAIR, "1", "0.000"),
        "amount_scale",
        "0.000 has more decimals than the 2 of USD.",
    ),
    "a capture of what was posted": nowhere(
        capture(PLAIN), "transaction_not_pending", f"{PLAIN} is posted: nothing of it is held."
    ),
    "a void of what was posted": nowhere(
        void(PLAIN), "transaction_not_pending", f"{PLAIN} is posted: nothing of it is held."
    ),
    "a capture of what was voided": nowhere(
        capture(VOIDED), "transaction_not_pending", f"{VOIDED} is voided: nothing of it is held."
    ),
    "a void of what was voided": nowhere(
        void(VOIDED), "transaction_not_pending", f"{VOIDED} is voided: nothing of it is held."
    ),
    "a capture of what has expired": nowhere(
        capture(EXPIRED), "transaction_expired", f"{EXPIRED} expired at 2026-11-22T12:00:28.000000Z; post a new one."
    ),
    "a void of what has expired": nowhere(
        void(EXPIRED), "transaction_expired", f"{EXPIRED} expired at 2026-11-22T12:00:28.000000Z; post a new one."
    ),
    "a capture too late": nowhere(
        capture(LATE), "transaction_expired", f"{LATE} expired at 2026-11-22T12:00:30.000000Z; post a new one."
    ),
    "a void too late": nowhere(
        void(LATE), "transaction_expired", f"{LATE} expired at 2026-11-22T12:00:30.000000Z; post a new one."
    ),
    "an expiry that the service does not ask for": nowhere(expire(LATE), "not_found", "There is no ledger acme."),
    "a capture of more than is held": at(
        "#/amount",
        "40.01",
        capture_one(HELD, "40.01"),
        "capture_exceeds_hold",
        "40.00 USD of posting 0 are still held; 40.01 asked for.",
    ),
    "one of two captures of more than is held": at(
        "#/amounts/1",
        "5.01",
        capture(PAIR, "10", "5.01"),
        "capture_exceeds_hold",
        "5.00 USD of posting 1 are still held; 5.01 asked for.",
    ),
    "a capture that brings a total to 10^38": at(
        "#", VAULT, capture(BRIM), "amount_overflow", "A total of assets:vault would reach 10^38 minor units."
    ),
    "an amount that brings a total to 10^38": at(
        "#/amount",
        VAULT,
        capture_one(BRIM, "0.01"),
        "amount_overflow",
        "A total of assets:vault would reach 10^38 minor units.",
    ),
    "amounts that bring a total to 10^38": at(
        "#/amounts/0",
        VAULT,
        capture(BRIM, "0.01", final=False),
        "amount_overflow",
        "A total of assets:vault would reach 10^38 minor units.",
    ),
}
OF_REVERSALS = {
    "a reversal dated before its original": at(
        "#/effective_at",
        "must not be before 2026-11-22T12:00:16.000000Z",
        reverse(PLAIN, effective_at=NOON),
        "validation_failed",
        "A reversal at 2026-11-22T12:00:00.000000Z would come before its original at 2026-11-22T12:00:16.000000Z.",
    ),
    "a reversal by a reference used before": at(
        "#/reference", "taken", reverse(PLAIN, reference="taken"), "reference_taken", "taken names another transaction."
    ),
    "a reversal of what is held": nowhere(
        reverse(HELD), "transaction_not_reversible", f"{HELD} is pending: void it instead."
    ),
    "a reversal of what was voided": nowhere(
        reverse(VOIDED), "transaction_not_reversible", f"{VOIDED} is voided: it has posted nothing."
    ),
    "a reversal of what has expired": nowhere(
        reverse(EXPIRED), "transaction_not_reversible", f"{EXPIRED} is expired: it has posted nothing."
    ),
    "a second reversal": nowhere(
        reverse(REVERSED), "already_reversed", f"{REVERSED} was reversed by {JOBS['reversal']} already."
    ),
    "a reversal of what a frozen account was part of": at(
        "#", FRED, reverse(JOBS["fred's"]), "account_frozen", "wallets:fred is frozen; unfreeze it first."
    ),
    "a reversal of what a closed account was part of": at(
        "#",
        CLEO,
        reverse(JOBS["cleo's"]),
        "account_closed",
        "wallets:cleo is closed for good; use another account.",
    ),
    "a reversal of what brought a total close to 10^38": at(
        "#",
        VAULT,
        reverse(JOBS["vault's"]),
        "amount_overflow",
        "A total of assets:vault would reach 10^38 minor units.",
    ),
    "a reversal of what was spent": at(
        "#",
        HANA,
        reverse(PLAIN),
        "insufficient_funds",
        "wallets:hana has 43.00 USD available; 100.00 needed.",
    ),
    "a reversal that gives back too much": at(
        "#",
        BOB,
        reverse(JOBS["bob's"]),
        "max_balance_exceeded",
        "wallets:bob has 90.00 USD and may not rise above 100.00; 50.00 more would.",
    ),
}


def too_soon(expiry: Command, code: str, detail: str) -> Row:
    """An expiry that the service asks for, though nothing is to expire."""
    return Row(expiry, code, None, "", detail, SERVICE)


OF_EXPIRIES = {
    "an expiry of no transaction": too_soon(expire(GHOST), "not_found", f"There is no transaction {GHOST}."),
    "an expiry of what was posted": too_soon(
        expire(PLAIN), "transaction_not_pending", f"{PLAIN} is posted: nothing of it is held."
    ),
    "an expiry of what was voided": too_soon(
        expire(VOIDED), "transaction_not_pending", f"{VOIDED} is voided: nothing of it is held."
    ),
    "an expiry of what has expired": too_soon(
        expire(EXPIRED), "transaction_not_pending", f"{EXPIRED} is expired: nothing of it is held."
    ),
    "an expiry of what is held for good": too_soon(expire(HELD), "precondition_failed", f"{HELD} expires never."),
    "an expiry of what is held for another hour": too_soon(
        expire(JOBS["long"]), "precondition_failed", f"{JOBS['long']} expires not before 2026-11-22T13:00:00.000000Z."
    ),
}
OF_SCHEDULES = {
    "a schedule made twice": at(
        "#/id", f"{DAILY} is taken", daily(DAILY), "validation_failed", f"There is a schedule {DAILY} already."
    ),
    "a schedule by the id of one that was cancelled": at(
        "#/id",
        f"{CANCELLED} is taken",
        daily(CANCELLED),
        "validation_failed",
        f"There is a schedule {CANCELLED} already.",
    ),
    "a schedule paused that is not there": nowhere(
        PauseSchedule(schedule=GHOST), "not_found", f"There is no schedule {GHOST}."
    ),
    "a schedule resumed that is not there": nowhere(
        ResumeSchedule(schedule=GHOST), "not_found", f"There is no schedule {GHOST}."
    ),
    "a schedule cancelled that is not there": nowhere(
        CancelSchedule(schedule=GHOST), "not_found", f"There is no schedule {GHOST}."
    ),
    "paused twice": nowhere(
        PauseSchedule(schedule=PAUSED), "validation_failed", f"The schedule {PAUSED} is paused already."
    ),
    "paused after cancelling": nowhere(
        PauseSchedule(schedule=CANCELLED), "validation_failed", f"The schedule {CANCELLED} is cancelled already."
    ),
    "resumed without being paused": nowhere(
        ResumeSchedule(schedule=DAILY), "validation_failed", f"The schedule {DAILY} is active already."
    ),
    "resumed after cancelling": nowhere(
        ResumeSchedule(schedule=CANCELLED), "validation_failed", f"The schedule {CANCELLED} is cancelled already."
    ),
    "cancelled twice": nowhere(
        CancelSchedule(schedule=CANCELLED), "validation_failed", f"The schedule {CANCELLED} is cancelled already."
    ),
}
REFUSALS |= OF_ACCOUNTS | OF_PERIODS | OF_POSTINGS | OF_HOLDS | OF_EXPIRIES | OF_REVERSALS | OF_SCHEDULES
NO_ROW = {
    # its id was reserved for who asks, so nothing of the books can stand in its way: only who asks can be nobody by
    # then, and no row is asked by such (test_who_creates_a_ledger_must_still_be_allowed_to_when_that_is_applied)
    CreateLedger,
}


def books() -> Books:
    made = standard_books()
    for command, who in MORE.values():
        made.apply(command, who)
    made.ledger.waiting[SCHEDULED] = None
    return made


def refusal_of(made: Books, command: Command, *, stranger: bool = False, who: UUID = ADA) -> Refusal | None:
    return made.run(command, principal=EVE if stranger else who)[0].refusal


def code_of(made: Books, command: Command, *, stranger: bool = False) -> str | None:
    refusal = refusal_of(made, command, stranger=stranger)
    return None if refusal is None else refusal.code


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_refused(row: Row) -> None:
    made = books()
    before, schedules, head = made.state(), dict(made.ledger.schedules), made.head
    assert refusal_of(made, row.command, who=row.who) == row.refusal
    assert (made.state(), made.ledger.schedules, made.head) == (before, schedules, head)


@pytest.mark.parametrize("row", REFUSALS.values(), ids=REFUSALS.keys())
def test_who_was_granted_nothing_learns_nothing(row: Row) -> None:
    assert refusal_of(books(), row.command, stranger=True) == Refusal("not_found", "There is no ledger acme.")


OF_WRITERS = [
    register("SHELLS", 0),
    open_account("new"),
    post((BANK, ALICE, "1")),
    hold((BANK, ALICE, "1")),
    capture(HELD),
    void(HELD),
    reverse(JOBS["old"]),
    describe(PLAIN, a="1"),
    describe(ALICE, a="1"),
    freeze(ALICE),
    unfreeze(FRED),
    close(TOKYO),
    daily(),
    PauseSchedule(schedule=DAILY),
    ResumeSchedule(schedule=PAUSED),
    CancelSchedule(schedule=PAUSED),
]
OF_OWNERS = [update(a="1"), close_period(NOON), grant(KIM, "reader"), grant(EVE, "reader"), revoke(EVE)]


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


def test_a_stranger_does_not_learn_which_currencies_there_are() -> None:
    assert code_of(books(), register("USD", 2), stranger=True) == "not_found"


def test_creating_is_never_refused_since_the_id_was_reserved() -> None:
    made = Books()
    assert refusal_of(made, create()) is None


def test_the_table_knows_every_code_that_a_command_can_be_refused_with() -> None:
    assert {row.code for row in REFUSALS.values()} | {"not_found"} == set(PRECEDENCE)
    assert set(PRECEDENCE) <= CATALOGUE.keys()


def test_every_kind_of_command_has_its_rows() -> None:
    commands = [row.command for row in REFUSALS.values()] + [row.command for row in OF_USERS.values()]
    assert KIND_OF.keys() - {type(command) for command in commands} == NO_ROW
