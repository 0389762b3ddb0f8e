"""The rules of a ledger, in the contract's order of precedence: the first that is broken names the refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from domain.errors import DomainError, Fault, NotFoundError
from domain.ledger.commands import MAX_METADATA, OpenAccount, Posting, RegisterCurrency
from domain.ledger.model import Account, Ledger
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


class Movement(msgspec.Struct, gc=False):
    """What a transaction as a whole does to one account, in minor units. `index`: the first posting that names it.

    `net` is how far the balance moves; positive is up.
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


def _refusal(code: str, detail: str, pointer: str, place: str) -> DomainError:
    return DomainError(code, detail, (Fault(pointer, place),))


def _at(index: int, code: str, detail: str, place: str) -> DomainError:
    return _refusal(code, detail, f"#/postings/{index}", place)


# -- access -----------------------------------------------------------------------------------------------------------


class Asked(msgspec.Struct, frozen=True, gc=False):
    """The ledger, and whether the one who asks holds the role the command needs."""

    ledger: Ledger
    granted: bool


exists: Specification[Asked] = Specification(lambda asked: asked.ledger.profile is not None)
granted: Specification[Asked] = Specification(lambda asked: asked.granted)
ACCESS: Final = Rule(exists & granted, lambda asked: NotFoundError(f"There is no ledger {asked.ledger.id}."))
CREATION: Final = Rule(granted, lambda asked: NotFoundError(f"There is nobody to own the ledger {asked.ledger.id}."))


# -- who may do what --------------------------------------------------------------------------------------------------


class Admission(msgspec.Struct, frozen=True):
    """A user, and the role they are to have from now on: None takes away the one they have."""

    ledger: Ledger
    user: UUID
    role: str | None

    @property
    def grant(self) -> str | None:
        member = self.ledger.members.get(self.user)
        return None if member is None else member.grant


def _is_active(admission: Admission) -> bool:
    member = admission.ledger.members.get(admission.user)
    return member is not None and member.active


user_is_active: Specification[Admission] = Specification(_is_active)
has_grant: Specification[Admission] = Specification(lambda a: a.grant is not None)
stays_owner: Specification[Admission] = Specification(lambda a: a.grant != "owner" or a.role == "owner")
leaves_an_owner: Specification[Admission] = Specification(lambda a: a.ledger.has_owner_besides(a.user))

GRANTABLE: Final = Rule(user_is_active, lambda a: NotFoundError(f"There is no user {a.user}."))
REVOCABLE: Final = Rule(has_grant, lambda a: NotFoundError(f"Nothing was granted to {a.user}."))
# without one, nobody but an administrator could ever let anybody in again
OWNED: Final = Rule(
    stays_owner | leaves_an_owner,
    lambda a: DomainError(
        "precondition_failed", f"{a.user} is the last owner of {a.ledger.id}: make another one first."
    ),
)


# -- metadata ---------------------------------------------------------------------------------------------------------

few_enough: Specification[dict[str, str]] = Specification(lambda metadata: len(metadata) <= MAX_METADATA)
METADATA: Final = Rule(
    few_enough,
    lambda metadata: _refusal(
        "validation_failed",
        f"That would make {len(metadata)} keys of metadata; {MAX_METADATA} is the most.",
        "#/metadata",
        f"must leave at most {MAX_METADATA} keys",
    ),
)


# -- opening an account -----------------------------------------------------------------------------------------------


class Opening(msgspec.Struct, frozen=True):
    command: OpenAccount
    ledger: Ledger

    @property
    def scale(self) -> int | None:
        return self.ledger.currencies.scale_of(self.command.currency)

    def limits(self, scale: int) -> Iterable[Limit]:
        """The limits it asks for, once the currency's `scale` is known."""
        command = self.command
        for field, value in (("min_balance", command.min_balance), ("max_balance", command.max_balance)):
            if value is not None:
                yield Limit(field, value, command.currency, scale)


class Limit(msgspec.Struct, frozen=True):
    """A limit as it was asked for: the field, its decimal string, and the currency it is in."""

    field: str
    value: str
    currency: str
    scale: int


def _finer(value: str, currency: str, scale: int, pointer: str) -> DomainError:
    return _refusal("amount_scale", f"{value} has more decimals than the {scale} of {currency}.", pointer, value)


name_is_free: Specification[Opening] = Specification(lambda o: o.command.name not in o.ledger.accounts)
currency_is_known: Specification[Opening] = Specification(lambda o: o.scale is not None)
limit_fits_scale: Specification[Limit] = Specification(lambda limit: decimals_of(limit.value) <= limit.scale)
limit_fits: Specification[Limit] = Specification(lambda limit: abs(parse_minor(limit.value, limit.scale)) < LIMIT_MINOR)

