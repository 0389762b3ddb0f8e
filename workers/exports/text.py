"""The ledger as text for plain-text accounting programs: beancount (https://beancount.github.io/docs) and hledger
(https://hledger.org/hledger.html).

Both know signed amounts only: a debit is positive, a credit negative, whatever the account's type. Days are UTC's. At
the end every account's balance is asserted, so that the program itself finds it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Final, Protocol

import msgspec

from workers.exports.rows import Movement, Opened

EARLIEST: Final = "1700-01-01"
"""The first day that beancount can read; what took effect before is written on it."""

_ROOTS: Final = {
    "asset": "Assets",
    "liability": "Liabilities",
    "equity": "Equity",
    "income": "Income",
    "expense": "Expenses",
}
_LETTERS: Final = {"asset": "A", "liability": "L", "equity": "E", "income": "R", "expense": "X"}
# words of beancount's own, which none of its commodities can be called
_WORDS: Final = frozenset({"TRUE", "FALSE", "NULL"})
_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


class Balance(msgspec.Struct, frozen=True):
    """What an account stands at: in debit above zero, in credit below, as a decimal string."""

    account: str
    currency: str
    amount: str


class Dialect(Protocol):
    """How a program wants it written. Every method yields lines."""

    def head(self, ledger: str, seq: int) -> Iterator[str]: ...

    def opened(self, account: Opened) -> Iterator[str]: ...

    def moved(self, movement: Movement) -> Iterator[str]: ...

    def asserted(self, last_day: str, balances: Iterable[Balance]) -> Iterator[str]: ...


def negative(amount: str) -> str:
    """The same amount with the other sign."""
    return amount[1:] if amount.startswith("-") else f"-{amount}"


def day_of(time: str) -> str:
    return time[:10]


class Beancount:
    """Account names become `Assets:Bank`: the type first, then each segment with a capital. What beancount does not
    allow in a segment is written with a dash: `--` is a dash, `-u` an underscore, `-d` a dot; the name as it is stands
    beside the account. Accounts are open from the first day there is, since a posting may take effect before its
    account was opened.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def head(self, ledger: str, seq: int) -> Iterator[str]:
        yield f'option "title" "{ledger}, events 1 to {seq}"'
        yield ""

    def opened(self, account: Opened) -> Iterator[str]:
        segments = ":".join(_segment(part) for part in account.name.split(":"))
        self._names[account.name] = name = f"{_ROOTS[account.type]}:{segments}"
        yield f"{EARLIEST} open {name} {_commodity(account.currency)}"
        yield f'  name: "{account.name}"'

    def moved(self, movement: Movement) -> Iterator[str]:
        yield f"{max(EARLIEST, day_of(movement.effective_at))} * {_string(movement.description or '')}"
        yield f'  transaction: "{movement.transaction}"'
        yield f'  effective-at: "{movement.effective_at}"'
        if movement.reference is not None:
            yield f"  reference: {_string(movement.reference)}"
        for debit, credit, amount, currency in movement.lines:
            commodity = _commodity(currency)
            yield f"  {self._names[debit]}  {amount} {commodity}"
            yield f"  {self._names[credit]}  {negative(amount)} {commodity}"

    def asserted(self, last_day: str, balances: Iterable[Balance]) -> Iterator[str]:
        # of the morning: the day after the last one
        day = date.fromisoformat(last_day) + timedelta(days=1)
        yield ""
        for balance in balances:
            # exactly: by itself it lets the last digit be one off
            name, commodity = self._names[balance.account], _commodity(balance.currency)
            yield f"{day} balance {name}  {balance.amount} ~ 0 {commodity}"


def _segment(part: str) -> str:
    written = part.replace("-", "--").replace("_", "-u").replace(".", "-d")
    # two capitals begin no other segment
    return f"XX{written}" if written[0] == "-" else written[0].upper() + written[1:]


def _commodity(code: str) -> str:
    return f"{code}.C" if code in _WORDS else code


def _string(text: str) -> str:
    line = _BREAKS.sub(" ", text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{line}"'


class Hledger:
    """Account names stay as they are, with their type beside them."""

    def __init__(self) -> None:
        self._commodities: set[str] = set()

    def head(self, ledger: str, seq: int) -> Iterator[str]:
        yield f"; {ledger}, events 1 to {seq}"
        yield ""

    def opened(self, account: Opened) -> Iterator[str]:
        if account.currency not in self._commodities:
            self._commodities.add(account.currency)
            yield f"commodity 1000.{'0' * account.scale} {_quoted(account.currency)}"
        yield f"account {account.name}  ; type: {_LETTERS[account.type]}"

    def moved(self, movement: Movement) -> Iterator[str]:
        described = _BREAKS.sub(" ", movement.description or "").replace(";", ",")
        yield f"{day_of(movement.effective_at)} * {described}".rstrip()
        yield f"    ; transaction: {movement.transaction}"
        yield f"    ; effective-at: {movement.effective_at}"
        if movement.reference is not None:
            yield f"    ; reference: {_BREAKS.sub(' ', movement.reference)}"
        for debit, credit, amount, currency in movement.lines:
            yield f"    {debit}  {amount} {_quoted(currency)}"
            yield f"    {credit}  {negative(amount)} {_quoted(currency)}"

    def asserted(self, last_day: str, balances: Iterable[Balance]) -> Iterator[str]:
        yield ""
        yield f"{last_day} * balances"
        for balance in balances:
            commodity = _quoted(balance.currency)
            yield f"    {balance.account}  0 {commodity} = {balance.amount} {commodity}"


def _quoted(code: str) -> str:
    """Commodities with digits stand in quotes."""
    return f'"{code}"' if any(letter.isdigit() for letter in code) else code
