"""Reads while others write: nobody sees less than was acknowledged, an answer from the cache makes no SQL."""

from __future__ import annotations

import pytest

from tests.conftest import run_sql
from tests.e2e.client import Client, fresh, logged_in, open_books, posting
from tests.e2e.races import race
from tests.stack import Stack

# A statement begun is a new query_start; a connection opened or closed changes the list itself.
STATEMENTS = """
SELECT pid, query_start FROM pg_stat_activity WHERE application_name LIKE 'daybook-api%' ORDER BY pid
"""


@pytest.mark.parametrize("by_version", [False, True], ids=["as it is", "with min_version"])
def test_no_reader_sees_less_than_was_acknowledged(ada: Client, by_version: bool) -> None:
    race(ada, by_version=by_version)


def test_min_version_that_never_comes_is_said_after_a_second(ada: Client) -> None:
    ledger = open_books(ada)
    answer = ada.get(f"/v1/ledgers/{ledger}/accounts/wallets:alice?min_version=999")
    assert (answer.status_code, answer.json()["code"]) == (409, "version_not_reached")
    assert 1 <= answer.elapsed.total_seconds() < 5


def test_answers_from_the_cache_make_no_sql(stack: Stack, ada: Client) -> None:
    ledger = open_books(ada)
    transaction = ada.done(f"/v1/ledgers/{ledger}/transactions", posting())["id"]
    base = f"/v1/ledgers/{ledger}"
    paths = [
        *(f"{base}/accounts/wallets:alice", f"{base}/transactions/{transaction}"),
        *(f"{base}/accounts", f"{base}/transactions?limit=5", f"{base}/balances", f"{base}/trial-balance"),
        *(f"{base}/currencies", base),
    ]
    database = stack.connection["database_url"]
    # a session's entry in Redis lives for a minute: with this one, none ends meanwhile
    with logged_in(stack, ada.username, ada.password) as client:
        first = {path: client.read(path) for path in paths}
        before = run_sql(database, STATEMENTS)
        for path in paths * 13:
            assert client.read(path) == first[path]
        assert run_sql(database, STATEMENTS) == before
        # and this is how it looks when there is one
        client.read(f"{base}/accounts?prefix={fresh()}")
        assert run_sql(database, STATEMENTS) != before


def test_what_one_has_is_not_sent_again(ada: Client) -> None:
    ledger = open_books(ada)
    transaction = ada.done(f"/v1/ledgers/{ledger}/transactions", posting())["id"]
    base = f"/v1/ledgers/{ledger}"
    changing = [
        base,
        *(f"{base}/{name}" for name in ("accounts/wallets:alice", "accounts", "balances", "transactions")),
    ]
    tags = {}
    for path in (*changing, f"{base}/transactions/{transaction}"):
        for _ in range(2):
            tags[path] = ada.get(path).headers["etag"]
            again = ada.get(path, if_none_match=tags[path])
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[path])
            assert ada.get(path, if_none_match=f'"0.0", W/{tags[path]}').status_code == 304
            assert ada.get(path, if_none_match='"1.0"').status_code == 200
    seq = ada.read(base)["seq"]
    assert tags[base] == f'"1.{seq}"'
    ada.done(f"{base}/transactions", posting())
    for path in changing:
        answer = ada.get(path, if_none_match=tags[path])
        assert (answer.status_code, answer.headers["etag"]) == (200, f'"1.{seq + 1}"')
    # the older transaction has not changed
    path = f"{base}/transactions/{transaction}"
    assert ada.get(path, if_none_match=tags[path]).status_code == 304
