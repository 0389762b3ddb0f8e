"""Every code of the catalogue, once, from the running product: its status, its shape and its page."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from domain.errors import CATALOGUE
from tests.e2e.client import PATIENCE_S, Client, Json, fresh, open_books, posting

MEMBERS = ["type", "title", "status", "detail", "instance", "code", "correlation_id", "job", "errors"]
LARGE = "9" * 38

ELSEWHERE = {
    "command_failed": "test_crashes.py",
    "mailbox_full": "test_crashes.py",
    "unavailable": "test_crashes.py",
    "internal_error": "tests/edge/test_pipeline.py: from outside there is no known way to it",
    "command_cancelled": "no route cancels yet",
    "username_taken": "below: it takes an administrator",
}


def account(name: str, currency: str = "USD", kind: str = "liability", **limits: str) -> Json:
    return {"name": name, "currency": currency, "type": kind, **limits}


# how each is sent to the ledger: a path and a body to POST, or a request of another kind
Sent = tuple[str, Json] | Callable[[Client, str, dict[str, str]], httpx.Response]

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
    ):
        ada.done(f"/v1/ledgers/{ledger}/accounts", body)
    ada.done(f"/v1/ledgers/{ledger}/transactions", posting(reference="taken"))
    ada.done(f"/v1/ledgers/{ledger}/transactions", posting("1", "assets:points", "wallets:points"))
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
        answer = sent(ada, base, {"prefer": f"wait={PATIENCE_S}"})
    else:
        answer = ada.post(f"{base}/{sent[0]}", sent[1], prefer=f"wait={PATIENCE_S}")
    _is_refused(ada, answer, code)


def test_a_refusal_of_users(admin: Client) -> None:
    taken = {"username": admin.username, "password": fresh("password")}
    _is_refused(admin, admin.post("/v1/users", taken, prefer=f"wait={PATIENCE_S}"), "username_taken")


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
