"""Commands over HTTP: receipt, answers, replays, order, bulk, jobs and batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.clock import format_time
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, Service, User, a_ledger, open_books, posting, running_service

FINISH = "UPDATE commands SET status = 'succeeded', seq = 1, finished_at = clock_timestamp() WHERE id = $1"

BURY = """
UPDATE commands SET status = 'failed', finished_at = now(), problem = '{"code":"command_failed","detail":"Set aside."}'
WHERE status = 'accepted' RETURNING id
"""


@pytest.fixture
def serve(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens a service: `async with serve(mailbox_limit=5) as service`."""

    @asynccontextmanager
    async def open_service(**changes: Any) -> AsyncIterator[Service]:
        async with running_service(replace(settings, **changes), monkeypatch) as service:
            yield service

    return open_service


def pointers(response: httpx.Response) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]


def code_of(response: httpx.Response) -> str:
    code: str = response.json()["code"]
    return code


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5) -> None:
    """Polls until the condition holds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


# -- accepting and answering ------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_command_is_a_job_at_once(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        service.bell.rung.clear()
        accepted = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting("100.00"), x_correlation_id="c-1")
        job = accepted.json()
        path = f"/v1/ledgers/{ledger}/transactions/{job['id']}"
        assert accepted.status_code == 202
        assert accepted.headers["daybook-job"] == job["id"]
        assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
        assert accepted.headers["retry-after"] == "1"
        assert "preference-applied" not in accepted.headers
        assert UUID(job["id"]).version == 7
        assert job == {
            "id": job["id"],
            "kind": "post_transaction",
            "actor": f"ledger:{ledger}",
            "batch": None,
            "status": "accepted",
            "accepted_at": job["accepted_at"],
            "execute_at": None,
            "finished_at": None,
            "attempts": 0,
            "progress": None,
            "result": None,
            "problem": None,
            "links": {"self": f"/v1/jobs/{job['id']}", "events": f"/v1/jobs/{job['id']}/events", "resource": path},
        }
        assert service.bell.rung == [f"ledger:{ledger}"]
        waiting = await ada.get(f"/v1/jobs/{job['id']}")
        assert (waiting.json(), waiting.headers["retry-after"]) == (job, "1")
        row = await service.pool.fetchrow("SELECT * FROM commands WHERE id = $1", UUID(job["id"]))
        assert (row["correlation_id"], row["principal"], row["weight"]) == ("c-1", ada.id, 1)
        assert format_time(row["accepted_at"]) == job["accepted_at"]
        await service.work(ledger)
        done = await ada.get(f"/v1/jobs/{job['id']}")
        assert "retry-after" not in done.headers
        assert done.json()["status"] == "succeeded"
        assert done.json()["result"] == {"resource": path, "seq": 4}
        assert done.json()["accepted_at"] == job["accepted_at"]


@on_a_loop
async def test_each_kind_awaited_answers_with_its_resource(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = a_ledger()
        root = f"/v1/ledgers/{ledger}"
        creation = await ada.post("/v1/ledgers", {"id": ledger, "name": "Books"}, prefer="wait=10")
        currency = await ada.post(f"{root}/currencies", {"code": "POINTS", "scale": 3}, prefer="wait=10")
        bank = {"name": "assets:bank", "currency": "POINTS", "type": "asset", "min_balance": None}
        await ada.post(f"{root}/accounts", bank, prefer="wait=10")
        alice = {"name": "wallets:alice", "currency": "POINTS", "type": "liability", "min_balance": "0"}
        account = await ada.post(f"{root}/accounts", alice, prefer="wait=10")
        transaction = await ada.post(f"{root}/transactions", posting("1.5"), prefer="wait=10")
        for answer in (creation, currency, account, transaction):
            assert answer.status_code == 201, answer.text
            assert answer.headers["preference-applied"] == "wait"
            assert "retry-after" not in answer.headers
            job = (await ada.get(f"/v1/jobs/{answer.headers['daybook-job']}")).json()
            assert answer.headers["location"] == job["result"]["resource"] == job["links"]["resource"]
        assert creation.headers["location"] == root
        assert currency.headers["location"] == f"{root}/currencies"
        assert currency.json() == {"code": "POINTS", "scale": 3}
        assert account.headers["location"] == f"{root}/accounts/wallets:alice"
        assert (await ada.get(transaction.headers["location"])).json() == transaction.json()
        assert (account.json()["min_balance"], account.json()["version"]) == ("0.000", 4)
        assert (creation.json()["owner"], creation.json()["seq"]) == (str(ada.id), 1)
        assert transaction.json()["postings"][0]["amount"] == "1.500"


@on_a_loop
async def test_what_a_rule_refuses_is_its_problem_with_its_status(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        body = posting(credit="wallets:nobody")
        refused = await ada.post(f"/v1/ledgers/{ledger}/transactions", body, prefer="wait=10", x_correlation_id="c-9")
        job = refused.headers["daybook-job"]
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json() == {
            "type": "/problems/account_not_found",
            "title": "Account not found",
            "status": 422,
            "detail": "There is no account wallets:nobody.",
            "instance": f"/v1/jobs/{job}",
            "code": "account_not_found",
            "correlation_id": "c-9",
            "job": job,
            "errors": [{"pointer": "#/postings/0", "detail": "wallets:nobody"}],
        }
        seen = (await ada.get(f"/v1/jobs/{job}")).json()
        assert (seen["status"], seen["problem"], seen["result"]) == ("rejected", refused.json(), None)


@on_a_loop
async def test_a_dead_letter_awaited_is_a_500(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        waiting = asyncio.create_task(ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10"))

        async def buried() -> bool:
            return await service.pool.fetchval(BURY) is not None

        await until(buried)
        answer = await waiting
        assert (answer.status_code, code_of(answer)) == (500, "command_failed")


PREFERENCES = {
    "wait=0": True,
    "respond-async, WAIT = 0; x=y": True,
    'wait="0"': True,
    "wait=-1": False,
    "wait=soon": False,
    "wait": False,
    "wait=1.5": False,
    "respond-async": False,
    'a="b, c", wait=0': True,
    'a="b, wait=0"': False,
    'a="\\", wait=0"': False,
    "wait=soon, wait=0": False,
}


@on_a_loop
async def test_prefer_is_honoured_or_ignored(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        for prefer, applied in PREFERENCES.items():
            answer = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer=prefer)
            assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
            assert (answer.headers.get("preference-applied") == "wait") is applied, prefer
            assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"


# -- receipt ----------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_refusals_on_receipt_come_in_the_contracts_order(serve: Callable[..., Any]) -> None:
    async with serve(mailbox_limit=4) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        service.bell.working = False
        await grant(service, ledger, bob, "writer")
        used = await bob.post(path, posting(), idempotency_key="used")
        assert used.status_code == 202
        await fill(service, ledger, ada, 4)
        await grant(service, ledger, bob, None)
        wrong = json.dumps(posting("-1"))
        large = "[" + " " * (1 << 20)
        case: Json = {"body": large, "content_type": "text/plain", "idempotency_key": "used", "authorization": "none"}
        seen = []
        for change in (
            {},
            {"authorization": bob.headers["authorization"]},
            {"body": "[" + wrong},
            {"content_type": "application/json"},
            {"body": wrong},
            {"idempotency_key": "free"},
            {"role": "reader"},
            {"role": "writer"},
            {"body": json.dumps(posting())},
        ):
            case |= change
            if "role" in change:
                await grant(service, ledger, bob, case["role"])
            headers = {name: case[name] for name in ("content_type", "idempotency_key", "authorization")}
            answer = await bob.post(path, case["body"], **headers)
            seen.append((answer.status_code, code_of(answer)))
            assert "daybook-job" not in answer.headers
        assert seen == [
            (401, "unauthorized"),
            (413, "payload_too_large"),
            (415, "unsupported_media_type"),
            (400, "malformed_request"),
            (422, "idempotency_key_reused"),
            (404, "not_found"),
            (403, "forbidden"),
            (422, "validation_failed"),
            (503, "mailbox_full"),
        ]
        assert answer.headers["retry-after"] == "1"
        # a replay is answered even so, and a refusal has left the key free
        await grant(service, ledger, bob, None)
        replay = await bob.post(path, posting(), idempotency_key="used")
        assert (replay.status_code, replay.json()) == (202, used.json())
        await grant(service, ledger, bob, "writer")
        await service.work(ledger)

        async def is_accepted() -> bool:
            return (await bob.post(path, posting(), idempotency_key="free")).status_code == 202

        await until(is_accepted)


async def grant(service: Service, ledger: str, user: User, role: str | None) -> None:
    await service.pool.execute("DELETE FROM grants WHERE ledger = $1 AND user_id = $2", ledger, user.id)
    if role is not None:
        await service.pool.execute("INSERT INTO grants VALUES ($1, $2, $3)", ledger, user.id, role)
    await service.services.cache.drop(f"view:{ledger}:grant:{user.id}")


GOOD: Json = {"kind": "post_transaction", **posting()}
FUTURE = "2999-01-01T00:00:00Z"
WRONG: list[tuple[str, Json, list[str]]] = [
    ("transactions", {"postings": []}, ["#/postings"]),
    ("transactions", {**posting(), "effective_at": FUTURE}, ["#/effective_at"]),
    ("transactions", {**posting(), "effective_at": "0001-01-01T00:00:00+14:00"}, ["#/effective_at"]),
    # what asyncpg takes for the beginning of all time, and Postgres shows as -infinity
    ("transactions", {**posting(), "effective_at": "0001-01-01T00:00:00Z"}, ["#/effective_at"]),
    # ignoring them would do what was not asked for
    ("transactions?validate_only=yes", posting(), ["#/validate_only"]),
    ("accounts?a=1&b", {"name": "a", "currency": "USD", "type": "asset"}, ["#/a", "#/b"]),
    ("commands?atomic=false", {"commands": [GOOD]}, ["#/atomic"]),
    ("transactions", posting(credit="assets:bank"), ["#/postings/0"]),
    ("accounts", {"name": "a:..", "currency": "usd", "type": "asset"}, ["#/name", "#/currency"]),
    ("currencies", {"code": "POINTS", "scale": 19}, ["#/scale"]),
    ("commands", {"commands": []}, ["#/commands"]),
    ("commands", {"commands": [GOOD, {"kind": "expire_transaction"}]}, ["#/commands/1/kind"]),
    ("commands", {"commands": [GOOD, {**GOOD, **posting("0")}]}, ["#/commands/1/postings/0/amount"]),
    ("commands", {"commands": [{**GOOD, "effective_at": FUTURE}]}, ["#/commands/0/effective_at"]),
    ("commands", {"commands": [{**GOOD, "idempotency_key": ""}]}, ["#/commands/0/idempotency_key"]),
]


@on_a_loop
async def test_what_can_be_seen_in_the_request_alone(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for path, body, expected in WRONG:
            answer = await ada.post(f"/v1/ledgers/{ledger}/{path}", body)
            assert (answer.status_code, code_of(answer), pointers(answer)) == (422, "validation_failed", expected)
        assert await service.pool.fetchval("SELECT count(*) FROM commands") == 3


@on_a_loop
async def test_keys_that_no_column_takes(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for key in ("a\0b", "\ud800"):
            bulk = json.dumps({"commands": [GOOD, {**GOOD, "idempotency_key": key}]})
            answer = await ada.post(f"/v1/ledgers/{ledger}/commands", bulk)
            assert (answer.status_code, pointers(answer)) == (422, ["#/commands/1/idempotency_key"])
        answer = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), idempotency_key="a\0b")
        assert (answer.status_code, code_of(answer)) == (422, "validation_failed")


@on_a_loop
async def test_a_key_has_1_to_255_characters(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        for key in ("", "k" * 256):
            answer = await ada.post(path, posting(), idempotency_key=key)
            assert (answer.status_code, code_of(answer)) == (422, "validation_failed")
        assert (await ada.post(path, posting(), idempotency_key="k" * 255)).status_code == 202


@on_a_loop
async def test_creating_ledgers(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, bob, operator = await service.user(), await service.user(), await service.user("operator")
        service.bell.working = False
        ledger = a_ledger()
        body = {"id": ledger, "name": "Books"}
        first = await ada.post("/v1/ledgers", body, idempotency_key="k")
        assert first.status_code == 202
        assert (await operator.post("/v1/ledgers", {"id": a_ledger(), "name": "x"})).status_code == 403
        for user in (ada, bob):
            taken = await user.post("/v1/ledgers", body)
            assert (taken.status_code, code_of(taken), pointers(taken)) == (409, "ledger_exists", ["#/id"])
            assert "daybook-job" not in taken.headers
        again = await ada.post("/v1/ledgers", {"name": "Books", "metadata": None, "id": ledger}, idempotency_key="k")
        assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
        wrong = await ada.post("/v1/ledgers", {"id": ledger, "name": ""}, idempotency_key="k")
        assert code_of(wrong) == "idempotency_key_reused"
        for body in ({"name": "Books"}, {"id": "NO", "name": "Books"}, {"id": "a\0", "name": "Books"}):
            answer = await ada.post("/v1/ledgers", body, idempotency_key="k")
            assert (answer.status_code, set(pointers(answer))) == (422, {"#/id"})
        # ids work at once
        account = {"name": "assets:bank", "currency": "USD", "type": "asset"}
        assert (await ada.post(f"/v1/ledgers/{ledger}/accounts", account)).status_code == 202
        assert (await bob.post(f"/v1/ledgers/{ledger}/accounts", account)).status_code == 404
        assert (await ada.post(f"/v1/ledgers/{a_ledger()}/accounts", account)).status_code == 404
        assert (await ada.post("/v1/ledgers/A%00b/accounts", account)).status_code == 404


@on_a_loop
async def test_a_mailbox_is_full_until_it_is_emptied(serve: Callable[..., Any]) -> None:
    async with serve(mailbox_limit=20) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        service.bell.working = False
        answers = await asyncio.gather(*(ada.post(path, posting()) for _ in range(40)))
        assert {answer.status_code for answer in answers} == {202, 503}
        assert sum(answer.status_code == 202 for answer in answers) <= 20
        await fill(service, ledger, ada, 20)
        for _ in range(3):
            refused = await ada.post(path, posting())
            assert (refused.status_code, code_of(refused), refused.headers["retry-after"]) == (503, "mailbox_full", "1")
        bulk = {"commands": [{"kind": "post_transaction", **posting()}] * 21}
        assert code_of(await ada.post(f"/v1/ledgers/{ledger}/commands", bulk)) == "mailbox_full"
        elsewhere = await open_books_by_hand(service, ada)
        assert (await ada.post(f"/v1/ledgers/{elsewhere}/transactions", posting())).status_code == 202
        await service.work(ledger)

        async def is_accepted() -> bool:
            return (await ada.post(path, posting())).status_code == 202

        await until(is_accepted)


async def fill(service: Service, ledger: str, user: User, limit: int) -> None:
    """Posts until the mailbox is full; what was counted a moment ago may refuse meanwhile."""

    async def is_full() -> bool:
        await user.post(f"/v1/ledgers/{ledger}/transactions", posting())
        return await service.services.recorder.log.depth(f"ledger:{ledger}", 100) == limit

    await until(is_full)


async def open_books_by_hand(service: Service, user: User) -> str:
    ledger = a_ledger()
    assert (await user.post("/v1/ledgers", {"id": ledger, "name": "x"})).status_code == 202
    return ledger


# -- replays ----------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_replay_is_answered_as_the_job_is_now(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        service.bell.working = False
        first = await ada.post(path, posting(), idempotency_key="k")
        assert "idempotent-replayed" not in first.headers
        written = (
            '{ "metadata": null, "postings" : [ {"credit":"wallets:alice","amount":"1.00","debit":"assets:bank"}]}'
        )
        again = await ada.post(path, written, idempotency_key="k")
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        for answer in (
            await ada.post(path, posting("1.0"), idempotency_key="k"),
            await ada.post(f"{path}?x=1", posting(), idempotency_key="k"),
            await ada.post(f"/v1/ledgers/{ledger}/accounts", {"name": "a", "currency": "USD", "type": "asset"},
                           idempotency_key="k"),
        ):  # fmt: skip
            assert (answer.status_code, code_of(answer)) == (422, "idempotency_key_reused")
        await service.work(ledger)
        done = await ada.post(path, posting(), idempotency_key="k")
        assert (done.status_code, done.json()["status"]) == (202, "succeeded")
        assert "retry-after" not in done.headers
        awaited = await ada.post(path, posting(), idempotency_key="k", prefer="wait=5")
        assert (awaited.status_code, awaited.json()["id"]) == (201, first.json()["id"])
        assert awaited.headers["idempotent-replayed"] == "true"
        assert await service.pool.fetchval("SELECT count(*) FROM commands WHERE kind = 'post_transaction'") == 1


@on_a_loop
async def test_an_awaited_replay_waits_for_the_first_ones_job(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        service.bell.working = False
        waits = [
            asyncio.create_task(ada.post(path, posting(), idempotency_key="k", prefer="wait=10")) for _ in range(8)
        ]

        async def all_wait() -> bool:
            written = await service.services.recorder.log.depth(f"ledger:{ledger}", 2)
            return written == 1 and service.services.recorder.waiters.count == 8

        await until(all_wait)
        await service.work(ledger)
        answers = await asyncio.gather(*waits)
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


@on_a_loop
async def test_who_lost_the_grant_sees_the_job_of_a_replay_and_no_contents(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/transactions"
        await grant(service, ledger, bob, "writer")
        assert (await bob.post(path, posting(), idempotency_key="k", prefer="wait=10")).status_code == 201
        await grant(service, ledger, bob, None)
        assert (await bob.post(path, posting(), idempotency_key="k")).json()["status"] == "succeeded"
        assert (await bob.post(path, posting(), idempotency_key="k", prefer="wait=10")).status_code == 404


@on_a_loop
async def test_a_line_of_a_bulk_request_is_the_single_request_of_its_route(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        root = f"/v1/ledgers/{ledger}"
        account = {"name": "wallets:bob", "currency": "USD", "type": "liability", "metadata": {"b": "1", "a": "2"}}
        jobs = [
            (await ada.post(f"{root}/accounts", account, idempotency_key="a")).json()["id"],
            (await ada.post(f"{root}/transactions", posting(), idempotency_key="t")).json()["id"],
        ]
        lines = [
            {"kind": "open_account", **account, "idempotency_key": "a", "label": "bob"},
            {"idempotency_key": "t", **posting(), "reference": None, "kind": "post_transaction"},
            {"kind": "post_transaction", **posting("2.00"), "idempotency_key": "new"},
        ]
        bulk = await ada.post(f"{root}/commands", {"commands": lines})
        assert bulk.status_code == 202
        assert bulk.json()["jobs"][:2] == jobs
        single = await ada.post(f"{root}/transactions", posting("2.00"), idempotency_key="new")
        assert (single.json()["id"], single.headers["idempotent-replayed"]) == (bulk.json()["jobs"][2], "true")
        clash = await ada.post(f"{root}/commands", {"commands": [lines[2], {**lines[1], "reference": "r"}]})
        assert (clash.status_code, code_of(clash)) == (422, "idempotency_key_reused")
        assert pointers(clash) == ["#/commands/1"]
        # before 422 for anything else
        wrong = await ada.post(f"{root}/commands", {"commands": [{**lines[1], "reference": "r"}, {"kind": "nonsense"}]})
        assert (code_of(wrong), pointers(wrong)) == ("idempotency_key_reused", ["#/commands/0"])
        # the same request again is a batch of its own, of the same jobs
        again = await ada.post(f"{root}/commands", {"commands": lines})
        assert again.json()["jobs"] == bulk.json()["jobs"]
        assert again.headers["idempotent-replayed"] == "true"


@on_a_loop
async def test_a_bulk_requests_own_key_gives_its_batch(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/commands"
        body = {"commands": [{"kind": "post_transaction", **posting()}]}
        first = await ada.post(path, body, idempotency_key="k")
        again = await ada.post(path, body, idempotency_key="k", prefer="wait=10")
        assert (again.status_code, again.json()["id"]) == (200, first.json()["batch"])
        assert again.headers["idempotent-replayed"] == "true"
        single = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), idempotency_key="k")
        assert code_of(single) == "idempotency_key_reused"


# -- bulk, batches, jobs ----------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_batch_tells_what_became_of_its_lines(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, bob, operator = await service.user(), await service.user(), await service.user("operator")
        ledger = await open_books(ada)
        service.bell.working = False
        lines = [
            {"kind": "post_transaction", **posting()},
            {"kind": "post_transaction", **posting(credit="wallets:bob")},
            {"kind": "open_account", "name": "wallets:bob", "currency": "USD", "type": "liability"},
            {"kind": "post_transaction", **posting(credit="wallets:bob")},
        ]
        ndjson = "\n".join(map(json.dumps, lines)) + "\n\n"
        accepted = await ada.post(
            f"/v1/ledgers/{ledger}/commands?atomic=false", ndjson, content_type="application/x-ndjson"
        )
        assert accepted.status_code == 202
        assert accepted.headers["location"] == f"/v1/batches/{accepted.json()['batch']}"
        assert accepted.headers["retry-after"] == "1"
        assert "daybook-job" not in accepted.headers
        path, jobs = accepted.headers["location"], accepted.json()["jobs"]
        before = await ada.get(path)
        assert before.headers["retry-after"] == "1"
        assert before.json()["accepted_at"] == (await ada.get(f"/v1/jobs/{jobs[0]}")).json()["accepted_at"]
        assert before.json() == {
            "id": accepted.json()["batch"],
            "ledger": ledger,
            "atomic": False,
            "total": 4,
            "done": False,
            "accepted_at": before.json()["accepted_at"],
            "finished_at": None,
            "counts": {"scheduled": 0, "accepted": 4, "succeeded": 0, "rejected": 0, "failed": 0, "cancelled": 0},
            "refusals": [],
            "refusals_total": 0,
        }
        waiting = asyncio.create_task(ada.get(path, prefer="wait=10"))
        await service.work(ledger)
        after = await waiting
        assert (after.status_code, after.headers["preference-applied"]) == (200, "wait")
        assert after.json()["done"] and after.json()["finished_at"] is not None
        assert (after.json()["counts"]["succeeded"], after.json()["refusals_total"]) == (3, 1)
        (refusal,) = after.json()["refusals"]
        problem = (await ada.get(f"/v1/jobs/{jobs[1]}")).json()["problem"]
        assert refusal == {"job": jobs[1], "index": 1, "problem": problem}
        assert problem["code"] == "account_not_found"
        assert (await ada.get(f"/v1/jobs/{jobs[0]}")).json()["batch"] == accepted.json()["batch"]
        assert (await bob.get(path)).status_code == 404
        assert (await operator.get(path)).status_code == 200


@on_a_loop
async def test_bulk_lines_apply_in_order_and_behind_what_was_acknowledged(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        expected = []
        for number in range(4):
            body = {"commands": [{"kind": "post_transaction", **posting()}] * (number + 1)}
            bulk = await ada.post(f"/v1/ledgers/{ledger}/commands", body)
            expected += bulk.json()["jobs"]
            expected.append((await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())).json()["id"])
        await service.work(ledger)
        rows = await service.pool.fetch("SELECT id FROM transactions WHERE ledger = $1 ORDER BY seq", ledger)
        assert [str(row["id"]) for row in rows] == expected


@on_a_loop
async def test_one_malformed_line_refuses_the_whole_request(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        path = f"/v1/ledgers/{ledger}/commands"
        good: Json = {"kind": "post_transaction", **posting()}
        unknown = await ada.post(path, {"commands": [good, {**good, "seq": 7}]})
        assert (unknown.status_code, pointers(unknown)) == (400, ["#/commands/1/seq"])
        lines = "\n".join([json.dumps(good), "{", json.dumps(good)])
        syntax = await ada.post(path, lines, content_type="application/x-ndjson")
        assert (syntax.status_code, pointers(syntax)) == (400, ["#/commands/1"])
        many = await ada.post(path, {"commands": [{**good, "reference": 1}] * 150})
        assert (many.status_code, len(pointers(many)), pointers(many)[99]) == (422, 100, "#/commands/99/reference")
        atomic = await ada.post(f"{path}?atomic=yes", json.dumps(good), content_type="application/x-ndjson")
        assert (atomic.status_code, pointers(atomic)) == (422, ["#/atomic"])
        too_many = await ada.post(path, {"commands": [good] * 10_001})
        assert (too_many.status_code, pointers(too_many)) == (422, ["#/commands"])
        lines = "\n".join([json.dumps(good)] * 10_001)
        as_lines = {"content_type": "application/x-ndjson"}
        too_many = await ada.post(path, lines, **as_lines)
        assert (too_many.status_code, pointers(too_many)) == (422, ["#/commands"])
        stranger = await (await service.user()).post(path, lines, **as_lines)
        assert (stranger.status_code, code_of(stranger)) == (404, "not_found")
        for query, place in (
            ("atomic=yes", "#/atomic"),
            ("label=a", "#/label"),
            ("atomic=false&atomic=true", "#/atomic"),
        ):
            wrong = await ada.post(f"{path}?{query}", json.dumps(good), **as_lines)
            assert (wrong.status_code, pointers(wrong)) == (422, [place])
        assert (await ada.post(path, json.dumps(good), content_type="text/csv")).status_code == 415
        assert await service.pool.fetchval("SELECT count(*) FROM commands") == 3


@on_a_loop
async def test_refusals_of_a_batch_are_bounded(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        body = {"commands": [{"kind": "post_transaction", **posting(debit="no:such")}] * 120}
        answer = await ada.post(f"/v1/ledgers/{ledger}/commands", body, prefer="wait=10")
        assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait")
        assert answer.json()["refusals_total"] == 120
        assert [refusal["index"] for refusal in answer.json()["refusals"]] == list(range(100))


@on_a_loop
async def test_jobs_are_listed_newest_first(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, bob, admin = await service.user(), await service.user(), await service.user("admin")
        ledger = await open_books(ada)
        await ada.post(f"/v1/ledgers/{ledger}/transactions", posting("9.999"), prefer="wait=10")
        everything = (await ada.get("/v1/jobs")).json()
        assert [job["kind"] for job in everything["items"]] == [
            "post_transaction", "open_account", "open_account", "create_ledger",
        ]  # fmt: skip
        assert everything["next"] is None
        paged: list[Json] = []
        cursor = ""
        while cursor is not None:
            page = (await ada.get(f"/v1/jobs?limit=3{cursor and '&cursor=' + cursor}")).json()
            paged += page["items"]
            cursor = page["next"]
        assert paged == everything["items"]
        assert (await bob.get("/v1/jobs")).json() == {"items": [], "next": None}
        assert (await bob.get(f"/v1/jobs/{paged[0]['id']}")).status_code == 404
        assert (await admin.get(f"/v1/jobs?ledger={ledger}")).json() == everything
        rejected = (await ada.get(f"/v1/jobs?status=rejected&kind=post_transaction&ledger={ledger}")).json()
        assert rejected["items"] == paged[:1]
        assert (await ada.get("/v1/jobs?status=failed")).json()["items"] == []
        for path in ("nonsense", str(uuid4()), uuid4().hex, "%00"):
            assert (await ada.get(f"/v1/jobs/{path}")).status_code == 404
            assert (await ada.get(f"/v1/batches/{path}")).status_code == 404
        assert (await ada.get("/v1/jobs?cursor=x")).status_code == 400
        wrong = await ada.get("/v1/jobs?limit=0&status=done&kind=x&colour=red")
        assert (wrong.status_code, sorted(pointers(wrong))) == (422, ["#/colour", "#/kind", "#/limit", "#/status"])


# -- waiting ----------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_lost_notice_delays_and_loses_nothing(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        job = (await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())).json()["id"]
        waiting = asyncio.create_task(ada.get(f"/v1/jobs/{job}", prefer="wait=30"))

        async def waits() -> bool:
            return service.services.recorder.waiters.count == 1

        await until(waits)
        # nobody publishes this
        await service.pool.execute(FINISH, UUID(job))
        answer = await asyncio.wait_for(waiting, 5)
        assert answer.json()["status"] == "succeeded"


@on_a_loop
async def test_waiting_survives_the_loss_of_its_subscription(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        assert await service.services.redis.call("CLIENT", "KILL", "TYPE", "PUBSUB") >= 1
        for _ in range(3):
            answer = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10")
            assert answer.status_code == 201

        async def listens() -> bool:
            found = await service.services.redis.call("PUBSUB", "NUMSUB", "daybook:turns")
            return bool(found[1] >= 1)

        await until(listens)


@on_a_loop
async def test_an_awaited_answer_comes_with_the_notice(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        took = []
        for _ in range(15):
            begun = asyncio.get_running_loop().time()
            answer = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10")
            assert answer.status_code == 201
            took.append(asyncio.get_running_loop().time() - begun)
        # by the timer alone it would be half a second
        assert sorted(took)[7] < 0.25


@on_a_loop
async def test_who_goes_away_loses_nothing(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        service.bell.working = False
        gone = [
            asyncio.create_task(ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=30"))
            for _ in range(5)
        ]

        async def all_wait() -> bool:
            return service.services.recorder.waiters.count == 5

        await until(all_wait)
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        assert service.services.recorder.waiters.count == 0

        async def all_written() -> bool:
            return bool(await service.pool.fetchval("SELECT count(*) = 5 FROM commands WHERE status = 'accepted'"))

        await until(all_written)


@on_a_loop
async def test_effective_at_may_be_a_minute_ahead(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for seconds, status in ((45, 201), (75, 422)):
            moment = format_time(datetime.now(UTC) + timedelta(seconds=seconds))
            body = {**posting(), "effective_at": moment}
            answer = await ada.post(f"/v1/ledgers/{ledger}/transactions", body, prefer="wait=10")
            assert answer.status_code == status
