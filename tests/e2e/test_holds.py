"""Holds and what becomes of them, reversals, preconditions and balancing amounts: over HTTP, to the letter."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from domain.clock import format_time
from tests.e2e.client import PATIENCE_S, Client, Json, open_books, posting

WAIT = f"wait={PATIENCE_S}"
EXPIRY_S = 5
"""How soon after its time a hold is released."""


@pytest.fixture(scope="module")
def base(ada: Client) -> str:
    """Books in which Alice has 100 dollars and may not owe any."""
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob'), least='0')}"
    ada.done(f"{base}/transactions", posting("100"))
    return base


def hold(ada: Client, base: str, amount: str, **members: object) -> Json:
    return ada.done(f"{base}/transactions", posting(amount, "wallets:alice", "wallets:bob", pending=True, **members))


def changed(ada: Client, path: str, body: Json | None = None) -> Json:
    """What an awaited change answers, which is 200 without a Location."""
    answer = ada.post(path, body, prefer=WAIT)
    assert (answer.status_code, answer.headers.get("location")) == (200, None), answer.text
    content: Json = answer.json()
    return content


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def sums(ada: Client, base: str, account: str = "wallets:alice") -> Json:
    shown = ada.read(f"{base}/accounts/{account}")
    return {name: shown[name] for name in ("balance", "available", "pending_debits", "pending_credits")}


def test_a_hold_is_captured_twice_and_then_over(ada: Client, base: str) -> None:
    held = hold(ada, base, "40", reference="order-1")
    path = f"{base}/transactions/{held['id']}"
    line = {"debit": "wallets:alice", "credit": "wallets:bob", "amount": "40.00", "currency": "USD"}
    assert (held["status"], held["postings"], held["expires_at"]) == (
        "pending",
        [{**line, "posted": "0.00", "held": "40.00"}],
        None,
    )
    expected = {"balance": "100.00", "available": "60.00", "pending_debits": "40.00", "pending_credits": "0.00"}
    assert sums(ada, base) == expected
    # nobody can count on what is only promised
    expected = {"balance": "0.00", "available": "0.00", "pending_debits": "0.00", "pending_credits": "40.00"}
    assert sums(ada, base, "wallets:bob") == expected

    before = ada.get(path)
    first = changed(ada, f"{path}/capture", {"amount": "30", "final": False})
    (capture,) = first["captures"]
    assert first == {
        **held,
        "postings": [{**line, "posted": "30.00", "held": "10.00"}],
        "captures": [{**capture, "amounts": ["30.00"], "seq": held["seq"] + 1}],
        "version": held["seq"] + 1,
    }
    # what was made before it changed is not what is answered now
    after = ada.get(path, if_none_match=before.headers["etag"])
    assert (after.status_code, after.json()) == (200, first)
    assert refused(ada.post(f"{path}/capture", {"amount": "10.01"}, prefer=WAIT)) == (422, "capture_exceeds_hold")

    last = changed(ada, f"{path}/capture", {"amount": "4"})
    assert (last["status"], last["postings"]) == ("captured", [{**line, "posted": "34.00", "held": "0.00"}])
    assert [capture["amounts"] for capture in last["captures"]] == [["30.00"], ["4.00"]]
    expected = {"balance": "66.00", "available": "66.00", "pending_debits": "0.00", "pending_credits": "0.00"}
    assert sums(ada, base) == expected
    for verb in ("capture", "void"):
        assert refused(ada.post(f"{path}/{verb}", prefer=WAIT)) == (409, "transaction_not_pending")
    assert refused(ada.post(f"{base}/transactions", posting(reference="order-1"), prefer=WAIT)) == (
        409,
        "reference_taken",
    )


def test_amounts_are_captured_posting_by_posting(ada: Client) -> None:
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob', 'wallets:carol'))}"
    lines = [{"debit": "wallets:alice", "credit": credit, "amount": "5"} for credit in ("wallets:bob", "wallets:carol")]
    path = f"{base}/transactions/{ada.done(f'{base}/transactions', {'postings': lines, 'pending': True})['id']}"
    for body, pointer in (({"amount": "1"}, "#/amount"), ({"amounts": ["1"]}, "#/amounts")):
        answer = ada.post(f"{path}/capture", body, prefer=WAIT)
        assert refused(answer) == (422, "validation_failed")
        # it takes the transaction to know, so there is a job
        assert answer.json()["job"] and answer.json()["errors"][0]["pointer"] == pointer
    captured = changed(ada, f"{path}/capture", {"amounts": ["0", "2"], "final": False})
    assert [(line["posted"], line["held"]) for line in captured["postings"]] == [("0.00", "5.00"), ("2.00", "3.00")]
    voided = changed(ada, f"{path}/void")
    # what was captured stays so
    assert (voided["status"], [line["held"] for line in voided["postings"]]) == ("captured", ["0.00", "0.00"])
    assert sums(ada, base)["balance"] == "-2.00"


def test_a_hold_ends_by_itself_once(ada: Client, base: str) -> None:
    """The end of its time is a command of the service's own, which nobody may send."""
    available = sums(ada, base)["available"]
    expires_at = datetime.now(UTC) + timedelta(seconds=1)
    held = hold(ada, base, "1", expires_at=format_time(expires_at))
    path = f"{base}/transactions/{held['id']}"
    assert held["expires_at"] == format_time(expires_at)
    while (shown := ada.read(path))["status"] == "pending":
        assert datetime.now(UTC) < expires_at + timedelta(seconds=EXPIRY_S)
        time.sleep(0.1)
    assert datetime.now(UTC) >= expires_at
    assert (shown["status"], shown["postings"][0]["held"], shown["captures"]) == ("expired", "0.00", [])
    assert sums(ada, base)["available"] == available
    ledger = base.rpartition("/")[2]
    jobs = ada.read(f"/v1/jobs?ledger={ledger}&kind=expire_transaction")["items"]
    (job,) = [job for job in jobs if job["links"]["resource"] == path]
    assert (job["status"], job["result"]["seq"]) == ("succeeded", shown["version"])
    for verb in ("capture", "void"):
        assert refused(ada.post(f"{path}/{verb}", prefer=WAIT)) == (409, "transaction_expired")
    line = {"kind": "expire_transaction", "transaction": held["id"]}
    assert refused(ada.post(f"{base}/commands", {"commands": [line]})) == (422, "validation_failed")


