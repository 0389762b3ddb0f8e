"""What a transaction as a whole does to the accounts it names, and the rules on that, in order of precedence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from domain.errors import DomainError
from domain.ledger import preconditions
from domain.ledger.commands import AVAILABLE, Posting, PostTransaction
from domain.ledger.model import Account, Ledger
from domain.ledger.preconditions import Expected
from domain.ledger.specifications import finer, refusal
from domain.money import LIMIT_MINOR, decimals_of, parse_minor
from domain.specification import Rule, Specification


class Leg(msgspec.Struct, gc=False):
    """A posting beside the accounts it names, None where the ledger has no such account.

    `minor` is the amount in minor units, once it is known to fit the currency's scale.
    """

    index: int
    posting: Posting
    debit: Account | None
    credit: Account | None
    minor: int = 0

    @property
    def scale(self) -> int:
        return self.debit.scale if self.debit is not None else 0

    def lowered(self) -> list[Account]:
        """The accounts that the posting takes from: a credit lowers a debit-normal account, a debit the others."""
        found = []
        if self.debit is not None and not self.debit.debit_normal:
            found.append(self.debit)
        if self.credit is not None and self.credit.debit_normal:
            found.append(self.credit)
        return found


class Movement(msgspec.Struct, gc=False):
    """What a transaction posts to one account, in minor units.

    `index` is the first posting of the request that names the account, -1 where the request names none. `net` is how
    far the balance moves; positive is up.
    """

    account: Account
    index: int
    debits: int = 0
    credits: int = 0
    net: int = 0

    def debit(self, minor: int) -> None:
        self.debits += minor
        self.net += minor if self.account.debit_normal else -minor

    def credit(self, minor: int) -> None:
        self.credits += minor
        self.net -= minor if self.account.debit_normal else -minor

    @property
    def lowers(self) -> int:
        """By how much less the account has available afterwards."""
        return -self.net

    @property
    def raises(self) -> int:
        """By how much it comes nearer to its maximum."""
        return self.net


class Reservation(msgspec.Struct, gc=False):
    """What a transaction holds of one account. Incoming holds make nothing available and fill up the room above."""

    account: Account
    index: int
    debits: int = 0
    credits: int = 0

    def debit(self, minor: int) -> None:
        self.debits += minor

    def credit(self, minor: int) -> None:
        self.credits += minor

    @property
    def lowers(self) -> int:
        return self.credits if self.account.debit_normal else self.debits

    @property
    def raises(self) -> int:
        return self.debits if self.account.debit_normal else self.credits


Moved = Movement | Reservation


def _at(index: int, code: str, detail: str, place: str) -> DomainError:
    return refusal(code, detail, "#" if index < 0 else f"#/postings/{index}", place)


# -- postings ---------------------------------------------------------------------------------------------------------


class Referring(msgspec.Struct, frozen=True, gc=False):
    reference: str
    ledger: Ledger


reference_is_free: Specification[Referring] = Specification(lambda r: r.reference not in r.ledger.references)
REFERENCE: Final = Rule(
    reference_is_free,
    lambda r: refusal("reference_taken", f"{r.reference} names another transaction.", "#/reference", r.reference),
)


def legs_of(command: PostTransaction, ledger: Ledger) -> tuple[list[Leg], list[Leg]]:
    """All postings of a transaction, and those of them that are balancing: their amount is `available`."""
    accounts = ledger.accounts
    legs, balancing = [], []
    for index, posting in enumerate(command.postings):
        leg = Leg(index, posting, accounts.get(posting.debit), accounts.get(posting.credit))
        legs.append(leg)
        if posting.amount == AVAILABLE:
            balancing.append(leg)
    return legs, balancing


def _missing(leg: Leg) -> DomainError:
    name = leg.posting.debit if leg.debit is None else leg.posting.credit
    return _at(leg.index, "account_not_found", f"There is no account {name}.", name)


def _mismatch(leg: Leg) -> DomainError:
    debit, credit = leg.debit, leg.credit
    said = " and ".join(f"{a.name} is in {a.currency}" for a in (debit, credit) if a is not None)
    return _at(leg.index, "currency_mismatch", f"{said}.", leg.posting.credit)


def _too_fine(leg: Leg) -> DomainError:
    currency = leg.debit.currency if leg.debit is not None else ""
    posting = leg.posting
    if posting.up_to is None:
        return finer(posting.amount, currency, leg.scale, f"#/postings/{leg.index}/amount")
    return finer(posting.up_to, currency, leg.scale, f"#/postings/{leg.index}/up_to")


def _raises_only(leg: Leg) -> DomainError:
    posting = leg.posting
    detail = f"The posting raises both {posting.debit} and {posting.credit}, so there is nothing to take all of."
    return refusal(
        "validation_failed", detail, f"#/postings/{leg.index}/amount", "must be a decimal string where nothing is taken"
    )


debit_is_there: Specification[Leg] = Specification(lambda leg: leg.debit is not None)
credit_is_there: Specification[Leg] = Specification(lambda leg: leg.credit is not None)
one_currency: Specification[Leg] = Specification(
    lambda leg: leg.debit is not None and leg.credit is not None and leg.debit.currency == leg.credit.currency
)
amount_fits_scale: Specification[Leg] = Specification(
    lambda leg: decimals_of(leg.posting.up_to or leg.posting.amount) <= leg.scale
)
takes_something: Specification[Leg] = Specification(lambda leg: bool(leg.lowered()))

THERE: Final = Rule(debit_is_there & credit_is_there, _missing)
ONE_CURRENCY: Final = Rule(one_currency, _mismatch)
FITS_SCALE: Final = Rule(amount_fits_scale, _too_fine)
# what is not there has no type to judge by: that is refused as missing
BALANCING: Final = Rule(~(debit_is_there & credit_is_there) | takes_something, _raises_only)


# -- amounts ----------------------------------------------------------------------------------------------------------


def movements_of(legs: Sequence[Leg], kind: type[Movement] | type[Reservation]) -> list[Moved]:
    """What it comes to for each account, in the order in which postings name them; sets the amounts of `legs`.

    An amount `available` is what the postings before have left, so it can be zero.
    """
    movements: dict[str, Moved] = {}
    for leg in legs:
        if leg.debit is None or leg.credit is None:
            raise AssertionError("the rules on postings were not checked")
        amount = leg.posting.amount
        leg.minor = parse_minor(amount, leg.debit.scale) if amount != AVAILABLE else _available(leg, movements)
        _movement(movements, leg.debit, leg.index, kind).debit(leg.minor)
        _movement(movements, leg.credit, leg.index, kind).credit(leg.minor)
    return list(movements.values())


def _movement(
    movements: dict[str, Moved], account: Account, index: int, kind: type[Movement] | type[Reservation]
) -> Moved:
    movement = movements.get(account.name)
    if movement is None:
        movement = movements[account.name] = kind(account, index)
    return movement


def _available(leg: Leg, movements: dict[str, Moved]) -> int:
    figures = []
    for account in leg.lowered():
        movement = movements.get(account.name)
        figures.append(account.available - (0 if movement is None else movement.lowers))
    if leg.posting.up_to is not None:
        figures.append(parse_minor(leg.posting.up_to, leg.scale))
    return max(0, min(figures))


# -- status -----------------------------------------------------------------------------------------------------------

is_closed: Specification[Moved] = Specification(lambda m: m.account.status == "closed")
is_frozen: Specification[Moved] = Specification(lambda m: m.account.status == "frozen")
STATUS: Final = (
    Rule(
        ~is_closed,
        lambda m: _at(
            m.index, "account_closed", f"{m.account.name} is closed for good; use another account.", m.account.name
        ),
    ),
    Rule(
        ~is_frozen,
        lambda m: _at(m.index, "account_frozen", f"{m.account.name} is frozen; unfreeze it first.", m.account.name),
    ),
)


# -- sums and limits --------------------------------------------------------------------------------------------------


def overflow(account: Account, pointer: str) -> DomainError:
    return refusal(
        "amount_overflow", f"A total of {account.name} would reach 10^38 minor units.", pointer, account.name
    )


def _overflow(moved: Moved) -> DomainError:
    return overflow(moved.account, "#" if moved.index < 0 else f"#/postings/{moved.index}")


def _insufficient(moved: Moved) -> DomainError:
    account = moved.account
    floor = account.min_balance or 0
    limit = f" and may not fall below {account.money(floor)}" if floor else ""
    detail = (
        f"{account.name} has {account.money(account.available)} {account.currency} available{limit}; "
        f"{account.money(moved.lowers)} needed."
    )
    return _at(moved.index, "insufficient_funds", detail, account.name)


def _exceeded(moved: Moved) -> DomainError:
    account = moved.account
    incoming = _incoming_holds(account)
    held = f", {account.money(incoming)} more on hold" if incoming else ""
    detail = (
        f"{account.name} has {account.money(account.balance)} {account.currency}{held} and may not rise above "
        f"{account.money(account.max_balance or 0)}; {account.money(moved.raises)} more would."
    )
    return _at(moved.index, "max_balance_exceeded", detail, account.name)


def _incoming_holds(account: Account) -> int:
    return account.pending_debits if account.debit_normal else account.pending_credits


totals_fit: Specification[Moved] = Specification(
    lambda m: m.account.posted_debits + m.debits < LIMIT_MINOR and m.account.posted_credits + m.credits < LIMIT_MINOR
)
holds_fit: Specification[Moved] = Specification(
    lambda m: m.account.pending_debits + m.debits < LIMIT_MINOR and m.account.pending_credits + m.credits < LIMIT_MINOR
)


def _keeps_minimum(moved: Moved) -> bool:
    account = moved.account
    if account.min_balance is None:
        return True
    lowers = moved.lowers
    return lowers <= 0 or account.available - lowers >= account.min_balance


def _keeps_maximum(moved: Moved) -> bool:
    account = moved.account
    if account.max_balance is None:
        return True
    raises = moved.raises
    return raises <= 0 or account.balance + _incoming_holds(account) + raises <= account.max_balance


# asked of every account of every posting: a composition of smaller questions would be dearer than all else here
keeps_minimum: Specification[Moved] = Specification(_keeps_minimum)
keeps_maximum: Specification[Moved] = Specification(_keeps_maximum)

TOTALS: Final = Rule(totals_fit, _overflow)
HELD_TOTALS: Final = Rule(holds_fit, _overflow)
ABOVE: Final = Rule(keeps_minimum, _insufficient)
BELOW: Final = Rule(keeps_maximum, _exceeded)


def nothing_left(leg: Leg) -> DomainError:
    """The refusal of a posting that is to move all there is, and there is none."""
    poorest = min(leg.lowered(), key=lambda account: account.available)
    detail = (
        f"{poorest.name} has {poorest.money(poorest.available)} {poorest.currency} available; "
        "there is nothing left for this posting."
    )
    return _at(leg.index, "insufficient_funds", detail, poorest.name)


# -- in order of precedence -------------------------------------------------------------------------------------------


def check_postings(legs: Sequence[Leg], expected: Sequence[Expected]) -> None:
    """Whether the accounts that are named fit together, and the amounts their currencies."""
    THERE.check(legs)
    if expected:
        preconditions.THERE.check(expected)
    ONE_CURRENCY.check(legs)
    FITS_SCALE.check(legs)
    if expected:
        preconditions.FITS_SCALE.check(preconditions.bounds_of(expected))


def check_status(moved: Sequence[Moved]) -> None:
    for each in moved:
        if each.account.status != "open":
            for rule in STATUS:
                rule.check(moved)


def check_limits(moved: Sequence[Moved], totals: Rule[Moved], balancing: Sequence[Leg] = ()) -> None:
    """Whether sums and limits bear what `moved` says; `balancing` are the postings that move all there is."""
    totals.check(moved)
    for leg in balancing:
        if not leg.minor:
            # what postings before have broken comes first
            ABOVE.check(each for each in moved if each.index <= leg.index)
            raise nothing_left(leg)
    ABOVE.check(moved)
    BELOW.check(moved)
