"""Commands as clients may well send them, good ones and bad ones, each made from a number and from what there is."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final, NamedTuple

from tests.model.reference import Json, Ledger, Transaction, stamp, written

PLACES: Final = {
    "create_ledger": ("POST", "/v1/ledgers", ""),
    "update_ledger": ("PATCH", "", ""),
    "grant_access": ("PUT", "/grants/{}", "user"),
    "revoke_access": ("DELETE", "/grants/{}", "user"),
    "register_currency": ("POST", "/currencies", ""),
    "open_account": ("POST", "/accounts", ""),
    "update_account": ("PATCH", "/accounts/{}", "account"),
    "freeze_account": ("POST", "/accounts/{}/freeze", "account"),
    "unfreeze_account": ("POST", "/accounts/{}/unfreeze", "account"),
    "close_account": ("POST", "/accounts/{}/close", "account"),
    "post_transaction": ("POST", "/transactions", ""),
    "update_transaction": ("PATCH", "/transactions/{}", "transaction"),
    "capture_transaction": ("POST", "/transactions/{}/capture", "transaction"),
    "void_transaction": ("POST", "/transactions/{}/void", "transaction"),
    "reverse_transaction": ("POST", "/transactions/{}/reverse", "transaction"),
    "close_period": ("POST", "/periods", ""),
    "create_schedule": ("POST", "/schedules", ""),
    "pause_schedule": ("POST", "/schedules/{}/pause", "schedule"),
    "resume_schedule": ("POST", "/schedules/{}/resume", "schedule"),
    "cancel_schedule": ("POST", "/schedules/{}/cancel", "schedule"),
}
"""How each kind is sent: method, address below the ledger's, and the member of its body that the address names."""
IN_BULK: Final = frozenset(
    {
        *("open_account", "freeze_account", "unfreeze_account", "close_account"),
        *("post_transaction", "capture_transaction", "void_transaction", "reverse_transaction"),
    }
)
OWNERS: Final = frozenset({"update_ledger", "grant_access", "revoke_access", "close_period"})
"""Kinds that need the role owner; the others need writer."""
WEIGHTS: Final = {
    "post_transaction": 48,
    "capture_transaction": 14,
    "void_transaction": 5,
    "reverse_transaction": 9,
    "update_transaction": 2,
    "open_account": 4,
    "update_account": 2,
    "freeze_account": 2,
    "unfreeze_account": 4,
    "close_account": 2,
    "register_currency": 1,
    "update_ledger": 1,
    "close_period": 1,
    "grant_access": 2,
    "revoke_access": 1,
    "create_schedule": 1,
    "pause_schedule": 1,
    "resume_schedule": 1,
    "cancel_schedule": 1,
}
"""How often each kind is drawn. Ledgers are created by themselves, and only the service asks for an expiry."""

NAMES: Final = (
    *("assets:bank", "assets:till", "wallets:alice", "wallets:bob", "wallets:carol", "wallets:carol:trip"),
    *("equity:exchange", "income:fees", "expenses:costs"),
)
LIMITS: Final = (None, None, "0", "0", "-5", "-50", "-0.50")
MOST: Final = (None, None, "20", "100", "250.5", "0")
AMOUNTS: Final = ("1", "1", "2", "5", "7.5", "10", "25", "40", "100", "1000")
ROOM: Final = {"wallets:bob": "300", "wallets:carol": "150", "wallets:carol:trip": "60", "assets:till": "100"}
"""Maxima that are near enough to be met, by money and by what is held."""
HOURS: Final = 72


class Told(NamedTuple):
    """What stands in a body for the id of a transaction that an earlier command of the same client is to make."""

    number: int


@dataclass
class Wish:
    """A command to be sent. `id` is its job's, once it was accepted; one that is `unwanted` is to be cancelled then."""

    kind: str
    body: Json
    id: str | None = None
    unwanted: bool = False


