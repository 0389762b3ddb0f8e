"""Keeps a ledger's books a second time, event by event, from the journal's bytes alone.

Events are read as plain JSON and added up here. None of the product's appliers, codecs or money functions are used, so
that a mistake in those is found and not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from cli.audit_grants import Register
from cli.audit_shelf import Account, Line, Shelf, Transaction, minor_of, text_of
from cli.chain import Chain, Json, Wrong
from cli.findings import Findings

_STATUS_AFTER: Final = {"AccountFrozen": "frozen", "AccountUnfrozen": "open", "AccountClosed": "closed"}
_STATUS_BEFORE: Final = {
    "AccountFrozen": ("open",),
    "AccountUnfrozen": ("frozen",),
    "AccountClosed": ("open", "frozen"),
}
_SCHEDULED: Final = {
    "SchedulePaused": (("active",), "paused"),
    "ScheduleResumed": (("paused",), "active"),
    "ScheduleCancelled": (("active", "paused"), "cancelled"),
}


class Books:
    """One ledger's books, kept event by event.

    Of the last stretch of the journal: `postings` and `captures` by seq (and posting), `periods` by seq, and `times`,
    when each event was recorded.
    """

    def __init__(self, ledger: str, findings: Findings) -> None:
        self.ledger = ledger
        self.findings = findings
        self.shelf = Shelf()
        self.register = Register()
        self.profile: Json | None = None
        self.currencies: dict[str, int] = {}
        self.closed_before: str | None = None
        self.schedules: dict[str, Json] = {}
        self.chain = Chain(f"ledger:{ledger}", ledger, findings)
        self.postings: dict[tuple[int, int], Json] = {}
        self.captures: dict[int, Json] = {}
        self.periods: dict[int, Json] = {}
        self.times: dict[int, str] = {}
        self._kinds: Mapping[str, Callable[[int, Json, Json], list[Account]]] = {
            "LedgerCreated": self._ledger_created,
            "MetadataChanged": self._metadata_changed,
            "AccessGranted": self._access_granted,
            "AccessRevoked": self._access_revoked,
            "CurrencyRegistered": self._currency_registered,
            "AccountOpened": self._account_opened,
            "AccountMetadataChanged": self._account_metadata_changed,
            "AccountFrozen": self._account_status_changed,
            "AccountUnfrozen": self._account_status_changed,
            "AccountClosed": self._account_status_changed,
            "PeriodClosed": self._period_closed,
            "TransactionPosted": self._transaction_posted,
            "TransactionHeld": self._transaction_held,
            "TransactionCaptured": self._transaction_captured,
            "TransactionVoided": self._transaction_released,
            "TransactionExpired": self._transaction_released,
            "TransactionReversed": self._transaction_reversed,
            "TransactionMetadataChanged": self._transaction_metadata_changed,
            "ScheduleCreated": self._schedule_created,
            "SchedulePaused": self._schedule_changed,
            "ScheduleResumed": self._schedule_changed,
            "ScheduleCancelled": self._schedule_changed,
        }

    def enter(self, row: Record) -> None:
        """Takes the next line of the journal."""
        self.chain.enter(row, self._read)

    def turn_page(self) -> None:
        """Forgets what is kept of the last stretch only."""
        for kept in (self.postings, self.captures, self.periods, self.times):
            kept.clear()

    def _read(self, seq: int, event: Json) -> None:
        place = f"{self.ledger}/{seq}"
        self.times[seq] = event["recorded_at"]
        kind = self._kinds.get(event["type"])
        if kind is None:
            raise Wrong(f"{event['type']} is of no kind that is known here")
        touched = kind(seq, event["data"], event)
        shown = {figures["account"]: figures for figures in event["balances"]}
        for account in touched:
            self._compare_figures(place, account, shown.pop(account.name, None))
        for name in shown:
            self.findings.add("event balance", f"{place} {name}: is shown, but was not touched")

    def _compare_figures(self, place: str, account: Account, shown: Json | None) -> None:
        if shown is None:
            self.findings.add("event balance", f"{place} {account.name}: is not shown")
        else:
            self.findings.compare("event balance", f"{place} {account.name}", account.figures(), shown)

    # -- the ledger ---------------------------------------------------------------------------------------------------

    def _ledger_created(self, seq: int, data: Json, event: Json) -> list[Account]:
        if self.profile is not None or seq != 1:
            raise Wrong("creates the ledger again")
        if data["id"] != self.ledger:
            raise Wrong(f"creates the ledger {data['id']}")
        self.profile = {
            "name": data["name"],
            "owner": UUID(data["owner"]),
            "metadata": data["metadata"],
            "version": seq,
            "created_at": datetime.fromisoformat(event["recorded_at"]),
        }
        self.register.give(data["owner"], "owner", event["recorded_at"], seq)
        return []

    def _metadata_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        if self.profile is None:
            raise Wrong("changes a ledger that was not created")
        self.profile |= {"metadata": data["metadata"], "version": seq}
        return []

    def _access_granted(self, seq: int, data: Json, event: Json) -> list[Account]:
        self.register.give(data["user"], data["role"], event["recorded_at"], seq)
        return []

    def _access_revoked(self, seq: int, data: Json, event: Json) -> list[Account]:
        self.register.take(data["user"])
        return []

    def _currency_registered(self, seq: int, data: Json, event: Json) -> list[Account]:
        if data["code"] in self.currencies:
            raise Wrong(f"registers {data['code']} again")
        self.currencies[data["code"]] = data["scale"]
        return []

    def _period_closed(self, seq: int, data: Json, event: Json) -> list[Account]:
        before = data["before"]
        if self.closed_before is not None and before < self.closed_before:
            raise Wrong(f"opens the period from {before} to {self.closed_before} again")
        self.closed_before = before
        self.periods[seq] = {"before": _time(before), "closed_at": _time(event["recorded_at"])}
        return []

    # -- accounts -----------------------------------------------------------------------------------------------------

    def _account_opened(self, seq: int, data: Json, event: Json) -> list[Account]:
        name, scale = data["name"], data["scale"]
        if self.shelf.account(name) is not None:
            raise Wrong(f"opens {name} again")
        if self.currencies.setdefault(data["currency"], scale) != scale:
            raise Wrong(f"{data['currency']} has another scale")
        low, high = (
            None if text is None else minor_of(text, scale) for text in (data["min_balance"], data["max_balance"])
        )
        head = (name, data["currency"], scale, data["type"], low, high)
        account = Account(*head, data["metadata"], event["recorded_at"], seq, seq)
        self.shelf.put_account(account)
        return [account]

    def _account_metadata_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        account = self._changing(seq, data["name"])
        account.metadata = data["metadata"]
        return [account]

    def _account_status_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        kind, account = event["type"], self._changing(seq, data["name"])
        if account.status not in _STATUS_BEFORE[kind]:
            raise Wrong(f"{account.name} is {account.status} before {kind}")
        if kind == "AccountClosed" and (account.balance or account.pending_debits or account.pending_credits):
            raise Wrong(f"closes {account.name}, which is not empty")
        account.status = _STATUS_AFTER[kind]
        return [account]

    def _changing(self, seq: int, name: str) -> Account:
        account = self._account(name)
        self.shelf.note_change(seq, account)
        account.version = seq
        return account

    def _account(self, name: str) -> Account:
        account = self.shelf.account(name)
        if account is None:
            raise Wrong(f"names {name}, which is not open")
        return account

    # -- transactions -------------------------------------------------------------------------------------------------

    def _transaction_posted(self, seq: int, data: Json, event: Json) -> list[Account]:
        lines = [self._line(line, held=False) for line in data["postings"]]
        self._keep(seq, data, event, lines, "posted")
        return self._move(seq, data["effective_at"], [(line, line.amount) for line in lines])

    def _transaction_held(self, seq: int, data: Json, event: Json) -> list[Account]:
        lines = [self._line(line, held=True) for line in data["postings"]]
        self._keep(seq, data, event, lines, "pending").expires_at = data["expires_at"]
        touched: dict[str, Account] = {}
        for line in lines:
            debit, credit = touched.setdefault(line.debit, self._account(line.debit)), self._account(line.credit)
            touched[line.credit] = credit
            debit.pending_debits += line.amount
            credit.pending_credits += line.amount
        for account in touched.values():
            self._check_open(account)
            going = any(_lowers(account, line) for line in lines)
            coming = any(_raises(account, line) for line in lines)
            self._check_limits(seq, account, down=going, up=coming)
        return self._touch_held(seq, touched.values())

    def _transaction_captured(self, seq: int, data: Json, event: Json) -> list[Account]:
        transaction = self._pending(seq, data["transaction"])
        if data["capture"] != event["command"]:
            raise Wrong("is the capture of another command")
        touched, moved = self._settle(transaction, data["postings"])
        if not any(amount for _, amount in moved):
            raise Wrong("captures nothing")
        self._end(transaction, data["status"], "captured")
        self._check_period(data["effective_at"])
        self._note(seq, data["effective_at"], moved)
        self.captures[seq] = {
            "id": UUID(data["capture"]),
            "transaction": UUID(transaction.id),
            "amounts": [amount for _, amount in moved],
            "effective_at": _time(data["effective_at"]),
            "recorded_at": _time(event["recorded_at"]),
        }
        return self._touch_held(seq, touched)

    def _transaction_released(self, seq: int, data: Json, event: Json) -> list[Account]:
        transaction = self._pending(seq, data["transaction"])
        touched, moved = self._settle(transaction, data["postings"])
        if any(amount for _, amount in moved) or any(line.held for line in transaction.lines):
            raise Wrong("does not release all that is held, and only that")
        expired = event["type"] == "TransactionExpired"
        if expired and (transaction.expires_at is None or event["recorded_at"] < transaction.expires_at):
            raise Wrong(f"{transaction.id} expires before its time")
        transaction.expired = expired
        self._end(transaction, data["status"], "expired" if expired else "voided")
        return self._touch_held(seq, touched)

    def _transaction_reversed(self, seq: int, data: Json, event: Json) -> list[Account]:
        original = self._transaction(data["reverses"])
        if original.status not in ("posted", "captured") or original.reversed_by is not None:
            raise Wrong(f"reverses {original.id}, which can't be")
        if data["effective_at"] < original.effective_at:
            raise Wrong(f"takes effect before {original.id}, which it reverses")
        lines = [self._line(line, held=False) for line in data["postings"]]
        undone = [(line.credit, line.debit, line.posted) for line in original.lines if line.posted]
        if [(line.debit, line.credit, line.amount) for line in lines] != undone:
            raise Wrong(f"does not undo what {original.id} posted")
        self._keep(seq, data, event, lines, "posted").reverses = original.id
        original.reversed_by, original.version = data["transaction"], seq
        return self._move(seq, data["effective_at"], [(line, line.amount) for line in lines])

    def _transaction_metadata_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        transaction = self._transaction(data["transaction"])
        transaction.metadata, transaction.version = data["metadata"], seq
        return []

    def _line(self, line: Json, *, held: bool) -> Line:
        debit, credit = self._account(line["debit"]), self._account(line["credit"])
        for party in (debit, credit):
            if party.currency != line["currency"]:
                raise Wrong(f"moves {line['currency']} in {party.name}, which is in {party.currency}")
        amount = minor_of(line["amount"], debit.scale)
        if amount <= 0 or debit is credit:
            raise Wrong(f"{line} is no posting")
        return Line(
            debit.name, credit.name, debit.currency, debit.scale, amount, 0 if held else amount, amount if held else 0
        )

    def _keep(self, seq: int, data: Json, event: Json, lines: list[Line], status: str) -> Transaction:
        if not lines or self.shelf.transaction(data["transaction"]) is not None:
            raise Wrong(f"makes {data['transaction']} again, or of nothing")
        if data["transaction"] != event["command"]:
            raise Wrong("is the transaction of another command")
        kept = Transaction(
            data["transaction"],
            seq,
            seq,
            status,
            status == "pending",
            data["reference"],
            data["description"],
            data["metadata"],
            data["effective_at"],
            event["recorded_at"],
            lines,
        )
        self.shelf.put_transaction(kept)
        return kept

    def _transaction(self, name: str) -> Transaction:
        transaction = self.shelf.transaction(name)
        if transaction is None:
            raise Wrong(f"names the transaction {name}, which was not made")
        return transaction

    def _pending(self, seq: int, name: str) -> Transaction:
        transaction = self._transaction(name)
        if transaction.status != "pending":
            raise Wrong(f"{name} is {transaction.status}, not pending")
        transaction.version = seq
        return transaction

    def _settle(self, transaction: Transaction, said: list[Json]) -> tuple[list[Account], list[tuple[Line, int]]]:
        """Takes from the hold what each posting says. Answers the accounts it touched, and what was posted."""
        if len(said) != len(transaction.lines):
            raise Wrong(f"has other postings than {transaction.id}")
        touched: dict[str, Account] = {}
        moved: list[tuple[Line, int]] = []
        for line, now in zip(transaction.lines, said, strict=True):
            amount, released, held = (minor_of(now[name], line.scale) for name in ("amount", "released", "held"))
            parties = (now["debit"], now["credit"], now["currency"])
            if parties != (line.debit, line.credit, line.currency) or min(amount, released, held) < 0:
                raise Wrong(f"has other postings than {transaction.id}")
            if line.held - amount - released != held:
                raise Wrong(f"{transaction.id} held {line.held}, of which it makes {amount}, {released} and {held}")
            line.held, line.posted = held, line.posted + amount
            moved.append((line, amount))
            if amount or released:
                self._take(touched, line, amount, released)
        return list(touched.values()), moved

    def _take(self, touched: dict[str, Account], line: Line, amount: int, released: int) -> None:
        debit, credit = self._account(line.debit), self._account(line.credit)
        touched[debit.name], touched[credit.name] = debit, credit
        debit.pending_debits -= amount + released
        credit.pending_credits -= amount + released
        debit.debits += amount
        credit.credits += amount
        if min(debit.pending_debits, credit.pending_credits) < 0:
            raise Wrong("releases more than is held")

    def _end(self, transaction: Transaction, said: str, ended: str) -> None:
        if any(line.held for line in transaction.lines):
            status = "pending"
        else:
            status = "captured" if any(line.posted for line in transaction.lines) else ended
        if said != status:
            raise Wrong(f"{transaction.id} is {status}, not {said}")
        transaction.status = status

    def _move(self, seq: int, effective_at: str, moved: list[tuple[Line, int]]) -> list[Account]:
        touched: dict[str, Account] = {}
        nets: dict[str, int] = {}
        for line, amount in moved:
            for name, debits in ((line.debit, amount), (line.credit, -amount)):
                account = touched[name] = self._account(name)
                account.debits += max(debits, 0)
                account.credits += max(-debits, 0)
                nets[name] = nets.get(name, 0) + (debits if account.debit_normal else -debits)
        for account in touched.values():
            account.version = seq
            self._check_open(account)
            self._check_limits(seq, account, down=nets[account.name] < 0, up=nets[account.name] > 0)
        self._check_period(effective_at)
        self._note(seq, effective_at, moved)
        return list(touched.values())

    def _note(self, seq: int, effective_at: str, moved: list[tuple[Line, int]]) -> None:
        for number, (line, amount) in enumerate(moved):
            if amount:
                self.postings[seq, number] = {
                    "debit": line.debit,
                    "credit": line.credit,
                    "currency": line.currency,
                    "scale": line.scale,
                    "amount": amount,
                    "effective_at": _time(effective_at),
                }

    def _touch_held(self, seq: int, touched: Iterable[Account]) -> list[Account]:
        accounts = list(touched)
        for account in accounts:
            account.version = seq
            self.shelf.note_sums(seq, account)
        return accounts

    # -- schedules ----------------------------------------------------------------------------------------------------

    def _schedule_created(self, seq: int, data: Json, event: Json) -> list[Account]:
        if data["schedule"] in self.schedules:
            raise Wrong(f"makes the schedule {data['schedule']} again")
        self.schedules[data["schedule"]] = {
            "seq": seq,
            "principal": UUID(data["principal"]),
            "command": data["command"],
            "every": data["every"],
            "rrule": data["rrule"],
            "starts_at": _time(data["starts_at"]),
            "missed": data["missed"],
            "created_at": _time(data["created_at"]),
            "status": "active",
            "version": seq,
        }
        return []

    def _schedule_changed(self, seq: int, data: Json, event: Json) -> list[Account]:
        schedule = self.schedules.get(data["schedule"])
        before, after = _SCHEDULED[event["type"]]
        if schedule is None or schedule["status"] not in before:
            raise Wrong(f"changes the schedule {data['schedule']}, which can't be")
        schedule |= {"status": after, "version": seq}
        return []

    # -- what may not be ----------------------------------------------------------------------------------------------

    def _check_open(self, account: Account) -> None:
        if account.status != "open":
            raise Wrong(f"uses {account.name}, which is {account.status}")

    def _check_period(self, effective_at: str) -> None:
        if self.closed_before is not None and effective_at < self.closed_before:
            raise Wrong(f"takes effect at {effective_at}, before {self.closed_before}")

    def _check_limits(self, seq: int, account: Account, *, down: bool, up: bool) -> None:
        """Nothing may leave an account beyond a limit that it moved it towards, what is held included."""
        low, high = account.minimum, account.maximum
        if (down and low is not None and account.balance - account.reserved < low) or (
            up and high is not None and account.balance + account.announced > high
        ):
            balance = text_of(account.balance, account.scale)
            self.findings.add("limit", f"{self.ledger}/{seq} {account.name}: {balance} is beyond its limit")


def _lowers(account: Account, line: Line) -> bool:
    return account.name == (line.credit if account.debit_normal else line.debit)


def _raises(account: Account, line: Line) -> bool:
    return account.name == (line.debit if account.debit_normal else line.credit)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
