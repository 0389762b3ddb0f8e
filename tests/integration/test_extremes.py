"""The last moments there are, and the largest numbers, in commands that are accepted: none of them breaks a turn."""

from __future__ import annotations

import pytest

from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, User, open_books, posting, running_service

LAST = ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999998Z", "9999-12-30T23:59:59.999998-23:59")
# what asyncpg takes for the end of all time, and what comes to that: nothing could be compared with it afterwards
BEYOND = ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999998-00:01", "9999-12-31T12:00:00-12:00")
MOST = "9" * 38
WAIT = "wait=5"


async def outcome(user: User, method: str, path: str, body: Json) -> tuple[int, str]:
    """Status, and the code of a problem or the status of what was made."""
    headers = {**user.headers, "prefer": WAIT}
    answer = await user.client.request(method, path, json=body, headers=headers)
    shown = answer.json()
    return answer.status_code, shown.get("code") or shown.get("status") or ""


@on_a_loop
async def test_the_last_moments(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        base = f"/v1/ledgers/{await open_books(ada)}"
        for moment in LAST:
            held = {**posting(), "pending": True, "expires_at": moment}
            assert await outcome(ada, "POST", f"{base}/transactions", held) == (201, "pending")
            # and while it waits
            service.bell.working = False
            answer = await ada.post(f"{base}/transactions", held)
            early = await ada.get(f"{base}/transactions/{answer.json()['id']}")
            assert (early.status_code, early.json()["status"]) == (200, "accepted"), early.text
            assert early.json()["expires_at"].startswith("9999-12-31T")
            service.bell.working = True
            void = await outcome(ada, "POST", f"{base}/transactions/{answer.json()['id']}/void", {})
            assert void == (200, "voided")
            for execute_at in LAST:
                later = await ada.post(f"{base}/accounts/wallets:alice/freeze", {"execute_at": execute_at})
                assert (later.status_code, later.json()["status"]) == (202, "scheduled"), later.text
                assert later.json()["execute_at"].startswith("9999-12-31T")
        shown = await ada.get(f"{base}/transactions?status=pending")
        assert {item["expires_at"][:11] for item in shown.json()["items"]} == {"9999-12-31T"}
        for moment in ("0001-01-02T00:00:00Z", LAST[0]):
            answer = await ada.post(f"{base}/periods", {"before": moment}, prefer=WAIT)
            assert answer.status_code == 200, answer.text
        assert await outcome(ada, "POST", f"{base}/periods", {"before": LAST[0]}) == (409, "period_closed")
        assert await outcome(ada, "POST", f"{base}/transactions", posting()) == (409, "period_closed")


@on_a_loop
async def test_what_is_beyond_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        base = f"/v1/ledgers/{await open_books(ada)}"
        for moment in BEYOND:
            for path, body in (
                ("transactions", {**posting(), "pending": True, "expires_at": moment}),
                ("accounts/wallets:alice/freeze", {"execute_at": moment}),
                ("periods", {"before": moment}),
            ):
                answer = await ada.post(f"{base}/{path}", body)
                assert answer.status_code == 422, (path, moment, answer.text)
                (fault,) = answer.json()["errors"]
                assert fault["detail"] == "must not be after 9999-12-31T23:59:59.999998Z"


@on_a_loop
async def test_the_largest_numbers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        base = f"/v1/ledgers/{await open_books(ada)}"
        transactions = f"{base}/transactions"
        for version in (2**31, 2**63 - 1, 2**63, 2**64, 10**30):
            body = {**posting(), "preconditions": [{"account": "wallets:alice", "version": version}]}
            found = await outcome(ada, "POST", transactions, body)
            assert found in ((409, "precondition_failed"), (422, "validation_failed")), (version, found)
        for figure in (MOST, f"-{MOST}", f"{MOST}.99", "0.00", "-0.01"):
            for bounds in ({"eq": figure}, {"gte": figure, "lte": figure}):
                body = {**posting(), "preconditions": [{"account": "wallets:alice", "available": bounds}]}
                expected = (201, "posted") if figure == "0.00" and "eq" in bounds else (409, "precondition_failed")
                found = await outcome(ada, "POST", transactions, body)
                assert found in (expected, (409, "precondition_failed")), (figure, found)
        too_fine = {**posting(), "preconditions": [{"account": "wallets:alice", "balance": {"eq": f"{MOST}.999"}}]}
        assert await outcome(ada, "POST", transactions, too_fine) == (422, "amount_scale")
        held = (await ada.post(transactions, {**posting("1"), "pending": True}, prefer=WAIT)).json()["id"]
        for amounts in ({"amount": MOST}, {"amounts": [MOST]}):
            found = await outcome(ada, "POST", f"{transactions}/{held}/capture", {**amounts})
            assert found == (422, "capture_exceeds_hold")
        most = {"postings": [{**posting("available", "wallets:alice", "assets:bank")["postings"][0], "up_to": MOST}]}
        assert await outcome(ada, "POST", transactions, most) == (201, "posted")