@dataclass
class Maker:
    """Makes the commands of one client in one go; the ones before are what later ones may name."""

    ledger: Ledger
    begun: datetime
    members: Sequence[str]
    made: list[Wish] = field(default_factory=list)

    def make(self, kind: str, dice: int, *, alone: bool = False) -> Wish:
        """The command of a kind that a number stands for, as things are now; if it goes `alone`, perhaps for later."""
        random = Random(dice)
        build: Callable[[Random], Json] = getattr(self, f"_{kind}")
        wish = Wish(kind, {name: value for name, value in build(random).items() if value is not None})
        if alone and random.random() < 0.2:
            wish.body["execute_at"] = stamp(datetime.now(UTC) + timedelta(seconds=random.choice([1.5, 2.5, 4, 3_600])))
        wish.unwanted = random.random() < (0.2 if "execute_at" in wish.body else 0.02)
        self.made.append(wish)
        return wish

    def hour(self, random: Random) -> datetime:
        """One of not too many moments in the days before it all began, so that some are met again exactly."""
        return self.begun - timedelta(hours=random.randrange(1, HOURS))

    # -- what there is

    def _account(self, random: Random, currency: str | None = None) -> str:
        known = [each.name for each in self.ledger.accounts.values() if currency in (None, each.currency)]
        opening = [wish.body["name"] for wish in self.made if wish.kind == "open_account"]
        if opening and random.random() < 0.1:
            return str(random.choice(opening))
        return random.choice(known) if known and random.random() < 0.985 else "wallets:nobody"

    def _scale(self, currency: str) -> int:
        return self.ledger.currencies.get(currency, 2)

    def _amount(self, random: Random, scale: int) -> str:
        drawn = random.random()
        if drawn < 0.0005:
            return "1" + "0" * 38
        if drawn < 0.015:
            return "9" * 38
        if drawn < 0.03:
            return "0." + "0" * min(scale, 17) + "1"
        if drawn < 0.2:
            return written(random.randrange(1, 20_000) * 10 ** max(0, scale - 2), scale)
        amount = random.choice(AMOUNTS)
        return amount if scale or random.random() < 0.02 else amount.partition(".")[0]

    def _transaction(self, random: Random, *statuses: str) -> str | Told:
        fresh = [number for number, wish in enumerate(self.made) if self._will_be(wish) in statuses]
        if fresh and random.random() < 0.25:
            return Told(random.choice(fresh))
        known = list(self.ledger.transactions.values())
        fitting = [each for each in known if each.status in statuses]
        if fitting and random.random() < 0.85:
            return random.choice(fitting).id
        if known and random.random() < 0.95:
            return random.choice(known).id
        return str(uuid.UUID(int=random.getrandbits(128), version=4))

    def _will_be(self, wish: Wish) -> str:
        """What a transaction will be that a command before is to make."""
        if wish.kind == "post_transaction":
            return "pending" if wish.body.get("pending") else "posted"
        return "posted" if wish.kind == "reverse_transaction" else ""

    def _found(self, named: str | Told) -> Transaction | None:
        return None if isinstance(named, Told) else self.ledger.transactions.get(named)

    def _metadata(self, random: Random, most: int = 3) -> dict[str, str] | None:
        if random.random() < 0.8:
            return None
        return {random.choice("abcdef"): str(random.randrange(10)) for _ in range(random.randrange(1, most + 1))}

    def _changes(self, random: Random) -> dict[str, str | None]:
        if random.random() < 0.03:
            return {f"key-{number:02}": "x" for number in range(random.choice([50, 51]))}
        drawn = [random.choice("abcdef") for _ in range(random.randrange(1, 4))]
        return {key: random.choice([None, "", "one", "two"]) for key in drawn}

    def _effective_at(self, random: Random) -> str | None:
        drawn = random.random()
        if drawn < 0.5:
            return None
        return stamp(self.begun + timedelta(seconds=20) if drawn < 0.53 else self.hour(random))

    def _reference(self, random: Random) -> str | None:
        return f"order {random.randrange(60)}" if random.random() < 0.25 else None

    # -- kinds

    def _update_ledger(self, random: Random) -> Json:
        return {"metadata": self._changes(random)}

    def _grant_access(self, random: Random) -> Json:
        return {"user": random.choice(self.members), "role": random.choice(["owner", "writer", "writer", "reader"])}

    def _revoke_access(self, random: Random) -> Json:
        return {"user": random.choice(self.members)}

    def _register_currency(self, random: Random) -> Json:
        code = random.choice(["USD", "GAS", "GAS", "POINTS", "XAU"])
        return {"code": code, "scale": {"GAS": 18, "POINTS": 0}.get(code, random.choice([0, 1, 4, 18]))}

    def _close_period(self, random: Random) -> Json:
        # seldom far: most of what is dated back shall still be let in
        return {"before": stamp(self.begun - timedelta(hours=max(1, HOURS - random.randrange(1, 30))))}

    def _open_account(self, random: Random) -> Json:
        name = random.choice(NAMES) if random.random() < 0.15 else f"wallets:w{random.randrange(40)}"
        codes = ["USD", "USD", "USD", "JPY", "KWD", "GAS", "GAS", "POINTS"]
        currency = random.choice([*codes, "XYZ"] if random.random() < 0.1 else codes)
        least, most = random.choice(LIMITS), random.choice(MOST)
        if not self._scale(currency) and random.random() < 0.9:
            least, most = (limit and limit.replace("-0.50", "-1").partition(".")[0] for limit in (least, most))
        if random.random() < 0.02:
            least = "-" + "9" * 38
        return {
            "name": name,
            "currency": currency,
            "type": random.choice(["asset", "expense", "liability", "liability", "equity", "income"]),
            "min_balance": least,
            "max_balance": most,
            "metadata": self._metadata(random),
        }

    def _update_account(self, random: Random) -> Json:
        return {"account": self._account(random), "metadata": self._changes(random)}

    def _freeze_account(self, random: Random) -> Json:
        return {"account": self._account(random)}

    def _unfreeze_account(self, random: Random) -> Json:
        frozen = [each.name for each in self.ledger.accounts.values() if each.status == "frozen"]
        return {"account": random.choice(frozen) if frozen and random.random() < 0.8 else self._account(random)}

    def _close_account(self, random: Random) -> Json:
        empty = [each.name for each in self.ledger.accounts.values() if not each.balance and each.name not in NAMES]
        return {"account": random.choice(empty) if empty and random.random() < 0.6 else self._account(random)}

    def _post_transaction(self, random: Random) -> Json:
        count = random.choice([1, 1, 1, 1, 2, 2, 3, 5])
        pending = random.random() < 0.35
        expires_at = None
        if pending and random.random() < 0.3:
            expires_at = datetime.now(UTC) + timedelta(seconds=random.choice([1.5, 2, 3, 4, 3_600]))
        return {
            "postings": [self._posting(random) for _ in range(count)],
            "reference": self._reference(random),
            "description": random.choice([None, None, "rent", "two\nlines"]),
            "effective_at": self._effective_at(random),
            "metadata": self._metadata(random),
            "pending": True if pending else random.choice([None, None, False]),
            "expires_at": stamp(expires_at),
            "preconditions": [self._precondition(random) for _ in range(random.choice([1, 1, 2]))]
            if random.random() < 0.12
            else None,
        }

    def _posting(self, random: Random) -> Json:
        currencies = [each.currency for each in self.ledger.accounts.values()] or ["USD"]
        currency = random.choice(currencies)
        debit = self._account(random, currency)
        others = [each for each in self.ledger.accounts.values() if each.currency == currency and each.name != debit]
        credit = random.choice(others).name if others else "wallets:nobody"
        if random.random() < 0.05:
            credit = self._account(random)
        if credit == debit:
            credit = "wallets:somebody"
        posting = {"debit": debit, "credit": credit, "amount": self._amount(random, self._scale(currency))}
        if random.random() < 0.08:
            posting["amount"] = "available"
            if random.random() < 0.5:
                posting["up_to"] = self._amount(random, self._scale(currency))
        return posting

    def _precondition(self, random: Random) -> Json:
        name = self._account(random)
        account, condition = self.ledger.accounts.get(name), {"account": name}
        drawn = random.random()
        if account is None or drawn < 0.4:
            version = 1 if account is None else account.version - random.choice([0, 0, 0, 1])
            return {**condition, "version": max(1, version)}
        field, figure = random.choice([("balance", account.balance), ("available", account.available)])
        test = random.choice(["eq", "gte", "lte"])
        shift = random.choice([0, 0, 0, 1, -1])
        bounds = {test: written(figure + shift, account.scale)}
        if drawn > 0.97:
            bounds["lte"] = "0." + "0" * 17 + "1"
        return {**condition, field: bounds}

    def _update_transaction(self, random: Random) -> Json:
        named = self._transaction(random, "posted", "pending", "captured", "voided", "expired")
        return {"transaction": named, "metadata": self._changes(random)}

    def _capture_transaction(self, random: Random) -> Json:
        named = self._transaction(random, "pending")
        found, drawn = self._found(named), random.random()
        body: Json = {
            "transaction": named,
            "final": random.choice([None, True, False, False]),
            "effective_at": self._effective_at(random),
        }
        if drawn < 0.35:
            return body
        count = 1 if found is None else len(found.lines)
        amounts = [self._part(random, found, index) for index in range(count)]
        if drawn < 0.65 and (count == 1 or drawn < 0.38):
            amount = amounts[0]
            return {**body, "amount": amount if amount.strip("0.") else "1"}
        if drawn > 0.97:
            amounts.append("1")
        if not any(amount.strip("0.") for amount in amounts) and random.random() < 0.98:
            amounts[-1] = "1"
        return {**body, "amounts": amounts}

    def _part(self, random: Random, found: Transaction | None, index: int) -> str:
        if found is None or random.random() < 0.05:
            return self._amount(random, 2)
        line = found.lines[index]
        scale = self.ledger.accounts[line.debit].scale
        return written(random.choice([0, line.held, line.held // 2, line.held // 3, line.held + 1]), scale)

    def _create_schedule(self, random: Random) -> Json:
        busy = sum(
            each["status"] == "active"
            and (each["every"] or each["rrule"]).startswith(("PT1S", "PT2S", "FREQ=SECONDLY"))
            for each in self.ledger.schedules.values()
        )
        posting = {"debit": self._account(random, "USD"), "credit": self._account(random, "USD"), "amount": "0.5"}
        if posting["debit"] == posting["credit"]:
            posting["credit"] = "wallets:nobody"
        return {
            "command": {"kind": "post_transaction", "postings": [posting]},
            "missed": random.choice([None, "skip", "once", "all"]),
            "id": random.choice([*self.ledger.schedules, None, None, None]),
            **self._series(random, busy > 1),
        }

    def _series(self, random: Random, slowly: bool) -> Json:
        """When a schedule is to repeat its command: not often, if it is to be `slowly`; some begin in the past."""
        past = stamp(self.hour(random)) if random.random() < 0.4 else None
        if random.random() < 0.4:
            often = "PT3600S" if slowly else random.choice(["PT1S", "PT2S"])
            return {"every": "PT86400S" if past else often, "starts_at": past}
        if past:
            hours = sorted(random.sample(range(24), 2))
            rules = ["FREQ=DAILY", f"FREQ=DAILY;INTERVAL=2;BYHOUR={hours[0]},{hours[1]}", "FREQ=HOURLY;INTERVAL=7"]
            return {"rrule": f"{random.choice(rules)};COUNT={random.randrange(1, 5)}", "starts_at": past}
        every = "FREQ=HOURLY" if slowly else random.choice(["FREQ=SECONDLY", "FREQ=SECONDLY;INTERVAL=2"])
        return {"rrule": every + random.choice(["", ";COUNT=2"])}

    def _schedule(self, random: Random) -> str:
        return random.choice([*self.ledger.schedules, str(uuid.UUID(int=random.getrandbits(128), version=4))])

    def _pause_schedule(self, random: Random) -> Json:
        return {"schedule": self._schedule(random)}

    def _resume_schedule(self, random: Random) -> Json:
        paused = [id for id, each in self.ledger.schedules.items() if each["status"] == "paused"]
        return {"schedule": random.choice(paused) if paused else self._schedule(random)}

    def _cancel_schedule(self, random: Random) -> Json:
        return {"schedule": self._schedule(random)}

    def _void_transaction(self, random: Random) -> Json:
        return {"transaction": self._transaction(random, "pending")}

    def _reverse_transaction(self, random: Random) -> Json:
        return {
            "transaction": self._transaction(random, "posted", "captured"),
            "effective_at": self._effective_at(random) if random.random() < 0.3 else None,
            "reference": self._reference(random) if random.random() < 0.3 else None,
            "description": random.choice([None, "undone"]),
            "metadata": self._metadata(random),
        }


def first_accounts() -> list[Wish]:
    """What a ledger begins with: enough to move money between, in currencies of 0, 2, 3 and 18 decimals."""
    types = {"assets": "asset", "wallets": "liability", "equity": "equity", "income": "income", "expenses": "expense"}
    wishes = [Wish("register_currency", {"code": "GAS", "scale": 18})]
    for name in NAMES:
        body: Json = {"name": name, "currency": "USD", "type": types[name.partition(":")[0]]}
        if name.startswith("wallets:") or name == "assets:till":
            body |= {"min_balance": "-50" if name == "wallets:carol" else "0"}
        if name in ROOM:
            body |= {"max_balance": ROOM[name]}
        wishes.append(Wish("open_account", body))
    for currency in ("JPY", "KWD", "GAS"):
        for name in ("assets", "wallets", "equity"):
            body = {"name": f"{name}:{currency.lower()}", "currency": currency, "type": types[name]}
            wishes.append(Wish("open_account", body | ({"min_balance": "0"} if name == "wallets" else {})))
    for currency, bank in (("USD", "assets:bank"), ("JPY", "assets:jpy"), ("KWD", "assets:kwd"), ("GAS", "assets:gas")):
        wallet = "wallets:alice" if currency == "USD" else f"wallets:{currency.lower()}"
        postings = [{"debit": bank, "credit": wallet, "amount": "400"}]
        if currency == "USD":
            postings.append({"debit": bank, "credit": "wallets:bob", "amount": "250"})
        wishes.append(Wish("post_transaction", {"postings": postings}))
    return wishes
