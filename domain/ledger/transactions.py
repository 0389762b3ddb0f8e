"""Transactions: posted or held, described, reversed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from domain.clock import format_time
from domain.decision import Stamp
from domain.errors import DomainError, NotFoundError
from domain.ledger import movements as rules
from domain.ledger import preconditions
from domain.ledger.admission import admit, asked_at, merged
from domain.ledger.commands import PostTransaction, ReverseTransaction, UpdateTransaction
from domain.ledger.events import (
    PostedLine,
    TransactionHeld,
    TransactionMetadataChanged,
    TransactionPosted,
    TransactionReversed,
)
from domain.ledger.model import Account, Ledger, Line, Transaction
from domain.ledger.specifications import OPEN_PERIOD, Dated, refusal
from domain.messages import Event, Recorded
from domain.money import format_minor, parse_minor
from domain.specification import Rule, Specification

# -- handlers ---------------------------------------------------------------------------------------------------------


def post_transaction(command: PostTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    legs, balancing = rules.legs_of(command, ledger)
    if balancing:
        rules.BALANCING.check(balancing)
    if command.reference is not None:
        rules.REFERENCE.check((rules.Referring(command.reference, ledger),))
    expected = preconditions.expectations(command, ledger) if command.preconditions else ()
    rules.check_postings(legs, expected)
    effective_at = command.effective_at or command.execute_at or recorded.accepted_at
    if ledger.closed_before is not None:
        OPEN_PERIOD.check((dated(effective_at, command.effective_at, ledger),))
    moved = rules.movements_of(legs, rules.Reservation if command.pending else rules.Movement)
    rules.check_status(moved)
    preconditions.check(expected)
    rules.check_limits(moved, rules.HELD_TOTALS if command.pending else rules.TOTALS, balancing)
    return [_stated(command, tuple(_line(leg) for leg in legs), recorded, format_time(effective_at))]


def _stated(
    command: PostTransaction, postings: tuple[PostedLine, ...], recorded: Recorded, effective_at: str
) -> TransactionPosted | TransactionHeld:
    metadata = dict(command.metadata or {})
    if not command.pending:
        return TransactionPosted(
            transaction=recorded.id,
            postings=postings,
            reference=command.reference,
            description=command.description,
            metadata=metadata,
            effective_at=effective_at,
        )
    return TransactionHeld(
        transaction=recorded.id,
        postings=postings,
        reference=command.reference,
        description=command.description,
        metadata=metadata,
        effective_at=effective_at,
        expires_at=None if command.expires_at is None else format_time(command.expires_at),
    )


def _line(leg: rules.Leg) -> PostedLine:
    if leg.debit is None:
        raise AssertionError("the rules on postings were not checked")
    account = leg.debit
    return PostedLine(leg.posting.debit, leg.posting.credit, format_minor(leg.minor, account.scale), account.currency)


def update_transaction(command: UpdateTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    transaction = ledger.transactions.get(command.transaction)
    if transaction is None:
        raise missing(command.transaction)
    return [
        TransactionMetadataChanged(transaction=transaction.id, metadata=merged(transaction.metadata, command.metadata))
    ]


def reverse_transaction(command: ReverseTransaction, ledger: Ledger, recorded: Recorded) -> list[Event]:
    admit(ledger, recorded, "writer")
    original = find(command.transaction, ledger, recorded)
    effective_at = command.effective_at or asked_at(command, recorded)
    if original is not None:
        if command.effective_at is None:
            effective_at = max(effective_at, original.effective_at)
        NOT_BEFORE.check((Undoing(original, effective_at),))
    if command.reference is not None:
        rules.REFERENCE.check((rules.Referring(command.reference, ledger),))
    if original is None:
        raise not_applied(command.transaction, "transaction_not_reversible")
    for rule in REVERSIBLE:
        rule.check((original,))
    OPEN_PERIOD.check((dated(effective_at, command.effective_at, ledger),))
    moved = _undone(original, ledger)
    rules.check_status(moved)
    rules.check_limits(moved, rules.TOTALS)
    return [
        TransactionReversed(
            transaction=recorded.id,
            reverses=original.id,
            postings=tuple(_swapped(line, ledger.accounts[line.debit]) for line in original.lines if line.posted),
            reference=command.reference,
            description=command.description,
            metadata=dict(command.metadata or {}),
            effective_at=format_time(effective_at),
        )
    ]


def _undone(original: Transaction, ledger: Ledger) -> list[rules.Moved]:
    movements: dict[str, rules.Moved] = {}
    # a capture may have taken nothing of some postings: their accounts have no part in this
    for line in (line for line in original.lines if line.posted):
        for name in (line.credit, line.debit):
            movements.setdefault(name, rules.Movement(ledger.accounts[name], -1))
        movements[line.credit].debit(line.posted)
        movements[line.debit].credit(line.posted)
    return list(movements.values())


def _swapped(line: Line, account: Account) -> PostedLine:
    return PostedLine(line.credit, line.debit, account.money(line.posted), account.currency)


def dated(moment: datetime, asked: datetime | None, ledger: Ledger) -> Dated:
    """When it is to take effect, which is `asked` if the request says so."""
    return Dated(moment, ledger, "#" if asked is None else "#/effective_at")


# -- transactions that commands name ----------------------------------------------------------------------------------


def find(transaction: UUID, ledger: Ledger, recorded: Recorded) -> Transaction | None:
    """The transaction that a command names, None if it is still to be applied. Raises NotFoundError otherwise."""
    found = ledger.transactions.get(transaction)
    if found is None and not ledger.awaits(transaction, recorded.position):
        raise missing(transaction)
    return found


def missing(transaction: UUID) -> NotFoundError:
    return NotFoundError(f"There is no transaction {transaction}.")


def not_applied(transaction: UUID, code: str) -> DomainError:
    return DomainError(code, f"{transaction} has not been applied yet; wait until it is.")


class Undoing(msgspec.Struct, frozen=True, gc=False):
    """A transaction, and when its reversal is to take effect."""

    original: Transaction
    effective_at: datetime


def _too_early(undoing: Undoing) -> DomainError:
    original, moment = format_time(undoing.original.effective_at), format_time(undoing.effective_at)
    return refusal(
        "validation_failed",
        f"A reversal at {moment} would come before its original at {original}.",
        "#/effective_at",
        f"must not be before {original}",
    )


def _irreversible(transaction: Transaction) -> DomainError:
    advice = "void it instead" if transaction.status == "pending" else "it has posted nothing"
    return DomainError("transaction_not_reversible", f"{transaction.id} is {transaction.status}: {advice}.")


is_not_before: Specification[Undoing] = Specification(lambda u: u.effective_at >= u.original.effective_at)
has_ended_in_postings: Specification[Transaction] = Specification(lambda t: t.status in ("posted", "captured"))
is_reversed: Specification[Transaction] = Specification(lambda t: t.reversed_by is not None)
NOT_BEFORE: Final = Rule(is_not_before, _too_early)
REVERSIBLE: Final = (
    Rule(has_ended_in_postings, _irreversible),
    Rule(~is_reversed, lambda t: DomainError("already_reversed", f"{t.id} was reversed by {t.reversed_by} already.")),
)


# -- appliers ---------------------------------------------------------------------------------------------------------


def transaction_posted(event: TransactionPosted, ledger: Ledger, stamp: Stamp) -> list[str]:
    touched = _post(event.postings, ledger, stamp)
    if event.reference is not None:
        ledger.references.add(event.reference)
    if ledger.named and event.transaction in ledger.named:
        _keep(event, "posted", ledger, stamp)
    return touched


def transaction_held(event: TransactionHeld, ledger: Ledger, stamp: Stamp) -> list[str]:
    touched: dict[str, None] = {}
    for line in event.postings:
        debit, credit = ledger.accounts[line.debit], ledger.accounts[line.credit]
        minor = parse_minor(line.amount, debit.scale)
        debit.pending_debits += minor
        credit.pending_credits += minor
        touched[line.debit] = touched[line.credit] = None
    if event.reference is not None:
        ledger.references.add(event.reference)
    kept = _keep(event, "pending", ledger, stamp)
    kept.expires_at = None if event.expires_at is None else datetime.fromisoformat(event.expires_at)
    return ledger.touch(touched, stamp.seq, holds=True)


def transaction_reversed(event: TransactionReversed, ledger: Ledger, stamp: Stamp) -> list[str]:
    touched = _post(event.postings, ledger, stamp)
    if event.reference is not None:
        ledger.references.add(event.reference)
    kept = _keep(event, "posted", ledger, stamp)
    kept.reverses = event.reverses
    ledger.alter(event.reverses, stamp.seq).reversed_by = event.transaction
    return touched


def transaction_metadata_changed(event: TransactionMetadataChanged, ledger: Ledger, stamp: Stamp) -> list[str]:
    ledger.alter(event.transaction, stamp.seq).metadata = event.metadata
    return []


def _post(postings: Sequence[PostedLine], ledger: Ledger, stamp: Stamp) -> list[str]:
    touched: dict[str, None] = {}
    for line in postings:
        debit, credit = ledger.accounts[line.debit], ledger.accounts[line.credit]
        minor = parse_minor(line.amount, debit.scale)
        debit.posted_debits += minor
        credit.posted_credits += minor
        touched[line.debit] = touched[line.credit] = None
    return ledger.touch(touched, stamp.seq)


def _keep(
    event: TransactionPosted | TransactionHeld | TransactionReversed, status: str, ledger: Ledger, stamp: Stamp
) -> Transaction:
    kept = ledger.transactions[event.transaction] = Transaction(
        id=event.transaction,
        seq=stamp.seq,
        version=stamp.seq,
        status=status,
        metadata=event.metadata,
        effective_at=datetime.fromisoformat(event.effective_at),
        lines=[_kept_line(line, ledger, status == "pending") for line in event.postings],
    )
    return kept


def _kept_line(line: PostedLine, ledger: Ledger, held: bool) -> Line:
    minor = parse_minor(line.amount, ledger.accounts[line.debit].scale)
    return Line(line.debit, line.credit, minor, 0 if held else minor, minor if held else 0)
