"""Every kind of command from the request to its effect, over HTTP, through real workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice, pairwise
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from domain.catalog import KINDS
from domain.clock import format_time
from domain.identity import handlers as identity
from tests.e2e.client import FINAL, PATIENCE_S, Client, Json, events_of, fresh, open_books, posting, yearly
from tests.stack import Stack

WAIT = f"wait={PATIENCE_S}"

JOB_MEMBERS = [
    *("id", "kind", "actor", "batch", "status", "accepted_at", "execute_at", "finished_at", "attempts", "progress"),
    *("result", "problem", "links"),
]


class Drive(NamedTuple):
    """How a kind of command is sent: where, what, what it makes, how that is read, and the event it leaves.

    `item` is how a list shows what was made, by members that nothing else in it has; None where it is the body.
    """

    path: str
    body: Json
    resource: str
    event: str
    method: str = "POST"
    status: int = 201
    listed: str | None = None
    item: Json | None = None
    actor: str | None = None


@dataclass
class Desk:
    """Who drives: ada, whose ledger it is, and an administrator, who makes whoever is to be let in or changed."""

    ada: Client
    admin: Client
    ledger: str
    days: int = 0

    def client(self, kind: str) -> Client:
        return self.admin if kind in identity.KINDS else self.ada

    def send(self, kind: str, sent: Drive, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = {} if sent.method == "DELETE" else {"json": sent.body}
        return self.client(kind).http.request(sent.method, sent.path, headers=named, **body)

    def somebody(self) -> str:
        login = {"username": fresh("user"), "password": fresh("password")}
        return str(self.admin.done("/v1/users", login)["id"])

    def member(self) -> str:
        user = self.somebody()
        granted = self.ada.http.put(
            f"/v1/ledgers/{self.ledger}/grants/{user}", json={"role": "reader"}, headers={"prefer": WAIT}
        )
        assert granted.status_code == 200, granted.text
        return user

    def account(self, *, frozen: bool = False) -> str:
        """An account that nothing has touched; its address."""
        name = f"wallets:{fresh()}"
        self.ada.done(f"{self.base}/accounts", {"name": name, "currency": "USD", "type": "liability"})
        account = f"{self.base}/accounts/{name}"
        if frozen:
            assert self.ada.post(f"{account}/freeze", prefer=WAIT).status_code == 200
        return account

    def transaction(self, **members: Any) -> str:
        """A transaction of its own; its address."""
        return f"{self.base}/transactions/{self.ada.done(f'{self.base}/transactions', posting(**members))['id']}"

    def schedule(self, *, paused: bool = False) -> str:
        """A schedule that is not due for a year; its address."""
        schedule = f"{self.base}/schedules/{self.ada.done(f'{self.base}/schedules', yearly())['id']}"
        if paused:
            assert self.ada.post(f"{schedule}/pause", prefer=WAIT).status_code == 200
        return schedule

    def later(self) -> str:
        """A moment long ago, and after all that this gave before."""
        self.days += 1
        return format_time(datetime(2001, 1, 1, tzinfo=UTC) + timedelta(days=self.days))

    @property
    def base(self) -> str:
        return f"/v1/ledgers/{self.ledger}"

    def drive(self, kind: str) -> Drive:
        """A command of that kind which will succeed, another one at each call. Fails for a kind nobody thought of."""
        assert kind in DRIVES, f"no test drives {kind} end to end: add it here"
        return DRIVES[kind](self, f"/v1/ledgers/{self.ledger}", fresh("x"))


def granting(method: str, event: str, status: int) -> Callable[[Desk, str, str], Drive]:
    """To give somebody a role in the ledger, or to take it away."""

    def drive(desk: Desk, base: str, _name: str) -> Drive:
        user = desk.member() if method == "DELETE" else desk.somebody()
        listed = f"{base}/grants"
        return Drive(f"{listed}/{user}", {"role": "writer"}, listed, event, method, status, listed, {"user": user})

    return drive


def on_account(verb: str, event: str, *, frozen: bool = False) -> Callable[[Desk, str, str], Drive]:
    """To change what may be done with an account."""

    def drive(desk: Desk, _base: str, _name: str) -> Drive:
        account = desk.account(frozen=frozen)
        return Drive(f"{account}/{verb}", {}, account, event, status=200)

    return drive


def on_hold(verb: str, body: Json, event: str) -> Callable[[Desk, str, str], Drive]:
    """To end a hold, or some of it."""

    def drive(desk: Desk, _base: str, _name: str) -> Drive:
        transaction = desk.transaction(pending=True)
        return Drive(f"{transaction}/{verb}", body, transaction, event, status=200)

    return drive


def on_schedule(verb: str, event: str, *, paused: bool = False) -> Callable[[Desk, str, str], Drive]:
    """To change what a schedule does from now on."""

    def drive(desk: Desk, _base: str, _name: str) -> Drive:
        schedule = desk.schedule(paused=paused)
        return Drive(f"{schedule}/{verb}", {}, schedule, event, status=200)

    return drive


def describing(event: str, address: Callable[[Desk], str]) -> Callable[[Desk, str, str], Drive]:
    """To add to the metadata of something."""

    def drive(desk: Desk, _base: str, name: str) -> Drive:
        resource = address(desk)
        return Drive(resource, {"metadata": {name: "noted"}}, resource, event, "PATCH", 200)

    return drive


def changing(
    rest: str, event: str, body: Callable[[], Json], method: str = "POST"
) -> Callable[[Desk, str, str], Drive]:
    """To change a user."""

    def drive(desk: Desk, _base: str, _name: str) -> Drive:
        user = desk.somebody()
        path = f"/v1/users/{user}"
        return Drive(path + rest, body(), path, event, method, 200, "/v1/users", {"id": user}, f"user:{user}")

    return drive


DRIVES: dict[str, Callable[[Desk, str, str], Drive]] = {
    "create_ledger": lambda _, base, name: Drive(
        "/v1/ledgers", {"id": name, "name": name}, f"/v1/ledgers/{name}", "LedgerCreated", actor=f"ledger:{name}"
    ),
    "update_ledger": lambda _, base, name: Drive(
        base, {"metadata": {name: "noted"}}, base, "MetadataChanged", "PATCH", 200
    ),
    "grant_access": granting("PUT", "AccessGranted", 200),
    "revoke_access": granting("DELETE", "AccessRevoked", 204),
    "register_currency": lambda _, base, name: Drive(
        f"{base}/currencies",
        {"code": name.upper().replace("-", ""), "scale": 3},
        f"{base}/currencies",
        "CurrencyRegistered",
        listed=f"{base}/currencies",
    ),
    "open_account": lambda _, base, name: Drive(
        f"{base}/accounts",
        {"name": f"wallets:{name}", "currency": "USD", "type": "liability", "min_balance": "0"},
        f"{base}/accounts/wallets:{name}",
        "AccountOpened",
    ),
    "post_transaction": lambda _, base, name: Drive(
        f"{base}/transactions", posting(reference=name), f"{base}/transactions/{{job}}", "TransactionPosted"
    ),
    "update_account": describing("AccountMetadataChanged", Desk.account),
    "freeze_account": on_account("freeze", "AccountFrozen"),
    "unfreeze_account": on_account("unfreeze", "AccountUnfrozen", frozen=True),
    "close_account": on_account("close", "AccountClosed"),
    "update_transaction": describing("TransactionMetadataChanged", Desk.transaction),
    "capture_transaction": on_hold("capture", {"amount": "0.40", "final": False}, "TransactionCaptured"),
    "void_transaction": on_hold("void", {}, "TransactionVoided"),
    "reverse_transaction": lambda desk, base, name: Drive(
        f"{desk.transaction()}/reverse", {"reference": name}, f"{base}/transactions/{{job}}", "TransactionReversed"
    ),
    "close_period": lambda desk, base, _: Drive(
        f"{base}/periods",
        {"before": desk.later()},
        f"{base}/periods",
        "PeriodClosed",
        status=200,
        listed=f"{base}/periods",
    ),
    "create_schedule": lambda _, base, name: Drive(
        f"{base}/schedules",
        {**yearly(), "command": {"kind": "freeze_account", "account": f"wallets:{name}"}},
        f"{base}/schedules/{{job}}",
        "ScheduleCreated",
    ),
    "pause_schedule": on_schedule("pause", "SchedulePaused"),
    "resume_schedule": on_schedule("resume", "ScheduleResumed", paused=True),
    "cancel_schedule": on_schedule("cancel", "ScheduleCancelled"),
    "register_user": lambda _, base, name: Drive(
        "/v1/users",
        {"username": name, "password": fresh("password"), "roles": ["user"]},
        "/v1/users/{job}",
        "UserRegistered",
        listed="/v1/users",
        item={"username": name},
        actor="user:{job}",
    ),
    "update_user": changing("", "UserUpdated", lambda: {"roles": ["operator", "user"]}, "PATCH"),
    "change_password": changing("/password", "PasswordChanged", lambda: {"password": fresh("password")}),
    "disable_user": changing("/disable", "UserDisabled", dict),
}


def view(client: Client, sent: Drive, job: str, seq: int) -> Json:
    """What GET answers of what a command made: itself, or, where it has no GET of its own, the list's item."""
    if sent.listed is None:
        return client.read(f"{sent.resource.format(job=job)}?min_version={seq}")
    found = client.read(f"{sent.listed}?limit=1000")
    (item,) = [item for item in found["items"] if item.items() >= (sent.item or sent.body).items()]
    return dict(item)


