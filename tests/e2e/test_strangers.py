"""Whom nothing was granted sees what does not exist: the same bytes and times on every route, and no content."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import httpx
import pytest

from tests.e2e.client import PATIENCE_S, Client, Json, fresh, open_books, posting, yearly
from tests.e2e.digests import digest
from tests.e2e.operations import BODIES, Operation, operations, sent
from tests.e2e.people import Person, Town, a_town, log_in
from tests.stack import Stack

CANARY = "canary"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
# Dates differ, and so does how often one may still ask. What remains are all other headers, in their order.
VOLATILE = ("date", "ratelimit", "ratelimit-policy")
WAIT = f"wait={PATIENCE_S}"


class Things(NamedTuple):
    """Ids of things that are there, and of as many that are not; each pair of the same length."""

    real: Mapping[str, str]
    absent: Mapping[str, str]
    key: str
    etag: str


@pytest.fixture(scope="module")
def town(stack: Stack) -> Iterator[Town]:
    with a_town(stack) as town:
        yield town


@pytest.fixture(scope="module")
def ada(town: Town) -> Client:
    """Whose ledger it is."""
    return town.newcomer()


@pytest.fixture(scope="module")
def eve(town: Town) -> Client:
    """Who has books of her own, and none of Ada's."""
    return town.newcomer()


@pytest.fixture(scope="module")
def olga(town: Town) -> Client:
    """An operator."""
    return town.newcomer("operator")


@pytest.fixture(scope="module")
def eves(eve: Client) -> str:
    return open_books(eve)


@pytest.fixture(scope="module")
def things(town: Town, ada: Client) -> Things:
    """Ada's books, with canaries wherever a client may write something."""
    ledger, key = fresh(), fresh("key")
    base, metadata = f"/v1/ledgers/{ledger}", {f"{CANARY}-name": f"{CANARY}-value"}
    ada.done("/v1/ledgers", {"id": ledger, "name": f"{CANARY} books", "metadata": metadata})
    ada.done(f"{base}/currencies", {"code": CANARY.upper(), "scale": 2})
    for name in (f"{CANARY}:bank", "wallets:alice"):
        opening = {"name": name, "currency": CANARY.upper(), "type": "liability", "metadata": metadata}
        ada.done(f"{base}/accounts", opening)
    paid = posting(
        "666.66",
        f"{CANARY}:bank",
        "wallets:alice",
        reference=f"{CANARY}-reference",
        description=f"{CANARY} paid",
        metadata=metadata,
    )
    posted = ada.post(f"{base}/transactions", paid, prefer=WAIT, idempotency_key=key)
    assert posted.status_code == 201, posted.text
    etag = ada.get(f"{base}/transactions/{posted.json()['id']}").headers["etag"]
    lines = {"commands": [{"kind": "post_transaction", "label": CANARY, **posting(credit=f"{CANARY}:nobody")}]}
    batch = ada.post(f"{base}/commands", lines, idempotency_key=f"{key}-bulk").json()["batch"]
    assert ada.batch(batch)["counts"]["rejected"] == 1
    job = posted.headers["daybook-job"]
    real = {"ledger": ledger, "account": "wallets:alice", "transaction": job, "job": job, "batch": batch}
    repeated = {"kind": "post_transaction", **paid, "reference": f"{CANARY}-repeated"}
    real["schedule"] = ada.done(f"{base}/schedules", {**yearly(), "command": repeated})["id"]
    asked = {"what": "journal", "format": "csv"}
    real["export"] = ada.post(f"{base}/exports", asked, prefer=WAIT).json()["id"]
    real["user"] = ada.read("/auth/me")["id"]
    # not the one that she uses: the newest
    log_in(town.visitor(), Person(real["user"], ada.username, ada.password, ("user",)))
    real["session"] = ada.read("/auth/sessions")["items"][0]["id"]
    real["key"] = ada.post("/v1/api-keys", {"name": CANARY, "scopes": ["ledger:read"]}).json()["id"]
    nothing = "00000000-0000-7000-8000-00000000000{}"
    absent = {name: nothing.format(number) for number, name in enumerate(real)}
    absent |= {"ledger": fresh(), "account": "wallets:nobod", "transaction": absent["job"]}
    return Things(real, absent, key, etag)


# -- the same bytes ---------------------------------------------------------------------------------------------------


class Variation(NamedTuple):
    """A way to ask: what is added to the path, the headers, and the body made from the operation's own."""

    query: str = ""
    headers: Mapping[str, str] = {}
    content: Callable[[bytes], bytes] = lambda valid: valid


JSON = {"content-type": "application/json"}


