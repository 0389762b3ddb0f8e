"""Whom nothing was granted sees what does not exist: the same bytes on every route."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from tests.e2e.client import Client, Json, fresh, open_books, posting

ROUTES_OF_OTHERS = ("{ledger}", "{job}", "{batch}")
VOLATILE = ("date",)

BODIES: Mapping[str, Json] = {
    "/accounts": {"name": "wallets:eve", "currency": "USD", "type": "liability"},
    "/currencies": {"code": "POINTS", "scale": 0},
    "/transactions": posting(),
    "/commands": {"commands": [{"kind": "post_transaction", **posting()}]},
}


@pytest.fixture(scope="module")
def adas(ada: Client) -> Mapping[str, str]:
    """Ids of things that are Ada's."""
    ledger = open_books(ada)
    job = ada.post(f"/v1/ledgers/{ledger}/transactions", posting()).json()["id"]
    lines = {"commands": [{"kind": "post_transaction", **posting()}]}
    batch = ada.post(f"/v1/ledgers/{ledger}/commands", lines).json()["batch"]
    assert ada.batch(batch)["done"]
    return {"ledger": ledger, "job": job, "batch": batch, "transaction": job, "account": "wallets:alice"}


@pytest.fixture(scope="module")
def nobodys(adas: Mapping[str, str]) -> Mapping[str, str]:
    """Ids as long as Ada's of which nothing exists."""
    gone = {name: f"00000000-0000-7000-8000-{number:012}" for number, name in enumerate(("job", "batch"))}
    return {"ledger": fresh(), **gone, "transaction": gone["job"], "account": "wallets:nobody"[: len("wallets:alice")]}


def routes(client: Client) -> list[tuple[str, str]]:
    """Every method and path that names a ledger, a job or a batch, as the API describes itself."""
    paths = client.read("/openapi.json")["paths"]
    return [
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if any(name in path for name in ROUTES_OF_OTHERS)
    ]


def ask(client: Client, method: str, path: str, ids: Mapping[str, str], body: object) -> httpx.Response:
    headers = {"x-correlation-id": "the-same", "prefer": "wait=1"}
    return client.http.request(method, path.format(**ids), json=body, headers=headers)


def seen(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, dict[str, str], str]:
    """All there is to see of an answer, but for the ids that were asked for."""
    text = answer.text
    for name, value in ids.items():
        text = text.replace(value, f"<{name}>")
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE and "limit" not in name}
    return answer.status_code, headers, text


def test_a_stranger_gets_the_same_bytes_as_for_what_does_not_exist(
    ada: Client, eve: Client, adas: Mapping[str, str], nobodys: Mapping[str, str]
) -> None:
    before = ada.read(f"/v1/ledgers/{adas['ledger']}")
    tested = routes(ada)
    assert len(tested) >= 15
    for method, path in tested:
        # values that are wrong are not looked at before the grant is
        bodies = [None] if method == "GET" else [BODIES["/" + path.rpartition("/")[2]], {}]
        for body in bodies:
            one, other = (ask(eve, method, path, ids, body) for ids in (adas, nobodys))
            assert one.status_code == 404, (method, path, body, one.text)
            assert one.json()["code"] == "not_found"
            assert seen(one, adas) == seen(other, nobodys), (method, path, body)
            mine = ask(ada, method, path, adas, body)
            assert mine.status_code in ((200,) if method == "GET" else (200, 201, 202, 409, 422)), (method, path)
    posted = ada.read(f"/v1/ledgers/{adas['ledger']}")["seq"] - before["seq"]
    # what Ada herself has just sent, and nothing of Eve's: an account, a currency, a transaction, a line in bulk
    assert posted == len(BODIES)


def test_lists_show_a_stranger_nothing(eve: Client, adas: Mapping[str, str], nobodys: Mapping[str, str]) -> None:
    assert eve.read("/v1/ledgers")["items"] == []
    for ids in (adas, nobodys):
        assert eve.get(f"/v1/jobs?ledger={ids['ledger']}").content == b'{"items":[],"next":null}'
    assert eve.read("/v1/jobs")["items"] == []


def test_an_operator_sees_jobs_and_no_ledger(olga: Client, adas: Mapping[str, str]) -> None:
    assert olga.read(f"/v1/jobs/{adas['job']}")["id"] == adas["job"]
    assert olga.read(f"/v1/batches/{adas['batch']}")["id"] == adas["batch"]
    for path in ("", "/accounts", "/transactions", f"/transactions/{adas['job']}", "/balances", "/journal"):
        assert olga.get(f"/v1/ledgers/{adas['ledger']}{path}").status_code == 404
    assert olga.post("/v1/ledgers", {"id": fresh(), "name": "No"}).status_code == 403