def test_a_reversal_links_both_ways_and_its_id_works_at_once(ada: Client, base: str) -> None:
    paid = ada.done(f"{base}/transactions", posting("3", "wallets:alice", "wallets:bob"))
    path = f"{base}/transactions/{paid['id']}"
    # behind many others it is not applied yet
    lines = [{"kind": "post_transaction", **posting("1")} for _ in range(300)]
    assert ada.post(f"{base}/commands", {"commands": lines}).status_code == 202
    accepted = ada.post(f"{path}/reverse", {"reference": "refund-1", "metadata": {"why": "broken"}})
    assert accepted.status_code == 202
    resource = accepted.json()["links"]["resource"]
    early = ada.read(resource)
    assert early["status"] in ("accepted", "posted") and early["reverses"] == paid["id"]
    if early["status"] == "accepted":
        assert (early["postings"], early["seq"], early["reference"]) == ([], None, "refund-1")
    assert ada.outcome(accepted.json()["id"])["status"] == "succeeded"
    reversal, original = ada.read(resource), ada.read(path)
    assert (reversal["status"], reversal["reverses"], reversal["metadata"]) == ("posted", paid["id"], {"why": "broken"})
    (line,) = reversal["postings"]
    assert (line["debit"], line["credit"], line["posted"]) == ("wallets:bob", "wallets:alice", "3.00")
    assert (original["status"], original["reversed_by"]) == ("posted", reversal["id"])
    assert original["version"] == reversal["seq"]
    # never before its original
    early_by = {"effective_at": "2001-01-01T00:00:00Z"}
    assert refused(ada.post(f"{resource}/reverse", early_by, prefer=WAIT)) == (422, "validation_failed")
    again = ada.post(f"{resource}/reverse", prefer=WAIT)
    assert (again.status_code, again.json()["reverses"]) == (201, reversal["id"])
    assert again.headers["location"] == f"{base}/transactions/{again.json()['id']}"


def test_what_is_scheduled_can_not_be_ended_yet(ada: Client, base: str) -> None:
    later = format_time(datetime.now(UTC) + timedelta(hours=1))
    for pending, verb, code in (
        (True, "capture", "transaction_not_pending"),
        (True, "void", "transaction_not_pending"),
        (False, "reverse", "transaction_not_reversible"),
    ):
        scheduled = ada.post(f"{base}/transactions", posting(pending=pending, execute_at=later), prefer=WAIT)
        assert (scheduled.status_code, scheduled.json()["status"]) == (202, "scheduled")
        path = scheduled.json()["links"]["resource"]
        shown = ada.read(path)
        assert (shown["status"], shown["seq"], shown["effective_at"]) == ("scheduled", None, later)
        answer = ada.post(f"{path}/{verb}", prefer=WAIT)
        assert refused(answer) == (409, code), answer.text
        assert ada.read(path)["status"] == "scheduled"


def test_a_reversal_that_was_refused_is_not_there(ada: Client, base: str) -> None:
    held = hold(ada, base, "1")
    answer = ada.post(f"{base}/transactions/{held['id']}/reverse", prefer=WAIT)
    assert refused(answer) == (409, "transaction_not_reversible")
    gone = ada.get(f"{base}/transactions/{answer.json()['job']}")
    assert refused(gone) == (404, "not_found") and gone.json()["job"] == answer.json()["job"]


def test_a_posting_moves_what_is_available(ada: Client) -> None:
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob'), least='0')}"
    ada.done(f"{base}/transactions", posting("10"))
    hold(ada, base, "3")
    everything = posting("available", "wallets:alice", "wallets:bob")
    everything["postings"][0]["up_to"] = "5"
    first = ada.done(f"{base}/transactions", everything)
    second = ada.done(f"{base}/transactions", everything)
    assert [made["postings"][0]["amount"] for made in (first, second)] == ["5.00", "2.00"]
    answer = ada.post(f"{base}/transactions", everything, prefer=WAIT)
    assert refused(answer) == (409, "insufficient_funds")