# Nobody can ask for the end of a transaction's time but the service: tests/e2e/test_holds.py.
SENT = sorted(set(KINDS) - {"expire_transaction"})


@pytest.fixture(scope="module")
def ledger(ada: Client) -> str:
    return open_books(ada)


@pytest.fixture(scope="module")
def desk(ada: Client, admin: Client, ledger: str) -> Desk:
    return Desk(ada, admin, ledger)


@pytest.mark.parametrize("kind", SENT)
def test_each_kind_of_command_from_202_to_its_event(stack: Stack, desk: Desk, kind: str) -> None:
    client, sent = desk.client(kind), desk.drive(kind)
    accepted = desk.send(kind, sent)
    assert accepted.status_code == 202, accepted.text
    job = accepted.json()
    actor = (sent.actor or f"ledger:{desk.ledger}").format(job=job["id"])
    assert list(job) == JOB_MEMBERS
    assert (job["kind"], job["actor"], job["status"], job["finished_at"]) == (kind, actor, "accepted", None)
    assert (accepted.headers["daybook-job"], accepted.headers["retry-after"]) == (job["id"], "1")
    assert accepted.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"

    finished = client.outcome(job["id"])
    resource = sent.resource.format(job=job["id"])
    assert finished["status"] == "succeeded" and finished["attempts"] == 1, finished
    seq = finished["result"]["seq"]
    assert finished["result"] == {"resource": resource, "seq": seq}
    if sent.status != 204:
        assert view(client, sent, job["id"], seq)

    events = [msgspec.json.decode(message.value() or b"") for message in events_of(stack, actor, seq)]
    (event,) = [event for event in events if event["seq"] == seq]
    assert (event["type"], event["command"], event["actor"]) == (sent.event, job["id"], actor)


