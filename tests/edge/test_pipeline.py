"""The five layers, in their order, on every answer there is: over a real socket, from the server the product runs."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urldefrag

import httpx
import pytest
import uvicorn
from litestar import Litestar, get
from uuid_utils.compat import uuid7

import api.app
from api.app import create_app
from api.decoding import BODY_LIMIT, BULK_LIMIT
from domain.errors import CATALOGUE
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Bell, add_user

EVERYWHERE = (
    "x-correlation-id",
    "x-content-type-options",
    "x-frame-options",
    "content-security-policy",
    "referrer-policy",
)
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "correlation_id", "job", "errors"}
PASSWORD = "correct horse battery staple"


@get("/explode", described=False)
async def explode() -> None:
    """Stands for a mistake of ours."""
    raise RuntimeError("secret: SELECT password FROM users")


@dataclass
class Site:
    """A server on a port of its own."""

    port: int
    client: httpx.AsyncClient
    app: Litestar

    async def raw(self, data: bytes) -> httpx.Response:
        """Sends bytes that no client library would, and reads one answer until the connection closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return httpx.Response(int(status.split()[1]), headers=headers, content=body)


class Server(uvicorn.Server):
    """Says when it listens, and leaves this process's signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def a_site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(api.app, "ROUTES", [*api.app.ROUTES, explode])
    monkeypatch.setattr("api.server.load", lambda: settings)
    monkeypatch.setattr("api.recording.open_bell", lambda _: Bell())
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http="api.server:Protocol",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await asyncio.wait({serving, asyncio.ensure_future(server.ready.wait())}, return_when="FIRST_COMPLETED")
            yield Site(port, client, app)
    finally:
        server.should_exit = True
        await serving
        listener.close()


async def login(site: Site, settings: Settings) -> dict[str, str]:
    async with await open_pool(settings, application="test", size=1) as pool:
        await add_user(pool, "ada", PASSWORD, ["user"])
    answer = await site.client.post("/auth/login", json={"username": "ada", "password": PASSWORD})
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def test_the_order() -> None:
    app: Any = object()
    services: Any = type("Nothing", (), {"settings": type("None", (), {"public_url": "", "trusted_proxies": ()})})
    names = [type(layer(app, services)).__name__ for layer in api.app.PIPELINE]
    assert names == ["CorrelationID", "SecurityHeaders", "RateLimit", "Authentication", "Logging"]


@on_a_loop
async def test_every_answer_carries_the_headers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        client, token = site.client, await login(site, settings)
        ledger = {"id": "acme", "name": "Books"}
        as_json = {"content-type": "application/json", **token}

        async def endless() -> AsyncIterator[bytes]:
            for _ in range(BODY_LIMIT // 65_536 + 1):
                yield b" " * 65_536

        answers = {
            "200": await client.get("/health/live"),
            "200 HEAD": await client.head("/health/live"),
            "200 page": await client.get("/docs"),
            "204 OPTIONS": await client.options("/health/live"),
            "202": await client.post("/v1/ledgers", json=ledger, headers=token),
            "204": await client.post("/auth/logout", headers=await _another(site)),
            "400 syntax": await client.post("/v1/ledgers", content=b"{", headers=as_json),
            "400 host": await site.raw(b'GET / HTTP/1.1\r\nHost: "\r\nConnection: close\r\n\r\n'),
            "400 no HTTP": await site.raw(b"nonsense\r\n\r\n"),
            "400 path": await site.raw(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"),
            "400 header": await site.raw(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: \x01\r\n\r\n"),
            "400 target": await site.raw(b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n"),
            "400 smuggling": await site.raw(
                b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            "401": await client.get("/v1/ledgers"),
            "401 path that is tidied": await site.raw(
                b"GET //v1//ledgers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ),
            "401 junk": await client.get("/v1/ledgers", headers={"authorization": "Bearer junk"}),
            "401 scheme": await client.get("/v1/ledgers", headers={"authorization": "Basic YTpi"}),
            "404": await client.get("/nothing"),
            "404 within": await client.get("/v1/ledgers/other", headers=token),
            "404 problem": await client.get("/problems/none"),
            "405": await client.delete("/health/live"),
            "413": await client.post("/v1/ledgers", content=b" " * (BODY_LIMIT + 1), headers=as_json),
            "413 chunked": await client.post("/v1/ledgers", content=endless(), headers=as_json),
            "413 announced": await site.raw(
                b"POST /v1/ledgers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999\r\n"
                b"Authorization: " + token["authorization"].encode() + b"\r\n\r\n"
            ),
            "413 bulk": await client.post(
                "/v1/ledgers/acme/commands", content=b" " * (BULK_LIMIT + 1), headers=as_json
            ),
            "415": await client.post("/v1/ledgers", content=b"{}", headers={**token, "content-type": "text/plain"}),
            "415 gzip": await client.post(
                "/v1/ledgers", content=b"{}", headers={**as_json, "content-encoding": "gzip"}
            ),
            "422": await client.post("/v1/ledgers", json={}, headers=token),
            "500": await client.get("/explode"),
        }
        for name, answer in answers.items():
            assert answer.status_code == int(name[:3]), (name, answer.status_code, answer.text)
            _check_headers(name, answer)
            if answer.status_code >= 400:
                _check_problem(answer)
        assert answers["405"].headers["allow"]
        assert answers["401"].headers["www-authenticate"] == "Bearer"
        assert answers["401 junk"].headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert "secret" not in answers["500"].text
        assert "SELECT" not in answers["500"].text
        assert {answers[name].headers.get("cache-control") for name in ("202", "401", "404 within")} == {"no-store"}


async def _another(site: Site) -> dict[str, str]:
    answer = await site.client.post("/auth/login", json={"username": "ada", "password": PASSWORD})
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def _check_headers(name: str, answer: httpx.Response) -> None:
    for header in EVERYWHERE:
        assert len(answer.headers.get_list(header)) == 1, (name, header)
    assert "strict-transport-security" not in answer.headers


def _check_problem(answer: httpx.Response) -> None:
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(body) == MEMBERS
    assert (body["status"], body["type"]) == (answer.status_code, f"/problems/{body['code']}")
    assert CATALOGUE[body["code"]].status == answer.status_code
    assert body["correlation_id"] == answer.headers["x-correlation-id"]


@on_a_loop
async def test_too_many(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(replace(settings, request_rate_address=1), monkeypatch) as site:
        # without a token: were Authentication further out, this would be 401 for ever
        answers = await asyncio.gather(*(site.client.get("/v1/ledgers") for _ in range(20)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {401, 429}
        for answer in refused:
            _check_headers("429", answer)
            _check_problem(answer)
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["ratelimit"].startswith('"address";r=0;t=')
            assert answer.headers["ratelimit-policy"] == '"address";q=1;w=1'


@on_a_loop
async def test_a_layer_that_breaks_is_500_with_all_headers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:

        async def broken(*_: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(site.app.state["services"].admission, "admit", broken)
        answer = await site.client.get("/docs")
        assert answer.status_code == 500
        _check_headers("500", answer)
        _check_problem(answer)


@on_a_loop
async def test_https_is_remembered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(replace(settings, public_url="https://books.example"), monkeypatch) as site:
        for answer in (await site.client.get("/nothing"), await site.raw(b"nonsense\r\n\r\n")):
            assert answer.headers["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 64])
def test_a_correlation_id_is_taken(settings: Settings, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    assert _echoed(settings, monkeypatch, given.encode()) == given


@pytest.mark.parametrize("given", [b"", b"x" * 65, b"a b", b"a\tb", b"\xc3\xa4", b"a,b", b"x" * 10_000])
def test_or_replaced(settings: Settings, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    assert re.fullmatch("[0-9a-f]{32}", _echoed(settings, monkeypatch, given))


def _echoed(settings: Settings, monkeypatch: pytest.MonkeyPatch, given: bytes) -> str:
    found: list[str] = []

    @on_a_loop
    async def run() -> None:
        async with a_site(settings, monkeypatch) as site:
            request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Correlation-ID: " + given
            found.append((await site.raw(request + b"\r\n\r\n")).headers["x-correlation-id"])

    run()
    return found[0]


@on_a_loop
async def test_each_request_is_logged_once_and_nothing_secret(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_site(replace(settings, request_rate_address=5), monkeypatch) as site:
        token = await login(site, settings)
        wanted = [
            (
                "GET",
                "/v1/ledgers/acme/accounts/none?prefix=canary",
                404,
                "/v1/ledgers/{ledger}/accounts/{account}",
                "ada",
            ),
            ("GET", "/v1/ledgers", 401, "/v1/ledgers", None),
            ("GET", "/nothing", 404, "/nothing", None),
            ("GET", "/explode", 500, "/explode", None),
        ]
        for number, (method, path, status, _, user) in enumerate(wanted):
            headers = {"x-correlation-id": f"c-{number}", **(token if user else {})}
            assert (await site.client.request(method, path, headers=headers)).status_code == status
        many = (site.client.get("/nothing", headers={"x-correlation-id": f"m-{number}"}) for number in range(30))
        limited = [answer for answer in await asyncio.gather(*many) if answer.status_code == 429]
        await site.raw(b"nonsense\r\n\r\n")
    # the client of this test logs, too
    logged = [line for line in capsys.readouterr().err.splitlines() if "httpx" not in line]
    lines = [json.loads(line) for line in logged]
    requests = [line for line in lines if line["event"] == "request"]
    for number, (method, _, status, route, user) in enumerate(wanted):
        mine = [line for line in requests if line["correlation_id"] == f"c-{number}"]
        assert [(line["method"], line["route"], line["status"], line["principal"]) for line in mine] == [
            (method, route, status, user)
        ]
    for answer in limited:
        mine = [line for line in requests if line["correlation_id"] == answer.headers["x-correlation-id"]]
        assert [line["status"] for line in mine] == [429]
    assert limited
    assert requests[-1]["status"] == 400
    trace = [line for line in lines if line["event"] == "request_failed"]
    assert [line["correlation_id"] for line in trace] == ["c-3"]
    assert "RuntimeError" in trace[0]["exception"]
    for secret in (PASSWORD, token["authorization"][7:], settings.secret_key, "canary", "dbr_"):
        assert secret not in "".join(logged)


@on_a_loop
async def test_the_api_describes_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        document = (await site.client.get("/openapi.json")).json()
        schemas = document["components"]["schemas"]
        names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
        assert set(names) <= set(schemas)
        operations = [method for methods in document["paths"].values() for method in methods.values()]
        assert all(operation["summary"] for operation in operations)
        ids = [operation["operationId"] for operation in operations]
        assert len(ids) == len(set(ids))
        posting = document["paths"]["/v1/ledgers/{ledger}/transactions"]["post"]
        assert {"token": []} in posting["security"]
        assert posting["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/PostTransaction")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value for name, value in attrs if name in ("href", "src") and value is not None}
        assert tag != "style"
        assert not {name for name, _ in attrs} & {"style", "onclick", "onload"}


@on_a_loop
async def test_pages_need_nothing_from_elsewhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        seen: set[str] = set()
        ahead = {"/docs", "/problems"}
        while ahead:
            path = ahead.pop()
            assert path.startswith("/")
            seen.add(path)
            answer = await site.client.get(path)
            assert answer.status_code == 200, path
            if answer.headers["content-type"].startswith("text/html"):
                assert "script-src 'self'" in answer.headers["content-security-policy"]
                links = _Links()
                links.feed(answer.text)
                ahead |= {urldefrag(link).url or path for link in links.found} - seen
        assert {f"/problems/{code}" for code in CATALOGUE} <= seen


@on_a_loop
async def test_paths_that_the_router_tidies_are_still_protected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_site(settings, monkeypatch) as site:
        for path in (
            "//v1/ledgers",
            "/v1//ledgers/",
            "/%76%31/ledgers",
            "/auth//me",
            "/auth/me/",
            "/v1",
            f"/v1/jobs/{uuid7()}",
        ):
            answer = await site.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert answer.status_code == 401, path


EXACTLY = {
    "/v1/ledgers": 200,
    "/v1/ledgers/acme": 404,
    "/v1/ledgers/": 404,
    "//v1/ledgers": 404,
    "/v1//ledgers": 404,
    "/v1%2Fledgers": 404,
    "/v1%2fledgers": 404,
    "/%76%31/ledgers": 200,
    "/v1/./ledgers": 404,
    "/v1/x/../ledgers": 404,
    "/health/live/": 404,
}


@on_a_loop
async def test_an_address_is_written_in_one_way(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slash that is percent-encoded belongs to a name, and an empty segment is one."""
    async with a_site(settings, monkeypatch) as site:
        token = (await login(site, settings))["authorization"]
        for path, status in EXACTLY.items():
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {token}\r\n\r\n"
            assert (await site.raw(request.encode())).status_code == status, path


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        ("1.1", ("x",), 200),
        ("1.1", ("[::1]:80",), 200),
        ("1.1", (), 400),
        ("1.1", ("x", "x"), 400),
        ("1.1", ("x y",), 400),
        ("1.0", (), 200),
    ],
)
def test_a_request_names_one_host(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, version: str, hosts: tuple[str, ...], status: int
) -> None:
    @on_a_loop
    async def run() -> None:
        async with a_site(settings, monkeypatch) as site:
            lines = "".join(f"Host: {host}\r\n" for host in hosts)
            answer = await site.raw(f"GET /health/live HTTP/{version}\r\n{lines}Connection: close\r\n\r\n".encode())
            assert answer.status_code == status
            _check_headers(str(status), answer)

    run()


