"""One ledger of the service beside its model: sends commands to the first, puts them to the second, compares both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import msgspec

from infrastructure.snapshots import Shape, seal
from tests.e2e.client import PATIENCE_S, Client, fresh
from tests.model.commands import IN_BULK, OWNERS, PLACES, Maker, Told, Wish, first_accounts
from tests.model.reference import (
    RANKS,
    SERVICE,
    Asked,
    Json,
    Ledger,
    Plan,
    Refused,
    faults,
    misshapen,
    moment_of,
    stamp,
    times_of,
)

APPLIED: Final = """
SELECT id, kind, status, position, payload, principal, accepted_at, execute_at, (
    SELECT schedule FROM schedule_fires WHERE 'ledger:' || schedule_fires.ledger = $1 AND command = commands.id
) AS schedule
FROM commands WHERE actor = $1 AND NOT id = ANY ($2::uuid[]) AND status <> 'scheduled'
ORDER BY finished_at, position, id
"""
"""Commands in the order in which they were applied. Clients are not told it of those that were refused."""

EARLY: Final = "2020-01-01T00:00:00Z"
BULK_MOST: Final = 100
"""Refusals that a batch shows; more commands would be more to ask for one by one."""
STATUS: Final = {
    "not_found": 404,
    "validation_failed": 422,
    "account_not_found": 422,
    "currency_unknown": 422,
    "currency_mismatch": 422,
    "amount_scale": 422,
    "capture_exceeds_hold": 422,
    "amount_overflow": 422,
}
"""The HTTP status of a refusal; of those that are not here it is 409."""
# small ones, so that a handful of movements makes runs of both kinds
SEALED: Final = Shape(run=8, runs=3, chunk=3)


class Difference(AssertionError):
    """The service and the model do not agree."""


def same(what: str, found: object, expected: object) -> None:
    """Raises Difference with the part in which the two differ."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            same(f"{what}.{key}", found.get(key, "(missing)"), expected.get(key, "(missing)"))
    if isinstance(found, list) and isinstance(expected, list):
        for index, pair in enumerate(zip(found, expected, strict=False)):
            same(f"{what}[{index}]", *pair)
        same(f"number of {what}", len(found), len(expected))
    raise Difference(f"{what}\n  service: {found!r}\n  model:   {expected!r}")


