"""Bulk over HTTP: every kind of command, labels, and batches that are all or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from api import bulk
from domain.clock import format_time
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, Service, User, open_books, posting, running_service

WAIT = "wait=20"
POSTED = "SELECT count(*) FROM journal WHERE actor = $1"

Serve = Callable[[], Any]


@pytest.fixture
def serve(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Opens a service, with somebody who has books in it: the ledger's path."""

    @asynccontextmanager
    async def open_service() -> AsyncIterator[tuple[Service, User, str]]:
        async with running_service(settings, monkeypatch) as service:
            ada = await service.user()
            yield service, ada, f"/v1/ledgers/{await open_books(ada)}"

    return open_service


def post(amount: str = "1.00", debit: str = "assets:bank", credit: str = "wallets:alice", **more: Any) -> Json:
    return {"kind": "post_transaction", **posting(amount, debit, credit), **more}


def about(kind: str, named: str, /, **more: Any) -> Json:
    return {"kind": f"{kind}_transaction", "transaction": f"#{named}", **more}


async def batch(user: User, base: str, *commands: Json, atomic: bool = False) -> Json:
    """The finished batch, with its `jobs`."""
    accepted = await user.post(f"{base}/commands", {"commands": list(commands), "atomic": atomic})
    assert accepted.status_code == 202, accepted.text
    found = await user.get(f"/v1/batches/{accepted.json()['batch']}", prefer=WAIT)
    assert found.json()["done"], found.text
    return {**found.json(), "jobs": accepted.json()["jobs"]}