@on_a_loop
async def test_headers_are_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        for size, status in ((16_000, 200), (200_000, 400)):
            request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: " + b"x" * size
            assert (await site.raw(request + b"\r\n\r\n")).status_code == status


METHODS = {
    "/v1/ledgers": {"GET", "HEAD", "POST", "OPTIONS"},
    "/v1/ledgers/acme/transactions": {"GET", "HEAD", "POST", "OPTIONS"},
    "/v1/jobs": {"GET", "HEAD", "OPTIONS"},
    "/auth/login": {"POST", "OPTIONS"},
    "/docs": {"GET", "HEAD", "OPTIONS"},
}


@on_a_loop
async def test_allow_names_every_method(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        token = await login(site, settings)
        for path, methods in METHODS.items():
            options = await site.client.options(path, headers=token)
            other = await site.client.delete(path, headers=token)
            assert (options.status_code, other.status_code) == (204, 405)
            for answer in (options, other):
                assert set(answer.headers["allow"].split(", ")) == methods, path


CONTENT_TYPES = {
    "application/json": 422,
    "Application/JSON; Charset=UTF-8": 422,
    'application/json; charset="utf-8"': 422,
    "application/json; a=b": 422,
    "application/json; charset=latin-1": 415,
    "application/json; a=b; charset=utf-16": 415,
    "text/json": 415,
    "application/x-ndjson": 415,
}


@on_a_loop
async def test_bodies_are_json_in_utf_8_and_nothing_else(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        for given, status in CONTENT_TYPES.items():
            answer = await site.client.post("/auth/login", content=b"{}", headers={"content-type": given})
            assert answer.status_code == status, given
        for coding in ("gzip", "identity"):
            headers = {"content-type": "application/json", "content-encoding": coding}
            assert (await site.client.post("/auth/login", content=b"{}", headers=headers)).status_code == 415
        for path in ("/docs", "/docs/style.css", "/docs/search.js", "/openapi.json"):
            assert (await site.client.get(path)).headers["content-type"].count("charset") <= 1


@on_a_loop
async def test_what_is_no_http_is_answered_once_and_in_its_turn(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_site(settings, monkeypatch) as site:
        head = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        behind = await site.raw(head + b"Content-Length: 2\r\n\r\n{}nonsense\r\n\r\n")
        assert (behind.status_code, behind.json()["code"]) == (422, "validation_failed")
        within = await site.raw(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nnonsense\r\n\r\n")
        assert (within.status_code, within.json()["code"]) == (400, "malformed_request")
        await site.client.get("/health/live")
    assert "Traceback" not in capsys.readouterr().err
