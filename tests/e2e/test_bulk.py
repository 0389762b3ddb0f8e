"""Atomic batches end to end: all of them or none, in order, however wide they are."""

from __future__ import annotations

import json
from dataclasses import fields

import httpx

from infrastructure.settings import Settings
from tests.e2e.client import PATIENCE_S, Client, Json, open_books, posting

WAIT = f"wait={PATIENCE_S}"
WIDE = {each.name: each.default for each in fields(Settings)}["turn_commands"] + 1
"""More than a turn takes otherwise."""
MANY = 150


def batch(credits: list[str]) -> Json:
    """An atomic one that pays a cent to each."""
    return {
        "commands": [{"kind": "post_transaction", **posting("0.01", credit=name)} for name in credits],
        "atomic": True,
    }


def turn_of(client: Client, job: str) -> Json:
    """Which turn took the job, as the stream of its events says."""
    steps = [block.split("\n") for block in client.get(f"/v1/jobs/{job}/events").text.split("\n\n")]
    (data,) = [lines[2] for lines in steps if "event: turn" in lines]
    found: Json = json.loads(data.removeprefix("data: "))
    return found


def awaited(client: Client, ledger: str, body: Json, key: str, replayed: bool = False) -> Json:
    answer: httpx.Response = client.post(f"/v1/ledgers/{ledger}/commands", body, prefer=WAIT, idempotency_key=key)
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait"), answer.text
    assert ("idempotent-replayed" in answer.headers) is replayed
    content: Json = answer.json()
    assert (content["done"], content["atomic"]) == (True, True)
    assert answer.headers["location"] == f"/v1/batches/{content['id']}" and "daybook-job" not in answer.headers
    assert client.read(f"/v1/batches/{content['id']}") == content
    return content


def test_all_of_a_batch_wider_than_a_turn_is_applied_by_one_turn_in_its_place(ada: Client) -> None:
    ledger = open_books(ada)
    path = f"/v1/ledgers/{ledger}"
    before = ada.post(f"{path}/transactions", posting()).json()["id"]
    body = batch(["wallets:alice"] * WIDE)
    accepted = ada.post(f"{path}/commands", body, idempotency_key="wide")
    after = ada.post(f"{path}/transactions", posting()).json()["id"]
    assert accepted.status_code == 202, accepted.text
    jobs = accepted.json()["jobs"]
    done = awaited(ada, ledger, body, "wide", replayed=True)
    assert (done["id"], done["total"], done["counts"]["succeeded"]) == (accepted.json()["batch"], WIDE, WIDE)
    assert ada.outcome(after)["status"] == "succeeded"
    events = ada.journal(ledger)[3:]
    assert [event["command"] for event in events] == [before, *jobs, after]
    assert len({event["recorded_at"] for event in events[1:-1]}) == 1
    first, last = (turn_of(ada, job) for job in (jobs[0], jobs[-1]))
    assert first["turn"] == last["turn"] and last["seq"] - first["seq"] == WIDE - 1
    assert ada.read(f"{path}/accounts/wallets:alice")["balance"] == f"{2 + WIDE / 100:.2f}"


def test_nothing_of_a_batch_is_applied_if_its_last_command_is_refused(ada: Client) -> None:
    ledger = open_books(ada)
    path = f"/v1/ledgers/{ledger}"
    ada.done(f"{path}/transactions", posting())
    before = [ada.journal(ledger), ada.read(f"{path}/balances"), ada.read(f"{path}/transactions")]
    body = batch([*["wallets:alice"] * MANY, "wallets:nobody"])
    refused = awaited(ada, ledger, body, "lost")
    assert (refused["counts"]["rejected"], refused["refusals_total"]) == (MANY + 1, MANY + 1)
    again = ada.post(f"{path}/commands", body, idempotency_key="lost").json()
    assert again["batch"] == refused["id"]
    culprit = again["jobs"][-1]
    assert ada.read(f"/v1/jobs/{culprit}")["problem"]["code"] == "account_not_found"
    assert [each["job"] for each in refused["refusals"]] == again["jobs"][:100]
    problems = [each["problem"] for each in refused["refusals"]]
    assert {(each["code"], each["status"], each["caused_by"]) for each in problems} == {
        ("batch_rejected", 409, culprit)
    }
    for job in (again["jobs"][0], culprit):
        missing = ada.get(f"{path}/transactions/{job}")
        assert (missing.status_code, missing.json()["job"]) == (404, job)
    assert [ada.journal(ledger), ada.read(f"{path}/balances"), ada.read(f"{path}/transactions")] == before
    # the key is that request's, whatever became of it
    other = ada.post(f"{path}/commands", batch(["wallets:alice"]), idempotency_key="lost")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert awaited(ada, ledger, batch(["wallets:alice"]), "found")["counts"]["succeeded"] == 1
