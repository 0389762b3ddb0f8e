"""Commands of a time to come, and schedules, over HTTP and through real workers and beat."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from domain.clock import format_time
from tests.e2e.client import PATIENCE_S, Client, Json, added_user, fresh, open_books, posting, yearly
from tests.stack import Stack

WAIT = f"wait={PATIENCE_S}"
CENT: Json = {"kind": "post_transaction", **posting("0.01")}


@pytest.fixture(scope="module")
def base(ada: Client) -> str:
    return f"/v1/ledgers/{open_books(ada)}"


def after(**span: float) -> str:
    return format_time(datetime.now(UTC) + timedelta(**span))


def faults(answer: object) -> list[tuple[str, str]]:
    return [(fault["pointer"], fault["detail"]) for fault in answer.json()["errors"]]  # type: ignore[attr-defined]


def test_what_is_to_be_executed_later_is_scheduled_even_when_awaited(ada: Client, base: str) -> None:
    when, key = after(hours=1), fresh("key")
    body = posting("2", execute_at=when, pending=True, reference=fresh())
    began = time.monotonic()
    accepted = ada.post(f"{base}/transactions", body, prefer=WAIT, idempotency_key=key)
    assert accepted.status_code == 202 and time.monotonic() - began < PATIENCE_S / 2
    assert (accepted.headers["retry-after"], accepted.headers["preference-applied"]) == ("1", "wait")
    job = accepted.json()
    assert (job["status"], job["execute_at"], job["finished_at"]) == ("scheduled", when, None)
    assert ada.read(f"/v1/jobs/{job['id']}") == job
    again = ada.post(f"{base}/transactions", body, prefer=WAIT, idempotency_key=key)
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (202, job, "true")
    shown = ada.get(job["links"]["resource"])
    assert shown.status_code == 200 and "etag" not in shown.headers
    transaction = shown.json()
    assert (transaction["status"], transaction["effective_at"], transaction["seq"]) == ("scheduled", when, None)
    assert job["id"] not in ada.get(f"{base}/transactions").text
    for verb, code in (
        ("capture", "transaction_not_pending"),
        ("void", "transaction_not_pending"),
        ("reverse", "transaction_not_reversible"),
    ):
        refused = ada.post(f"{job['links']['resource']}/{verb}", prefer=WAIT)
        assert (refused.status_code, refused.json()["code"]) == (409, code)
    assert [
        each["id"] for each in ada.read(f"/v1/jobs?status=scheduled&ledger={base.rpartition('/')[2]}")["items"]
    ] == [job["id"]]


def test_it_is_executed_when_its_time_has_come_and_dated_then(ada: Client, base: str) -> None:
    when = after(seconds=1.5)
    lines = [{"kind": "post_transaction", **posting("1", execute_at=when)} for _ in range(2)]
    accepted = ada.post(f"{base}/commands", {"commands": [*lines, CENT]})
    assert accepted.status_code == 202, accepted.text
    first, second, plain = accepted.json()["jobs"]
    assert ada.batch(accepted.json()["batch"])["counts"]["succeeded"] == 3
    done = [ada.read(f"{base}/transactions/{job}") for job in (plain, first, second)]
    assert [one["effective_at"] for one in done[1:]] == [when, when]
    assert [one["seq"] for one in done] == sorted(one["seq"] for one in done)
    late = datetime.fromisoformat(done[1]["recorded_at"]) - datetime.fromisoformat(when)
    assert timedelta(0) <= late < timedelta(seconds=PATIENCE_S)


def test_grants_have_their_time_too_and_who_may_is_looked_at_then(stack: Stack, ada: Client) -> None:
    root = f"/v1/ledgers/{open_books(ada)}"
    with added_user(stack) as bob:
        user, owner = (client.read("/auth/me")["id"] for client in (bob, ada))
        given = ada.http.put(f"{root}/grants/{user}", json={"role": "owner"}, headers={"prefer": WAIT})
        assert given.status_code == 200, given.text
        now = datetime.now(UTC)
        wanted = [
            (ada, "PUT", user, {"role": "reader"}),
            (bob, "DELETE", owner, {}),
            (ada, "DELETE", user, {}),
        ]
        jobs = []
        for number, (client, method, whose, body) in enumerate(wanted):
            when = format_time(now + timedelta(seconds=2, milliseconds=number))
            later = client.http.request(
                method, f"{root}/grants/{whose}", json={**body, "execute_at": when}, headers={"prefer": WAIT}
            )
            assert (later.status_code, later.json()["status"]) == (202, "scheduled"), later.text
            assert later.json()["execute_at"] == when
            jobs.append(later.json()["id"])
        assert [item["role"] for item in bob.read(f"{root}/grants")["items"]] == ["owner", "owner"]
        outcomes = [client.outcome(job) for job, (client, *_) in zip(jobs, wanted, strict=True)]
        # by his time Bob is no owner any more
        assert [each["status"] for each in outcomes] == ["succeeded", "rejected", "succeeded"]
        assert outcomes[1]["problem"]["code"] == "not_found"
        assert outcomes[0]["finished_at"] >= outcomes[0]["execute_at"]
        assert [item["user"] for item in ada.read(f"{root}/grants")["items"]] == [owner]
        assert bob.get(root).status_code == 404
    assert [event["type"] for event in ada.journal(root.rpartition("/")[2])[-3:]] == [
        *("AccessGranted", "AccessGranted", "AccessRevoked")
    ]


def test_a_time_that_is_past_is_now_and_dates_it(ada: Client, base: str) -> None:
    when = after(days=-3)
    made = ada.post(f"{base}/transactions", posting(execute_at=when), prefer=WAIT)
    assert (made.status_code, made.json()["effective_at"]) == (201, when)
    assert ada.read(f"/v1/jobs/{made.headers['daybook-job']}")["execute_at"] == when


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("transactions", posting(execute_at="0001-01-01T00:00:00Z"), "#/execute_at"),
        ("transactions", posting(execute_at="2027-01-01"), "#/execute_at"),
        (
            "transactions",
            posting(pending=True, expires_at="2030-01-01T00:00:00Z", execute_at="2030-01-01T00:00:00Z"),
            "#/expires_at",
        ),
        ("schedules", {"command": CENT}, "#/every"),
        ("schedules", {"command": CENT, "every": "P1D", "rrule": "FREQ=DAILY"}, "#/every"),
        ("schedules", {"command": CENT, "every": "P1M"}, "#/every"),
        ("schedules", {"command": CENT, "every": "PT0S"}, "#/every"),
        ("schedules", {"command": CENT, "rrule": "FREQ=DAILY;BYEASTER=0"}, "#/rrule"),
        ("schedules", {"command": CENT, "rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "#/rrule"),
        ("schedules", {"command": CENT, "every": "P1D", "starts_at": "2001-01-01T00:00:00Z"}, "#/starts_at"),
        ("schedules", {"command": CENT, "every": "P1D", "missed": "some"}, "#/missed"),
        ("schedules", {"command": {"kind": "create_ledger", "id": "a", "name": "A"}, "every": "P1D"}, "#/command/kind"),
        ("schedules", {"command": {**CENT, **posting("0")}, "every": "P1D"}, "#/command/postings/0/amount"),
        ("schedules", {"command": {**CENT, "execute_at": after(days=1)}, "every": "P1D"}, "#/command/execute_at"),
        (
            "schedules",
            {"command": {**CENT, "pending": True, "expires_at": after(days=1)}, "every": "P1D"},
            "#/command/expires_at",
        ),
        (
            "schedules",
            {"command": {**CENT, "effective_at": after(days=1)}, "every": "P1D"},
            "#/command/effective_at",
        ),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_refused_at_once(
    ada: Client, base: str, path: str, body: Json, pointer: str
) -> None:
    refused = ada.post(f"{base}/{path}", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed"), refused.text
    assert [where for where, _ in faults(refused)] == [pointer]


def test_a_schedule_fires_is_paused_resumed_and_cancelled(ada: Client) -> None:
    base = f"/v1/ledgers/{open_books(ada)}"
    start = datetime.now(UTC) - timedelta(hours=2, minutes=30)
    body = {"command": CENT, "every": "PT1H", "starts_at": format_time(start), "missed": "all", "id": str(uuid4())}
    made = ada.post(f"{base}/schedules", body, prefer=WAIT)
    assert made.status_code == 201, made.text
    schedule = f"{base}/schedules/{body['id']}"
    assert made.headers["location"] == schedule and made.json()["command"] == CENT
    assert list(made.json()) == [
        *("id", "command", "every", "rrule", "next_at", "last_at", "status", "missed", "created_at", "version")
    ]
    deadline = time.monotonic() + PATIENCE_S
    while len(posted := ada.read(f"{base}/transactions")["items"]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [each["effective_at"] for each in posted] == [
        format_time(start + timedelta(hours=hours)) for hours in (2, 1, 0)
    ]
    shown = ada.get(schedule)
    assert "etag" not in shown.headers
    assert (shown.json()["last_at"], shown.json()["next_at"]) == (
        format_time(start + timedelta(hours=2)),
        format_time(start + timedelta(hours=3)),
    )
    job = ada.read(f"/v1/jobs/{posted[0]['id']}")
    assert (job["kind"], job["execute_at"]) == ("post_transaction", posted[0]["effective_at"])
    for verb, status, next_at in (
        ("pause", "paused", None),
        ("resume", "active", format_time(start + timedelta(hours=3))),
        ("cancel", "cancelled", None),
    ):
        changed = ada.post(f"{schedule}/{verb}", prefer=WAIT)
        assert (changed.status_code, changed.json()["status"]) == (200, status), changed.text
        assert changed.json()["next_at"] == next_at and changed.json()["version"] > shown.json()["version"]
    refused = ada.post(f"{schedule}/resume", prefer=WAIT)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


def test_schedules_are_listed_newest_first(ada: Client) -> None:
    base = f"/v1/ledgers/{open_books(ada)}"
    ids = [ada.done(f"{base}/schedules", yearly())["id"] for _ in range(3)]
    page = ada.read(f"{base}/schedules?limit=2")
    assert [each["id"] for each in page["items"]] == ids[:0:-1]
    rest = ada.read(f"{base}/schedules?limit=2&cursor={page['next']}")
    assert ([each["id"] for each in rest["items"]], rest["next"]) == (ids[:1], None)
    nothing = ada.get(f"{base}/schedules/{uuid4()}")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "not_found")
    for verb in ("pause", "resume", "cancel"):
        absent = ada.post(f"{base}/schedules/{uuid4()}/{verb}", prefer=WAIT)
        assert (absent.status_code, absent.json()["code"]) == (404, "not_found")
        assert ada.post(f"{base}/schedules/nonsense/{verb}").status_code == 404