@pytest.mark.parametrize(
    ("expected", "holds"),
    [
        ({"balance": {"gte": "-0.01", "lte": "1"}}, True),
        ({"balance": {"eq": "0"}, "available": {"gte": "0"}}, True),
        ({"available": {"gte": "0.01"}}, False),
        ({"balance": {"eq": "0", "lte": "-1"}}, False),
        ({"version": 1}, False),
    ],
)
def test_what_a_transaction_depends_on(ada: Client, base: str, expected: Json, holds: bool) -> None:
    ada.post(f"{base}/accounts", {"name": "wallets:carol", "currency": "USD", "type": "liability"}, prefer=WAIT)
    body = posting("0.01", preconditions=[{"account": "wallets:carol", **expected}])
    answer = ada.post(f"{base}/transactions", body, prefer=WAIT)
    if holds:
        assert answer.status_code == 201, answer.text
    else:
        assert refused(answer) == (409, "precondition_failed")


def test_accounts_are_frozen_and_closed_and_periods_too(ada: Client) -> None:
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob'))}"
    alice = f"{base}/accounts/wallets:alice"
    held = hold(ada, base, "2")
    assert changed(ada, f"{alice}/freeze")["status"] == "frozen"
    for body in (posting(), posting(pending=True)):
        assert refused(ada.post(f"{base}/transactions", body, prefer=WAIT)) == (409, "account_frozen")
    assert changed(ada, f"{base}/transactions/{held['id']}/capture")["status"] == "captured"
    reversal = ada.post(f"{base}/transactions/{held['id']}/reverse", prefer=WAIT)
    assert refused(reversal) == (409, "account_frozen")
    assert refused(ada.post(f"{alice}/close", prefer=WAIT)) == (409, "account_not_empty")
    assert changed(ada, f"{alice}/unfreeze")["status"] == "open"
    ada.done(f"{base}/transactions/{held['id']}/reverse", {})
    closed = changed(ada, f"{alice}/close")
    assert (closed["status"], closed["balance"]) == ("closed", "0.00")
    for verb, code in (("freeze", "account_closed"), ("unfreeze", "account_closed"), ("close", "account_status")):
        assert refused(ada.post(f"{alice}/{verb}", prefer=WAIT)) == (409, code)
    assert refused(ada.post(f"{base}/transactions", posting(), prefer=WAIT)) == (409, "account_closed")
    account = {"name": "wallets:alice", "currency": "USD", "type": "liability"}
    assert refused(ada.post(f"{base}/accounts", account, prefer=WAIT)) == (409, "account_exists")

    ends = ["2001-01-01T00:00:00.000000Z", "2002-01-01T00:00:00.000000Z"]
    periods = [changed(ada, f"{base}/periods", {"before": end}) for end in ends]
    assert [list(period) for period in periods] == [["before", "closed_at", "seq"]] * 2
    assert ada.read(f"{base}/periods") == {"items": periods[::-1], "next": None}
    page = ada.read(f"{base}/periods?limit=1")
    assert ada.read(f"{base}/periods?limit=1&cursor={page['next']}") == {"items": periods[:1], "next": None}
    for end in ends:
        assert refused(ada.post(f"{base}/periods", {"before": end}, prefer=WAIT)) == (409, "period_closed")
    late = posting(credit="wallets:bob", effective_at="2001-12-31T23:59:59.999999Z")
    assert refused(ada.post(f"{base}/transactions", late, prefer=WAIT)) == (409, "period_closed")
    ada.done(f"{base}/transactions", {**late, "effective_at": ends[1]})


def test_metadata_is_merged(ada: Client, base: str) -> None:
    account = {"name": "wallets:dan", "currency": "USD", "type": "liability", "metadata": {"a": "1", "b": "2"}}
    ada.post(f"{base}/accounts", account, prefer=WAIT)
    paid = ada.done(f"{base}/transactions", posting(metadata={"a": "1", "b": "2"}))
    for path in (f"{base}/accounts/wallets:dan", f"{base}/transactions/{paid['id']}"):
        before = ada.read(path)
        patch = {"metadata": {"a": None, "c": "3", "none": None}}
        answer = ada.http.patch(path, json=patch, headers={"prefer": WAIT})
        assert answer.status_code == 200, answer.text
        version = answer.json()["version"]
        # nothing else has changed
        assert answer.json() == {**before, "metadata": {"b": "2", "c": "3"}, "version": version}
        assert version > before["version"]
        assert ada.get(path).headers["etag"] == f'"1.{version}"'
        too_many = {"metadata": {f"k{number}": "v" for number in range(49)}}
        answer = ada.http.patch(path, json=too_many, headers={"prefer": WAIT})
        assert refused(answer) == (422, "validation_failed") and answer.json()["job"]
