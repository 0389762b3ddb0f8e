"""The service answers as its description says: thousands of requests that are made from it, right ones and wrong."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest

from tests.conftest import temporary_state
from tests.e2e.client import posting, yearly
from tests.e2e.exploring import Explorer, Report
from tests.e2e.people import Town, a_town
from tests.stack import running_stack

SEED = 20_260_131
LEAST = 5_000

# Nobody is told to come back later.
UNLIMITED = {
    f"DAYBOOK_{limit}": "1000000"
    for limit in (
        *("LOGIN_RATE_ADDRESS", "LOGIN_RATE_ACCOUNT", "REQUEST_RATE_ADDRESS"),
        *("REQUEST_RATE_USER", "REQUEST_RATE_OPERATOR", "REQUEST_RATE_ADMIN"),
    )
}


@dataclass(frozen=True)
class Plan:
    """What one process does, one after the other: who explores, with how many examples, and in which phases."""

    steps: tuple[tuple[Explorer, int, tuple[str, ...]], ...]

    def carry_out(self) -> list[Report]:
        return [explorer.explore(SEED, examples, *phases) for explorer, examples, phases in self.steps]


@pytest.fixture(scope="module")
def plans() -> Iterator[list[Plan]]:
    """A product of its own, without limits on requests, and in it the ledger that the description's examples name."""
    with temporary_state() as state, running_stack(state, environment=UNLIMITED) as stack, a_town(stack) as town:
        admin = town.admin
        open_acme(town)
        writer, operator, guest = town.add(), town.add("operator"), town.add()
        town.grant("acme", writer, "writer")
        asking = town.enter(writer)
        key = asking.post("/v1/api-keys", {"name": "books", "scopes": ["ledger:read", "ledger:write"]}).json()
        spare = admin.post("/v1/api-keys", {"name": "spare", "scopes": ["ledger:read"]}).json()
        transaction = admin.done("/v1/ledgers/acme/transactions", posting())["id"]
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        names = {
            "ledger": ["acme"],
            "account": ["assets:bank", "wallets:alice"],
            "transaction": [transaction],
            "job": [transaction],
            "batch": [admin.post("/v1/ledgers/acme/commands", lines).json()["batch"]],
            "export": [admin.post("/v1/ledgers/acme/exports", {"what": "journal", "format": "csv"}).json()["id"]],
            "schedule": [admin.done("/v1/ledgers/acme/schedules", yearly())["id"]],
            "user": [town.add().id],
            "key": [spare["id"]],
        }
        clients = (admin, asking, town.enter(operator))
        sessions = [one["id"] for client in clients for one in client.read("/auth/sessions")["items"]]
        spared = frozenset((admin.read("/auth/me")["id"], writer.id, operator.id, guest.id, key["id"], *sessions))
        tokens = [client.http.headers["authorization"][7:] for client in clients]

        def explorer(*tokens: str | None) -> Explorer:
            return Explorer(stack.connection["api"], tokens, names, spared, guest)

        every, edges = ("examples", "coverage", "fuzzing", "stateful"), ("coverage",)
        yield [
            Plan(((explorer(tokens[0]), 3, every),)),
            Plan(((explorer(tokens[1], key["secret"], tokens[2], None), 1, edges),)),
        ]


def open_acme(town: Town) -> None:
    town.admin.done("/v1/ledgers", {"id": "acme", "name": "Acme Ltd"})
    for account in (
        {"name": "assets:bank", "currency": "USD", "type": "asset"},
        {"name": "wallets:alice", "currency": "USD", "type": "liability", "min_balance": "0"},
    ):
        town.admin.done("/v1/ledgers/acme/accounts", account)


def test_every_answer_is_described(plans: list[Plan]) -> None:
    """An administrator tries everything in every way, and at the same time others, in turn, what is at the edges."""
    with ProcessPoolExecutor(len(plans), multiprocessing.get_context("spawn")) as pool:
        reports = [report for reports in pool.map(Plan.carry_out, plans) for report in reports]
    for report in reports:
        print(report)
        assert not report.errors, report
        assert not report.failures, report
        assert not [status for status in report.statuses if status >= 500], report
    assert sum(report.sent for report in reports) >= LEAST, reports