@on_a_loop
async def test_every_kind_of_command_comes_in_bulk_and_names_what_others_make(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        made = await batch(
            ada,
            base,
            {"kind": "open_account", "name": "wallets:bob", "currency": "USD", "type": "liability"},
            post("10", label="sale"),
            post("5", pending=True, label="hold"),
            about("capture", "hold", amount="2", final=False),
            about("void", "hold"),
            about("reverse", "sale", label="undone"),
            about("reverse", "undone"),
            {"kind": "freeze_account", "account": "wallets:bob"},
            {"kind": "unfreeze_account", "account": "wallets:bob"},
            {"kind": "close_account", "account": "wallets:bob"},
        )
        assert made["counts"]["succeeded"] == made["total"] == 10, made["refusals"]
        # what is new is younger than its batch: that is how an importer tells it from what was there
        assert made["jobs"] == sorted(made["jobs"]) and made["id"] < made["jobs"][0]
        _, sale, hold, capture, _, undone, again, *_, closing = made["jobs"]
        held = (await ada.get(f"{base}/transactions/{hold}")).json()
        assert (held["status"], [each["id"] for each in held["captures"]]) == ("captured", [capture])
        reversal = (await ada.get(f"{base}/transactions/{undone}")).json()
        assert (reversal["reverses"], reversal["reversed_by"]) == (sale, again)
        assert (await ada.get(f"{base}/accounts/wallets:bob")).json()["status"] == "closed"
        job = (await ada.get(f"/v1/jobs/{closing}")).json()
        assert job["links"]["resource"] == f"{base}/accounts/wallets:bob"


@on_a_loop
async def test_labels_that_name_nothing_are_pointed_at(serve: Serve) -> None:
    async with serve() as (service, ada, base):
        commands = [
            about("void", "later"),
            post(label="later"),
            {"kind": "freeze_account", "account": "wallets:alice", "label": "ice"},
            about("void", "ice"),
            about("capture", "nobody"),
            post(label="twice"),
            post(label="twice"),
            about("reverse", "twice"),
            about("reverse", "me", label="me"),
            {"kind": "void_transaction", "transaction": "no uuid"},
            post(label="double", idempotency_key="k"),
            post(idempotency_key="k"),
            about("void", "double"),
        ]
        before = await service.pool.fetchval("SELECT count(*) FROM commands")
        answer = await ada.post(f"{base}/commands", {"commands": commands})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
        found = sorted(error["pointer"] for error in answer.json()["errors"])
        assert found == [f"#/commands/{index}/transaction" for index in (0, 12, 3, 4, 7, 8, 9)]
        assert await service.pool.fetchval("SELECT count(*) FROM commands") == before


@on_a_loop
async def test_a_command_sent_by_label_is_the_same_request_as_by_id(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        commands = [
            post("5", pending=True, label="hold", idempotency_key="k-hold"),
            about("capture", "hold", amount="2", final=False, idempotency_key="k-capture"),
            about("void", "hold"),
        ]
        first = await batch(ada, base, *commands[:2])
        again = await batch(ada, base, *commands)
        assert again["jobs"][:2] == first["jobs"] and again["counts"]["succeeded"] == 3, again
        path = f"{base}/transactions/{first['jobs'][0]}/capture"
        alone = await ada.post(path, {"amount": "2", "final": False}, idempotency_key="k-capture")
        assert (alone.headers["daybook-job"], alone.headers["idempotent-replayed"]) == (first["jobs"][1], "true")
        other = await ada.post(f"{base}/commands", {"commands": [commands[0], {**commands[1], "amount": "1"}]})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert [error["pointer"] for error in other.json()["errors"]] == ["#/commands/1"]


@on_a_loop
async def test_the_same_labels_sent_at_once_name_the_same_transaction(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        body = {
            "commands": [
                post("5", pending=True, label="hold", idempotency_key="k-hold"),
                about("capture", "hold", idempotency_key="k-capture"),
            ]
        }
        answers = await asyncio.gather(*(ada.post(f"{base}/commands", body, prefer=WAIT) for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8, [answer.text for answer in answers]
        assert all(answer.json()["counts"]["succeeded"] == 2 for answer in answers)
        listed = (await ada.get(f"{base}/transactions")).json()["items"]
        assert [(each["status"], len(each["captures"])) for each in listed] == [("captured", 1)]


# -- all or nothing ---------------------------------------------------------------------------------------------------


@on_a_loop
async def test_an_atomic_batch_is_refused_as_a_whole_and_says_by_which(serve: Serve) -> None:
    async with serve() as (service, ada, base):
        actor = f"ledger:{base.rpartition('/')[2]}"
        events = await service.pool.fetchval(POSTED, actor)
        refused = await batch(ada, base, post("1"), post("2", credit="wallets:nobody"), post("3"), atomic=True)
        jobs = refused["jobs"]
        assert (refused["atomic"], refused["counts"]["rejected"], refused["refusals_total"]) == (True, 3, 3)
        problems = [refusal["problem"] for refusal in refused["refusals"]]
        assert [problem["code"] for problem in problems] == ["batch_rejected", "account_not_found", "batch_rejected"]
        assert [problem.get("caused_by") for problem in problems] == [jobs[1], None, jobs[1]]
        assert "caused_by" not in problems[1] and problems[0]["status"] == 409
        assert (await ada.get(f"/v1/jobs/{jobs[2]}")).json()["problem"] == problems[2]
        assert await service.pool.fetchval(POSTED, actor) == events
        done = await batch(ada, base, post("1"), post("3"), atomic=True)
        assert (done["atomic"], done["counts"]["succeeded"]) == (True, 2)
        positions = "SELECT DISTINCT position, line FROM commands WHERE batch = $1 ORDER BY line"
        rows = await service.pool.fetch(positions, done["id"])
        assert len({row["position"] for row in rows}) == 1 and [row["line"] for row in rows] == [0, 1]
        assert (await ada.get(f"{base}/accounts/wallets:alice")).json()["balance"] == "4.00"


@on_a_loop
async def test_an_item_of_an_atomic_batch_replayed_alone_answers_for_the_batch(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        refused = await batch(
            ada, base, post("1", idempotency_key="k"), post("2", credit="wallets:nobody"), atomic=True
        )
        alone = await ada.post(f"{base}/transactions", posting("1"), idempotency_key="k", prefer=WAIT)
        assert (alone.status_code, alone.json()["code"]) == (409, "batch_rejected")
        assert alone.json()["caused_by"] == refused["jobs"][1]


@on_a_loop
async def test_a_batch_of_what_happened_already_has_not_finished_before_it_was_accepted(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        first = await batch(ada, base, post("1", idempotency_key="k"))
        again = await batch(ada, base, post("1", idempotency_key="k"))
        assert again["jobs"] == first["jobs"] and again["id"] != first["id"]
        assert again["finished_at"] == again["accepted_at"] > first["finished_at"]


@on_a_loop
async def test_what_was_accepted_in_time_is_the_same_request_later(serve: Serve) -> None:
    """Whoever lost the answer repeats the request, which asks for a hold whose end is over by now."""
    async with serve() as (service, ada, base):
        expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
        hold = post("5", pending=True, expires_at=format_time(expires_at), idempotency_key="k", label="hold")
        commands = [hold, about("capture", "hold", idempotency_key="k-capture")]
        first = await batch(ada, base, *commands)
        await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.01)
        again = await batch(ada, base, *commands, post("1"))
        assert again["jobs"][:2] == first["jobs"] and again["counts"]["succeeded"] == 3, again
        count = await service.pool.fetchval("SELECT count(*) FROM commands")
        late = {name: value for name, value in hold.items() if name not in ("idempotency_key", "label")}
        answer = await ada.post(f"{base}/commands", {"commands": [*commands, late]})
        assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == ["#/commands/2/expires_at"]
        assert await service.pool.fetchval("SELECT count(*) FROM commands") == count


@on_a_loop
async def test_lines_are_atomic_by_the_query_and_nothing_of_them_may_wait(serve: Serve) -> None:
    async with serve() as (_, ada, base):
        lines = b"\n".join(msgspec.json.encode(each) for each in (post("1"), post("2", credit="wallets:nobody")))
        sent = await ada.post(f"{base}/commands?atomic=true", lines, prefer=WAIT, content_type="application/x-ndjson")
        assert sent.status_code == 200 and sent.json()["atomic"] is True, sent.text
        assert sent.json()["counts"]["rejected"] == 2
        later = {"commands": [post("1"), post("1", execute_at="2099-01-01T00:00:00Z")], "atomic": True}
        refused = await ada.post(f"{base}/commands", later)
        assert refused.status_code == 422
        assert [error["pointer"] for error in refused.json()["errors"]] == ["#/commands/1/execute_at"]
        wide = {"commands": [{**post(), "postings": posting()["postings"] * 1_000}] * 51, "atomic": True}
        refused = await ada.post(f"{base}/commands", wide)
        assert [error["pointer"] for error in refused.json()["errors"]] == ["#/commands"], refused.text


@on_a_loop
async def test_an_atomic_batch_may_not_name_more_than_a_turn_takes(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST_POSTINGS", 6)
    async with serve() as (service, ada, base):
        wide = {"postings": posting()["postings"] * 3}
        stored = (await ada.post(f"{base}/transactions", wide, prefer=WAIT)).json()["id"]
        service.bell.working = False
        coming = (await ada.post(f"{base}/transactions", wide)).json()["id"]
        for named in (stored, coming):
            first = {"kind": "reverse_transaction", "transaction": named, "label": "a"}
            second = {"kind": "reverse_transaction", "transaction": "#a", "label": "b"}
            third = {"kind": "void_transaction", "transaction": "#b"}
            fits = {"commands": [first, second, *[post("1")] * 3], "atomic": True}
            assert (await ada.post(f"{base}/commands", fits)).status_code == 202
            too_many = {"commands": [first, second, third], "atomic": True}
            refused = await ada.post(f"{base}/commands", too_many, idempotency_key="k")
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
            assert [error["pointer"] for error in refused.json()["errors"]] == ["#/commands"]
            # each for itself they are as many turns as it takes
            assert (await ada.post(f"{base}/commands", {**too_many, "atomic": False})).status_code == 202