@pytest.mark.parametrize("kind", SENT)
def test_each_kind_of_command_awaited_and_replayed(desk: Desk, kind: str) -> None:
    client, sent, key = desk.client(kind), desk.drive(kind), fresh("key")
    made = desk.send(kind, sent, prefer=WAIT, idempotency_key=key)
    assert made.status_code == sent.status, made.text
    job = made.headers["daybook-job"]
    assert made.headers["preference-applied"] == "wait" and "idempotent-replayed" not in made.headers
    assert made.headers.get("location") == (sent.resource.format(job=job) if sent.status == 201 else None)
    finished = client.read(f"/v1/jobs/{job}")
    if sent.status == 204:
        assert made.content == b""
    else:
        assert made.json() == view(client, sent, job, finished["result"]["seq"])

    replayed = desk.send(kind, sent, prefer=WAIT, idempotency_key=key)
    assert (replayed.status_code, replayed.content) == (sent.status, made.content)
    assert (replayed.headers["daybook-job"], replayed.headers["idempotent-replayed"]) == (job, "true")
    unawaited = desk.send(kind, sent, idempotency_key=key)
    assert (unawaited.status_code, unawaited.json()) == (202, finished)
    assert "retry-after" not in unawaited.headers
    # a key belongs to the actor: another ledger's id would be another scope
    another = desk.drive(kind)
    same_actor = {name: sent.body[name] for name in ("id",) if name in sent.body}
    other = desk.send(kind, another._replace(body={**another.body, **same_actor}), idempotency_key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_refusal_is_the_same_problem_awaited_in_its_job_and_replayed(ada: Client, ledger: str) -> None:
    path, body, key = f"/v1/ledgers/{ledger}/transactions", posting(credit="wallets:nobody"), fresh("key")
    refused = ada.post(path, body, prefer=WAIT, idempotency_key=key)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    job = ada.read(f"/v1/jobs/{refused.headers['daybook-job']}")
    assert (job["status"], job["result"], job["problem"]) == ("rejected", None, refused.json())
    assert refused.json()["code"] == "account_not_found"
    again = ada.post(path, body, prefer=WAIT, idempotency_key=key)
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (422, refused.json(), "true")
    gone = ada.get(f"{path}/{job['id']}")
    assert (gone.status_code, gone.json()["job"]) == (404, job["id"])


def test_an_id_works_as_soon_as_it_is_accepted(ada: Client) -> None:
    ledger = fresh()
    base = f"/v1/ledgers/{ledger}"
    assert ada.post("/v1/ledgers", {"id": ledger, "name": "Now"}).status_code == 202
    for name, kind in (("assets:bank", "asset"), ("wallets:alice", "liability")):
        answer = ada.post(f"{base}/accounts", {"name": name, "currency": "USD", "type": kind})
        assert answer.status_code == 202, answer.text
    accepted = ada.post(f"{base}/transactions", posting("5"))
    assert accepted.status_code == 202
    seen: list[Json] = []
    while not seen or seen[-1]["status"] == "accepted":
        seen.append(ada.read(accepted.json()["links"]["resource"]))
        assert len(seen) < 10_000
    early, last = seen[:-1], seen[-1]
    assert (last["status"], last["postings"][0]["amount"], last["seq"], last["version"]) == ("posted", "5.00", 4, 4)
    for transaction in early:
        assert [transaction[name] for name in ("seq", "version", "recorded_at")] == [None] * 3
        assert transaction["postings"][0] == {
            "debit": "assets:bank",
            "credit": "wallets:alice",
            "amount": "5",
            "currency": None,
            "posted": None,
            "held": None,
        }
        assert (
            transaction | {name: last[name] for name in ("status", "seq", "version", "recorded_at", "postings")} == last
        )


# -- bulk -------------------------------------------------------------------------------------------------------------


def test_bulk_as_ndjson_is_applied_in_the_order_of_its_lines(ada: Client) -> None:
    ledger = open_books(ada, ("wallets:alice", "wallets:bob"), least="0")
    # Each line needs the one before it, in a currency that the first one makes known.
    lines: list[Json] = [{"kind": "open_account", "name": "wallets:carol", "currency": "USD", "type": "liability"}]
    lines += [{"kind": "post_transaction", **posting("1.00", "assets:bank", "wallets:alice")}]
    ring = list(islice(cycle(["wallets:alice", "wallets:bob", "wallets:carol"]), 31))
    lines += [{"kind": "post_transaction", **posting("1.00", debit, credit)} for debit, credit in pairwise(ring)]
    lines.append({"kind": "post_transaction", "label": "too much", **posting("2.00", "wallets:alice", "wallets:bob")})
    body = b"\n".join(msgspec.json.encode(line) for line in lines)
    path = f"/v1/ledgers/{ledger}/commands"
    accepted = ada.post(path, body, content_type="application/x-ndjson")
    assert accepted.status_code == 202, accepted.text
    assert "daybook-job" not in accepted.headers and len(accepted.json()["jobs"]) == len(lines)
    batch = ada.batch(accepted.json()["batch"])
    assert accepted.headers["location"] == f"/v1/batches/{batch['id']}"
    assert (batch["total"], batch["counts"]["succeeded"], batch["counts"]["rejected"]) == (33, 32, 1)
    (refusal,) = batch["refusals"]
    assert (refusal["index"], refusal["job"]) == (32, accepted.json()["jobs"][-1])
    assert refusal["problem"]["code"] == "insufficient_funds" and refusal["problem"]["job"] == refusal["job"]
    commands = [event["command"] for event in ada.journal(ledger)[-32:]]
    assert commands == accepted.json()["jobs"][:-1]


def test_a_bulk_request_awaited_answers_its_batch(ada: Client, ledger: str) -> None:
    lines = [{"kind": "post_transaction", **posting()} for _ in range(3)]
    answer = ada.post(f"/v1/ledgers/{ledger}/commands", {"commands": lines, "atomic": False}, prefer=WAIT)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait")
    batch = answer.json()
    assert answer.headers["location"] == f"/v1/batches/{batch['id']}"
    assert batch["done"] is True and batch["counts"] == {
        "scheduled": 0,
        "accepted": 0,
        "succeeded": 3,
        "rejected": 0,
        "failed": 0,
        "cancelled": 0,
    }
    assert ada.get(f"/v1/batches/{batch['id']}").content == answer.content


def test_an_item_of_bulk_is_the_same_request_as_the_single_command(ada: Client, ledger: str) -> None:
    base, keys = f"/v1/ledgers/{ledger}", [fresh("key") for _ in range(3)]
    single = ada.post(f"{base}/transactions", posting("7"), idempotency_key=keys[0]).json()["id"]
    lines = [{"kind": "post_transaction", "idempotency_key": key, **posting("7")} for key in keys[:2]]
    first = ada.post(f"{base}/commands", {"commands": lines}).json()
    assert first["jobs"][0] == single != first["jobs"][1]
    # and the other way round: what came in bulk is replayed alone
    alone = ada.post(f"{base}/transactions", posting("7"), idempotency_key=keys[1], prefer=WAIT)
    assert (alone.headers["daybook-job"], alone.headers["idempotent-replayed"]) == (first["jobs"][1], "true")
    mixed = [lines[1], {"kind": "post_transaction", "idempotency_key": keys[2], **posting("7")}]
    second = ada.post(f"{base}/commands", {"commands": mixed}).json()
    assert second["jobs"][0] == first["jobs"][1] and second["jobs"][1] not in first["jobs"]
    assert ada.batch(second["batch"])["counts"]["succeeded"] == 2
    # another request under a used key refuses all of it, and says where
    spoilt = [{"kind": "post_transaction", **posting()}, {**lines[1], **posting("8")}]
    refused = ada.post(f"{base}/commands", {"commands": spoilt})
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["#/commands/1"]
    posted = [event["command"] for event in ada.journal(ledger)]
    assert [posted.count(job) for job in (single, first["jobs"][1], second["jobs"][1])] == [1, 1, 1]


def test_a_bulk_request_under_a_key_is_replayed_as_a_whole(ada: Client, ledger: str) -> None:
    path, key = f"/v1/ledgers/{ledger}/commands", fresh("key")
    body = {"commands": [{"kind": "post_transaction", **posting()} for _ in range(2)]}
    first = ada.post(path, body, idempotency_key=key)
    replayed = ada.post(path, body, idempotency_key=key)
    assert (replayed.status_code, replayed.content) == (202, first.content)
    assert replayed.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    other = ada.post(path, {"commands": body["commands"][:1]}, idempotency_key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


# -- order ------------------------------------------------------------------------------------------------------------


def in_turn(one: Client, other: Client, number: int) -> Iterator[Client]:
    return islice(cycle((one, other)), number)


def test_what_was_acknowledged_first_is_applied_first_across_connections(ada: Client) -> None:
    ledger = open_books(ada, ("wallets:alice", "wallets:bob"))
    with ada.again() as other:
        jobs = [
            client.post(f"/v1/ledgers/{ledger}/transactions", posting()).json() for client in in_turn(ada, other, 40)
        ]
    assert ada.outcome(jobs[-1]["id"])["status"] in FINAL
    applied = [event["command"] for event in ada.journal(ledger) if event["type"] == "TransactionPosted"]
    assert applied == [job["id"] for job in jobs]
