"""What accounts must be like for a transaction to be applied, as they are before it does anything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import eq, ge, le
from typing import Final

import msgspec

from domain.errors import DomainError
from domain.ledger.commands import PostTransaction, Precondition
from domain.ledger.model import Account, Ledger
from domain.ledger.specifications import finer, refusal
from domain.money import decimals_of, parse_minor
from domain.specification import Rule, Specification

_COMPARED: Final = {"eq": (eq, "exactly"), "gte": (ge, "at least"), "lte": (le, "at most")}


class Expected(msgspec.Struct, frozen=True, gc=False):
    """A precondition beside the account it is about, None where the ledger has no such account."""

    index: int
    precondition: Precondition
    account: Account | None

    def bounds(self) -> Iterator[Bound]:
        """What the figures of the account must be like."""
        wanted, account = self.precondition, self.account
        if account is None:
            return
        for field, bounds, figure in (
            ("balance", wanted.balance, account.balance),
            ("available", wanted.available, account.available),
        ):
            if bounds is not None:
                for test, value in (("eq", bounds.eq), ("gte", bounds.gte), ("lte", bounds.lte)):
                    if value is not None:
                        yield Bound(f"#/preconditions/{self.index}/{field}/{test}", field, test, value, figure, account)


class Bound(msgspec.Struct, frozen=True, gc=False):
    """One comparison: `figure` of the account in minor units with `value`, a decimal string."""

    pointer: str
    field: str
    test: str
    value: str
    figure: int
    account: Account

    def is_met(self) -> bool:
        compare, _ = _COMPARED[self.test]
        return bool(compare(self.figure, parse_minor(self.value, self.account.scale)))


def expectations(command: PostTransaction, ledger: Ledger) -> list[Expected]:
    return [
        Expected(index, precondition, ledger.accounts.get(precondition.account))
        for index, precondition in enumerate(command.preconditions or ())
    ]


def bounds_of(expected: Iterable[Expected]) -> Iterator[Bound]:
    for each in expected:
        yield from each.bounds()


def _not_there(expected: Expected) -> DomainError:
    name = expected.precondition.account
    return refusal(
        "account_not_found", f"There is no account {name}.", f"#/preconditions/{expected.index}/account", name
    )


def _unmet(bound: Bound) -> DomainError:
    account, minor = bound.account, parse_minor(bound.value, bound.account.scale)
    figure = f"a balance of {account.money(bound.figure)} {account.currency}"
    if bound.field == "available":
        figure = f"{account.money(bound.figure)} {account.currency} available"
    detail = f"{account.name} has {figure}; {_COMPARED[bound.test][1]} {account.money(minor)} expected."
    return refusal("precondition_failed", detail, bound.pointer, account.name)


def _other_version(expected: Expected) -> DomainError:
    account, version = expected.account, expected.precondition.version
    found = "none" if account is None else account.version
    detail = f"{expected.precondition.account} has version {found}; {version} expected."
    return refusal(
        "precondition_failed", detail, f"#/preconditions/{expected.index}/version", expected.precondition.account
    )


account_is_there: Specification[Expected] = Specification(lambda e: e.account is not None)
has_version: Specification[Expected] = Specification(lambda e: e.precondition.version is not None)
is_version: Specification[Expected] = Specification(
    lambda e: e.account is not None and e.account.version == e.precondition.version
)
bound_fits_scale: Specification[Bound] = Specification(lambda b: decimals_of(b.value) <= b.account.scale)
bound_is_met: Specification[Bound] = Specification(lambda b: b.is_met())

THERE: Final = Rule(account_is_there, _not_there)
FITS_SCALE: Final = Rule(bound_fits_scale, lambda b: finer(b.value, b.account.currency, b.account.scale, b.pointer))
VERSION: Final = Rule(~has_version | is_version, _other_version)
FIGURE: Final = Rule(bound_is_met, _unmet)


def check(expected: Sequence[Expected]) -> None:
    """Raises the refusal for the first that an account does not meet."""
    for each in expected:
        VERSION.check((each,))
        FIGURE.check(each.bounds())
