"""`?validate_only=true`: the answer is what a turn would come to, and nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.openapi import document_of
from infrastructure import rehearsal
from infrastructure.schema import metadata
from infrastructure.settings import Settings
from tests.integration.test_turns import break_on
from tests.journals import on_a_loop
from tests.service import Json, Service, User, open_books, posting, running_service

# How many rows each table has, and who wrote them: what is changed, and even changed back, tells.
WRITTEN = " UNION ALL ".join(
    f"SELECT '{table}', count(*), sum(xmin::text::bigint) FROM {table}" for table in sorted(metadata.tables)
)
POSITION = "SELECT last_value FROM daybook_position"
DRY = "validate_only=true"
WAIT = "wait=20"


@pytest.fixture
def serve(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Opens a service, with somebody who has books in it: the ledger's path."""

    @asynccontextmanager
    async def open_service() -> AsyncIterator[tuple[Service, User, str]]:
        async with running_service(settings, monkeypatch) as service:
            ada = await service.user()
            yield service, ada, f"/v1/ledgers/{await open_books(ada)}"

    return open_service


async def traces(service: Service) -> tuple[object, ...]:
    """Everything that a command leaves behind: in Postgres, and for workers."""
    return await service.pool.fetch(WRITTEN), await service.pool.fetchval(POSITION), list(service.bell.rung)


async def rehearse(user: User, path: str, body: Json) -> Json:
    answer = await user.post(f"{path}?{DRY}", body, idempotency_key="k", prefer=WAIT)
    assert answer.status_code == 200, answer.text
    assert not {"daybook-job", "location", "preference-applied", "idempotent-replayed"} & set(answer.headers)
    content = answer.json()
    assert list(content) == ["valid", "problem", "balances"]
    return dict(content)


