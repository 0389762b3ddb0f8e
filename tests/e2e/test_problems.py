"""Every code of the catalogue, once, from the running product: its status, its shape and its page."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from domain.clock import format_time
from domain.errors import CATALOGUE
from tests.e2e.client import PATIENCE_S, Client, Json, fresh, open_books, posting

MEMBERS = ["type", "title", "status", "detail", "instance", "code", "correlation_id", "job", "errors"]
LARGE = "9" * 38
WAIT = f"wait={PATIENCE_S}"
CLOSED = "2001-01-01T00:00:00Z"
CLOCKS_DIFFER = timedelta(milliseconds=20)

ELSEWHERE = {
    "command_failed": "test_crashes.py",
    "mailbox_full": "test_crashes.py",
    "unavailable": "test_crashes.py",
    "internal_error": "tests/edge/test_pipeline.py: from outside there is no known way to it",
    "batch_rejected": "tests/integration/test_bulk.py: it takes a batch",
    "command_cancelled": "tests/integration/test_jobs.py: it takes a mailbox that stands still",
    "username_taken": "below: it takes an administrator",
}


def account(name: str, currency: str = "USD", kind: str = "liability", **limits: str) -> Json:
    return {"name": name, "currency": currency, "type": kind, **limits}


# how each is sent to the ledger: a path and a body to POST, or a request of another kind
Sent = tuple[str, Json] | Callable[[Client, str, dict[str, str]], httpx.Response]


def ended(verb: str, body: Json | None = None, *, once: str = "", **members: Any) -> Sent:
    """A transaction of its own, and what comes too late or asks for too much of it."""

    def send(ada: Client, base: str, wait: dict[str, str]) -> httpx.Response:
        transaction = f"{base}/transactions/{ada.done(f'{base}/transactions', posting(**members))['id']}"
        if once:
            assert ada.post(f"{transaction}/{once}", **wait).status_code in (200, 201)
        return ada.post(f"{transaction}/{verb}", body, **wait)

    return send


def expired(ada: Client, base: str, wait: dict[str, str]) -> httpx.Response:
    """A capture after the hold's time is over, whether or not that was noticed yet."""
    expires_at = datetime.now(UTC) + timedelta(seconds=0.5)
    held = ada.done(f"{base}/transactions", posting(pending=True, expires_at=format_time(expires_at)))
    while datetime.now(UTC) <= expires_at + CLOCKS_DIFFER:
        time.sleep(0.05)
    return ada.post(f"{base}/transactions/{held['id']}/capture", **wait)


AT_APPLY: dict[str, Sent] = {
    "account_exists": ("accounts", account("wallets:alice")),
    "currency_exists": ("currencies", {"code": "POINTS", "scale": 1}),
    "reference_taken": ("transactions", posting(reference="taken")),
    "account_not_found": ("transactions", posting(credit="wallets:nobody")),
    "currency_unknown": ("accounts", account("wallets:dan", "DOUBLOON")),
    "currency_mismatch": ("transactions", posting(credit="wallets:eur")),
    "amount_scale": ("transactions", posting("1.001")),
    "amount_overflow": ("transactions", posting(LARGE, "assets:points", "wallets:points")),
    "insufficient_funds": ("transactions", posting("1.00", "wallets:capped", "assets:bank")),
    "max_balance_exceeded": ("transactions", posting("11.00", "assets:bank", "wallets:capped")),
    "transaction_not_pending": ended("capture"),
    "transaction_expired": expired,
    "transaction_not_reversible": ended("reverse", pending=True),
    "already_reversed": ended("reverse", once="reverse"),
    "capture_exceeds_hold": ended("capture", {"amount": "1.01"}, pending=True),
    "period_closed": ("transactions", posting(effective_at="2000-12-31T23:59:59.999999Z")),
    "account_closed": ("transactions", posting(credit="wallets:closed")),
    "account_frozen": ("transactions", posting(credit="wallets:frozen")),
    "account_status": ("accounts/wallets:frozen/freeze", {}),
    "account_not_empty": ("accounts/assets:bank/close", {}),
    # nobody would be left who owns the ledger
    "precondition_failed": lambda ada, base, wait: ada.http.delete(
        f"{base}/grants/{ada.read('/auth/me')['id']}", headers=wait
    ),
}


@pytest.fixture(scope="module")
def ledger(ada: Client) -> str:
    """Books in which each refusal has a reason."""
    ledger = open_books(ada)
    ada.done(f"/v1/ledgers/{ledger}/currencies", {"code": "POINTS", "scale": 0})
    for body in (
        account("wallets:eur", "EUR"),
        account("wallets:capped", min_balance="0", max_balance="10"),
        account("assets:points", "POINTS", "asset"),
        account("wallets:points", "POINTS"),
        account("wallets:frozen"),
        account("wallets:closed"),
    ):
        ada.done(f"/v1/ledgers/{ledger}/accounts", body)
    ada.done(f"/v1/ledgers/{ledger}/transactions", posting(reference="taken"))
    ada.done(f"/v1/ledgers/{ledger}/transactions", posting("1", "assets:points", "wallets:points"))
    for path in ("accounts/wallets:frozen/freeze", "accounts/wallets:closed/close"):
        assert ada.post(f"/v1/ledgers/{ledger}/{path}", prefer=WAIT).status_code == 200
    assert ada.post(f"/v1/ledgers/{ledger}/periods", {"before": CLOSED}, prefer=WAIT).status_code == 200
    return ledger


