"""Jobs that are cancelled, dead letters that are retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

import infrastructure.jobs
from infrastructure.bells import bell_key
from infrastructure.settings import Settings
from tests.integration.test_commands import until
from tests.journals import on_a_loop
from tests.service import Json, Service, User, a_ledger, open_books, posting, running_service

GRANT = "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, $3)"
LOCK = "SELECT FROM actors WHERE actor = $1 FOR NO KEY UPDATE"
BURY = """
UPDATE commands SET status = 'failed', finished_at = now(), attempts = 3,
    problem = '{"code":"command_failed","detail":"Set aside."}'
WHERE status = 'accepted' AND actor = $1
"""
PLACES = "SELECT id::text, position, status FROM commands WHERE actor = $1 AND id = ANY ($2::uuid[]) ORDER BY position"


@pytest.fixture
def serve(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens a service: `async with serve() as service`."""

    @asynccontextmanager
    async def open_service(**changes: Any) -> AsyncIterator[Service]:
        async with running_service(replace(settings, **changes), monkeypatch) as service:
            yield service

    return open_service


async def idle_books(service: Service, ada: User) -> str:
    """Books whose commands wait from now on."""
    ledger = await open_books(ada)
    await asyncio.gather(*service.bell.tasks)
    service.bell.working = False
    return ledger


