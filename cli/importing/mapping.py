"""What a row of the file becomes: a transaction, and the accounts to open before it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cli.importing.templates import Template, TemplateError
from domain.ledger.commands import OpenAccount, PostTransaction

_encode: Final = msgspec.json.Encoder(order="sorted").encode


class MappingError(Exception):
    """The mapping can't be used with this file; the message says what to change."""


class RowError(ValueError):
    """A row of which no command can be made."""


class OpenRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accounts whose names start with `prefix` are opened like this when they first occur."""

    prefix: str
    type: Literal["asset", "expense", "liability", "equity", "income"]
    currency: str | None = None
    min_balance: str | None = None
    max_balance: str | None = None

    @classmethod
    def parse(cls, text: str) -> OpenRule:
        """Reads `prefix=type[,currency=…][,min=…][,max=…]`. Raises MappingError."""
        prefix, _, rest = text.partition("=")
        kind, *others = rest.split(",")
        named: dict[str, str] = {"prefix": prefix, "type": kind}
        for other in others:
            name, equals, value = other.partition("=")
            field = {"currency": "currency", "min": "min_balance", "max": "max_balance"}.get(name)
            if not (field and equals and value):
                raise MappingError(f"--open {text!r}: expected currency=, min= or max=, found {other!r}.")
            named[field] = value
        try:
            return msgspec.convert(named, cls)
        except msgspec.ValidationError as error:
            raise MappingError(f"--open {text!r}: {error}.") from None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Templates for a transaction's members: a TOML file holds these names, the command line the same with hyphens.

    A row with a column as `swap_when` says, or with a negative amount if `signed`, has debit and credit exchanged.
    """

    debit: str | None = None
    credit: str | None = None
    amount: str | None = None
    reference: str | None = None
    description: str | None = None
    effective_at: str | None = None
    metadata: dict[str, str] = {}
    currency: str | None = None
    signed: bool = False
    swap_when: dict[str, str | list[str]] = {}
    open: list[OpenRule] = []

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Reads a TOML file. Raises MappingError."""
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise MappingError(f"{path}: {error}") from error

    def overridden(self, **others: Any) -> Plan:
        """This mapping with those of `others` that say something."""
        return msgspec.structs.replace(self, **{name: value for name, value in others.items() if value})


class Item(msgspec.Struct, frozen=True):
    """A command of a bulk request as it is sent, and the row it comes from."""

    line: int
    kind: Literal["open_account", "post_transaction"]
    key: str
    body: bytes
    row: tuple[str, ...] = ()


class Translator:
    """Turns rows into commands. `source` tells this file from others, `attempt` this try from earlier ones.

    The key of a transaction with a reference is made of its content, so that it is found again in a longer or a
    rearranged file; without one it is made of the file and the line, since two equal rows may both be meant.
    """

    def __init__(self, mapping: Plan, columns: Sequence[str], source: str, attempt: int) -> None:
        missing = [name for name in ("debit", "credit", "amount") if getattr(mapping, name) is None]
        if missing:
            raise MappingError(
                f"Say how to fill in {', '.join(missing)}: --{missing[0]} TEMPLATE, or in --mapping FILE."
            )
        if attempt > 1 and mapping.reference is None:
            raise MappingError("--attempt needs --reference: without one, rows would be posted twice.")
        unknown = [column for column in mapping.swap_when if column not in columns]
        if unknown:
            raise MappingError(f"--swap-when: there is no column {unknown[0]!r}; the file has {', '.join(columns)}.")
        self._mapping = mapping
        self._columns = tuple(columns)
        self._source = source
        self._attempt = attempt
        self._opened: set[str] = set()
        self._swaps = {
            column: (values,) if isinstance(values, str) else tuple(values)
            for column, values in mapping.swap_when.items()
        }
        try:
            self._templates = {
                name: Template.parse(text, self._columns)
                for name in ("debit", "credit", "amount", "reference", "description", "effective_at", "currency")
                if (text := getattr(mapping, name)) is not None
            }
            self._metadata = {name: Template.parse(text, self._columns) for name, text in mapping.metadata.items()}
        except TemplateError as error:
            raise MappingError(str(error)) from None

    def items(self, line: int, fields: Sequence[str]) -> list[Item]:
        """The commands for a row: accounts that occur for the first time, then the transaction. Raises RowError."""
        if len(fields) != len(self._columns):
            raise RowError(f"the row has {len(fields)} fields, the header {len(self._columns)}")
        row = dict(zip(self._columns, fields, strict=True))
        try:
            filled = {name: template.fill(row) for name, template in self._templates.items()}
            transaction = self._transaction(row, filled)
            posting = transaction["postings"][0]
            opened = [
                account
                for name in (posting["debit"], posting["credit"])
                if (account := self._account(name, filled.get("currency", ""))) is not None
            ]
            msgspec.convert(transaction, PostTransaction)
        except (ValueError, msgspec.ValidationError) as error:
            raise RowError(str(error)) from None
        self._opened.update(account["name"] for account in opened)
        key = self._key(line, transaction)
        made = [_item(line, "open_account", f"import:open:{_digest(account)}", account) for account in opened]
        return [*made, _item(line, "post_transaction", key, transaction, tuple(fields))]

    def _transaction(self, row: Mapping[str, str], filled: Mapping[str, str]) -> dict[str, Any]:
        debit, credit, amount = filled["debit"], filled["credit"], filled["amount"]
        swapped = any(row[column].strip() in values for column, values in self._swaps.items())
        if self._mapping.signed and amount.startswith("-"):
            amount, swapped = amount[1:], not swapped
        if swapped:
            debit, credit = credit, debit
        transaction: dict[str, Any] = {"postings": [{"debit": debit, "credit": credit, "amount": amount}]}
        for name in ("reference", "description", "effective_at"):
            if filled.get(name):
                transaction[name] = filled[name]
        metadata = {name: text for name, template in self._metadata.items() if (text := template.fill(row))}
        if metadata:
            transaction["metadata"] = metadata
        return transaction

    def _account(self, name: str, currency: str) -> dict[str, Any] | None:
        """What opens the account, None if it is open already or no rule is for it."""
        rule = next((rule for rule in self._mapping.open if name.startswith(rule.prefix)), None)
        if rule is None or name in self._opened:
            return None
        account = {"name": name, "currency": rule.currency or currency, "type": rule.type}
        account |= {
            limit: value for limit in ("min_balance", "max_balance") if (value := getattr(rule, limit)) is not None
        }
        msgspec.convert(account, OpenAccount)
        return account

    def _key(self, line: int, transaction: dict[str, Any]) -> str:
        again = f"{self._attempt}:" if self._attempt > 1 else ""
        if "reference" in transaction:
            return f"import:{again}{_digest(transaction)}"
        return f"import:{self._source[:32]}:{line}"


def _digest(content: dict[str, Any]) -> str:
    return sha256(_encode(content)).hexdigest()[:32]


def _item(
    line: int,
    kind: Literal["open_account", "post_transaction"],
    key: str,
    content: dict[str, Any],
    row: tuple[str, ...] = (),
) -> Item:
    return Item(line, kind, key, msgspec.json.encode({"kind": kind, **content, "idempotency_key": key}), row)