OPENING: Final = (
    Rule(
        name_is_free,
        lambda o: _refusal(
            "account_exists", f"There is an account {o.command.name} already.", "#/name", o.command.name
        ),
    ),
    Rule(
        currency_is_known,
        lambda o: _refusal(
            "currency_unknown",
            f"{o.command.currency} is neither an ISO 4217 currency nor registered in this ledger.",
            "#/currency",
            o.command.currency,
        ),
    ),
)
LIMIT: Final = (
    Rule(limit_fits_scale, lambda limit: _finer(limit.value, limit.currency, limit.scale, f"#/{limit.field}")),
    Rule(
        limit_fits,
        lambda limit: _refusal(
            "amount_overflow", "A limit must stay below 10^38 minor units.", f"#/{limit.field}", limit.value
        ),
    ),
)


# -- registering a currency -------------------------------------------------------------------------------------------


class Registering(msgspec.Struct, frozen=True):
    command: RegisterCurrency
    ledger: Ledger


code_is_free: Specification[Registering] = Specification(lambda r: r.ledger.currencies.scale_of(r.command.code) is None)
REGISTER_CURRENCY: Final = (
    Rule(
        code_is_free,
        lambda r: _refusal(
            "currency_exists",
            f"{r.command.code} is known already, with scale {r.ledger.currencies.scale_of(r.command.code)}.",
            "#/code",
            r.command.code,
        ),
    ),
)


# -- posting a transaction --------------------------------------------------------------------------------------------


class Referring(msgspec.Struct, frozen=True, gc=False):
    reference: str | None
    ledger: Ledger


has_reference: Specification[Referring] = Specification(lambda r: r.reference is not None)
reference_is_used: Specification[Referring] = Specification(lambda r: r.reference in r.ledger.references)
REFERENCE: Final = Rule(
    ~has_reference | ~reference_is_used,
    lambda r: _refusal("reference_taken", f"{r.reference} names another transaction.", "#/reference", str(r.reference)),
)


def _missing(leg: Leg) -> DomainError:
    name = leg.posting.debit if leg.debit is None else leg.posting.credit
    return _at(leg.index, "account_not_found", f"There is no account {name}.", name)


def _mismatch(leg: Leg) -> DomainError:
    debit, credit = leg.debit, leg.credit
    said = " and ".join(f"{a.name} is in {a.currency}" for a in (debit, credit) if a is not None)
    return _at(leg.index, "currency_mismatch", f"{said}.", leg.posting.credit)


def _too_fine(leg: Leg) -> DomainError:
    currency = leg.debit.currency if leg.debit is not None else ""
    return _finer(leg.posting.amount, currency, leg.scale, f"#/postings/{leg.index}/amount")


debit_is_open: Specification[Leg] = Specification(lambda leg: leg.debit is not None)
credit_is_open: Specification[Leg] = Specification(lambda leg: leg.credit is not None)
one_currency: Specification[Leg] = Specification(
    lambda leg: leg.debit is not None and leg.credit is not None and leg.debit.currency == leg.credit.currency
)
amount_fits_scale: Specification[Leg] = Specification(lambda leg: decimals_of(leg.posting.amount) <= leg.scale)

POSTING: Final = (
    Rule(debit_is_open & credit_is_open, _missing),
    Rule(one_currency, _mismatch),
    Rule(amount_fits_scale, _too_fine),
)


def _overflow(movement: Movement) -> DomainError:
    name = movement.account.name
    return _at(movement.index, "amount_overflow", f"A total of {name} would reach 10^38 minor units.", name)


def _insufficient(movement: Movement) -> DomainError:
    account = movement.account
    floor = account.min_balance or 0
    limit = f" and may not fall below {account.money(floor)}" if floor else ""
    detail = (
        f"{account.name} has {account.money(account.available)} {account.currency} available{limit}; "
        f"{account.money(-movement.net)} needed."
    )
    return _at(movement.index, "insufficient_funds", detail, account.name)


def _exceeded(movement: Movement) -> DomainError:
    account = movement.account
    detail = (
        f"{account.name} has {account.money(account.balance)} {account.currency} and may not rise above "
        f"{account.money(account.max_balance or 0)}; {account.money(movement.net)} more would."
    )
    return _at(movement.index, "max_balance_exceeded", detail, account.name)


def _incoming_holds(account: Account) -> int:
    return account.pending_debits if account.debit_normal else account.pending_credits


totals_fit: Specification[Movement] = Specification(
    lambda m: m.account.posted_debits + m.debits < LIMIT_MINOR and m.account.posted_credits + m.credits < LIMIT_MINOR
)
has_minimum: Specification[Movement] = Specification(lambda m: m.account.min_balance is not None)
moves_down: Specification[Movement] = Specification(lambda m: m.net < 0)
stays_above: Specification[Movement] = Specification(
    lambda m: m.account.available + m.net >= (m.account.min_balance or 0)
)
has_maximum: Specification[Movement] = Specification(lambda m: m.account.max_balance is not None)
moves_up: Specification[Movement] = Specification(lambda m: m.net > 0)
stays_below: Specification[Movement] = Specification(
    lambda m: m.account.balance + _incoming_holds(m.account) + m.net <= (m.account.max_balance or 0)
)

MOVEMENT: Final = (
    Rule(totals_fit, _overflow),
    Rule(~(has_minimum & moves_down) | stays_above, _insufficient),
    Rule(~(has_maximum & moves_up) | stays_below, _exceeded),
)
