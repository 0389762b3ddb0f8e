"""What the service promises, once more: a ledger in plain Python over lists and whole numbers, made to be read.

It shares nothing with the product. A command is decided against what was recorded before it, and either refused or
recorded as one event; every answer is worked out from lists at the time it is asked for. Nothing here is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

Json = dict[str, Any]

TOP = 10**38
DIGITS = 38
"""An amount may have no more of them before its point."""
STANDARD = {"USD": 2, "EUR": 2, "JPY": 0, "KWD": 3}
"""The currencies of ISO 4217 that it knows; others have to be registered."""
STEPS = {"SECONDLY": timedelta(seconds=1), "HOURLY": timedelta(hours=1), "DAILY": timedelta(days=1)}
DEBIT_NORMAL = ("asset", "expense")
RANKS = {"reader": 1, "writer": 2, "owner": 3}
AHEAD = timedelta(seconds=60)
SERVICE = "00000000-0000-0000-0000-000000000000"


class Refused(Exception):
    """A command that is not applied: the code, and where in the request the reason stands."""

    def __init__(self, code: str, *pointers: str) -> None:
        super().__init__(code, *pointers)
        self.code = code
        self.pointers = list(pointers)


class Asked(NamedTuple):
    """A command as it was accepted. `coming` are transactions that commands behind it, or scheduled ones, will make."""

    id: str
    kind: str
    body: Json
    principal: str
    accepted_at: datetime
    execute_at: datetime | None = None
    coming: frozenset[str] = frozenset()

    @property
    def moment(self) -> datetime:
        return self.execute_at or self.accepted_at


class Plan(NamedTuple):
    """What a command comes to: its event, the accounts that the event touches, and what it does to the ledger."""

    type: str
    data: Json
    touched: list[str]
    apply: Callable[[int, datetime], None]


# -- money and time ---------------------------------------------------------------------------------------------------


def written(minor: int, scale: int) -> str:
    whole, rest = divmod(abs(minor), 10**scale)
    return ("-" if minor < 0 else "") + str(whole) + (f".{rest:0{scale}}" if scale else "")


def fits(amount: str, scale: int) -> bool:
    return len(amount.partition(".")[2]) <= scale


def minor_of(amount: str, scale: int) -> int:
    return int(Fraction(amount) * 10**scale)


def moment_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


def span_of(every: str) -> timedelta:
    """What `PT5S` and the like stand for."""
    return timedelta(seconds=int(every.removeprefix("PT").removesuffix("S")))


def times_of(schedule: Json, until: datetime) -> list[datetime]:
    """All its times up to there. Of rules it knows those that go on by seconds, hours or days."""
    if schedule["every"] is not None:
        return stepped(schedule["starts_at"], span_of(schedule["every"]), until)
    parts = dict(part.split("=") for part in schedule["rrule"].split(";"))
    step = STEPS[parts["FREQ"]] * int(parts.get("INTERVAL", "1"))
    times = stepped(schedule["starts_at"], step, until)
    if "BYHOUR" in parts:
        hours = sorted(int(hour) for hour in parts["BYHOUR"].split(","))
        days = stepped(schedule["starts_at"].replace(hour=0), step, until)
        times = [day.replace(hour=hour) for day in days for hour in hours]
        times = [each for each in times if schedule["starts_at"] <= each <= until]
    return times[: int(parts["COUNT"])] if "COUNT" in parts else times


def stepped(first: datetime, step: timedelta, until: datetime) -> list[datetime]:
    return [first + number * step for number in range((until - first) // step + 1)]


def stamp(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- what a ledger holds ----------------------------------------------------------------------------------------------


@dataclass
class Account:
    """An account after the event with the seq `version`."""

    name: str
    currency: str
    scale: int
    type: str
    least: int | None
    most: int | None
    metadata: dict[str, str]
    opened_at: datetime
    version: int
    status: str = "open"
    debits: int = 0
    credits: int = 0
    held_debits: int = 0
    held_credits: int = 0

    @property
    def debit_normal(self) -> bool:
        return self.type in DEBIT_NORMAL

    @property
    def balance(self) -> int:
        return self.debits - self.credits if self.debit_normal else self.credits - self.debits

    @property
    def outgoing(self) -> int:
        return self.held_credits if self.debit_normal else self.held_debits

    @property
    def incoming(self) -> int:
        return self.held_debits if self.debit_normal else self.held_credits

    @property
    def available(self) -> int:
        return self.balance - self.outgoing

    def money(self, minor: int | None) -> str | None:
        return None if minor is None else written(minor, self.scale)

    def figures(self) -> Json:
        """As events carry them."""
        return {
            "account": self.name,
            "currency": self.currency,
            "posted_debits": self.money(self.debits),
            "posted_credits": self.money(self.credits),
            "pending_debits": self.money(self.held_debits),
            "pending_credits": self.money(self.held_credits),
            "balance": self.money(self.balance),
            "available": self.money(self.available),
        }

    def view(self, ledger: str) -> Json:
        figures = self.figures()
        return {
            "ledger": ledger,
            "name": figures.pop("account"),
            "currency": figures.pop("currency"),
            "type": self.type,
            "normal_balance": "debit" if self.debit_normal else "credit",
            "status": self.status,
            "min_balance": self.money(self.least),
            "max_balance": self.money(self.most),
            **figures,
            "metadata": self.metadata,
            "opened_at": stamp(self.opened_at),
            "version": self.version,
        }


@dataclass
class Line:
    """A posting of a transaction."""

    debit: str
    credit: str
    amount: int
    posted: int
    held: int


@dataclass
class Transaction:
    """`over` is true once its expiry was recorded."""

    id: str
    status: str
    lines: list[Line]
    reference: str | None
    description: str | None
    metadata: dict[str, str]
    effective_at: datetime
    recorded_at: datetime
    expires_at: datetime | None
    reverses: str | None
    seq: int
    version: int
    captures: list[Json] = field(default_factory=list)
    reversed_by: str | None = None
    over: bool = False


class Entry(NamedTuple):
    """A posting that moved money."""

    effective_at: datetime
    seq: int
    posting: int
    recorded_at: datetime
    transaction: str
    id: str
    debit: str
    credit: str
    amount: int
    reference: str | None
    description: str | None


@dataclass
class Moving:
    """What a transaction does to one account, named first by the posting `index`: None where the request has none."""

    account: Account
    index: int | None
    debits: int = 0
    credits: int = 0

    @property
    def pointer(self) -> str:
        return "#" if self.index is None else f"#/postings/{self.index}"

    def lowered(self, pending: bool) -> int:
        """By how much less is available then. A hold that comes in makes nothing available."""
        out, back = (self.credits, self.debits) if self.account.debit_normal else (self.debits, self.credits)
        return out if pending else out - back

    def raised(self, pending: bool) -> int:
        back, out = (self.debits, self.credits) if self.account.debit_normal else (self.credits, self.debits)
        return back if pending else back - out


@dataclass
class Ledger:
    """One set of books. `users` are those who can log in, `admins` those of them who own every ledger."""

    id: str
    users: set[str]
    admins: set[str] = field(default_factory=set)
    name: str = ""
    owner: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    times: list[datetime] = field(default_factory=list)
    grants: dict[str, tuple[str, int]] = field(default_factory=dict)
    currencies: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    history: dict[str, list[Account]] = field(default_factory=dict)
    transactions: dict[str, Transaction] = field(default_factory=dict)
    periods: list[tuple[datetime, int]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    schedules: dict[str, Json] = field(default_factory=dict)

    @property
    def seq(self) -> int:
        return len(self.times)

    # -- commands -----------------------------------------------------------------------------------------------------

    def decide(self, asked: Asked) -> Plan:
        """What the command comes to now. Raises Refused."""
        plan: Plan = getattr(self, asked.kind)(asked, asked.body)
        return plan

    def record(self, plan: Plan, recorded_at: datetime) -> list[Json]:
        """Makes it so; the figures of the accounts that were touched."""
        self.times.append(recorded_at)
        plan.apply(self.seq, recorded_at)
        for name in plan.touched:
            account = self.accounts[name]
            account.version = self.seq
            self.history.setdefault(name, []).append(copy(account))
        return [self.accounts[name].figures() for name in plan.touched]

    def dry(self, asked: Asked, now: datetime) -> list[Json]:
        """The accounts that it would touch, as they would be. Raises Refused."""
        trial = self._twin()
        plan = trial.decide(asked)
        trial.record(plan, now)
        return [trial.accounts[name].view(self.id) for name in plan.touched]

    def together(self, several: Iterable[Asked], now: datetime) -> tuple[int, Refused] | bool:
        """Whether all can be applied, one after the other; else the number of the first that can't, and why."""
        trial = self._twin()
        for number, asked in enumerate(several):
            try:
                trial.record(trial.decide(asked), now)
            except Refused as refused:
                return number, refused
        return True

    def _twin(self) -> Ledger:
        """Another one like it, to try things out."""
        twin = copy(self)
        for name, value in vars(self).items():
            setattr(twin, name, copy(value))
        twin.accounts = {name: copy(account) for name, account in self.accounts.items()}
        twin.history = {name: [*states] for name, states in self.history.items()}
        twin.transactions = {}
        for id, found in self.transactions.items():
            twin.transactions[id] = copy(found)
            twin.transactions[id].lines = [copy(line) for line in found.lines]
            twin.transactions[id].captures = [*found.captures]
        return twin

    def admit(self, asked: Asked, role: str) -> None:
        granted, _ = self.grants.get(asked.principal, ("", 0))
        if asked.principal in self.admins:
            granted = "owner"
        if self.seq == 0 or RANKS.get(granted, 0) < RANKS[role]:
            raise Refused("not_found")

    def create_ledger(self, asked: Asked, body: Json) -> Plan:
        metadata = dict(body.get("metadata") or {})

        def apply(seq: int, _: datetime) -> None:
            self.name, self.owner, self.metadata = body["name"], asked.principal, metadata
            self.grants[asked.principal] = ("owner", seq)

        data = {"id": self.id, "name": body["name"], "owner": asked.principal, "metadata": metadata}
        return Plan("LedgerCreated", data, [], apply)

    def update_ledger(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "owner")
        metadata = merged(self.metadata, body["metadata"])

        def apply(seq: int, _: datetime) -> None:
            self.metadata = metadata

        return Plan("MetadataChanged", {"metadata": metadata}, [], apply)

    def grant_access(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "owner")
        user, role = body["user"], body["role"]
        if user not in self.users:
            raise Refused("not_found")
        if role != "owner":
            self._keep_an_owner(user)

        def apply(seq: int, _: datetime) -> None:
            self.grants[user] = (role, seq)

        return Plan("AccessGranted", {"user": user, "role": role}, [], apply)

    def revoke_access(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "owner")
        user = body["user"]
        if user not in self.grants:
            raise Refused("not_found")
        self._keep_an_owner(user)
        return Plan("AccessRevoked", {"user": user}, [], lambda seq, at: self._forget(user))

    def _forget(self, user: str) -> None:
        del self.grants[user]

    def _keep_an_owner(self, user: str) -> None:
        owners = [each for each, (role, _) in self.grants.items() if role == "owner"]
        if owners == [user]:
            raise Refused("precondition_failed")

    def register_currency(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        code, scale = body["code"], body["scale"]
        if code in STANDARD or code in self.currencies:
            raise Refused("currency_exists", "#/code")

        def apply(seq: int, _: datetime) -> None:
            self.currencies[code] = scale

        return Plan("CurrencyRegistered", {"code": code, "scale": scale}, [], apply)

    def close_period(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "owner")
        before = moment_of(body["before"])
        if self.periods and before <= self.periods[-1][0]:
            raise Refused("period_closed", "#/before")

        def apply(seq: int, _: datetime) -> None:
            self.periods.append((before, seq))

        return Plan("PeriodClosed", {"before": stamp(before)}, [], apply)

    # -- schedules

    def create_schedule(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        id, begun = body.get("id") or asked.id, max(asked.accepted_at, asked.moment)
        if id in self.schedules:
            raise Refused("validation_failed", "#/id")
        every, rrule, starts_at = (body.get(name) for name in ("every", "rrule", "starts_at"))
        if starts_at is not None:
            starts_at = moment_of(starts_at)
        else:
            starts_at = begun + (span_of(every) if every else timedelta(seconds=1))
        if rrule is not None:
            starts_at = starts_at.replace(microsecond=0)
        said = {"command": body["command"], "every": every, "rrule": rrule}
        made = {**said, "status": "active", "missed": body.get("missed") or "skip", "created_at": stamp(begun)}

        def apply(seq: int, _: datetime) -> None:
            kept = {"principal": asked.principal, "starts_at": starts_at, "fired": set()}
            self.schedules[id] = {"id": id, **made, **kept, "version": seq}

        data = {
            **said,
            "schedule": id,
            "principal": asked.principal,
            "starts_at": stamp(starts_at),
            "missed": made["missed"],
            "created_at": made["created_at"],
        }
        return Plan("ScheduleCreated", data, [], apply)

    def pause_schedule(self, asked: Asked, body: Json) -> Plan:
        return self._schedule_becomes(asked, "paused", "SchedulePaused", "active")

    def resume_schedule(self, asked: Asked, body: Json) -> Plan:
        return self._schedule_becomes(asked, "active", "ScheduleResumed", "paused")

    def cancel_schedule(self, asked: Asked, body: Json) -> Plan:
        return self._schedule_becomes(asked, "cancelled", "ScheduleCancelled", "active", "paused")

    def _schedule_becomes(self, asked: Asked, status: str, event: str, *ways: str) -> Plan:
        self.admit(asked, "writer")
        found = self.schedules.get(asked.body["schedule"])
        if found is None:
            raise Refused("not_found")
        if found["status"] not in ways:
            raise Refused("validation_failed")

        def apply(seq: int, _: datetime) -> None:
            # not in place: others may look at the same one
            self.schedules[found["id"]] = {**found, "status": status, "version": seq}

        return Plan(event, {"schedule": found["id"]}, [], apply)

    # -- accounts

    def open_account(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        name, currency = body["name"], body["currency"]
        if name in self.accounts:
            raise Refused("account_exists", "#/name")
        scale = self.currencies.get(currency, STANDARD.get(currency))
        if scale is None:
            raise Refused("currency_unknown", "#/currency")
        limits = {place: body[place] for place in ("min_balance", "max_balance") if body.get(place) is not None}
        for place, limit in limits.items():
            if not fits(limit, scale):
                raise Refused("amount_scale", f"#/{place}")
        for place, limit in limits.items():
            if abs(minor_of(limit, scale)) >= TOP:
                raise Refused("amount_overflow", f"#/{place}")
        minors = {place: minor_of(limit, scale) for place, limit in limits.items()}
        metadata = dict(body.get("metadata") or {})
        account = Account(
            *(name, currency, scale, body["type"], minors.get("min_balance"), minors.get("max_balance")),
            *(metadata, asked.accepted_at, 0),
        )

        def apply(seq: int, at: datetime) -> None:
            self.currencies.setdefault(currency, scale)
            account.opened_at = at
            self.accounts[name] = account

        data = {
            "name": name,
            "currency": currency,
            "scale": scale,
            "type": account.type,
            "min_balance": account.money(account.least),
            "max_balance": account.money(account.most),
            "metadata": metadata,
        }
        return Plan("AccountOpened", data, [name], apply)

    def _account(self, asked: Asked, body: Json) -> Account:
        self.admit(asked, "writer")
        if body["account"] not in self.accounts:
            raise Refused("not_found")
        return self.accounts[body["account"]]

    def update_account(self, asked: Asked, body: Json) -> Plan:
        account = self._account(asked, body)
        metadata = merged(account.metadata, body["metadata"])

        def apply(seq: int, _: datetime) -> None:
            account.metadata = metadata

        return Plan("AccountMetadataChanged", {"name": account.name, "metadata": metadata}, [account.name], apply)

    def freeze_account(self, asked: Asked, body: Json) -> Plan:
        return self._change_status(self._account(asked, body), "open", "frozen", "AccountFrozen")

    def unfreeze_account(self, asked: Asked, body: Json) -> Plan:
        return self._change_status(self._account(asked, body), "frozen", "open", "AccountUnfrozen")

    def close_account(self, asked: Asked, body: Json) -> Plan:
        account = self._account(asked, body)
        if account.status == "closed":
            raise Refused("account_status")
        if account.balance or account.held_debits or account.held_credits:
            raise Refused("account_not_empty")
        return self._change_status(account, account.status, "closed", "AccountClosed")

    def _change_status(self, account: Account, expected: str, status: str, event: str) -> Plan:
        if account.status == "closed":
            raise Refused("account_closed")
        if account.status != expected:
            raise Refused("account_status")

        def apply(seq: int, _: datetime) -> None:
            account.status = status

        return Plan(event, {"name": account.name}, [account.name], apply)

    # -- transactions

    def post_transaction(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        self._check_balancing(body["postings"])
        self._check_reference(body)
        self._check_accounts(body)
        effective_at = self._dated(body, asked.moment)
        pending = bool(body.get("pending"))
        lines, movings = self._amounts(body["postings"], pending)
        self._check_status(movings)
        self._check_preconditions(body)
        self._check_sums(movings, pending)
        self._check_limits(movings, pending, lines, body["postings"])
        expires_at = moment_of(body["expires_at"]) if body.get("expires_at") else None
        event = "TransactionHeld" if pending else "TransactionPosted"
        data = self._described(asked, body, lines, effective_at)
        if pending:
            data["expires_at"] = stamp(expires_at)
        return self._made(event, data, asked, lines, effective_at, pending, expires_at)

    def _made(
        self,
        event: str,
        data: Json,
        asked: Asked,
        lines: list[Line],
        effective_at: datetime,
        pending: bool = False,
        expires_at: datetime | None = None,
    ) -> Plan:
        """A new transaction, and with it whatever it moves or holds."""

        def apply(seq: int, at: datetime) -> None:
            made = Transaction(
                id=asked.id,
                status="pending" if pending else "posted",
                lines=lines,
                reference=data["reference"],
                description=data["description"],
                metadata=data["metadata"],
                effective_at=effective_at,
                recorded_at=at,
                expires_at=expires_at,
                reverses=data.get("reverses"),
                seq=seq,
                version=seq,
            )
            self.transactions[made.id] = made
            for index, line in enumerate(lines):
                if pending:
                    self.accounts[line.debit].held_debits += line.amount
                    self.accounts[line.credit].held_credits += line.amount
                else:
                    self._move(made, index, line.amount, made.id, effective_at, seq, at)
            if made.reverses is not None:
                original = self.transactions[made.reverses]
                original.reversed_by, original.version = made.id, seq

        return Plan(event, data, names_of(lines), apply)

    def _move(
        self, made: Transaction, index: int, amount: int, entry: str, effective_at: datetime, seq: int, at: datetime
    ) -> None:
        line = made.lines[index]
        self.accounts[line.debit].debits += amount
        self.accounts[line.credit].credits += amount
        where = (effective_at, seq, index, at, made.id, entry)
        self.entries.append(Entry(*where, line.debit, line.credit, amount, made.reference, made.description))

    def _described(self, asked: Asked, body: Json, lines: list[Line], effective_at: datetime) -> Json:
        return {
            "transaction": asked.id,
            "postings": [
                {
                    "debit": line.debit,
                    "credit": line.credit,
                    "amount": self.accounts[line.debit].money(line.amount),
                    "currency": self.accounts[line.debit].currency,
                }
                for line in lines
            ],
            "reference": body.get("reference"),
            "description": body.get("description"),
            "metadata": dict(body.get("metadata") or {}),
            "effective_at": stamp(effective_at),
        }

    def _check_reference(self, body: Json) -> None:
        reference = body.get("reference")
        if reference is not None and any(each.reference == reference for each in self.transactions.values()):
            raise Refused("reference_taken", "#/reference")

    def _check_balancing(self, postings: list[Json]) -> None:
        for index, posting in enumerate(postings):
            sides = [self.accounts.get(posting[side]) for side in ("debit", "credit")]
            if posting["amount"] == "available" and None not in sides and not self._lowered(posting):
                raise Refused("validation_failed", f"#/postings/{index}/amount")

    def _lowered(self, posting: Json) -> list[Account]:
        """The accounts that a posting takes from."""
        debit, credit = self.accounts[posting["debit"]], self.accounts[posting["credit"]]
        return [*([] if debit.debit_normal else [debit]), *([credit] if credit.debit_normal else [])]

    def _check_accounts(self, body: Json) -> None:
        """That they are there and fit together, and the amounts their currencies."""
        postings, conditions = body["postings"], body.get("preconditions") or []
        for index, posting in enumerate(postings):
            if not {posting["debit"], posting["credit"]} <= self.accounts.keys():
                raise Refused("account_not_found", f"#/postings/{index}")
        for index, condition in enumerate(conditions):
            if condition["account"] not in self.accounts:
                raise Refused("account_not_found", f"#/preconditions/{index}/account")
        for index, posting in enumerate(postings):
            if self.accounts[posting["debit"]].currency != self.accounts[posting["credit"]].currency:
                raise Refused("currency_mismatch", f"#/postings/{index}")
        self._check_scales(postings, conditions)

    def _check_scales(self, postings: list[Json], conditions: list[Json]) -> None:
        for index, posting in enumerate(postings):
            place = "up_to" if posting["amount"] == "available" else "amount"
            if not fits(posting.get(place) or "0", self.accounts[posting["debit"]].scale):
                raise Refused("amount_scale", f"#/postings/{index}/{place}")
        for pointer, account, _, value, _ in self._bounds(enumerate(conditions)):
            if not fits(value, account.scale):
                raise Refused("amount_scale", pointer)

    def _bounds(self, conditions: Iterable[tuple[int, Json]]) -> Iterator[tuple[str, Account, str, str, int]]:
        for index, condition in conditions:
            account = self.accounts[condition["account"]]
            for place, figure in (("balance", account.balance), ("available", account.available)):
                for test in ("eq", "gte", "lte"):
                    value = (condition.get(place) or {}).get(test)
                    if value is not None:
                        yield f"#/preconditions/{index}/{place}/{test}", account, test, value, figure

    def _check_preconditions(self, body: Json) -> None:
        for index, condition in enumerate(body.get("preconditions") or []):
            version = condition.get("version")
            if version is not None and version != self.accounts[condition["account"]].version:
                raise Refused("precondition_failed", f"#/preconditions/{index}/version")
            for pointer, account, test, value, figure in self._bounds([(index, condition)]):
                wanted = minor_of(value, account.scale)
                if not {"eq": figure == wanted, "gte": figure >= wanted, "lte": figure <= wanted}[test]:
                    raise Refused("precondition_failed", pointer)

    def _dated(self, body: Json, default: datetime) -> datetime:
        given = body.get("effective_at")
        moment = default if given is None else moment_of(given)
        if self.periods and moment < self.periods[-1][0]:
            raise Refused("period_closed", "#" if given is None else "#/effective_at")
        return moment

    def _amounts(self, postings: list[Json], pending: bool) -> tuple[list[Line], list[Moving]]:
        lines: list[Line] = []
        movings: dict[str, Moving] = {}
        for index, posting in enumerate(postings):
            debit, credit = posting["debit"], posting["credit"]
            scale = self.accounts[debit].scale
            if posting["amount"] == "available":
                left = [
                    account.available - (movings[account.name].lowered(pending) if account.name in movings else 0)
                    for account in self._lowered(posting)
                ]
                most = posting.get("up_to")
                amount = max(0, min(left + ([] if most is None else [minor_of(most, scale)])))
            else:
                amount = minor_of(posting["amount"], scale)
            for name in (debit, credit):
                movings.setdefault(name, Moving(self.accounts[name], index))
            movings[debit].debits += amount
            movings[credit].credits += amount
            lines.append(Line(debit, credit, amount, 0 if pending else amount, amount if pending else 0))
        return lines, list(movings.values())

    def _check_status(self, movings: list[Moving]) -> None:
        for status in ("closed", "frozen"):
            for moving in movings:
                if moving.account.status == status:
                    raise Refused(f"account_{status}", moving.pointer)

    def _check_sums(self, movings: Iterable[Moving], pending: bool) -> None:
        for moving in movings:
            account = moving.account
            debits, credits = account.debits, account.credits
            if pending:
                debits, credits = account.held_debits, account.held_credits
            if debits + moving.debits >= TOP or credits + moving.credits >= TOP:
                raise Refused("amount_overflow", moving.pointer)

    def _check_limits(
        self, movings: list[Moving], pending: bool, lines: list[Line] | None = None, postings: list[Json] | None = None
    ) -> None:
        poor = {
            moving.index if moving.index is not None else -1
            for moving in movings
            if (least := moving.account.least) is not None
            and (lowered := moving.lowered(pending)) > 0
            and moving.account.available - lowered < least
        }
        poor |= {
            index
            for index, posting in enumerate(postings or [])
            if posting["amount"] == "available" and lines is not None and not lines[index].amount
        }
        if poor:
            raise Refused("insufficient_funds", "#" if min(poor) < 0 else f"#/postings/{min(poor)}")
        for moving in movings:
            most, raised = moving.account.most, moving.raised(pending)
            if most is not None and raised > 0 and moving.account.balance + moving.account.incoming + raised > most:
                raise Refused("max_balance_exceeded", moving.pointer)

    def update_transaction(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        found = self.transactions.get(body["transaction"])
        if found is None:
            raise Refused("not_found")
        metadata = merged(found.metadata, body["metadata"])

        def apply(seq: int, _: datetime) -> None:
            found.metadata, found.version = metadata, seq

        return Plan("TransactionMetadataChanged", {"transaction": found.id, "metadata": metadata}, [], apply)

    def _find(self, asked: Asked, code: str) -> Transaction:
        self.admit(asked, "writer")
        named: str = asked.body["transaction"]
        if named in self.transactions:
            return self.transactions[named]
        raise Refused(code if named in asked.coming else "not_found")

    def capture_transaction(self, asked: Asked, body: Json) -> Plan:
        found = self._find(asked, "transaction_not_pending")
        takes, places = self._takes(found, body)
        self._check_pending(found, asked)
        for index, line in enumerate(found.lines):
            if takes[index] > line.held:
                raise Refused("capture_exceeds_hold", places[index])
        effective_at = self._dated(body, asked.moment)
        for index, line in enumerate(found.lines):
            for name in (line.debit, line.credit):
                debits = sum(take for take, each in zip(takes, found.lines, strict=True) if each.debit == name)
                credits = sum(take for take, each in zip(takes, found.lines, strict=True) if each.credit == name)
                if self.accounts[name].debits + debits >= TOP or self.accounts[name].credits + credits >= TOP:
                    raise Refused("amount_overflow", places[index])
        final = body.get("final")
        return self._end("TransactionCaptured", found, takes, final is None or final, asked, effective_at)

    def _takes(self, found: Transaction, body: Json) -> tuple[list[int], list[str]]:
        """How much of each posting is captured, and where the request says so."""
        amount, amounts, count = body.get("amount"), body.get("amounts"), len(found.lines)
        if amount is not None and count > 1:
            raise Refused("validation_failed", "#/amount")
        if amounts is not None and len(amounts) != count:
            raise Refused("validation_failed", "#/amounts")
        if amount is None and amounts is None:
            return [line.held for line in found.lines], ["#"] * count
        texts = amounts or [amount]
        places = ["#/amount"] if amount is not None else [f"#/amounts/{index}" for index in range(count)]
        scales = [self.accounts[line.debit].scale for line in found.lines]
        for text, scale, place in zip(texts, scales, places, strict=True):
            if not fits(text, scale):
                raise Refused("amount_scale", place)
        return [minor_of(text, scale) for text, scale in zip(texts, scales, strict=True)], places

    def void_transaction(self, asked: Asked, body: Json) -> Plan:
        found = self._find(asked, "transaction_not_pending")
        self._check_pending(found, asked)
        return self._end("TransactionVoided", found, [0] * len(found.lines), True, asked)

    def expire_transaction(self, asked: Asked, body: Json) -> Plan:
        found = self.transactions.get(body["transaction"])
        if found is None or asked.principal != SERVICE:
            raise Refused("not_found")
        if found.status != "pending":
            raise Refused("transaction_not_pending")
        if found.expires_at is None or asked.moment < found.expires_at:
            raise Refused("precondition_failed")
        return self._end("TransactionExpired", found, [0] * len(found.lines), True, asked)

    def _check_pending(self, found: Transaction, asked: Asked) -> None:
        if found.over:
            raise Refused("transaction_expired")
        if found.status != "pending":
            raise Refused("transaction_not_pending")
        if found.expires_at is not None and max(asked.accepted_at, asked.moment) >= found.expires_at:
            raise Refused("transaction_expired")

    def _end(
        self,
        event: str,
        found: Transaction,
        takes: list[int],
        final: bool,
        asked: Asked,
        effective_at: datetime | None = None,
    ) -> Plan:
        """Takes from what is held, and releases the rest if that is all."""
        lines, changed = [], []
        for line, take in zip(found.lines, takes, strict=True):
            account, rest = self.accounts[line.debit], line.held - take
            released = rest if final else 0
            lines.append(
                {
                    "debit": line.debit,
                    "credit": line.credit,
                    "amount": account.money(take),
                    "released": account.money(released),
                    "held": account.money(rest - released),
                    "currency": account.currency,
                }
            )
            if take + released:
                changed.append(line)
        status = {"TransactionVoided": "voided", "TransactionExpired": "expired"}.get(event, "captured")
        if any(line.posted for line in found.lines):
            status = "captured"
        if not final and any(line.held > take for line, take in zip(found.lines, takes, strict=True)):
            status = "pending"
        data: Json = {"transaction": found.id, "status": status, "postings": lines}
        if effective_at is not None:
            data |= {"capture": asked.id, "effective_at": stamp(effective_at)}

        def apply(seq: int, at: datetime) -> None:
            found.status, found.version, found.over = status, seq, event == "TransactionExpired"
            for index, (line, take) in enumerate(zip(found.lines, takes, strict=True)):
                gone = line.held if final else take
                self.accounts[line.debit].held_debits -= gone
                self.accounts[line.credit].held_credits -= gone
                line.held -= gone
                line.posted += take
                if take and effective_at is not None:
                    self._move(found, index, take, asked.id, effective_at, seq, at)
            if effective_at is not None:
                found.captures.append(
                    {
                        "id": asked.id,
                        "amounts": [line["amount"] for line in lines],
                        "effective_at": stamp(effective_at),
                        "recorded_at": stamp(at),
                        "seq": seq,
                    }
                )

        return Plan(event, data, names_of(changed), apply)

    def reverse_transaction(self, asked: Asked, body: Json) -> Plan:
        self.admit(asked, "writer")
        original = self.transactions.get(body["transaction"])
        if original is None and body["transaction"] not in asked.coming:
            raise Refused("not_found")
        given = body.get("effective_at")
        if original is not None and given is not None and moment_of(given) < original.effective_at:
            raise Refused("validation_failed", "#/effective_at")
        self._check_reference(body)
        if original is None or original.status not in ("posted", "captured"):
            raise Refused("transaction_not_reversible")
        if original.reversed_by is not None:
            raise Refused("already_reversed")
        effective_at = self._dated(body, max(asked.accepted_at, asked.moment, original.effective_at))
        lines = [Line(line.credit, line.debit, line.posted, line.posted, 0) for line in original.lines if line.posted]
        movings: dict[str, Moving] = {}
        for line in lines:
            for name in (line.debit, line.credit):
                movings.setdefault(name, Moving(self.accounts[name], None))
            movings[line.debit].debits += line.amount
            movings[line.credit].credits += line.amount
        self._check_status(list(movings.values()))
        self._check_sums(movings.values(), False)
        self._check_limits(list(movings.values()), False)
        data = self._described(asked, body, lines, effective_at) | {"reverses": original.id}
        return self._made("TransactionReversed", data, asked, lines, effective_at)

    # -- answers ------------------------------------------------------------------------------------------------------

    def view(self) -> Json:
        return {
            "id": self.id,
            "name": self.name,
            "metadata": self.metadata,
            "owner": self.owner,
            "accounts": len(self.accounts),
            "epoch": 1,
            "seq": self.seq,
            "version": self.seq,
            "created_at": stamp(self.times[0]),
        }

    def transaction_view(self, id: str) -> Json:
        found = self.transactions[id]
        return {
            "id": found.id,
            "ledger": self.id,
            "status": found.status,
            "postings": [
                {
                    "debit": line.debit,
                    "credit": line.credit,
                    "amount": (account := self.accounts[line.debit]).money(line.amount),
                    "currency": account.currency,
                    "posted": account.money(line.posted),
                    "held": account.money(line.held),
                }
                for line in found.lines
            ],
            "reference": found.reference,
            "description": found.description,
            "metadata": found.metadata,
            "effective_at": stamp(found.effective_at),
            "recorded_at": stamp(found.recorded_at),
            "expires_at": stamp(found.expires_at),
            "captures": found.captures,
            "reverses": found.reverses,
            "reversed_by": found.reversed_by,
            "seq": found.seq,
            "version": found.version,
        }

    def transaction_list(self, **wanted: Any) -> list[Json]:
        """Newest first, `start` ≤ effective_at < `end`."""
        account, reference, status = wanted.get("account"), wanted.get("reference"), wanted.get("status")
        start, end = wanted.get("start"), wanted.get("end")
        return [
            self.transaction_view(found.id)
            for found in sorted(self.transactions.values(), key=lambda each: -each.seq)
            if (account is None or account in names_of(found.lines))
            and (reference is None or found.reference == reference)
            and (status is None or found.status == status)
            and (start is None or found.effective_at >= start)
            and (end is None or found.effective_at < end)
        ]

    def seq_at(self, recorded_at: datetime | None, seq: int | None = None) -> int:
        """The seq that an answer about what was recorded by then, and up to there, names."""
        last = self.seq if recorded_at is None else sum(each <= recorded_at for each in self.times)
        return last if seq is None else min(last, seq)

    def accounts_at(self, seq: int, effective_at: datetime | None = None, prefix: str = "") -> list[Account]:
        """Accounts as they were recorded at `seq`, by name; what was posted to them only up to `effective_at`."""
        found = []
        for name in sorted(self.accounts):
            states = [state for state in self.history[name] if state.version <= seq]
            if not states or not name.startswith(prefix):
                continue
            account = copy(states[-1])
            if effective_at is not None:
                entries = [each for each in self.entries if each.seq <= seq and each.effective_at <= effective_at]
                account.debits = sum(each.amount for each in entries if each.debit == name)
                account.credits = sum(each.amount for each in entries if each.credit == name)
            found.append(account)
        return found

    def account_views(
        self, seq: int, effective_at: datetime | None = None, prefix: str = "", currency: str | None = None
    ) -> list[Json]:
        """As-of answers: each names its seq; by effective time nothing is pending or available."""
        more = {"seq": seq} | (timeless() if effective_at is not None else {})
        accounts = self.accounts_at(seq, effective_at, prefix)
        return [each.view(self.id) | more for each in accounts if currency in (None, each.currency)]

    def balances(self, seq: int, effective_at: datetime | None = None, prefix: str = "") -> list[Json]:
        groups: dict[tuple[str, str], list[Account]] = {}
        for account in self.accounts_at(seq, effective_at, prefix):
            groups.setdefault((account.currency, account.type), []).append(account)
        items = []
        for (currency, type_), accounts in sorted(groups.items()):
            total = copy(accounts[0])
            for sums in ("debits", "credits", "held_debits", "held_credits"):
                setattr(total, sums, sum(getattr(account, sums) for account in accounts))
            item = {"currency": currency, "type": type_, "accounts": len(accounts), **total.figures()}
            del item["account"]
            items.append(item | (timeless() if effective_at is not None else {}))
        return items

    def trial_balance(self, seq: int, effective_at: datetime | None = None) -> list[Json]:
        """Each account's net balance in one of two columns, by currency and type."""
        sums: dict[str, dict[str, list[int]]] = {}
        for account in self.accounts_at(seq, effective_at):
            column = sums.setdefault(account.currency, {}).setdefault(account.type, [0, 0])
            net = account.debits - account.credits
            column[0 if net > 0 else 1] += abs(net)
        items = []
        for currency, types in sorted(sums.items()):
            scale = self.currencies[currency]
            debits, credits = (sum(column[side] for column in types.values()) for side in (0, 1))
            items.append(
                {
                    "currency": currency,
                    "debits": written(debits, scale),
                    "credits": written(credits, scale),
                    "difference": written(debits - credits, scale),
                    "types": [
                        {"type": type_, "debits": written(column[0], scale), "credits": written(column[1], scale)}
                        for type_, column in sorted(types.items())
                    ],
                }
            )
        return items

    def statement(self, name: str, start: datetime | None, end: datetime | None, seq: int) -> Json:
        """What moved an account, from `start` on and before `end`, as recorded up to `seq`."""
        account = self.accounts[name]
        opening = balance = 0
        items = []
        for entry in sorted(each for each in self.entries if each.seq <= seq and name in (each.debit, each.credit)):
            if end is not None and entry.effective_at >= end:
                break
            debit = entry.debit == name
            balance += entry.amount if debit == account.debit_normal else -entry.amount
            if start is not None and entry.effective_at < start:
                opening = balance
                continue
            items.append(
                {
                    "transaction": entry.transaction,
                    "entry": entry.id,
                    "posting": entry.posting,
                    "counterparty": entry.credit if debit else entry.debit,
                    "direction": "debit" if debit else "credit",
                    "amount": account.money(entry.amount),
                    "balance": account.money(balance),
                    "reference": entry.reference,
                    "description": entry.description,
                    "effective_at": stamp(entry.effective_at),
                    "recorded_at": stamp(entry.recorded_at),
                    "seq": entry.seq,
                }
            )
        return {
            "account": name,
            "currency": account.currency,
            "from": stamp(start),
            "to": stamp(end),
            "seq": seq,
            "opening": account.money(opening),
            "closing": account.money(balance),
            "items": items,
        }


def timeless() -> Json:
    """What an answer by effective time leaves open: holds have none."""
    return dict.fromkeys(("pending_debits", "pending_credits", "available"))


def names_of(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in (line.debit, line.credit)))


def merged(metadata: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """What is null goes, the rest is added or replaced."""
    both = {**metadata, **changes}
    made = {key: value for key, value in both.items() if value is not None}
    if len(made) > 50:
        raise Refused("validation_failed", "#/metadata")
    return made


def misshapen(what: object, place: str = "#") -> list[str]:
    """Where a request has an amount of more digits than any may have: what is looked at before all other values."""
    if isinstance(what, dict):
        return [
            each for name, part in what.items() if name != "metadata" for each in misshapen(part, f"{place}/{name}")
        ]
    if isinstance(what, list):
        return [each for number, part in enumerate(what) for each in misshapen(part, f"{place}/{number}")]
    whole = what.removeprefix("-").partition(".")[0] if isinstance(what, str) else ""
    return [place] if whole.isdecimal() and len(whole) > DIGITS else []


def faults(kind: str, body: Json, now: datetime) -> list[str]:
    """Where a request can be seen to be wrong as it comes in, of what its form alone does not say."""
    found = []
    effective_at, expires_at, execute_at = (body.get(f"{name}_at") for name in ("effective", "expires", "execute"))
    if effective_at is not None and moment_of(effective_at) > now + AHEAD:
        found.append("#/effective_at")
    if kind == "post_transaction" and expires_at is not None:
        least = now if execute_at is None else max(now, moment_of(execute_at))
        if not body.get("pending") or moment_of(expires_at) <= least:
            found.append("#/expires_at")
    if kind.startswith("update_") and sum(value is not None for value in body["metadata"].values()) > 50:
        found.append("#/metadata")
    if kind == "capture_transaction" and body.get("amounts") is not None:
        if body.get("amount") is not None:
            found.append("#/amounts")
        if not any(minor_of(amount, 18) for amount in body["amounts"]):
            found.append("#/amounts")
    return found