def log_in_as_nobody(ada: Client, times: int = 1) -> httpx.Response:
    """Tries to log in as somebody who does not exist, until that is answered by something else than 401."""
    nobody = {"username": fresh("nobody"), "password": "wrong"}
    for _ in range(times):
        answer = httpx.post(ada.http.base_url.join("/auth/login"), json=nobody)
        if answer.status_code != 401:
            break
    return answer


def reuse_a_key(ada: Client, base: str) -> httpx.Response:
    key = fresh("key")
    assert ada.post(f"{base}/transactions", posting("1"), idempotency_key=key).status_code == 202
    return ada.post(f"{base}/transactions", posting("2"), idempotency_key=key)


FORM = "application/x-www-form-urlencoded"


def posted(ada: Client, base: str) -> str:
    """Where the job of a transaction is, which has succeeded."""
    return f"/v1/jobs/{ada.done(f'{base}/transactions', posting())['id']}"


ON_RECEIPT: dict[str, Callable[[Client, str], httpx.Response]] = {
    "malformed_request": lambda ada, base: ada.post(f"{base}/transactions", b'{"postings": [], "postings": []}'),
    "unauthorized": lambda ada, base: httpx.get(ada.http.base_url.join(base)),
    "invalid_credentials": lambda ada, _: log_in_as_nobody(ada),
    "forbidden": lambda ada, _: ada.get("/metrics"),
    "not_found": lambda ada, base: ada.get(f"{base}/accounts/wallets:nobody"),
    "method_not_allowed": lambda ada, base: ada.http.delete(base),
    "payload_too_large": lambda ada, base: ada.post(f"{base}/transactions", b'"' + b"x" * (1 << 20) + b'"'),
    "unsupported_media_type": lambda ada, base: ada.post(f"{base}/transactions", b"a=1", content_type=FORM),
    "validation_failed": lambda ada, base: ada.post(f"{base}/transactions", posting("0.00")),
    # the limit of a user name, which is nobody's: others may go on logging in
    "rate_limited": lambda ada, _: log_in_as_nobody(ada, 40),
    "idempotency_key_reused": reuse_a_key,
    "version_not_reached": lambda ada, base: ada.get(f"{base}?min_version=99999"),
    "job_not_cancellable": lambda ada, base: ada.post(f"{posted(ada, base)}/cancel"),
    "job_not_failed": lambda ada, base: ada.post(f"{posted(ada, base)}/retry"),
    "ledger_exists": lambda ada, base: ada.post("/v1/ledgers", {"id": base.rpartition("/")[2], "name": "Again"}),
}


def is_whole(problem: Json, code: str) -> bool:
    kind = CATALOGUE[code]
    expected = {"type": f"/problems/{code}", "title": kind.title, "status": kind.status, "code": code}
    return list(problem) == MEMBERS and problem.items() >= expected.items() and bool(problem["detail"])


def test_every_code_is_met_somewhere() -> None:
    assert {*ON_RECEIPT, *AT_APPLY, *ELSEWHERE} == set(CATALOGUE)


@pytest.mark.parametrize("code", ON_RECEIPT)
def test_a_refusal_on_receipt(ada: Client, ledger: str, code: str) -> None:
    answer = ON_RECEIPT[code](ada, f"/v1/ledgers/{ledger}")
    problem = answer.json()
    assert is_whole(problem, code), problem
    assert (answer.status_code, answer.headers["content-type"]) == (problem["status"], "application/problem+json")
    assert problem["correlation_id"] == answer.headers["x-correlation-id"] and problem["job"] is None
    assert problem["instance"] == answer.request.url.path
    assert (answer.status_code == 429) == ("retry-after" in answer.headers)
    assert (answer.status_code == 401) == ("www-authenticate" in answer.headers)
    assert (answer.status_code == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize("code", AT_APPLY)
def test_a_refusal_at_apply(ada: Client, ledger: str, code: str) -> None:
    sent, base = AT_APPLY[code], f"/v1/ledgers/{ledger}"
    if callable(sent):
        answer = sent(ada, base, {"prefer": WAIT})
    else:
        answer = ada.post(f"{base}/{sent[0]}", sent[1], prefer=WAIT)
    _is_refused(ada, answer, code)


def test_a_refusal_of_users(admin: Client) -> None:
    taken = {"username": admin.username, "password": fresh("password")}
    _is_refused(admin, admin.post("/v1/users", taken, prefer=WAIT), "username_taken")


def _is_refused(client: Client, answer: httpx.Response, code: str) -> None:
    problem = answer.json()
    assert is_whole(problem, code), problem
    assert (answer.status_code, answer.headers["content-type"]) == (problem["status"], "application/problem+json")
    assert problem["job"] == answer.headers["daybook-job"] and problem["instance"] == f"/v1/jobs/{problem['job']}"
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    job = client.read(f"/v1/jobs/{problem['job']}")
    assert (job["status"], job["problem"]) == ("rejected", problem)


def test_each_code_has_its_page(ada: Client) -> None:
    with httpx.Client(base_url=ada.http.base_url) as reader:
        for code, kind in CATALOGUE.items():
            page = reader.get(f"/problems/{code}")
            assert page.status_code == 200 and kind.title in page.text, code
        assert reader.get("/problems/nonsense").status_code == 404
