"""One correlation id from the request to the log of the API and of the worker, the job, the journal and Kafka."""

from __future__ import annotations

import msgspec

from tests.e2e.client import PATIENCE_S, Client, events_in_kafka, fresh, log_lines, open_books, posting
from tests.stack import Stack, wait_for


def test_one_correlation_id_is_found_everywhere(stack: Stack, ada: Client) -> None:
    ledger, asked = open_books(ada), fresh("trace")
    accepted = ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), x_correlation_id=asked)
    assert accepted.headers["x-correlation-id"] == asked
    job = ada.outcome(accepted.json()["id"])

    event = next(event for event in ada.journal(ledger) if event["seq"] == job["result"]["seq"])
    assert (event["correlation_id"], event["command"]) == (asked, job["id"])

    message = next(
        message
        for message in events_in_kafka(stack, ledger, event["seq"])
        if msgspec.json.decode(message.value() or b"") == event
    )
    headers = dict(message.headers() or [])
    assert headers["ce_correlationid"] == asked.encode()
    assert headers["ce_id"] == f"ledger:{ledger}/1/{event['seq']}".encode()

    def request_logged() -> bool:
        return len(log_lines(stack, "api.1", event="request", correlation_id=asked, status=202)) == 1

    wait_for(request_logged, seconds=PATIENCE_S, what="the API's line")

    def turn_logged() -> bool:
        turns = log_lines(stack, "ledgers.1", event="turn", actor=f"ledger:{ledger}", correlation_id=asked)
        return [turn["correlation_ids"] for turn in turns] == [[asked]]

    wait_for(turn_logged, seconds=PATIENCE_S, what="the worker's line")


def test_a_refusal_keeps_the_id_of_the_request_that_it_answers(ada: Client) -> None:
    ledger, asked = open_books(ada), fresh("trace")
    body = posting(credit="wallets:nobody")
    job = ada.post(f"/v1/ledgers/{ledger}/transactions", body, x_correlation_id=asked).json()["id"]
    found = ada.get(f"/v1/jobs/{job}", prefer="wait=10", x_correlation_id="another")
    assert found.headers["x-correlation-id"] == "another"
    assert found.json()["problem"]["correlation_id"] == asked


def test_each_command_of_a_turn_keeps_its_own_id(stack: Stack, ada: Client) -> None:
    ledger = open_books(ada)
    asked = [fresh("trace") for _ in range(20)]
    jobs = [
        ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), x_correlation_id=name).json()["id"] for name in asked
    ]
    ada.outcome(jobs[-1])
    posted = [event for event in ada.journal(ledger) if event["type"] == "TransactionPosted"]
    assert [(event["command"], event["correlation_id"]) for event in posted] == list(zip(jobs, asked, strict=True))

    def all_logged() -> bool:
        turns = log_lines(stack, "ledgers.1", event="turn", actor=f"ledger:{ledger}")
        return [name for turn in turns for name in turn["correlation_ids"] if name in asked] == asked

    wait_for(all_logged, seconds=PATIENCE_S, what="every id in the worker's lines")