@dataclass
class World:
    """What all ledgers of a run have in common: two users, and an administrator, who may read whatever they do.

    `kinds`, `codes` and `reads` count what was seen to agree.
    """

    users: tuple[Client, Client, Client]
    ids: tuple[str, str, str]
    database_url: str
    kinds: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.runner = asyncio.Runner()
        self.db = self.runner.run(asyncpg.connect(self.database_url))

        self.missing = frozenset(self._missing())

    def _missing(self) -> Iterator[str]:
        """What the service does not take yet: kinds in bulk, atomic bulk, dry runs. Runs with any are worth less."""
        client, ledger = self.users[0], fresh()
        client.done("/v1/ledgers", {"id": ledger, "name": "Looked at"})
        if client.read(f"/v1/ledgers/{ledger}/trial-balance?recorded_at=2999-01-01T00:00:00Z")["seq"] != 1:
            yield "recorded_at"
        account, named = {"account": "wallets:nobody"}, {"transaction": self.ids[0]}
        bodies = dict.fromkeys(("freeze_account", "unfreeze_account", "close_account"), account)
        bodies |= dict.fromkeys(("capture_transaction", "void_transaction", "reverse_transaction"), named)
        path = f"/v1/ledgers/{ledger}/commands"
        for kind, body in bodies.items():
            if client.post(path, {"commands": [{"kind": kind, **body}]}).status_code != 202:
                yield f"{kind} in bulk"
        atomic = {"commands": [{"kind": "void_transaction", **named}], "atomic": True}
        if client.post(path, atomic).status_code != 202:
            yield "atomic bulk"
        if client.post(f"/v1/ledgers/{ledger}/periods?validate_only=true", {"before": EARLY}).status_code != 200:
            yield "dry runs"

    @property
    def watcher(self) -> Client:
        return self.users[-1]

    def in_bulk(self, kind: str) -> bool:
        return kind in IN_BULK and f"{kind} in bulk" not in self.missing

    def close(self) -> None:
        self.runner.run(self.db.close())
        self.runner.close()

    def rows(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return self.runner.run(self.db.fetch(sql, *arguments))


@dataclass
class Batch:
    """A bulk request. Of an atomic one `verdict` says which command refuses it, and why; True is that none does."""

    id: str
    jobs: list[str]
    verdict: tuple[int, Refused] | bool | None = None


class Books:
    """A ledger in both worlds. `begin` makes it; `act`, `probe` and `compare` do as they say."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.begun = datetime.now(UTC)
        self.model = Ledger(fresh(), set(world.ids), {world.ids[-1]})
        self.path = f"/v1/ledgers/{self.model.id}"
        self.wishes: dict[str, Wish] = {}
        self.asked_by: dict[str, str] = {}
        self.problems: dict[str, Json] = {}
        self.atomic: dict[str, Batch] = {}
        self.done: dict[str, str] = {}
        self.keyed: list[tuple[int, Wish, str]] = []
        self.coming: set[str] = set()
        self.cancelled: set[str] = set()
        self.sent: list[Wish] = []

    # -- sending ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The ledger, its first accounts, and a second member; nothing is waited for in between."""
        self.sent = [Wish("create_ledger", {"id": self.model.id, "name": "Books"})]
        self.sent += [*first_accounts(), Wish("grant_access", {"user": self.world.ids[1], "role": "writer"})]
        self._send(0, self.sent[:1], "single")
        self._send(0, self.sent[1:], "bulk")
        self.catch_up()

    def maker(self) -> Maker:
        return Maker(self.model, self.begun, self.world.ids[:-1])

    def post(self, parts: Sequence[tuple[int, str, list[Wish]]]) -> Callable[[], None]:
        """Sends what several clients want at the same time, each its own in order; what is answered waits for that."""
        self.sent = [wish for _, _, wishes in parts for wish in wishes]
        failures: list[BaseException] = []

        def attempt(user: int, how: str, wishes: list[Wish]) -> None:
            try:
                self._send(user, wishes, how)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=attempt, args=part) for part in parts]
        for thread in threads:
            thread.start()

        def join() -> None:
            for thread in threads:
                thread.join()
            if failures:
                raise failures[0]

        return join

    def _send(self, user: int, wishes: list[Wish], how: str) -> None:
        batches = []
        atomic = how == "atomic" and "atomic bulk" not in self.world.missing
        for fits, group in groupby(wishes, lambda wish: how in ("bulk", "atomic") and self.world.in_bulk(wish.kind)):
            several = list(group)
            if not fits:
                for wish in several:
                    self._send_single(user, wish, wishes, how == "awaited")
                continue
            for start in range(0, len(several), BULK_MOST):
                batch = self._send_bulk(user, several[start : start + BULK_MOST], wishes, atomic)
                batches += [] if batch is None else [batch]
        for batch in batches:
            self._note_refusals(user, batch)

    def _resolved(self, wish: Wish, wishes: list[Wish], labels: dict[int, str] | None = None) -> Json:
        """The body, with the id, or in one request the label, of the transaction that an earlier command makes."""
        named = wish.body.get("transaction")
        if not isinstance(named, Told):
            return wish.body
        if labels is not None and named.number in labels:
            return {**wish.body, "transaction": labels[named.number]}
        return {**wish.body, "transaction": wishes[named.number].id or str(UUID(int=named.number + 1))}

    def _send_single(self, user: int, wish: Wish, wishes: list[Wish], awaited: bool) -> None:
        wish.body = self._resolved(wish, wishes)
        key = fresh("key")
        headers = {"idempotency-key": key} | ({"prefer": f"wait={PATIENCE_S}"} if awaited else {})
        answer = self.request(user, wish.kind, wish.body, headers)
        job = answer.headers.get("daybook-job")
        if job is None:
            self._refused_at_once(user, [wish], answer, "#")
            return
        self._accepted(user, wish, job)
        self.keyed.append((user, wish, key))
        if answer.status_code >= 400:
            self.problems[job] = answer.json()
        self._take_back(user, [wish])

    def request(self, user: int, kind: str, body: Json, headers: dict[str, str], query: str = "") -> httpx.Response:
        """The single command of its route."""
        method, place, member = PLACES[kind]
        rest = {name: value for name, value in body.items() if name != member}
        path = place if kind == "create_ledger" else self.path + place.format(body.get(member))
        content: dict[str, Any] = {"json": rest} if rest or method != "DELETE" else {}
        return self.world.users[user].http.request(method, path + query, headers=headers, **content)

    def _refused_at_once(self, user: int, wishes: list[Wish], answer: httpx.Response, place: str) -> None:
        """A request that was not accepted: its sender has too low a role, or it can be seen to be wrong."""
        problem = answer.json()
        found, now = problem["code"], datetime.now(UTC)
        if found in ("not_found", "forbidden"):
            role, _ = self.model.grants.get(self.world.ids[user], ("", 0))
            needed = "owner" if any(wish.kind in OWNERS for wish in wishes) else "writer"
            # a role that is being changed at the same time may be the one of before or the one of after
            if not any(wish.kind in ("grant_access", "revoke_access") for wish in [*self.sent, *self._overdue(now)]):
                expected = "accepted" if RANKS.get(role, 0) >= RANKS[needed] else "forbidden" if role else "not_found"
                same("answer to the sender", found, expected)
        else:
            shapes = placed(place, [misshapen(wish.body) for wish in wishes])
            pointers = shapes or placed(place, [faults(wish.kind, wish.body, now) for wish in wishes])
            same(f"refusal of {wishes}", [found, *pointers_of(problem)], ["validation_failed", *pointers])
        with self.world.lock:
            self.world.codes[f"at once {found}"] += 1

    def _accepted(self, user: int, wish: Wish, job: str) -> None:
        wish.id = job
        self.wishes[job] = wish
        self.asked_by[job] = self.world.ids[user]
        if wish.kind in ("post_transaction", "reverse_transaction"):
            self.coming.add(job)

    def _send_bulk(self, user: int, several: list[Wish], wishes: list[Wish], atomic: bool) -> Batch | None:
        places = {id(wish): number for number, wish in enumerate(wishes)}
        labels: dict[int, str] = {}
        items = []
        for wish in several:
            label = f"n{places[id(wish)]}"
            items.append({"kind": wish.kind, "label": label, **self._resolved(wish, wishes, labels)})
            labels[places[id(wish)]] = f"#{label}"
        content: Json = {"commands": items, "atomic": atomic}
        answer = self.world.users[user].post(f"{self.path}/commands", content)
        if answer.status_code != 202:
            self._refused_at_once(user, several, answer, "#/commands")
            return None
        batch = Batch(answer.json()["batch"], answer.json()["jobs"])
        same("number of jobs", len(batch.jobs), len(several))
        for wish, job in zip(several, batch.jobs, strict=True):
            self._accepted(user, wish, job)
        for wish in several:
            wish.body = self._resolved(wish, wishes)
        if atomic:
            self.atomic.update(dict.fromkeys(batch.jobs, batch))
        self._take_back(user, several)
        return batch

    def _take_back(self, user: int, wishes: list[Wish]) -> None:
        """Cancels what is not wanted any more: either it is cancelled then or it was applied, as the answer says."""
        for wish in wishes:
            if not wish.unwanted or wish.id is None:
                continue
            answer = self.world.users[user].post(f"/v1/jobs/{wish.id}/cancel", {})
            if answer.status_code == 503:
                # turns come without a break
                continue
            if answer.status_code == 200:
                same(f"what is said of {wish}", answer.json()["status"], "cancelled")
                same(f"atomic batch of {wish}", self.atomic.get(wish.id), None)
                self.cancelled.add(wish.id)
            else:
                found = [answer.status_code, answer.json()["code"]]
                same(f"answer to cancelling {wish}", found, [409, "job_not_cancellable"])
                status = self.world.users[user].read(f"/v1/jobs/{wish.id}")["status"]
                if wish.id not in self.atomic and status not in ("succeeded", "rejected"):
                    raise Difference(f"{wish} can't be cancelled though it is {status}")
            with self.world.lock:
                self.world.reads[f"cancelling {answer.status_code}"] += 1

    def _note_refusals(self, user: int, batch: Batch) -> None:
        found = self.world.users[user].batch(batch.id)
        for refusal in found["refusals"]:
            same("job of a refusal", refusal["job"], batch.jobs[refusal["index"]])
            self.problems[refusal["job"]] = refusal["problem"]
        counts = found["counts"]
        same("refusals of a batch", counts["rejected"], len(found["refusals"]))
        same("cancelled of a batch", counts["cancelled"], len(self.cancelled & {*batch.jobs}))
        same("jobs of a batch", counts["rejected"] + counts["succeeded"] + counts["cancelled"], len(batch.jobs))

    # -- putting to the model what was applied ------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Puts every command that the service has finished to the model, and compares what became of it."""
        actor = f"ledger:{self.model.id}"
        while True:
            rows = self.world.rows(APPLIED, actor, [UUID(job) for job in self.done])
            waiting = [row for row in rows if row["status"] == "accepted"]
            if not waiting:
                break
            self.world.watcher.outcome(str(waiting[0]["id"]))
        if not rows:
            return
        events = {event["command"]: event for event in self._journal()}
        for row in rows:
            self._put(row, events)

    def _journal(self) -> Iterator[Json]:
        after = self.model.seq
        while True:
            answer = self.world.watcher.get(f"{self.path}/journal?limit=1000&after={after}")
            lines = [msgspec.json.decode(line) for line in answer.raise_for_status().content.splitlines()]
            for line in lines:
                after += 1
                same("seq in the journal", line["seq"], after)
                yield msgspec.json.decode(line["event"])
            if len(lines) < 1000:
                return

    def _put(self, row: asyncpg.Record, events: dict[str, Json]) -> None:
        job, kind = str(row["id"]), row["kind"]
        wish = self.wishes.get(job) or self._unasked(row)
        same("kind", kind, wish.kind)
        same("principal", str(row["principal"]), self.asked_by.get(job, SERVICE))
        self.coming.discard(job)
        self.done[job] = row["status"]
        if row["status"] == "cancelled" or job in self.cancelled:
            same(f"status of what was cancelled, {wish}", row["status"], "cancelled" if job in self.cancelled else "?")
            return
        asked = self._asked(wish, row)
        batch = self.atomic.get(job)
        what = f"{kind} {wish.body} ({job})"
        try:
            if batch is not None:
                self._check_atomic(batch, asked, row)
            plan = self.model.decide(asked)
        except Refused as refused:
            self._compare_refusal(what, row, refused)
            seen = self.world.codes, refused.code
        else:
            if row["status"] != "succeeded":
                raise Difference(f"{what} is {row['status']}, and the model knows no reason: {self._problem(job)}")
            self._check_hidden(what, job)
            self._compare_event(what, events[job], plan, row)
            seen = self.world.kinds, kind
        with self.world.lock:
            seen[0][seen[1]] += 1
            self.world.commands += 1

    def _check_hidden(self, what: str, job: str) -> None:
        """What succeeded is shown to whoever awaited it, unless their grant was taken meanwhile."""
        problem = self.problems.get(job)
        if problem is not None and all(wish.kind != "revoke_access" for wish in self.wishes.copy().values()):
            raise Difference(f"{what} succeeded, and the answer was {problem}")
        if problem is not None:
            same(f"answer to {what}", [problem["code"], problem["job"]], ["not_found", job])

    def _unasked(self, row: asyncpg.Record) -> Wish:
        """A command that no client has sent: the service's own, or one of a schedule, each of its times once."""
        job = str(row["id"])
        if row["schedule"] is None:
            same("kind of what nobody asked for", row["kind"], "expire_transaction")
            self.wishes[job] = Wish(row["kind"], msgspec.json.decode(row["payload"]), job)
            return self.wishes[job]
        schedule, at = self.model.schedules[str(row["schedule"])], row["execute_at"]
        self._check_time(schedule, at)
        schedule["fired"].add(at)
        self.asked_by[job] = schedule["principal"]
        self.wishes[job] = Wish(row["kind"], dict(schedule["command"]), job)
        same("what a schedule repeats", row["kind"], self.wishes[job].body.pop("kind"))
        return self.wishes[job]

    def _check_time(self, schedule: Json, at: datetime) -> None:
        """That a schedule has this time, for the first time; of those before it was made only what `missed` says."""
        if at not in times_of(schedule, at) or at in schedule["fired"]:
            raise Difference(f"{schedule} has no time {at}, or had it before")
        created_at = moment_of(schedule["created_at"])
        if at < created_at and schedule["missed"] != "all":
            # the last of many, and no other
            others = [each for each in times_of(schedule, created_at) if at < each < created_at]
            if schedule["missed"] == "skip" or others or any(each < created_at for each in schedule["fired"]):
                raise Difference(f"{schedule} makes up for {at}")
        series = "rule" if schedule["every"] is None else "interval"
        with self.world.lock:
            self.world.reads[f"time of {'a' if series == 'rule' else 'an'} {series}"] += 1

    def _asked(self, wish: Wish, row: asyncpg.Record) -> Asked:
        assert wish.id is not None
        accepted_at, execute_at = row["accepted_at"], row["execute_at"]
        return Asked(
            wish.id, wish.kind, wish.body, str(row["principal"]), accepted_at, execute_at, frozenset(self.coming)
        )

    def _check_atomic(self, batch: Batch, asked: Asked, row: asyncpg.Record) -> None:
        """Raises Refused for each of its commands if one of them can't be applied."""
        if batch.verdict is None:
            members = [self._asked(self.wishes[job], row) for job in batch.jobs]
            batch.verdict = self.model.together(members, row["accepted_at"])
        if isinstance(batch.verdict, tuple):
            culprit, refused = batch.verdict
            if batch.jobs[culprit] == asked.id:
                raise refused
            same("caused_by", self._problem(asked.id).get("caused_by"), batch.jobs[culprit])
            raise Refused("batch_rejected")

    def _problem(self, job: str) -> Json:
        if job not in self.problems:
            self.problems[job] = self.world.watcher.read(f"/v1/jobs/{job}")["problem"]
        return self.problems[job]

    def _compare_refusal(self, what: str, row: asyncpg.Record, refused: Refused) -> None:
        same(f"status of {what}, which the model refuses: {refused}", row["status"], "rejected")
        problem, job = self._problem(str(row["id"])), str(row["id"])
        found = [problem["code"], *pointers_of(problem)]
        same(f"refusal of {what}", found, [refused.code, *refused.pointers])
        same("status of a refusal", problem["status"], STATUS.get(refused.code, 409))
        same("job of a refusal", (problem["job"], problem["instance"]), (job, f"/v1/jobs/{job}"))

    def _compare_event(self, what: str, event: Json, plan: Plan, row: asyncpg.Record) -> None:
        same(f"seq of {what}", event["seq"], self.model.seq + 1)
        same(f"event of {what}", [event["type"], event["data"]], [plan.type, plan.data])
        recorded_at = moment_of(event["recorded_at"])
        if recorded_at < max([*self.model.times[-1:], row["accepted_at"]]):
            raise Difference(f"{what} was recorded at {recorded_at}, before what came before it")
        figures = {each["account"]: each for each in self.model.record(plan, recorded_at)}
        same(f"balances after {what}", {each["account"]: each for each in event["balances"]}, figures)
        same("number of balances", len(event["balances"]), len(figures))

    # -- comparing what is answered -----------------------------------------------------------------------------------

    def ask(self, read: str, path: str) -> httpx.Response:
        with self.world.lock:
            self.world.reads[read] += 1
        joint = "&" if "?" in path else "?"
        return self.world.watcher.get(f"{self.path}{path}{joint}min_version={self.model.seq}")

    def agree(self, read: str, path: str, expected: Callable[[], object], pages: int | None = None) -> None:
        """Compares a list or sum as it is now. What the service does by itself meanwhile is caught up with first."""
        for _ in range(100):
            answer = self.ask(read, f"{path}{'&' if '?' in path else '?'}limit={pages}" if pages else path)
            if answer.status_code == 200 and self._is_newer(answer):
                self.catch_up()
                continue
            found = answer.json() if answer.status_code == 200 else answer.status_code
            items = found
            if pages and isinstance(found, dict):
                rest = self._rest(read, path, found["next"], pages, answer.headers.get("etag"))
                if rest is None:
                    self.catch_up()
                    continue
                items = {**found, "items": found["items"] + rest}
                del items["next"]
            same(f"{read} {path}", items, expected())
            return
        raise Difference(f"{read} never stood still")

    def _is_newer(self, answer: httpx.Response) -> bool:
        tag = answer.headers["etag"].strip('"').partition(".")[2]
        return int(tag) > self.model.seq

    def _rest(self, read: str, path: str, cursor: str | None, pages: int, tag: str | None) -> list[Json] | None:
        """The items of the pages behind the first; None if the ledger has changed meanwhile."""
        items: list[Json] = []
        while cursor is not None:
            joint = "&" if "?" in path else "?"
            answer = self.ask(read, f"{path}{joint}limit={pages}&cursor={cursor}")
            same(f"status of {read} {path}", answer.status_code, 200)
            if answer.headers.get("etag") != tag:
                return None
            items += answer.json()["items"]
            cursor = answer.json()["next"]
        return items

    def compare(self) -> None:
        """Every balance, and whatever else one answer shows whole."""
        self.catch_up()
        model = self.model
        self.agree("accounts", "/accounts", lambda: {"items": self._now()}, 1000)
        self.agree("trial balance", "/trial-balance", lambda: self._at(model.trial_balance(model.seq), None, None))

    def compare_all(self) -> None:
        """Everything that there is."""
        self.compare()
        model = self.model
        self.agree("ledger", "", model.view)
        self.agree("transactions", "/transactions", lambda: {"items": model.transaction_list()}, 500)
        self.agree("currencies", "/currencies", lambda: {"items": self._currencies()}, 1000)
        self.agree("periods", "/periods", lambda: {"items": self._periods()}, 1000)
        self.agree("grants", "/grants", lambda: {"items": self._grants()}, 1000)
        busiest = sorted(model.accounts, key=lambda name: -len(model.history[name]))
        self._seal(busiest[0])
        self.agree("balances", "/balances", lambda: self._at(model.balances(model.seq), None, None), 1000)
        for question in (self._ask_account, self._ask_accounts, self._ask_balances, self._ask_refused, self._ask_again):
            for dice in range(4):
                question(Random(dice))
        for name in busiest[:6]:
            self._statement(name, None, None, {}, 500)

    def _now(self, prefix: str = "", currency: str | None = None) -> list[Json]:
        accounts = self.model.accounts_at(self.model.seq, None, prefix)
        return [account.view(self.model.id) for account in accounts if currency in (None, account.currency)]

    def _at(self, items: list[Json], effective_at: datetime | None, recorded_at: datetime | None) -> Json:
        times = {"effective_at": stamp(effective_at), "recorded_at": stamp(recorded_at)}
        return {"seq": self.model.seq, **times, "items": items}

    def _currencies(self) -> list[Json]:
        return [{"code": code, "scale": scale} for code, scale in sorted(self.model.currencies.items())]

    def _periods(self) -> list[Json]:
        return [
            {"before": stamp(before), "closed_at": stamp(self.model.times[seq - 1]), "seq": seq}
            for before, seq in reversed(self.model.periods)
        ]

    def _grants(self) -> list[Json]:
        names = dict(zip(self.world.ids, (user.username for user in self.world.users), strict=True))
        granted = sorted(self.model.grants.items(), key=lambda item: -item[1][1])
        return [
            {"user": user, "username": names[user], "role": role, "granted_at": stamp(self.model.times[seq - 1])}
            for user, (role, seq) in granted
        ]

    # -- asking at random ---------------------------------------------------------------------------------------------

    def probe(self, dice: int) -> None:
        """One question that a number stands for."""
        random = Random(dice)
        questions = [self._ask_account, self._ask_accounts, self._ask_balances, self._ask_trial_balance]
        questions += [self._ask_statement, self._ask_statement, self._ask_transactions, self._ask_transaction]
        questions += [self._ask_refused, self._ask_again, self._ask_sealed, self._ask_schedules]
        if "dry runs" not in self.world.missing:
            questions += [self._ask_what_if] * 3
        random.choice(questions)(random)

    def _name(self, random: Random) -> str:
        return random.choice([*self.model.accounts, *self.model.accounts, "wallets:nobody"])

    def _effective(self, random: Random) -> datetime | None:
        if random.random() < 0.4:
            return None
        entries = self.model.entries
        if entries and random.random() < 0.7:
            return random.choice(entries).effective_at + timedelta(microseconds=random.choice([0, 0, -1, 1]))
        return self.maker().hour(random)

    def _moment(self, random: Random) -> tuple[dict[str, str], int, datetime | None, datetime | None]:
        """Parameters that ask for what was, the seq that the answer names, and both times."""
        effective_at, recorded_at, seq = self._effective(random), None, None
        if random.random() < 0.6 and "recorded_at" not in self.world.missing:
            recorded_at = random.choice(self.model.times) + timedelta(microseconds=random.choice([0, 0, 0, -1, 1]))
        if random.random() < 0.3 or not (effective_at or recorded_at):
            seq = random.randrange(self.model.seq + 1)
        asked = {"effective_at": stamp(effective_at), "recorded_at": stamp(recorded_at)}
        if seq is not None:
            asked["seq"] = str(seq)
        parameters = {name: value for name, value in asked.items() if value is not None}
        return parameters, self.model.seq_at(recorded_at, seq), effective_at, recorded_at

    def _ask_account(self, random: Random) -> None:
        name = self._name(random)
        if random.random() < 0.3:
            found = [view for view in self._now() if view["name"] == name]
            answer = self.ask("account", f"/accounts/{name}")
            if found and answer.status_code == 200 and answer.json()["version"] > self.model.seq:
                return
            same(f"account {name}", answer.json() if found else answer.status_code, found[0] if found else 404)
            return
        parameters, seq, effective_at, _ = self._moment(random)
        path = f"/accounts/{name}{query_of(parameters)}"
        answer = self.ask("account as of", path)
        if self._moved_on(answer, parameters):
            return
        views = [view for view in self.model.account_views(seq, effective_at) if view["name"] == name]
        found_ = answer.json() if answer.status_code == 200 else answer.status_code
        same(f"account as of {path}", found_, views[0] if views else 404)

    def _moved_on(self, answer: httpx.Response, parameters: dict[str, str]) -> bool:
        """Whether the answer is about something newer than the model knows, by what the service has done by itself."""
        if answer.status_code != 200 or "recorded_at" in parameters or "seq" in parameters:
            return False
        return bool(answer.json()["seq"] > self.model.seq)

    def _as_of(
        self,
        read: str,
        path: str,
        random: Random,
        items: Callable[[int, datetime | None], list[Json]],
        parameters: dict[str, str],
        pages: int | None,
    ) -> None:
        times, seq, effective_at, recorded_at = self._moment(random)
        path = path + query_of(parameters | times)
        paged = f"&limit={pages}" if pages else ""
        answer = self.ask(f"{read} as of", path + paged)
        if self._moved_on(answer, times):
            return
        same(f"status of {read} {path}", answer.status_code, 200)
        found = answer.json()
        if pages:
            cursor = found.pop("next")
            while cursor is not None:
                page = self.ask(f"{read} as of", f"{path}{paged}&cursor={cursor}").json()
                found["items"] += page["items"]
                same("seq of a later page", page["seq"], seq)
                cursor = page["next"]
        expected = {"seq": seq, "effective_at": stamp(effective_at), "recorded_at": stamp(recorded_at)}
        same(f"{read} as of {path}", found, expected | {"items": items(seq, effective_at)})

    def _ask_accounts(self, random: Random) -> None:
        prefix, currency = random.choice(["", "", "wallets:", "assets:"]), random.choice([None, None, "USD", "JPY"])
        parameters = ({"prefix": prefix} if prefix else {}) | ({"currency": currency} if currency else {})
        if random.random() < 0.3:
            path = f"/accounts{query_of(parameters)}"
            self.agree("accounts", path, lambda: {"items": self._now(prefix, currency)}, random.choice([3, 1000]))
            return
        model = self.model

        def views(seq: int, at: datetime | None) -> list[Json]:
            return model.account_views(seq, at, prefix, currency)

        self._as_of("accounts", "/accounts", random, views, parameters, random.choice([4, 1000]))

    def _ask_balances(self, random: Random) -> None:
        prefix, model = random.choice(["", "", "wallets:", "assets:"]), self.model
        parameters = {"prefix": prefix} if prefix else {}
        if random.random() < 0.3:
            path = f"/balances{query_of(parameters)}"

            def now() -> Json:
                return self._at(model.balances(model.seq, None, prefix), None, None)

            self.agree("balances", path, now, random.choice([2, 1000]))
            return

        def items(seq: int, at: datetime | None) -> list[Json]:
            return model.balances(seq, at, prefix)

        self._as_of("balances", "/balances", random, items, parameters, random.choice([2, 1000]))

    def _ask_trial_balance(self, random: Random) -> None:
        self._as_of("trial balance", "/trial-balance", random, self.model.trial_balance, {}, None)

    def _ask_statement(self, random: Random) -> None:
        bounds = sorted(each for each in (self._effective(random), self._effective(random)) if each is not None)
        start = bounds[0] if bounds and random.random() < 0.8 else None
        end = bounds[-1] if bounds and random.random() < 0.8 else None
        recorded: dict[str, str] = {}
        if random.random() < 0.5:
            parameters, _, _, _ = self._moment(random)
            recorded = {name: parameters[name] for name in ("recorded_at", "seq") if name in parameters}
        self._statement(self._name(random), start, end, recorded, random.choice([1, 3, 1000]))

    def _statement(
        self, name: str, start: datetime | None, end: datetime | None, recorded: dict[str, str], pages: int
    ) -> None:
        asked = {"from": stamp(start), "to": stamp(end), **recorded}
        path = f"/accounts/{name}/statement{query_of({key: value for key, value in asked.items() if value})}"
        paged = f"{path}{'&' if '?' in path else '?'}limit={pages}"
        answer = self.ask("statement", paged)
        if self._moved_on(answer, recorded):
            return
        recorded_at = moment_of(recorded["recorded_at"]) if "recorded_at" in recorded else None
        seq = self.model.seq_at(recorded_at, int(recorded["seq"]) if "seq" in recorded else None)
        account = self.model.accounts.get(name)
        if account is None or self.model.history[name][0].version > seq:
            same(f"status of {path}", answer.status_code, 404)
            return
        same(f"status of {path}", answer.status_code, 200)
        found = answer.json()
        expected = self.model.statement(name, start, end, seq)
        ends = [found["opening"], found["closing"], found["seq"]]
        cursor = found.pop("next")
        while cursor is not None:
            page = self.ask("statement", f"{paged}&cursor={cursor}").json()
            same("opening, closing and seq of a later page", [page["opening"], page["closing"], page["seq"]], ends)
            found["items"] += page["items"]
            cursor = page["next"]
        same(f"statement {path}", found, expected)

    def _ask_transactions(self, random: Random) -> None:
        wanted: dict[str, Any] = {}
        if random.random() < 0.6:
            wanted["account"] = self._name(random)
        if random.random() < 0.4:
            wanted["status"] = random.choice(["posted", "pending", "captured", "voided", "expired"])
        if random.random() < 0.1:
            wanted["reference"] = f"order {random.randrange(60)}"
        start, end = (self._effective(random) for _ in range(2)) if random.random() < 0.4 else (None, None)
        times = {name: stamp(at) for name, at in (("from", start), ("to", end)) if at is not None}
        path = f"/transactions{query_of(wanted | times)}"

        def expected() -> Json:
            return {"items": self.model.transaction_list(start=start, end=end, **wanted)}

        self.agree("transactions", path, expected, random.choice([7, 1000]))

    def _ask_transaction(self, random: Random) -> None:
        if not self.model.transactions:
            return
        id = random.choice(list(self.model.transactions))
        answer = self.ask("transaction", f"/transactions/{id}")
        if answer.json()["version"] <= self.model.seq:
            same(f"transaction {id}", answer.json(), self.model.transaction_view(id))

    def _ask_refused(self, random: Random) -> None:
        """A transaction whose command was refused is no transaction, but its job is named."""
        refused = [
            job
            for job, status in self.done.items()
            if status in ("rejected", "cancelled")
            and self.wishes[job].kind in ("post_transaction", "reverse_transaction")
        ]
        if refused:
            job = random.choice(refused)
            answer = self.ask("refused transaction", f"/transactions/{job}")
            same("a refused transaction", [answer.status_code, answer.json().get("job")], [404, job])

    def _ask_again(self, random: Random) -> None:
        """The same request under its key is the same job."""
        if not self.keyed:
            return
        user, wish, key = random.choice(self.keyed)
        answer = self.request(user, wish.kind, wish.body, {"idempotency-key": key})
        found = [answer.status_code, answer.headers.get("daybook-job"), answer.headers.get("idempotent-replayed")]
        same(f"repetition of {wish}", found, [202, wish.id, "true"])
        if wish.id in self.done:
            same("status of a repetition", answer.json()["status"], self.done[wish.id])
        with self.world.lock:
            self.world.reads["repetition"] += 1

    def _ask_schedules(self, random: Random) -> None:
        """What is to be next changes by itself, the rest does not."""
        names = ("id", "command", "every", "rrule", "status", "missed", "created_at", "version")
        self.catch_up()
        seq = self.model.seq
        # without an ETag, since what is next is not in the journal
        answer = self.ask("schedules", "/schedules?limit=1000")
        self.catch_up()
        if self.model.seq == seq:
            found = {each["id"]: {name: each[name] for name in names} for each in answer.json()["items"]}
            known = {id: {name: each[name] for name in names} for id, each in self.model.schedules.items()}
            same("schedules", found, known)

    def _ask_what_if(self, random: Random) -> None:
        """What would become of a command, which is not sent."""
        user = random.randrange(2)
        kinds = [kind for kind in PLACES if kind not in ("create_ledger", "create_schedule", "revoke_access")]
        wish = self.maker().make(random.choice([*kinds, *["post_transaction"] * 10]), random.getrandbits(24))
        self.catch_up()
        named, now = self.model.transactions.get(str(wish.body.get("transaction"))), datetime.now(UTC)
        if named is not None and named.expires_at is not None and abs(named.expires_at - now) < timedelta(seconds=5):
            return
        answer = self.request(user, wish.kind, wish.body, {}, "?validate_only=true")
        seq = self.model.seq
        self.catch_up()
        if self.model.seq != seq:
            return
        if answer.status_code != 200:
            self.sent = []
            self._refused_at_once(user, [wish], answer, "#")
            return
        asked = Asked(self.world.ids[user], wish.kind, wish.body, self.world.ids[user], now, None)
        expected: Json = {"valid": True, "code": None, "pointers": []}
        # the accounts that are named but not touched stay as they are
        views = {view["name"]: view for view in self._now()}
        touched: list[Json] = []
        try:
            touched = self.model.dry(asked, now)
        except Refused as refused:
            expected = {"valid": False, "code": refused.code, "pointers": refused.pointers}
        views |= {view["name"]: view for view in touched}
        said = answer.json()
        problem = said["problem"] or {"code": None, "errors": None}
        found = {"valid": said["valid"], "code": problem["code"], "pointers": pointers_of(problem)}
        shown = {view["name"]: view for view in said["balances"]}
        same(f"accounts of {wish}", {view["name"] for view in touched} - shown.keys(), set())
        if wish.kind == "open_account" and said["valid"]:
            views[wish.body["name"]]["opened_at"] = shown[wish.body["name"]]["opened_at"]
        same(f"accounts after {wish}", shown, {name: views[name] for name in shown})
        same(f"dry run of {wish}", found, expected)
        with self.world.lock:
            self.world.reads["dry run"] += 1

    def _ask_sealed(self, random: Random) -> None:
        self._seal(self._name(random))

    def _seal(self, name: str) -> None:
        """Has the service seal movements of an account by the handful, as it does by the thousand."""
        while self.world.runner.run(seal(self.world.db, self.model.id, name, SEALED)):
            with self.world.lock:
                self.world.reads["sealed run"] += 1

    # -- the end ------------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Ends what would go on for ever."""
        ending = [
            Wish("cancel_schedule", {"schedule": id})
            for id, each in self.model.schedules.items()
            if each["status"] != "cancelled"
        ]
        self._send(2, ending, "awaited")
        self.catch_up()

    def _overdue(self, now: datetime) -> list[Wish]:
        """What was to happen by itself by now, and may not have been caught up with."""
        waiting = [wish for job, wish in self.wishes.copy().items() if job not in self.done]
        return [wish for wish in waiting if "execute_at" in wish.body and moment_of(wish.body["execute_at"]) <= now]

    def awaited(self) -> list[datetime]:
        """When something is still to happen by itself before long."""
        pending = [each.expires_at for each in self.model.transactions.values() if each.status == "pending"]
        scheduled = [wish.body.get("execute_at") for job, wish in self.wishes.items() if job not in self.done]
        moments = pending + [moment_of(each) for each in scheduled if each is not None]
        soon = datetime.now(UTC) + timedelta(minutes=1)
        return [each for each in moments if each is not None and each < soon]

    def finish(self) -> None:
        """Waits for whatever ends by itself, and compares everything."""
        deadline = time.monotonic() + PATIENCE_S
        while self.awaited():
            if time.monotonic() > deadline:
                raise Difference(f"never happened: {self.awaited()}")
            time.sleep(0.1)
            self.catch_up()
        self.calm()
        self.compare_all()


def query_of(parameters: dict[str, Any]) -> str:
    return str(httpx.URL("", params=parameters)) if parameters else ""


def placed(place: str, several: list[list[str]]) -> list[str]:
    """Pointers into commands, as their request has them: `#` is the place of one that goes alone."""
    pointers = [(number, pointer) for number, found in enumerate(several) for pointer in found]
    return [(place if place == "#" else f"{place}/{number}") + pointer[1:] for number, pointer in pointers]


def pointers_of(problem: Json) -> list[str]:
    return [error["pointer"] for error in problem["errors"] or ()]
