"""What users of other ledgers have reported: each of those mistakes, made possible here, and seen not to be made."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.client import PATIENCE_S, Client, Json, fresh, open_books, posting

WAIT = f"wait={PATIENCE_S}"


@pytest.fixture(scope="module")
def ledger(ada: Client) -> str:
    """Books in which Alice may not owe anything."""
    return open_books(ada, ("wallets:alice", "wallets:bob"), least="0")


@pytest.fixture
def base(ada: Client, ledger: str) -> Iterator[str]:
    """Those books, with 100 dollars more for Alice, and not a cent lost or made when the test is over."""
    base = f"/v1/ledgers/{ledger}"
    ada.done(f"{base}/transactions", posting("100"))
    yield base
    (balance,) = ada.read(f"{base}/trial-balance")["items"]
    assert balance["difference"] == "0.00"


def paying(amount: str, **members: object) -> Json:
    return posting(amount, "wallets:alice", "wallets:bob", **members)


def available(ada: Client, base: str, account: str = "wallets:alice") -> str:
    return str(ada.read(f"{base}/accounts/{account}")["available"])


def busy(ada: Client, base: str) -> None:
    """Gives the ledger so much to do that what is sent next waits in the mailbox."""
    lines = [{"kind": "post_transaction", **posting("0.01")} for _ in range(500)]
    assert ada.post(f"{base}/commands", {"commands": lines}).status_code == 202


def test_what_was_accepted_is_never_gone(ada: Client, base: str, ledger: str) -> None:
    """Accepted, then nowhere to be found. (Restarts in between are in test_crashes.py.)"""
    busy(ada, base)
    accepted = [ada.post(f"{base}/transactions", posting("0.01")) for _ in range(20)]
    assert [answer.status_code for answer in accepted] == [202] * 20
    jobs = [answer.json()["id"] for answer in accepted]
    for job in jobs:
        shown, made = ada.get(f"/v1/jobs/{job}"), ada.get(f"{base}/transactions/{job}")
        assert (shown.status_code, made.status_code) == (200, 200)
        assert made.json()["status"] in ("accepted", "posted")
    assert {ada.outcome(job)["status"] for job in jobs} == {"succeeded"}
    applied = [event["command"] for event in ada.journal(ledger)]
    assert [applied.count(job) for job in jobs] == [1] * 20


@pytest.mark.parametrize(
    ("verb", "status", "again"),
    [
        ("capture", "captured", "transaction_not_pending"),
        ("void", "voided", "transaction_not_pending"),
        ("reverse", "posted", "already_reversed"),
    ],
)
def test_what_is_not_applied_yet_can_be_ended(ada: Client, base: str, verb: str, status: str, again: str) -> None:
    """404 for a capture or a cancellation that came too fast."""
    busy(ada, base)
    accepted = ada.post(f"{base}/transactions", paying("1", pending=verb != "reverse"))
    sent = [ada.post(f"{base}/transactions/{accepted.json()['id']}/{verb}") for _ in range(2)]
    assert [answer.status_code for answer in (accepted, *sent)] == [202] * 3, sent[0].text
    first, second = (ada.outcome(answer.json()["id"]) for answer in sent)
    assert (first["status"], second["status"], second["problem"]["code"]) == ("succeeded", "rejected", again)
    assert ada.read(f"{base}/transactions/{accepted.json()['id']}")["status"] == status


def test_a_hold_that_was_refused_can_not_be_captured(ada: Client, base: str) -> None:
    """A refused hold that could be committed all the same."""
    before = available(ada, base), available(ada, base, "wallets:bob")
    busy(ada, base)
    held = ada.post(f"{base}/transactions", paying("100000", pending=True))
    path = f"{base}/transactions/{held.json()['id']}"
    # sent while it waits, and once more when it is known to be refused
    early = [ada.post(f"{path}/{verb}") for verb in ("capture", "void", "reverse")]
    assert [answer.status_code for answer in early] == [202] * 3
    assert ada.outcome(held.json()["id"])["problem"]["code"] == "insufficient_funds"
    outcomes = [ada.outcome(answer.json()["id"]) for answer in early]
    assert [(job["status"], job["problem"]["code"]) for job in outcomes] == [("rejected", "not_found")] * 3
    late = [ada.post(f"{path}/{verb}", prefer=WAIT) for verb in ("capture", "void", "reverse")]
    assert [(answer.status_code, answer.json()["code"]) for answer in late] == [(404, "not_found")] * 3
    gone = ada.get(path)
    assert (gone.status_code, gone.json()["code"], gone.json()["job"]) == (404, "not_found", held.json()["id"])
    assert available(ada, base, "wallets:bob") == before[1]
    assert float(available(ada, base)) == pytest.approx(float(before[0]) + 5)


def test_holds_count_when_money_is_spent(ada: Client) -> None:
    """Funds that were checked against the balance, while most of it was held."""
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob'), least='0')}"
    ada.done(f"{base}/transactions", posting("100"))
    ada.done(f"{base}/transactions", paying("80", pending=True))
    for body in (paying("20.01"), paying("20.01", pending=True)):
        answer = ada.post(f"{base}/transactions", body, prefer=WAIT)
        assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_funds")
        assert answer.json()["detail"] == "wallets:alice has 20.00 USD available; 20.01 needed."
        assert answer.json()["errors"] == [{"pointer": "#/postings/0", "detail": "wallets:alice"}]
    # Bob was promised 80 and has none of them
    back = posting("0.01", "wallets:bob", "wallets:alice")
    answer = ada.post(f"{base}/transactions", back, prefer=WAIT)
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_funds")
    ada.done(f"{base}/transactions", paying("20"))
    assert (available(ada, base), available(ada, base, "wallets:bob")) == ("0.00", "20.00")


def test_promised_money_counts_against_the_most_that_may_be_there(ada: Client) -> None:
    """Limits that holds could go past, one by one."""
    base = f"/v1/ledgers/{open_books(ada)}"
    limited = {"name": "wallets:capped", "currency": "USD", "type": "liability", "max_balance": "10"}
    ada.done(f"{base}/accounts", limited)
    held = ada.done(f"{base}/transactions", posting("6", credit="wallets:capped", pending=True))
    for pending in (True, False):
        body = posting("4.01", credit="wallets:capped", pending=pending)
        answer = ada.post(f"{base}/transactions", body, prefer=WAIT)
        assert (answer.status_code, answer.json()["code"]) == (409, "max_balance_exceeded")
    ada.done(f"{base}/transactions", posting("4", credit="wallets:capped"))
    answer = ada.post(f"{base}/transactions/{held['id']}/capture", prefer=WAIT)
    assert (answer.status_code, answer.json()["status"]) == (200, "captured")
    assert ada.read(f"{base}/accounts/wallets:capped")["balance"] == "10.00"


def test_a_refund_is_made_once(ada: Client, base: str) -> None:
    """Refunded twice, by two requests at the same time."""
    before = available(ada, base)
    paid = ada.done(f"{base}/transactions", paying("7"))
    path = f"{base}/transactions/{paid['id']}/reverse"
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ada.post(path, prefer=WAIT, idempotency_key=fresh("key")), range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"already_reversed"}
    assert available(ada, base) == before


def test_a_refund_is_repeated_under_its_key(ada: Client, base: str) -> None:
    """Refunded twice, by a client that lost the first answer."""
    paid, key = ada.done(f"{base}/transactions", paying("7")), fresh("key")
    path = f"{base}/transactions/{paid['id']}/reverse"
    answers = [ada.post(path, prefer=WAIT, idempotency_key=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json() and answers[1].headers["idempotent-replayed"] == "true"


def test_transactions_are_found_by_account_and_by_date(ada: Client) -> None:
    """No way to ask for one account's, or one month's."""
    base = f"/v1/ledgers/{open_books(ada, ('wallets:alice', 'wallets:bob'))}"
    dates = [f"2020-0{month}-01T00:00:00.000000Z" for month in (1, 2, 3)]
    ids = [ada.done(f"{base}/transactions", posting(effective_at=date))["id"] for date in dates]
    held = ada.done(f"{base}/transactions", paying("1", pending=True, effective_at=dates[1]))["id"]

    def found(query: str) -> list[str]:
        return [item["id"] for item in ada.read(f"{base}/transactions?{query}")["items"]]

    assert found(f"account=assets:bank&from={dates[0]}&to={dates[2]}") == [ids[1], ids[0]]
    assert found(f"account=wallets:alice&from={dates[1]}&to={dates[2]}") == [held, ids[1]]
    assert found("account=wallets:bob") == found("status=pending") == [held]
    assert found(f"account=wallets:bob&to={dates[1]}") == []


def test_one_refusal_in_bulk_fails_alone(ada: Client, base: str) -> None:
    """A bulk request that stopped at its first refusal, or failed as a whole."""
    held = ada.done(f"{base}/transactions", paying("5", pending=True))["id"]
    lines: list[Json] = [
        {"kind": "post_transaction", **paying("100000")},
        {"kind": "capture_transaction", "transaction": held, "amount": "6"},
        {"kind": "capture_transaction", "transaction": held, "amount": "5"},
        {"kind": "reverse_transaction", "transaction": held},
        {"kind": "reverse_transaction", "transaction": held},
        {"kind": "freeze_account", "account": "wallets:nobody"},
        {"kind": "post_transaction", **posting("1")},
    ]
    answer = ada.post(f"{base}/commands", {"commands": lines}, prefer=WAIT)
    assert answer.status_code == 200, answer.text
    batch = answer.json()
    assert (batch["counts"]["succeeded"], batch["counts"]["rejected"], batch["refusals_total"]) == (3, 4, 4)
    assert [(refusal["index"], refusal["problem"]["code"]) for refusal in batch["refusals"]] == [
        (0, "insufficient_funds"),
        (1, "capture_exceeds_hold"),
        (4, "already_reversed"),
        (5, "not_found"),
    ]