def variations(things: Things) -> Mapping[str, Variation]:
    return {
        "plain": Variation(headers=JSON),
        "waiting": Variation(headers={**JSON, "prefer": "wait=1"}),
        "under the owner's key": Variation(headers={**JSON, "idempotency-key": things.key}),
        "with the real ETag": Variation(headers={**JSON, "if-none-match": things.etag}),
        "at a version that is there": Variation("?min_version=1", JSON),
        "at a version that is not": Variation("?min_version=999999", JSON),
        "with an unknown parameter": Variation("?owner=me", JSON),
        "values that are wrong": Variation(headers=JSON, content=lambda _: b"{}"),
        "syntax that is wrong": Variation(headers=JSON, content=lambda _: b'{"a":'),
        "no JSON": Variation(headers={"content-type": "text/plain"}),
        "compressed": Variation(headers={**JSON, "content-encoding": "gzip"}),
    }


def ask(client: Client, operation: Operation, how: Variation, ids: Mapping[str, str], body: Json) -> httpx.Response:
    valid = client.http.build_request("POST", "/", json=body).content
    has_body = operation.method in ("POST", "PUT", "PATCH")
    return sent(
        client.http,
        operation.method,
        operation.path.format(**ids) + how.query,
        headers={"x-correlation-id": "the-same", **how.headers},
        content=how.content(valid) if has_body else None,
    )


def seen(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, list[tuple[str, str]], str]:
    """All there is to see of an answer, but for the ids that were asked for."""

    def masked(text: str) -> str:
        for name, value in ids.items():
            text = text.replace(value, f"<{name}>")
        return text

    headers = [(name, masked(value)) for name, value in answer.headers.multi_items() if name not in VOLATILE]
    return answer.status_code, headers, masked(answer.text)


def foreign(client: Client, things: Things) -> list[Operation]:
    """Every operation that names something, and on the same paths every other method there is."""
    described = operations(client.http)
    paths = {operation.path for operation in described if operation.names}
    assert len(paths) >= 12
    assert all(operation.names <= set(things.real) for operation in described), "nobody knows what these are about"
    return [Operation(method, path) for path in sorted(paths) for method in METHODS]


def denial(operation: Operation) -> str:
    """Users are an administrator's business, whether there is one of that id or not."""
    return "forbidden" if operation.path.startswith("/v1/users/") else "not_found"


def test_a_stranger_gets_the_same_bytes_as_for_what_does_not_exist(
    stack: Stack, eve: Client, eves: str, things: Things
) -> None:
    described, before = operations(eve.http), digest(stack)
    in_real_ledger = {**things.absent, "ledger": things.real["ledger"]}
    for operation in foreign(eve, things):
        body = BODIES.get(str(operation), dict)()
        for name, how in variations(things).items():
            absent = ask(eve, operation, how, things.absent, body)
            for ids in (things.real, in_real_ledger) if operation.names != {"ledger"} else (things.real,):
                answer = ask(eve, operation, how, ids, body)
                assert seen(answer, ids) == seen(absent, things.absent), (str(operation), name, ids)
            if operation not in described:
                break
            if name not in ("syntax that is wrong", "no JSON", "compressed"):
                assert absent.json()["code"] == denial(operation), (str(operation), name, absent.text)
    assert digest(stack) == before


def test_an_operator_sees_jobs_and_of_ledgers_what_does_not_exist(olga: Client, things: Things) -> None:
    assert olga.read(f"/v1/jobs/{things.real['job']}")["id"] == things.real["job"]
    assert olga.read(f"/v1/batches/{things.real['batch']}")["id"] == things.real["batch"]
    for operation in operations(olga.http):
        if "ledger" in operation.names:
            how, body = Variation(headers=JSON), BODIES.get(str(operation), dict)()
            one, other = (ask(olga, operation, how, ids, body) for ids in (things.real, things.absent))
            assert one.status_code == 404 and seen(one, things.real) == seen(other, things.absent), str(operation)


def test_an_api_key_for_other_books_is_a_stranger_whosever_it_is(town: Town, ada: Client, things: Things) -> None:
    bounds = {"name": "other books", "scopes": ["ledger:read", "ledger:write"], "ledgers": [open_books(ada)]}
    http = town.visitor()
    http.headers["authorization"] = f"Bearer {ada.post('/v1/api-keys', bounds).json()['secret']}"
    machine, how = Client(http, "", ""), Variation(headers=JSON)
    for operation in operations(http):
        if {"ledger", "job", "batch"} & operation.names:
            body = BODIES.get(str(operation), dict)()
            one, other = (ask(machine, operation, how, ids, body) for ids in (things.real, things.absent))
            assert one.status_code == 404 and seen(one, things.real) == seen(other, things.absent), str(operation)


def test_in_books_of_ones_own_what_is_in_others_does_not_exist(eve: Client, eves: str, things: Things) -> None:
    for path in ("accounts/{account}", "transactions/{transaction}"):
        real, absent = ({**ids, "account": f"{CANARY}:bank"[: len(ids["account"])]} for ids in things[:2])
        one = eve.get(f"/v1/ledgers/{eves}/{path.format(**real)}", x_correlation_id="the-same")
        other = eve.get(f"/v1/ledgers/{eves}/{path.format(**absent)}", x_correlation_id="the-same")
        assert one.status_code == 404 and seen(one, real) == seen(other, absent)
    for query in (f"reference={CANARY}-reference", f"account={CANARY}:bank", "reference=nothing"):
        assert eve.get(f"/v1/ledgers/{eves}/transactions?{query}").content == b'{"items":[],"next":null}'


