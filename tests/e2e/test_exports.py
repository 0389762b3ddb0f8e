"""Exports through the running product: asked for, awaited, downloaded, forgotten; a worker that dies delays them."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import pytest

from tests.conftest import run_sql
from tests.e2e.client import PATIENCE_S, Client, Json, fresh, open_books, posting
from tests.stack import Stack, wait_for


@pytest.fixture(scope="module")
def books(ada: Client) -> str:
    """A ledger with five transactions."""
    ledger = open_books(ada)
    lines = [{"kind": "post_transaction", **posting(f"{number}.00")} for number in range(1, 6)]
    batch = ada.post(f"/v1/ledgers/{ledger}/commands", {"commands": lines}).json()["batch"]
    assert ada.batch(batch)["counts"]["succeeded"] == 5
    return ledger


def made(client: Client, ledger: str, body: Json) -> Json:
    return client.done(f"/v1/ledgers/{ledger}/exports", body)


def test_the_journal_is_downloaded_as_it_is(ada: Client, books: str) -> None:
    export = made(ada, books, {"what": "journal", "format": "ndjson"})
    assert (export["status"], export["progress"]) == ("succeeded", {"done": export["seq"], "total": export["seq"]})
    answer = ada.get(export["links"]["download"])
    assert answer.content == ada.get(f"/v1/ledgers/{books}/journal?limit=1000").content
    assert len(answer.content) == export["size"]
    assert f'filename="{books}-journal-{export["seq"]}.ndjson"' in answer.headers["content-disposition"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_statement_ends_with_the_balance(ada: Client, books: str) -> None:
    export = made(ada, books, {"what": "statement", "format": "csv", "account": "wallets:alice"})
    rows = list(csv.DictReader(io.StringIO(ada.get(export["links"]["download"]).text)))
    assert len(rows) == export["progress"]["done"]
    assert rows[-1]["balance"] == ada.read(f"/v1/ledgers/{books}/accounts/wallets:alice")["balance"]
    assert all(int(one["seq"]) < int(next_one["seq"]) for one, next_one in pairwise(rows))


def test_an_export_shows_the_ledger_as_it_was_when_asked_for(ada: Client, books: str) -> None:
    export = made(ada, books, {"what": "ledger", "format": "hledger"})
    ada.done(f"/v1/ledgers/{books}/transactions", posting())
    again = made(ada, books, {"what": "ledger", "format": "hledger"})
    assert again["seq"] == export["seq"] + 1
    one, other = (ada.get(which["links"]["download"]).text for which in (export, again))
    assert other.count("transaction:") == one.count("transaction:") + 1


def test_exports_are_listed_and_forgotten(ada: Client, books: str) -> None:
    export = made(ada, books, {"what": "journal", "format": "parquet"})
    path = f"/v1/ledgers/{books}/exports"
    assert ada.read(f"{path}?limit=1")["items"][0] == export == ada.read(f"{path}/{export['id']}")
    assert ada.http.delete(f"{path}/{export['id']}").status_code == 204
    for gone in (export["links"]["self"], export["links"]["download"]):
        assert ada.get(gone).status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"what": "journal", "format": "beancount"}, "#/format"),
        ({"what": "ledger", "format": "csv"}, "#/format"),
        ({"what": "statement", "format": "csv"}, "#/account"),
        ({"what": "journal", "format": "csv", "account": "a"}, "#/account"),
        ({"what": "journal", "format": "csv", "to": "2026-01-01T00:00:00Z"}, "#/to"),
        ({"what": "everything", "format": "csv"}, "#/what"),
    ],
)
def test_what_makes_no_file_is_refused_at_once(ada: Client, books: str, body: Json, pointer: str) -> None:
    answer = ada.post(f"/v1/ledgers/{books}/exports", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_an_account_that_is_not_there_makes_no_file(ada: Client, books: str) -> None:
    export = made(ada, books, {"what": "statement", "format": "csv", "account": fresh()})
    assert (export["status"], export["links"]["download"]) == ("failed", None)
    assert export["problem"].startswith("There is no account")
    assert ada.get(f"{export['links']['self']}/download").status_code == 404


def test_one_that_nobody_was_woken_for_is_found(stack: Stack, ada: Client, books: str) -> None:
    """As after the death of its worker: its lease has run out, and no message is on the way."""
    export = made(ada, books, {"what": "journal", "format": "csv"})
    content = ada.get(export["links"]["download"]).content
    lost = f"""UPDATE exports SET status = 'running', finished_at = NULL, expires_at = NULL,
        leased_until = clock_timestamp() - interval '1 second' WHERE id = '{export["id"]}'"""
    run_sql(stack.connection["database_url"], lost)
    wait_for(
        lambda: ada.read(export["links"]["self"])["status"] == "succeeded", seconds=PATIENCE_S, what="the file again"
    )
    assert ada.get(export["links"]["download"]).content == content