@on_a_loop
async def test_balances_are_those_that_the_command_leads_to_then(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        for path, body in (
            ("transactions", posting("10.00")),
            ("transactions", {**posting("4.00", "wallets:alice", "assets:bank"), "pending": True}),
            ("accounts", {"name": "wallets:bob", "currency": "KWD", "type": "liability", "metadata": {"b": "1"}}),
            ("accounts/wallets:alice/freeze", {}),
        ):
            before = await traces(service)
            said = await rehearse(ada, f"{base}/{path}", body)
            assert (said["valid"], said["problem"]) == (True, None)
            assert await traces(service) == before
            sent = await ada.post(f"{base}/{path}", body, prefer=WAIT)
            assert sent.status_code in (200, 201), sent.text
            for account in said["balances"]:
                is_now = (await ada.get(f"{base}/accounts/{account['name']}")).json()
                if path == "accounts":
                    account["opened_at"] = is_now["opened_at"]
                assert account == is_now
            assert said["balances"]


@on_a_loop
async def test_what_was_accepted_before_counts(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        service.bell.working = False
        made = (await ada.post(f"{base}/transactions", {**posting("7"), "pending": True})).json()["id"]
        said = await rehearse(ada, f"{base}/transactions/{made}/capture", {"amount": "5"})
        assert said["valid"] and [account["balance"] for account in said["balances"]] == ["5.00", "5.00"]
        await ada.post(f"{base}/transactions/{made}/void", {})
        said = await rehearse(ada, f"{base}/transactions/{made}/capture", {"amount": "5"})
        assert (said["valid"], said["problem"]["code"]) == (False, "transaction_not_pending")
        assert [account["balance"] for account in said["balances"]] == ["0.00", "0.00"]


@on_a_loop
async def test_a_refusal_is_told_and_what_is_wrong_on_receipt_stays_an_error(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        path = f"{base}/transactions"
        said = await rehearse(ada, path, posting("1", credit="wallets:nobody"))
        problem = said["problem"]
        assert (said["valid"], problem["code"], problem["job"]) == (False, "account_not_found", None)
        assert (problem["instance"], problem["errors"][0]["pointer"]) == (path, "#/postings/0")
        assert [account["name"] for account in said["balances"]] == ["assets:bank"]
        eve = await service.user()
        for user, query, body, status, where in (
            (ada, DRY, posting("0"), 422, "#/postings/0/amount"),
            (ada, "validate_only=maybe", posting(), 422, "#/validate_only"),
            (ada, f"{DRY}&{DRY}", posting(), 422, "#/validate_only"),
            (eve, DRY, posting(), 404, None),
        ):
            answer = await user.post(f"{path}?{query}", body)
            assert answer.status_code == status, answer.text
            assert where in (None, *(error["pointer"] for error in answer.json()["errors"] or ()))
        taken = await ada.post(f"/v1/ledgers?{DRY}", {"id": base.rpartition("/")[2], "name": "Again"})
        assert (taken.status_code, taken.json()["code"]) == (409, "ledger_exists")
        # a key is ignored, even one that is none
        assert (await ada.post(f"{path}?{DRY}", posting(), idempotency_key="k" * 300)).status_code == 200
        done = await ada.post(f"{path}?validate_only=false", posting(), prefer=WAIT)
        assert done.status_code == 201


@on_a_loop
async def test_the_answer_is_as_it_is_described(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        document = document_of(service.app)
        for path, body in (
            ("transactions", posting("1", credit="wallets:nobody")),
            ("accounts/wallets:alice/freeze", {}),
            ("commands", {"commands": [{"kind": "post_transaction", **posting()}]}),
        ):
            template = f"/v1/ledgers/{{ledger}}/{path.replace('wallets:alice', '{account}')}"
            described = document["paths"][template]["post"]["responses"]["200"]
            answer = await ada.post(f"{base}/{path}?{DRY}", body)
            schema = described["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())
            known = {name.lower() for name in described["headers"]} | {"content-type", "content-length"}
            assert set(answer.headers) <= known
            headers = {
                name: document["components"]["headers"][each["$ref"].rpartition("/")[2]]
                for name, each in described["headers"].items()
            }
            assert {name for name, each in headers.items() if each["required"]} <= {
                name for name in headers if name.lower() in answer.headers
            }


@on_a_loop
async def test_bulk_is_told_as_a_whole(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        hold = {"kind": "post_transaction", "label": "hold", "pending": True, **posting("5")}
        capture = {"kind": "capture_transaction", "transaction": "#hold", "amount": "2"}
        lost = {"kind": "post_transaction", **posting("1", credit="wallets:nobody")}
        before = await traces(service)
        said = await rehearse(ada, f"{base}/commands", {"commands": [hold, capture]})
        assert said["valid"] and [account["balance"] for account in said["balances"]] == ["2.00", "2.00"]
        for atomic, balance in ((False, "2.00"), (True, "0.00")):
            said = await rehearse(ada, f"{base}/commands", {"commands": [hold, capture, lost], "atomic": atomic})
            assert (said["valid"], said["problem"]["code"]) == (False, "account_not_found")
            assert said["problem"]["errors"][0]["pointer"] == "#/commands/2/postings/0"
            assert [account["balance"] for account in said["balances"]] == [balance] * 2
        assert await traces(service) == before


@on_a_loop
async def test_other_commands_are_rehearsed_without_a_trace(serve: Callable[[], Any]) -> None:
    async with serve() as (service, ada, base):
        admin = await service.user("admin")
        await service.pool.execute("UPDATE users SET username = 'taken-name' WHERE id = $1", ada.id)
        before = await traces(service)
        ledger = {"id": f"{base.rpartition('/')[2]}-2", "name": "More"}
        assert await rehearse(ada, "/v1/ledgers", ledger) == {"valid": True, "problem": None, "balances": []}
        user = {"username": "grace", "password": "correct horse battery"}
        assert (await rehearse(admin, "/v1/users", user))["valid"]
        said = await rehearse(admin, "/v1/users", {**user, "username": "Taken-Name"})
        assert (said["valid"], said["problem"]["code"]) == (False, "username_taken")
        granted = await ada.client.put(f"{base}/grants/{admin.id}?{DRY}", json={"role": "reader"}, headers=ada.headers)
        assert granted.json() == {"valid": True, "problem": None, "balances": []}
        assert await traces(service) == before
        # metadata of a transaction is nothing to its accounts
        made = await ada.post(f"{base}/transactions", posting(), prefer=WAIT)
        described = await ada.client.patch(
            f"{made.headers['location']}?{DRY}", json={"metadata": {"a": "1"}}, headers=ada.headers
        )
        assert described.json() == {"valid": True, "problem": None, "balances": []}


@on_a_loop
async def test_a_turn_meanwhile_does_not_count_twice(serve: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as (service, ada, base):
        service.bell.working = False
        await ada.post(f"{base}/transactions", posting("2"))
        ahead = rehearsal._ahead

        async def ahead_and_a_turn(*arguments: Any) -> Any:
            found = await ahead(*arguments)
            await service.work(base.rpartition("/")[2])
            return found

        monkeypatch.setattr(rehearsal, "_ahead", ahead_and_a_turn)
        for _ in range(2):
            said = await rehearse(ada, f"{base}/transactions", posting("5"))
            assert [account["balance"] for account in said["balances"]] == ["7.00", "7.00"]


@pytest.mark.parametrize(("bound", "most"), [("MOST_AHEAD", 2), ("MOST_POSTINGS_AHEAD", 2)])
@on_a_loop
async def test_behind_too_much_that_waits_nothing_is_told(
    serve: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(rehearsal, bound, most)
    async with serve() as (service, ada, base):
        service.bell.working = False
        for _ in range(2):
            await ada.post(f"{base}/transactions", posting())
        assert (await rehearse(ada, f"{base}/transactions", posting()))["balances"][0]["balance"] == "3.00"
        await ada.post(f"{base}/transactions", posting())
        answer = await ada.post(f"{base}/transactions?{DRY}", posting())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@on_a_loop
async def test_what_waits_counts_with_the_transactions_that_it_names(
    serve: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as (service, ada, base):
        wide = (await ada.post(f"{base}/transactions", {"postings": posting()["postings"] * 3}, prefer=WAIT)).json()[
            "id"
        ]
        service.bell.working = False
        await ada.post(f"{base}/transactions/{wide}/reverse", {})
        await ada.post(f"{base}/transactions", posting())
        for most, status in ((4, 200), (3, 503)):
            monkeypatch.setattr(rehearsal, "MOST_POSTINGS_AHEAD", most)
            answer = await ada.post(f"{base}/transactions?{DRY}", posting())
            assert answer.status_code == status


@on_a_loop
async def test_what_is_asked_counts_with_the_transactions_that_it_names(
    serve: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as (_, ada, base):
        wide = {"postings": posting()["postings"] * 3}
        stored = (await ada.post(f"{base}/transactions", wide, prefer=WAIT)).json()["id"]
        chain = [
            {"kind": "reverse_transaction", "transaction": stored, "label": "first"},
            {"kind": "reverse_transaction", "transaction": "#first"},
            {"kind": "post_transaction", **posting()},
        ]
        for most, status in ((7, 200), (6, 422)):
            monkeypatch.setattr(rehearsal, "MOST_POSTINGS_ASKED", most)
            answer = await ada.post(f"{base}/commands?{DRY}", {"commands": chain})
            assert answer.status_code == status
        assert answer.json()["errors"][0]["pointer"] == "#/commands"
        assert (await ada.post(f"{base}/transactions?{DRY}", wide)).status_code == 200


@on_a_loop
async def test_behind_what_will_break_its_turn_nothing_is_told(
    serve: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as (service, ada, base):
        service.bell.working = False
        await ada.post(f"{base}/transactions", {**posting(), "description": "poison"})
        break_on(monkeypatch, lambda: RuntimeError("broken"))
        answer = await ada.post(f"{base}/transactions?{DRY}", posting())
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
