"""Who sees which jobs and batches, and how much of them."""

from __future__ import annotations

from typing import Any

import pytest

from infrastructure.settings import Settings
from tests.integration.test_grants import give, take
from tests.journals import on_a_loop
from tests.service import Json, User, open_books, posting, running_service

Patch = pytest.MonkeyPatch

TOO_MUCH = posting("75.00", debit="wallets:broke", credit="assets:bank")
BURY = """
UPDATE commands SET status = 'failed', finished_at = now(),
    problem = '{"code":"command_failed","detail":"The command broke its turn.","faults":[]}'
WHERE id = $1
"""


async def refuse(user: User, ledger: str) -> tuple[Json, Json]:
    """A job and a batch whose refusals name accounts and balances."""
    root = f"/v1/ledgers/{ledger}"
    account = {"name": "wallets:broke", "currency": "USD", "type": "liability", "min_balance": "0"}
    await user.post(f"{root}/accounts", account, prefer="wait=10")
    refused = await user.post(f"{root}/transactions", TOO_MUCH, prefer="wait=10")
    assert refused.json()["code"] == "insufficient_funds"
    lines = {"commands": [{"kind": "post_transaction", **TOO_MUCH}]}
    batch = await user.post(f"{root}/commands", lines, prefer="wait=10")
    assert batch.json()["refusals_total"] == 1
    return (await user.get(f"/v1/jobs/{refused.json()['job']}")).json(), batch.json()


async def listed(user: User, job: Json) -> Json:
    items: list[Json] = (await user.get("/v1/jobs?limit=1000")).json()["items"]
    return next(item for item in items if item["id"] == job["id"])


@on_a_loop
async def test_who_may_read_a_ledger_sees_its_jobs_whole(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob, anna, eve = [await service.user(*roles) for roles in ((), (), ("admin",), ())]
        ledger = await open_books(ada)
        job, batch = await refuse(ada, ledger)
        assert "wallets:broke has 0.00 USD" in job["problem"]["detail"]
        assert await seen(eve, job, batch) == [404, 404]
        await give(ada, ledger, bob, "reader")
        for user in (ada, bob, anna):
            assert await seen(user, job, batch) == [job, batch]
            assert await listed(user, job) == job
        await take(ada, ledger, bob)
        assert await seen(bob, job, batch) == [404, 404]
        assert (await bob.get("/v1/jobs")).json()["items"] == []


async def seen(user: User, job: Json, batch: Json) -> list[Any]:
    answers = [await user.get(f"/v1/jobs/{job['id']}"), await user.get(f"/v1/batches/{batch['id']}")]
    return [answer.json() if answer.status_code == 200 else answer.status_code for answer in answers]


@on_a_loop
async def test_an_operator_sees_what_became_of_a_job_and_nothing_of_the_ledger(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, olga = await service.user(), await service.user("operator")
        ledger = await open_books(ada)
        job, batch = await refuse(ada, ledger)
        opened = (await ada.get(f"/v1/jobs?ledger={ledger}&kind=open_account")).json()["items"][0]
        for path in (f"/v1/jobs/{job['id']}", f"/v1/batches/{batch['id']}", f"/v1/jobs?ledger={ledger}&limit=1000"):
            answer = await olga.get(path)
            assert answer.status_code == 200
            for content in ("wallets", "assets", "0.00", "USD"):
                assert content not in answer.text, path
        reticent = {
            **job["problem"],
            "detail": "What a rule has said is shown to those who were granted the ledger.",
            "errors": None,
        }
        links = {**job["links"], "resource": None}
        assert await seen(olga, job, batch) == [
            {**job, "problem": reticent, "links": links},
            {
                **batch,
                "refusals": [
                    {
                        **batch["refusals"][0],
                        "problem": {**batch["refusals"][0]["problem"], "detail": reticent["detail"], "errors": None},
                    }
                ],
            },
        ]
        assert await listed(olga, job) == {**job, "problem": reticent, "links": links}
        shown = await listed(olga, opened)
        assert shown["result"] == {"resource": None, "seq": opened["result"]["seq"]}
        assert shown["links"]["resource"] is None
        # once it is granted to her she may read it all
        await give(ada, ledger, olga, "reader")
        assert await seen(olga, job, batch) == [job, batch]
        assert await listed(olga, job) == job
        await take(ada, ledger, olga)
        assert (await seen(olga, job, batch))[0]["problem"] == reticent


@on_a_loop
async def test_an_operator_sees_why_a_command_was_set_aside(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, olga = await service.user(), await service.user("operator")
        ledger = await open_books(ada)
        service.bell.working = False
        sent = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())
        await service.pool.execute(BURY, sent.json()["id"])
        problem = (await olga.get(sent.headers["location"])).json()["problem"]
        assert (problem["code"], problem["detail"]) == ("command_failed", "The command broke its turn.")


@on_a_loop
async def test_an_operator_sees_her_own_jobs_whole_also_after_her_grant_is_gone(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, olga = await service.user(), await service.user("operator")
        ledger = await open_books(ada)
        await give(ada, ledger, olga, "writer")
        job, batch = await refuse(olga, ledger)
        await take(ada, ledger, olga)
        assert await seen(olga, job, batch) == [job, batch]
        assert await listed(olga, job) == job


@on_a_loop
async def test_an_operator_has_no_way_into_a_ledger(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, olga = await service.user(), await service.user("operator")
        ledger = await open_books(ada)
        answers = [
            await olga.get(f"/v1/ledgers/{ledger}/grants"),
            await olga.get(f"/v1/ledgers/{ledger}"),
            await olga.post(f"/v1/ledgers/{ledger}/transactions", posting()),
            await give(olga, ledger, olga, "owner"),
            await take(olga, ledger, ada),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
        assert (await olga.get("/v1/ledgers")).json()["items"] == []


@on_a_loop
async def test_a_strangers_404_is_that_of_what_does_not_exist(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, eve = await service.user(), await service.user()
        ledger = await open_books(ada)
        job, batch = await refuse(ada, ledger)
        gone = "01890000-0000-7000-8000-000000000000"
        for kind, real in (("jobs", job["id"]), ("batches", batch["id"])):
            answers = [
                await eve.get(f"/v1/{kind}/{name}", x_correlation_id="c", prefer="wait=1") for name in (real, gone)
            ]
            texts = [answer.text.replace(name, "ID") for answer, name in zip(answers, (real, gone), strict=True)]
            assert texts[0] == texts[1]
            assert answers[0].status_code == answers[1].status_code == 404
            headers = [{k: v for k, v in answer.headers.items() if "ratelimit" not in k} for answer in answers]
            assert headers[0] == headers[1]