async def posted(user: User, ledger: str, **headers: str) -> str:
    """The id of a transaction's job."""
    answer = await user.post(f"/v1/ledgers/{ledger}/transactions", posting(), **headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("locked", [False, True], ids=["finished", "applied while the lock was waited for"])
@on_a_loop
async def test_a_cancellation_that_comes_too_late_takes_no_wake_up_with_it(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """It may have held the actor for a moment, and whoever was rung then has gone away."""
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        job = await posted(ada, ledger)
        await service.work(ledger)
        if locked:
            monkeypatch.setattr(infrastructure.jobs, "CAN_BE", "SELECT $1::uuid IS NOT NULL")
        async with service.services.pool.acquire() as db, db.transaction():
            if not locked:
                # nor has a turn, or anybody, to wait for it
                await db.execute(LOCK, f"ledger:{ledger}")
            service.bell.rung.clear()
            # that of whoever was with the actor, and has gone away without an answer
            await service.services.redis.call("SET", bell_key(f"ledger:{ledger}"), "1")
            assert refused(await ada.post(f"/v1/jobs/{job}/cancel")) == (409, "job_not_cancellable")
            assert service.bell.rung == [f"ledger:{ledger}"]
            assert await service.services.redis.call("EXISTS", bell_key(f"ledger:{ledger}")) == 0


@on_a_loop
async def test_what_waits_is_cancelled_once_and_never_applied(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        waiting = asyncio.create_task(
            ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10", idempotency_key="k")
        )
        listed: list[Json] = []

        async def is_listed() -> bool:
            listed[:] = (await ada.get(f"/v1/jobs?ledger={ledger}&status=accepted")).json()["items"]
            return bool(listed)

        await until(is_listed)
        path = listed[0]["links"]["self"]
        cancelled = await ada.post(f"{path}/cancel")
        assert cancelled.status_code == 200, cancelled.text
        assert "retry-after" not in cancelled.headers
        job = cancelled.json()
        assert (job["status"], job["problem"]["code"], job["result"]) == ("cancelled", "command_cancelled", None)
        assert job["finished_at"] is not None
        # who waits is told at once, and whoever comes back later
        assert refused(await asyncio.wait_for(waiting, 3)) == (409, "command_cancelled")
        again = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=1", idempotency_key="k")
        assert refused(again) == (409, "command_cancelled")
        assert refused(await ada.post(f"{path}/cancel")) == (409, "job_not_cancellable")
        assert refused(await ada.post(f"{path}/retry")) == (409, "job_not_failed")
        gone = await ada.get(f"/v1/ledgers/{ledger}/transactions/{job['id']}")
        assert refused(gone) == (404, "not_found") and gone.json()["job"] == job["id"]
        service.bell.working = True
        follower = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10")
        assert follower.status_code == 201 and follower.json()["seq"] == 4
        done = f"/v1/jobs/{follower.json()['id']}/cancel"
        assert refused(await ada.post(done)) == (409, "job_not_cancellable")


@on_a_loop
async def test_what_is_scheduled_is_cancelled(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        later = {**posting(), "execute_at": "2100-01-01T00:00:00Z"}
        job = (await ada.post(f"/v1/ledgers/{ledger}/transactions", later)).json()
        assert job["status"] == "scheduled"
        cancelled = await ada.post(f"/v1/jobs/{job['id']}/cancel", {})
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")


@on_a_loop
async def test_a_busy_mailbox_is_waited_for_a_second_at_most(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        job = await posted(ada, ledger)
        service.bell.rung.clear()
        async with service.pool.acquire() as turn, turn.transaction():
            await turn.execute(LOCK, f"ledger:{ledger}")
            started = asyncio.get_running_loop().time()
            assert refused(await ada.post(f"/v1/jobs/{job}/cancel")) == (503, "unavailable")
            assert 0.9 < asyncio.get_running_loop().time() - started < 5
        assert (await ada.get(f"/v1/jobs/{job}")).json()["status"] == "accepted"
        await service.services.redis.call("SET", bell_key(f"ledger:{ledger}"), "1")
        assert (await ada.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        # a turn that came meanwhile has found the actor locked, so somebody has to come again
        assert f"ledger:{ledger}" in service.bell.rung
        assert await service.services.redis.call("EXISTS", bell_key(f"ledger:{ledger}")) == 0


@on_a_loop
async def test_nothing_is_both_cancelled_and_applied(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        jobs = [await posted(ada, ledger) for _ in range(20)]
        answers, _ = await asyncio.gather(
            asyncio.gather(*(ada.post(f"/v1/jobs/{job}/cancel") for job in jobs)), service.work(ledger)
        )
        await service.work(ledger)
        cancelled = {job for job, answer in zip(jobs, answers, strict=True) if answer.status_code == 200}
        shown = {job: (await ada.get(f"/v1/jobs/{job}")).json()["status"] for job in jobs}
        assert {job for job, status in shown.items() if status == "cancelled"} == cancelled
        assert {job for job, status in shown.items() if status == "succeeded"} == set(jobs) - cancelled
        lines = (await ada.get(f"/v1/ledgers/{ledger}/journal")).text
        assert {job for job in jobs if job in lines} == set(jobs) - cancelled


@on_a_loop
async def test_one_of_an_atomic_batch_is_not_cancelled_alone_and_not_retried_alone(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        ledger = await idle_books(service, ada)
        lines = [{"kind": "post_transaction", **posting()} for _ in range(3)]
        sent = await ada.post(f"/v1/ledgers/{ledger}/commands", {"commands": lines, "atomic": True})
        assert sent.status_code == 202, sent.text
        jobs = sent.json()["jobs"]
        assert refused(await ada.post(f"/v1/jobs/{jobs[1]}/cancel")) == (409, "job_not_cancellable")
        await service.pool.execute(BURY, f"ledger:{ledger}")
        assert (await ada.post(f"/v1/jobs/{jobs[1]}/retry")).json()["status"] == "accepted"
        rows = await service.pool.fetch(PLACES, f"ledger:{ledger}", jobs)
        assert [row["status"] for row in rows] == ["accepted"] * 3 and len({row["position"] for row in rows}) == 1
        await service.work(ledger)
        assert {(await ada.get(f"/v1/jobs/{job}")).json()["status"] for job in jobs} == {"succeeded"}


@on_a_loop
async def test_dead_letters_are_retried_behind_what_waits(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, olga = await service.user(), await service.user("operator")
        ledger = await idle_books(service, ada)
        dead = [await posted(ada, ledger) for _ in range(3)]
        await service.pool.execute(BURY, f"ledger:{ledger}")
        assert refused(await ada.post(f"/v1/jobs/{dead[0]}/cancel")) == (409, "job_not_cancellable")
        waiting = await posted(ada, ledger)
        one = await ada.post(f"/v1/jobs/{dead[1]}/retry")
        assert one.status_code == 200 and one.headers["retry-after"] == "1"
        shown = one.json()
        assert (shown["status"], shown["attempts"], shown["problem"], shown["finished_at"]) == (
            "accepted",
            0,
            None,
            None,
        )
        nothing = await olga.post(f"/v1/jobs/retry?kind=open_account&ledger={ledger}")
        assert nothing.json() == {"jobs": [], "more": False}
        many = await olga.post(f"/v1/jobs/retry?ledger={ledger}&kind=post_transaction", {})
        assert many.json() == {"jobs": [dead[0], dead[2]], "more": False}
        rows = await service.pool.fetch(PLACES, f"ledger:{ledger}", [*dead, waiting])
        assert [row["id"] for row in rows] == [waiting, dead[1], dead[0], dead[2]]
        await service.work(ledger)
        assert {(await ada.get(f"/v1/jobs/{job}")).json()["status"] for job in dead} == {"succeeded"}
        assert refused(await ada.post(f"/v1/jobs/retry?ledger={ledger}&colour=red")) == (422, "validation_failed")
        assert refused(await ada.post("/v1/jobs/retry")) == (403, "forbidden")
        assert refused(await ada.post(f"/v1/jobs/retry?ledger={a_ledger()}")) == (404, "not_found")


@on_a_loop
async def test_who_may_cancel(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada, ben, eve = await service.user(), await service.user(), await service.user()
        ledger = await idle_books(service, ada)
        job = await posted(ada, ledger)
        assert refused(await eve.post(f"/v1/jobs/{job}/cancel")) == (404, "not_found")
        await service.pool.execute(GRANT, ledger, ben.id, "reader")
        assert refused(await ben.post(f"/v1/jobs/{job}/cancel")) == (403, "forbidden")
        await service.pool.execute("UPDATE grants SET role = 'writer' WHERE user_id = $1", ben.id)
        await service.services.cache.drop(f"view:{ledger}:grant:{ben.id}")
        assert (await ben.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        job = await posted(ada, ledger)
        assert (await (await service.user("operator")).post(f"/v1/jobs/{job}/cancel")).status_code == 200
        # of users' mailboxes only administrators, and who asked
        admin = await service.user("admin")
        path = f"/v1/users/{eve.id}/password"
        job = (await admin.post(path, {"password": "correct horse battery"})).json()["id"]
        assert refused(await (await service.user("operator")).post(f"/v1/jobs/{job}/cancel")) == (403, "forbidden")
        assert (await admin.post(f"/v1/jobs/{job}/cancel")).json()["status"] == "cancelled"
        assert not await service.pool.fetchval("SELECT count(*) FROM pending_credentials WHERE user_id = $1", eve.id)


@on_a_loop
async def test_a_cancelled_ledger_keeps_its_id(serve: Callable[..., Any]) -> None:
    async with serve() as service:
        ada = await service.user()
        service.bell.working = False
        ledger = a_ledger()
        job = (await ada.post("/v1/ledgers", {"id": ledger, "name": "Books"})).json()["id"]
        account = {"name": "assets:bank", "currency": "USD", "type": "asset"}
        behind = (await ada.post(f"/v1/ledgers/{ledger}/accounts", account)).json()["id"]
        assert (await ada.post(f"/v1/jobs/{job}/cancel")).status_code == 200
        await service.work(ledger)
        assert (await ada.get(f"/v1/jobs/{behind}")).json()["problem"]["code"] == "not_found"
        assert refused(await ada.post("/v1/ledgers", {"id": ledger, "name": "Books"})) == (409, "ledger_exists")
