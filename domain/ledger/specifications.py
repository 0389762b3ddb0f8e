"""The rules of a ledger, in the contract's order of precedence: the first that is broken names the refusal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from domain.clock import format_time
from domain.errors import DomainError, Fault, NotFoundError
from domain.ledger.commands import MAX_METADATA, OpenAccount, RegisterCurrency
from domain.ledger.model import Account, Ledger
from domain.money import LIMIT_MINOR, decimals_of, parse_minor
from domain.specification import Rule, Specification


def refusal(code: str, detail: str, pointer: str, place: str) -> DomainError:
    return DomainError(code, detail, (Fault(pointer, place),))


def finer(value: str, currency: str, scale: int, pointer: str) -> DomainError:
    return refusal("amount_scale", f"{value} has more decimals than the {scale} of {currency}.", pointer, value)


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
    lambda metadata: refusal(
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


name_is_free: Specification[Opening] = Specification(lambda o: o.command.name not in o.ledger.accounts)
currency_is_known: Specification[Opening] = Specification(lambda o: o.scale is not None)
limit_fits_scale: Specification[Limit] = Specification(lambda limit: decimals_of(limit.value) <= limit.scale)
limit_fits: Specification[Limit] = Specification(lambda limit: abs(parse_minor(limit.value, limit.scale)) < LIMIT_MINOR)

OPENING: Final = (
    Rule(
        name_is_free,
        lambda o: refusal("account_exists", f"There is an account {o.command.name} already.", "#/name", o.command.name),
    ),
    Rule(
        currency_is_known,
        lambda o: refusal(
            "currency_unknown",
            f"{o.command.currency} is neither an ISO 4217 currency nor registered in this ledger.",
            "#/currency",
            o.command.currency,
        ),
    ),
)
LIMIT: Final = (
    Rule(limit_fits_scale, lambda limit: finer(limit.value, limit.currency, limit.scale, f"#/{limit.field}")),
    Rule(
        limit_fits,
        lambda limit: refusal(
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
        lambda r: refusal(
            "currency_exists",
            f"{r.command.code} is known already, with scale {r.ledger.currencies.scale_of(r.command.code)}.",
            "#/code",
            r.command.code,
        ),
    ),
)


# -- what becomes of an account ---------------------------------------------------------------------------------------


class Named(msgspec.Struct, frozen=True, gc=False):
    """The account that a path names, None where there is none."""

    name: str
    account: Account | None

    @property
    def status(self) -> str | None:
        return None if self.account is None else self.account.status


def _said(named: Named) -> str:
    account = named.account
    if account is None:
        return named.name
    said = f"{named.name} has a balance of {account.money(account.balance)} {account.currency}"
    if account.pending_debits or account.pending_credits:
        debits, credits = account.money(account.pending_debits), account.money(account.pending_credits)
        said += f", pending debits of {debits} and pending credits of {credits}"
    return f"{said}; all of it must be zero."


is_there: Specification[Named] = Specification(lambda n: n.account is not None)
is_open: Specification[Named] = Specification(lambda n: n.status == "open")
is_frozen: Specification[Named] = Specification(lambda n: n.status == "frozen")
is_closed: Specification[Named] = Specification(lambda n: n.status == "closed")
is_empty: Specification[Named] = Specification(
    lambda n: n.account is not None and not (n.account.balance or n.account.pending_debits or n.account.pending_credits)
)

_THERE: Final = Rule(is_there, lambda n: NotFoundError(f"There is no account {n.name}."))
_NOT_CLOSED: Final = Rule(
    ~is_closed, lambda n: DomainError("account_closed", f"{n.name} is closed for good; use another account.")
)
UPDATING: Final = (_THERE,)
FREEZING: Final = (
    _THERE,
    _NOT_CLOSED,
    Rule(is_open, lambda n: DomainError("account_status", f"{n.name} is frozen already.")),
)
UNFREEZING: Final = (
    _THERE,
    _NOT_CLOSED,
    Rule(is_frozen, lambda n: DomainError("account_status", f"{n.name} is not frozen.")),
)
CLOSING: Final = (
    _THERE,
    Rule(~is_closed, lambda n: DomainError("account_status", f"{n.name} is closed already.")),
    Rule(is_empty, lambda n: DomainError("account_not_empty", _said(n))),
)


# -- periods ----------------------------------------------------------------------------------------------------------


class Dated(msgspec.Struct, frozen=True, gc=False):
    """A moment at which something is to take effect, and whether the request names it or it follows from others."""

    moment: datetime
    ledger: Ledger
    pointer: str = "#"


def _closed(dated: Dated) -> DomainError:
    moment, end = format_time(dated.moment), format_time(dated.ledger.closed_before or dated.moment)
    detail = f"The books are closed before {end}; this would take effect at {moment}."
    return refusal("period_closed", detail, dated.pointer, moment)


def _backwards(dated: Dated) -> DomainError:
    end = format_time(dated.ledger.closed_before or dated.moment)
    detail = f"The books are closed before {end} already; close them before a later moment."
    return refusal("period_closed", detail, "#/before", format_time(dated.moment))


is_after_closing: Specification[Dated] = Specification(
    lambda d: d.ledger.closed_before is None or d.moment >= d.ledger.closed_before
)
is_forward: Specification[Dated] = Specification(
    lambda d: d.ledger.closed_before is None or d.moment > d.ledger.closed_before
)
OPEN_PERIOD: Final = Rule(is_after_closing, _closed)
FORWARD: Final = Rule(is_forward, _backwards)
