"""Grants on the running product: let in, put out, and told to whoever follows the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest

from tests.e2e.client import (
    PATIENCE_S,
    Client,
    Json,
    added_user,
    daybook,
    events_in_kafka,
    fresh,
    open_books,
    posting,
    redis_command,
)
from tests.stack import Stack

WAIT = {"prefer": f"wait={PATIENCE_S}"}


def id_of(client: Client) -> str:
    user: str = client.read("/auth/me")["id"]
    return user


def give(owner: Client, ledger: str, user: str, role: str) -> httpx.Response:
    return owner.http.put(f"/v1/ledgers/{ledger}/grants/{user}", json={"role": role}, headers=WAIT)


def take(owner: Client, ledger: str, user: str) -> httpx.Response:
    return owner.http.delete(f"/v1/ledgers/{ledger}/grants/{user}", headers=WAIT)


@pytest.fixture
def bob(stack: Stack) -> Iterator[Client]:
    """Somebody to be let in, with a session of his own."""
    with added_user(stack) as client:
        yield client


def test_a_user_is_let_in_promoted_and_put_out(stack: Stack, ada: Client, bob: Client) -> None:
    ledger, user = open_books(ada), id_of(bob)
    root = f"/v1/ledgers/{ledger}"
    assert bob.get(root).status_code == 404
    given = give(ada, ledger, user, "reader")
    assert (given.status_code, given.json()["username"], given.json()["role"]) == (200, bob.username, "reader")
    assert bob.read(f"{root}/grants")["items"][0] == given.json()
    assert [item["id"] for item in bob.read("/v1/ledgers")["items"]] == [ledger]
    assert bob.post(f"{root}/transactions", posting()).status_code == 403
    assert give(ada, ledger, user, "owner").status_code == 200
    changed = bob.http.patch(root, json={"metadata": {"tier": "gold", "none": None}}, headers=WAIT)
    assert (changed.status_code, changed.json()["metadata"]) == (200, {"tier": "gold"})
    # one owner puts the other out, and is then the last
    assert take(bob, ledger, id_of(ada)).status_code == 204
    assert ada.get(root).status_code == 404
    alone = take(bob, ledger, user)
    assert (alone.status_code, alone.json()["code"]) == (409, "precondition_failed")
    assert give(bob, ledger, id_of(ada), "owner").status_code == 200
    assert take(ada, ledger, user).status_code == 204
    redis_command(stack, "FLUSHALL")
    assert bob.get(root).status_code == 404

    events = ada.journal(ledger)[2:]
    owner = id_of(ada)
    said: list[tuple[str, Json]] = [(event["type"], event["data"]) for event in events if "balances" in event]
    assert [each for each in said if each[0] != "AccountOpened"] == [
        ("AccessGranted", {"user": user, "role": "reader"}),
        ("AccessGranted", {"user": user, "role": "owner"}),
        ("MetadataChanged", {"metadata": {"tier": "gold"}}),
        ("AccessRevoked", {"user": owner}),
        ("AccessGranted", {"user": owner, "role": "owner"}),
        ("AccessRevoked", {"user": user}),
    ]
    messages = events_in_kafka(stack, ledger, len(events) + 2)
    assert [msgspec.json.decode(message.value() or b"")["type"] for message in messages[-6:]] == [
        kind for kind, _ in said[-6:]
    ]
    verified = daybook(stack, "verify", "--ledger", ledger)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_once_it_is_revoked_nobody_is_served_by_it(stack: Stack, ada: Client, bob: Client) -> None:
    ledger, user = open_books(ada), id_of(bob)
    root = f"/v1/ledgers/{ledger}"

    def ask(_: int) -> list[int]:
        with bob.again() as same:
            return [same.get(path).status_code for path in (root, f"{root}/accounts/assets:bank") for _ in range(5)]

    with ThreadPoolExecutor(4) as readers:
        for round_ in range(3):
            assert give(ada, ledger, user, "writer").status_code == 200
            assert {status for seen in readers.map(ask, range(4)) for status in seen} == {200}
            if round_ == 1:
                redis_command(stack, "FLUSHALL")
            assert take(ada, ledger, user).status_code == 204
            assert {status for seen in readers.map(ask, range(4)) for status in seen} == {404}


def test_what_was_sent_behind_the_revocation_is_refused(ada: Client, bob: Client) -> None:
    ledger, user = open_books(ada), id_of(bob)
    root = f"/v1/ledgers/{ledger}"
    assert give(ada, ledger, user, "writer").status_code == 200
    lines = {"commands": [{"kind": "post_transaction", **posting()}] * 500}
    # the mailbox is long enough for the revocation to wait in it while Bob goes on
    before = ada.post(f"{root}/commands", lines).json()["batch"]
    revoked = ada.http.delete(f"{root}/grants/{user}").json()["id"]
    sent = [bob.post(f"{root}/transactions", posting()) for _ in range(10)]
    assert ada.batch(before)["counts"]["succeeded"] == 500
    assert ada.outcome(revoked)["status"] == "succeeded"
    accepted = [answer.json()["id"] for answer in sent if answer.status_code == 202]
    assert {answer.status_code for answer in sent} <= {202, 404}
    for job in accepted:
        outcome = bob.outcome(job)
        assert (outcome["status"], outcome["problem"]["code"]) == ("rejected", "not_found")
    assert bob.post(f"{root}/transactions", posting()).status_code == 404


def test_an_operator_sees_the_job_and_not_what_it_says(ada: Client, olga: Client) -> None:
    ledger = open_books(ada, least="0")
    sent = ada.post(f"/v1/ledgers/{ledger}/transactions", posting("75.00", "wallets:alice", "assets:bank"), **WAIT)
    assert sent.json()["code"] == "insufficient_funds"
    shown = olga.read(f"/v1/jobs/{sent.json()['job']}")
    assert (shown["status"], shown["problem"]["code"]) == ("rejected", "insufficient_funds")
    assert "alice" not in msgspec.json.encode(shown).decode()
    assert give(olga, ledger, id_of(olga), "owner").status_code == 404
    assert olga.http.patch(f"/v1/ledgers/{fresh()}", json={"metadata": {}}).status_code == 404