def test_a_foreign_account_in_a_transaction_of_ones_own_does_not_exist(eve: Client, eves: str, things: Things) -> None:
    refusals = []
    for account in (f"{CANARY}:bank", "robins:bank"):
        path = f"/v1/ledgers/{eves}/transactions"
        answer = eve.post(path, posting(credit=account), prefer=WAIT, x_correlation_id="the-same")
        job = answer.json()["job"]
        refusals.append(seen(answer, {"account": account, "job": job}))
    assert refusals[0][0] == 422 and refusals[0] == refusals[1]


def test_lists_show_a_stranger_nothing(eve: Client, eves: str, things: Things) -> None:
    assert [ledger["id"] for ledger in eve.read("/v1/ledgers")["items"]] == [eves]
    for ids in (things.real, things.absent):
        assert eve.get(f"/v1/jobs?ledger={ids['ledger']}").content == b'{"items":[],"next":null}'
    assert {job["actor"] for job in eve.read("/v1/jobs?limit=1000")["items"]} == {f"ledger:{eves}"}


# -- no content -------------------------------------------------------------------------------------------------------


def test_a_strangers_whole_transcript_has_nothing_of_anothers_books(town: Town, ada: Client, things: Things) -> None:
    eve, real, transcript = town.newcomer(), things.real, list[str]()
    for operation in operations(eve.http):
        if operation.names:
            body = BODIES.get(str(operation), dict)()
            answers = [ask(eve, operation, how, real, body) for how in variations(things).values()]
        else:
            queries = ("", f"?ledger={real['ledger']}", "?limit=1000", f"?cursor={real['job']}", "?status=rejected")
            answers = [eve.http.request(operation.method, operation.path + query) for query in queries]
        transcript += [f"{answer.headers.multi_items()} {answer.text}" for answer in answers]
    assert len(transcript) > 200
    leaks = [text for text in transcript if CANARY in text.lower() or "666.66" in text or ada.username in text]
    assert leaks == []
    # the canaries are there to be seen
    for path in ("", "/accounts", "/transactions", "/currencies", "/balances", "/journal"):
        assert CANARY in ada.get(f"/v1/ledgers/{real['ledger']}{path}").text.lower()


# -- the same time ----------------------------------------------------------------------------------------------------

TIMED = (
    "GET /v1/ledgers/{ledger}",
    "GET /v1/ledgers/{ledger}/accounts/{account}",
    "GET /v1/ledgers/{ledger}/transactions/{transaction}",
    "GET /v1/ledgers/{ledger}/accounts",
    "POST /v1/ledgers/{ledger}/transactions",
    "GET /v1/jobs/{job}",
    "GET /v1/batches/{batch}",
)


def seconds(client: Client, operation: Operation, ids: Mapping[str, str], content: bytes) -> float:
    path = operation.path.format(**ids)
    began = time.perf_counter()
    answer = client.http.request(operation.method, path, headers=JSON, content=content)
    took = time.perf_counter() - began
    assert answer.status_code == 404
    return took


@pytest.mark.parametrize("name", TIMED)
def test_what_is_anothers_takes_as_long_as_what_does_not_exist(eve: Client, things: Things, name: str) -> None:
    # tests/edge/test_stranger_costs.py proves the same without a clock
    operation = Operation(*name.split(" "))
    body = BODIES[name]() if name in BODIES else {}
    content = eve.http.build_request("POST", "/", json=body).content if name in BODIES else b""
    ratio = 0.0
    for tries in (200, 600, 1_200):
        pairs = [[seconds(eve, operation, ids, content) for ids in things[:2]] for _ in range(tries)]
        real, absent = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = real / absent
        if 1 / 1.15 < ratio < 1.15:
            return
    pytest.fail(f"what is somebody else's takes {ratio:.2f} times as long as what does not exist")


# -- and that there was something to see -------------------------------------------------------------------------------


def test_the_same_requests_reach_their_owner(ada: Client, things: Things) -> None:
    # without this, the tests above would be content with addresses that are misspelt
    # what takes something away comes last
    for operation in sorted(operations(ada.http), key=lambda operation: operation.method == "DELETE"):
        if operation.names and denial(operation) == "not_found":
            answer = ask(ada, operation, Variation(headers=JSON), things.real, BODIES.get(str(operation), dict)())
            # the job is done, and there is nothing to be done about it
            done = answer.status_code == 409 and answer.json()["code"] in ("job_not_cancellable", "job_not_failed")
            assert done or answer.status_code < 300, (str(operation), answer.status_code)
