"""What becomes of pending transactions: captured, voided, expired."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from domain.clock import format_time
from domain.decision import Stamp
from domain.errors import DomainError
from domain.ledger.admission import admit, asked_at
from domain.ledger.commands import CaptureTransaction, ExpireTransaction, VoidTransaction
from domain.ledger.events import HeldLine, TransactionCaptured, TransactionExpired, TransactionVoided
from domain.ledger.model import SERVICE, Account, Ledger, Line, Transaction
from domain.ledger.movements import overflow
from domain.ledger.specifications import ACCESS, OPEN_PERIOD, Asked, finer, refusal
from domain.ledger.transactions import dated, find, missing, not_applied
from domain.messages import Event, Recorded
from domain.money import LIMIT_MINOR, decimals_of, parse_minor
from domain.specification import Rule, Specification

# -- handlers ---------------------------------------------------------------------------------------------------------


def capture_transaction(command: CaptureTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    transaction = find(command.transaction, ledger, recorded)
    if transaction is None:
        raise not_applied(command.transaction, "transaction_not_pending")
    for fit in FITTING:
        fit.check((Wanted(command, transaction),))
    takes = _takes(command, transaction, ledger)
    FITS_SCALE.check(takes)
    _check_pending(transaction, asked_at(command, recorded))
    WITHIN.check(takes)
    effective_at = command.effective_at or command.execute_at or recorded.accepted_at
    OPEN_PERIOD.check((dated(effective_at, command.effective_at, ledger),))
    TOTALS.check(_sums(takes, ledger))
    postings = tuple(_held(take, command.final) for take in takes)
    rest = any(not command.final and take.minor < take.line.held for take in takes)
    return [
        TransactionCaptured(
            transaction=transaction.id,
            capture=recorded.id,
            status="pending" if rest else "captured",
            postings=postings,
            effective_at=format_time(effective_at),
        )
    ]


def void_transaction(command: VoidTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    transaction = find(command.transaction, ledger, recorded)
    if transaction is None:
        raise not_applied(command.transaction, "transaction_not_pending")
    _check_pending(transaction, asked_at(command, recorded))
    return [
        TransactionVoided(
            transaction=transaction.id,
            status="captured" if transaction.has_posted else "voided",
            postings=_released(transaction, ledger),
        )
    ]


def expire_transaction(command: ExpireTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    ACCESS.check((Asked(ledger, recorded.principal == SERVICE),))
    transaction = ledger.transactions.get(command.transaction)
    if transaction is None:
        raise missing(command.transaction)
    PENDING.check((transaction,))
    DUE.check((Ending(transaction, asked_at(command, recorded)),))
    return [
        TransactionExpired(
            transaction=transaction.id,
            status="captured" if transaction.has_posted else "expired",
            postings=_released(transaction, ledger),
        )
    ]


# -- what a capture takes ---------------------------------------------------------------------------------------------


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """What a capture asks for, beside what it asks it of."""

    command: CaptureTransaction
    transaction: Transaction


class Take(msgspec.Struct, frozen=True, gc=False):
    """How much a capture takes of one posting: a decimal string, None for all that is held."""

    index: int
    line: Line
    account: Account
    pointer: str
    asked: str | None

    @property
    def minor(self) -> int:
        return self.line.held if self.asked is None else parse_minor(self.asked, self.account.scale)


class Sum(msgspec.Struct, gc=False):
    """What a capture adds to the posted sums of one account, and where that account is named first."""

    account: Account
    pointer: str
    debits: int = 0
    credits: int = 0


def _takes(command: CaptureTransaction, transaction: Transaction, ledger: Ledger) -> list[Take]:
    takes = []
    for index, line in enumerate(transaction.lines):
        pointer, asked = "#", None
        if command.amounts is not None:
            pointer, asked = f"#/amounts/{index}", command.amounts[index]
        elif command.amount is not None:
            pointer, asked = "#/amount", command.amount
        takes.append(Take(index, line, ledger.accounts[line.debit], pointer, asked))
    return takes


def _sums(takes: Sequence[Take], ledger: Ledger) -> list[Sum]:
    sums: dict[str, Sum] = {}
    for take in takes:
        for name in (take.line.debit, take.line.credit):
            sums.setdefault(name, Sum(ledger.accounts[name], take.pointer))
        sums[take.line.debit].debits += take.minor
        sums[take.line.credit].credits += take.minor
    return list(sums.values())


def _held(take: Take, final: bool) -> HeldLine:
    line, account, minor = take.line, take.account, take.minor
    rest = line.held - minor
    return HeldLine(
        line.debit,
        line.credit,
        account.money(minor),
        account.money(rest if final else 0),
        account.money(0 if final else rest),
        account.currency,
    )


def _released(transaction: Transaction, ledger: Ledger) -> tuple[HeldLine, ...]:
    return tuple(_all_released(line, ledger.accounts[line.debit]) for line in transaction.lines)


def _all_released(line: Line, account: Account) -> HeldLine:
    zero = account.money(0)
    return HeldLine(line.debit, line.credit, zero, account.money(line.held), zero, account.currency)


# -- rules ------------------------------------------------------------------------------------------------------------


def _many(wanted: Wanted) -> DomainError:
    count = len(wanted.transaction.lines)
    return refusal(
        "validation_failed",
        f"{wanted.transaction.id} has {count} postings; send amounts, one for each.",
        "#/amount",
        f"must be left out for a transaction of {count} postings",
    )


def _miscounted(wanted: Wanted) -> DomainError:
    count, sent = len(wanted.transaction.lines), len(wanted.command.amounts or ())
    return refusal(
        "validation_failed",
        f"{wanted.transaction.id} has {count} postings; {sent} amounts were sent.",
        "#/amounts",
        f"must be {count} amounts, one a posting",
    )


def _nothing(wanted: Wanted) -> DomainError:
    return refusal(
        "validation_failed",
        "A capture of nothing changes nothing; void the transaction to release it.",
        "#/amounts",
        "must not all be zero",
    )


def _both(wanted: Wanted) -> DomainError:
    return refusal(
        "validation_failed",
        "Either amount or amounts says how much is captured.",
        "#/amounts",
        "must be left out beside amount",
    )


has_amount: Specification[Wanted] = Specification(lambda a: a.command.amount is not None)
has_amounts: Specification[Wanted] = Specification(lambda a: a.command.amounts is not None)
has_one_posting: Specification[Wanted] = Specification(lambda a: len(a.transaction.lines) == 1)
has_as_many: Specification[Wanted] = Specification(lambda a: len(a.command.amounts or ()) == len(a.transaction.lines))
takes_something: Specification[Wanted] = Specification(
    lambda a: any(amount.strip("0.") for amount in a.command.amounts or ())
)
FITTING: Final = (
    Rule(~has_amount | ~has_amounts, _both),
    Rule(~has_amount | has_one_posting, _many),
    Rule(~has_amounts | has_as_many, _miscounted),
    Rule(~has_amounts | takes_something, _nothing),
)

fits_scale: Specification[Take] = Specification(lambda t: t.asked is None or decimals_of(t.asked) <= t.account.scale)
FITS_SCALE: Final = Rule(fits_scale, lambda t: finer(t.asked or "", t.account.currency, t.account.scale, t.pointer))


class Ending(msgspec.Struct, frozen=True, gc=False):
    """A transaction that is to end, and when that was asked for."""

    transaction: Transaction
    asked_at: datetime


def _not_pending(transaction: Transaction) -> DomainError:
    return DomainError("transaction_not_pending", f"{transaction.id} is {transaction.status}: nothing of it is held.")


def _over(ending: Ending) -> DomainError:
    transaction = ending.transaction
    said = "" if transaction.expires_at is None else f" at {format_time(transaction.expires_at)}"
    return DomainError("transaction_expired", f"{transaction.id} expired{said}; post a new one.")


def _early(ending: Ending) -> DomainError:
    expires_at = ending.transaction.expires_at
    said = "never" if expires_at is None else f"not before {format_time(expires_at)}"
    return DomainError("precondition_failed", f"{ending.transaction.id} expires {said}.")


is_pending: Specification[Transaction] = Specification(lambda t: t.status == "pending")
ended_by_expiry: Specification[Transaction] = Specification(lambda t: t.expired)
is_over: Specification[Ending] = Specification(
    lambda e: e.transaction.expires_at is not None and e.asked_at >= e.transaction.expires_at
)
has_expired: Specification[Ending] = Specification(lambda e: e.transaction.expired)
PENDING: Final = Rule(is_pending, _not_pending)
# whether its expiry has been processed yet or not, it is refused as expired
PENDING_OR_EXPIRED: Final = Rule(is_pending | ended_by_expiry, _not_pending)
IN_TIME: Final = Rule(~(is_over | has_expired), _over)
DUE: Final = Rule(is_over, _early)


def _check_pending(transaction: Transaction, asked: datetime) -> None:
    PENDING_OR_EXPIRED.check((transaction,))
    IN_TIME.check((Ending(transaction, asked),))


def _exceeds(take: Take) -> DomainError:
    held, currency = take.account.money(take.line.held), take.account.currency
    detail = f"{held} {currency} of posting {take.index} are still held; {take.account.money(take.minor)} asked for."
    return refusal("capture_exceeds_hold", detail, take.pointer, str(take.asked))


is_held: Specification[Take] = Specification(lambda t: t.minor <= t.line.held)
WITHIN: Final = Rule(is_held, _exceeds)

totals_fit: Specification[Sum] = Specification(
    lambda s: s.account.posted_debits + s.debits < LIMIT_MINOR and s.account.posted_credits + s.credits < LIMIT_MINOR
)
TOTALS: Final = Rule(totals_fit, lambda s: overflow(s.account, s.pointer))


# -- appliers ---------------------------------------------------------------------------------------------------------


def transaction_captured(event: TransactionCaptured, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _end(event, ledger, stamp)


def transaction_voided(event: TransactionVoided, ledger: Ledger, stamp: Stamp) -> list[str]:
    return _end(event, ledger, stamp)


def transaction_expired(event: TransactionExpired, ledger: Ledger, stamp: Stamp) -> list[str]:
    touched = _end(event, ledger, stamp)
    ledger.transactions[event.transaction].expired = True
    return touched


def _end(
    event: TransactionCaptured | TransactionVoided | TransactionExpired, ledger: Ledger, stamp: Stamp
) -> list[str]:
    transaction = ledger.alter(event.transaction, stamp.seq)
    transaction.status = event.status
    touched: dict[str, None] = {}
    for line, said in zip(transaction.lines, event.postings, strict=True):
        if _settle(line, said, ledger):
            touched[line.debit] = touched[line.credit] = None
    return ledger.touch(touched, stamp.seq, holds=True)


def _settle(line: Line, said: HeldLine, ledger: Ledger) -> bool:
    """Takes from the hold what was posted and released; False where that is nothing."""
    debit, credit = ledger.accounts[line.debit], ledger.accounts[line.credit]
    minor, released = parse_minor(said.amount, debit.scale), parse_minor(said.released, debit.scale)
    line.posted += minor
    line.held -= minor + released
    debit.posted_debits += minor
    credit.posted_credits += minor
    debit.pending_debits -= minor + released
    credit.pending_credits -= minor + released
    return minor + released > 0
