"""Connections over real sockets, on the event loop that the product runs: slow clients, strange framing, too many."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, ParamSpec, cast

import pytest
import uvloop

from api import server
from api.decoding import BODY_LIMIT
from infrastructure.settings import Settings
from tests.edge.test_pipeline import Site, _check_headers, _check_problem, a_site, login

P = ParamSpec("P")

PATIENCE_S: Final = 10
LIVE: Final = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


def on_uvloop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@pytest.fixture
def hurried(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Patience of half a second, and eyes that look often."""
    monkeypatch.setattr(server, "LOOK_S", 0.1)
    return replace(settings, head_s=0.5, body_s=0.5, idle_s=0.5)


class Wire:
    """What an answer's transport was given, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.pieces.append(data)

    def writelines(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def close(self) -> None:
        self.closed = True


@on_uvloop
async def test_head_and_body_of_an_answer_go_out_together_and_a_head_alone_soon() -> None:
    wire = Wire()
    outgoing = server.Outgoing(cast(asyncio.Transport, wire), asyncio.get_running_loop())
    outgoing.write(b"head ")
    outgoing.write(b"body")
    assert wire.pieces == [b"head body"]
    outgoing.write(b"head of a stream")
    assert len(wire.pieces) == 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert wire.pieces[1:] == [b"head of a stream"]
    outgoing.write(b"last")
    outgoing.close()
    await asyncio.sleep(0)
    assert (wire.pieces[2:], wire.closed) == ([b"last"], True)


@on_uvloop
async def test_what_is_held_for_a_client_that_has_gone_is_dropped() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    wire = Wire()
    outgoing = server.Outgoing(cast(asyncio.Transport, wire), asyncio.get_running_loop())
    outgoing.write(b"head of a stream")
    wire.close()
    await asyncio.sleep(0.01)
    assert (wire.pieces, complaints) == ([], [])


@on_uvloop
async def test_what_is_held_goes_out_before_the_connection_is_closed_by_anybody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A HEAD's answer is one piece, which waits for the end of the loop's turn: a server that stops in it sends it."""
    made: list[server.Protocol] = []
    connect = server.Protocol.connection_made
    monkeypatch.setattr(server.Protocol, "connection_made", lambda self, wire: (made.append(self), connect(self, wire)))
    ends: list[Callable[[server.Protocol], None]] = [
        lambda protocol: protocol.shutdown(),
        lambda protocol: protocol.send_400_response("no"),
    ]
    async with a_site(settings, monkeypatch) as site:
        for end in ends:
            async with connected(site) as (reader, writer):
                writer.write(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)
                made[-1]._outgoing.write(b"held back")
                end(made[-1])
                assert (await rest_of(reader)).startswith(b"held back")


@asynccontextmanager
async def connected(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, however it does."""
    found = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65_536), PATIENCE_S):
            found += piece
    except ConnectionError:
        pass
    return found


async def drip(writer: asyncio.StreamWriter, data: bytes, every_s: float = 0.05) -> None:
    """Sends a byte at a time until there are none left, or nobody takes them."""
    for byte in data:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(every_s)


async def cut_while_dripping(site: Site, begin: bytes, drops: bytes) -> bytes:
    """What a client hears that begins a request and goes on a byte at a time; it must be cut before it is done."""
    async with connected(site) as (reader, writer):
        writer.write(begin)
        dripping = asyncio.create_task(drip(writer, drops))
        heard = await rest_of(reader)
        assert not dripping.done() or dripping.exception() is not None, "it was never cut"
        dripping.cancel()
        return heard


async def until(condition: Callable[[], object]) -> None:
    """Waits for what no event tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def none_connected() -> bool:
    return not connections()


def connections() -> list[server.Protocol]:
    """Those that the servers of this process have."""
    return [
        connection
        for watch in server._watches.values()
        for connection in watch._connections
        if isinstance(connection, server.Protocol)
    ]


LONG = b"a" * 10_000

SLOW_HEADS = {
    "nothing": (b"", b""),
    "empty lines": (b"", b"\r\n" * 5_000),
    "a method": (b"GE", b""),
    "a target": (b"GET /", LONG),
    "a header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", LONG),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"A: b\r\n" * 2_000),
}


@on_uvloop
async def test_a_slow_head_is_cut(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(hurried, monkeypatch) as site:

        async def cut(begin: bytes, drops: bytes) -> bytes:
            async with connected(site) as (reader, writer):
                writer.write(begin)
                dripping = asyncio.create_task(drip(writer, drops))
                heard = await rest_of(reader)
                dripping.cancel()
                return heard

        heard = await asyncio.gather(*(cut(*slow) for slow in SLOW_HEADS.values()))
        assert dict(zip(SLOW_HEADS, heard, strict=True)) == dict.fromkeys(SLOW_HEADS, b"")


@on_uvloop
async def test_others_are_served_meanwhile(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(replace(hurried, head_s=3), monkeypatch) as site:
        slow = [
            asyncio.create_task(cut_while_dripping(site, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", LONG)) for _ in range(100)
        ]
        await until(lambda: len(connections()) >= 100)
        for _ in range(100):
            assert (await site.client.get("/health/live")).status_code == 200
        assert not any(task.done() for task in slow), "they were cut before the others were served"
        assert set(await asyncio.gather(*slow)) == {b""}


def upload(token: str, *headers: str) -> bytes:
    lines = ["POST /v1/ledgers HTTP/1.1", "Host: x", f"Authorization: {token}", "Content-Type: application/json"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


SLOW_BODIES = {
    "a body": ("Content-Length: 9000", b" " * 9_000),
    "chunks": ("Transfer-Encoding: chunked", b"1\r\n \r\n" * 1_000),
    "a chunk's extension": ("Transfer-Encoding: chunked", b"1;" + LONG),
    "trailers": ("Transfer-Encoding: chunked", b"0\r\n" + b"a: b\r\n" * 1_000),
}


def test_a_slow_body_is_cut(
    hurried: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @on_uvloop
    async def run() -> None:
        async with a_site(hurried, monkeypatch) as site:
            token = (await login(site, hurried))["authorization"]
            slow = [
                cut_while_dripping(site, upload(token, header, f"X-Correlation-ID: slow-{number}"), drops)
                for number, (header, drops) in enumerate(SLOW_BODIES.values())
            ]
            assert dict(zip(SLOW_BODIES, await asyncio.gather(*slow), strict=True)) == dict.fromkeys(SLOW_BODIES, b"")
            assert await site.app.state["services"].pool.fetchval("SELECT count(*) FROM commands") == 0

    run()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    cut = [line["waiting_for"] for line in lines if line["event"] == "connection_cut"]
    assert cut == ["body"] * len(SLOW_BODIES)
    # the application saw them end
    ended = {line["correlation_id"]: line["status"] for line in lines if line["event"] == "request"}
    assert ended.items() >= {(f"slow-{number}", 400) for number in range(len(SLOW_BODIES))}


@on_uvloop
async def test_a_large_body_may_take_its_time(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than half a second, but more than 16 KiB a second."""
    async with a_site(hurried, monkeypatch) as site, connected(site) as (reader, writer):
        token = (await login(site, hurried))["authorization"]
        parts = 6
        writer.write(upload(token, "Connection: close", f"Content-Length: {parts * 65_536}"))
        for _ in range(parts):
            await asyncio.sleep(0.3)
            writer.write(b" " * 65_536)
        # nothing but spaces is no JSON, and that was all read
        assert b"400 Bad Request" in (await rest_of(reader)).partition(b"\r\n")[0]


@on_uvloop
async def test_an_upload_that_was_refused_may_not_go_on_for_ever(
    hurried: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_site(hurried, monkeypatch) as site:
        token = (await login(site, hurried))["authorization"]
        begin = upload(token, f"Content-Length: {BODY_LIMIT * 20}")
        heard = await cut_while_dripping(site, begin, b" " * 9_000)
        assert heard.startswith(b"HTTP/1.1 413 ")


@on_uvloop
async def test_who_never_reads_is_cut_and_costs_little(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LEAST_RATE", 1 << 20)
    async with a_site(hurried, monkeypatch) as site:
        size = len((await site.client.get("/openapi.json")).content)
        deaf = []
        for _ in range(10):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.port))
            request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400
            await asyncio.get_running_loop().sock_sendall(client, request)
            deaf.append(client)
        most = 0
        while (those := [each for each in connections() if each.transport.get_write_buffer_size()]) or not most:
            most = max([most, *(each.transport.get_write_buffer_size() for each in those)])
            assert (await site.client.get("/health/live")).status_code == 200
            await asyncio.sleep(0.01)
        # no more than what may wait before writers have to, and one answer
        assert 65_536 < most < 65_536 + 2 * size
        for client in deaf:
            client.close()


@on_uvloop
async def test_a_last_answer_that_is_not_read_is_given_up(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LEAST_RATE", 1 << 20)
    async with a_site(hurried, monkeypatch) as site:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.port))
        requests = [b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n"] * 400
        await asyncio.get_running_loop().sock_sendall(client, b"\r\n".join([*requests, b"Connection: close\r\n\r\n"]))
        await until(connections)
        await until(none_connected)
        client.close()


@on_uvloop
async def test_an_idle_connection_is_closed(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(hurried, monkeypatch) as site, connected(site) as (reader, writer):
        writer.write(LIVE + b"\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        # empty lines between requests are no request
        dripping = asyncio.create_task(drip(writer, b"\r\n" * 1_000))
        await rest_of(reader)
        dripping.cancel()


@on_uvloop
async def test_whoever_is_quick_between_requests_stays(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(hurried, monkeypatch) as site, connected(site) as (reader, writer):
        for _ in range(8):
            writer.write(LIVE + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            await asyncio.sleep(0.2)


@on_uvloop
async def test_an_answer_may_take_longer_than_a_request(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(hurried, monkeypatch) as site:
        token = await login(site, hurried)
        accepted = await site.client.post("/v1/ledgers", json={"id": "acme", "name": "Books"}, headers=token)
        # nobody takes its turn
        answer = await site.client.get(accepted.headers["location"], headers={**token, "prefer": "wait=2"})
        assert (answer.status_code, answer.json()["status"]) == (200, "accepted")


@on_uvloop
async def test_one_too_many(hurried: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(replace(hurried, connections=2), monkeypatch) as site:
        async with connected(site), connected(site):
            await until(lambda: len(connections()) == 2)
            refused = await site.raw(LIVE + b"X-Correlation-ID: c1\r\n\r\n")
            assert refused.status_code == 503
            _check_headers("503", refused)
            _check_problem(refused)
            assert refused.headers["connection"] == "close"
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["x-correlation-id"] == "c1"
            # who is connected and then says nothing may do so for a second
            async with connected(site) as (reader, _):
                assert await rest_of(reader) == b""
        await until(none_connected)
        assert (await site.raw(LIVE + b"Connection: close\r\n\r\n")).status_code == 200


# -- framing ----------------------------------------------------------------------------------------------------------

POST: Final = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HIDDEN: Final = "GET /health/live HTTP/1.1\r\nHost: hidden\r\n\r\n"

DOUBTFUL = {
    "both lengths": f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "both lengths, turned": f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{HIDDEN}",
    "two lengths": f"{POST}Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "two equal lengths": f"{POST}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}",
    "two lengths in one": f"{POST}Content-Length: 0, {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "a length with a sign": f"{POST}Content-Length: +2\r\n\r\n{{}}",
    "a length below zero": f"{POST}Content-Length: -2\r\n\r\n{{}}",
    "a length in hexadecimal": f"{POST}Content-Length: 0x2\r\n\r\n{{}}",
    "a length beyond all": f"{POST}Content-Length: {'9' * 40}\r\n\r\n{{}}",
    "chunked twice": f"{POST}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "chunked in two headers": f"{POST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "another coding": f"{POST}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "only another coding": f"{POST}Transfer-Encoding: identity\r\n\r\n{HIDDEN}",
    "a coding that looks alike": f"{POST}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "chunks in HTTP/1.0": f"{POST.replace('1.1', '1.0')}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "a space before the colon": f"{POST}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "a folded header": f"{POST}X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "a chunk's size that is none": f"{POST}Transfer-Encoding: chunked\r\n\r\n0x2\r\n{{}}\r\n0\r\n\r\n{HIDDEN}",
    "a chunk's size beyond all": f"{POST}Transfer-Encoding: chunked\r\n\r\n{'f' * 17}\r\n{{}}\r\n0\r\n\r\n",
    "a chunk that is longer than it says": f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\n{{}}\r\n0\r\n\r\n{HIDDEN}",
    "two hosts": f"GET /health/live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n{HIDDEN}",
    "two authorizations": "GET /v1/ledgers HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n",
    "two content types": f"{POST}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}{HIDDEN}",
    "no host": f"GET /health/live HTTP/1.1\r\n\r\n{HIDDEN}",
    "an unknown version": f"GET /health/live HTTP/1.2\r\nHost: x\r\n\r\n{HIDDEN}",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": f"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n{HIDDEN}",
    "NUL in a header": f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: \0\r\n\r\n{HIDDEN}",
    "a lone CR in a header": f"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: a\rX-B: b\r\n\r\n{HIDDEN}",
    "a header's name with a space": f"GET /health/live HTTP/1.1\r\nHost: x\r\nX A: b\r\n\r\n{HIDDEN}",
    "no end of many headers": "GET / HTTP/1.1\r\nHost: x\r\n" + "a:\r\n" * 3_000,
    "an endless header": "GET / HTTP/1.1\r\nHost: x\r\nX-A: " + "a" * 200_000,
    "an endless target": "GET /" + "a" * 200_000,
    "a long target": f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: x\r\n\r\n",
    "endless trailers": f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n" + "a: b\r\n" * 3_000,
}


@pytest.fixture(scope="module")
def doubtful_answers(shared_settings: Settings) -> dict[str, bytes]:
    """What each of them is answered, and whatever is heard on its connection after that."""
    found: dict[str, bytes] = {}

    @on_uvloop
    async def run() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            async with a_site(shared_settings, monkeypatch) as site:
                for name, request in DOUBTFUL.items():
                    async with connected(site) as (reader, writer):
                        writer.write(request.encode())
                        found[name] = await rest_of(reader)

    run()
    return found


@pytest.mark.parametrize("name", DOUBTFUL)
def test_framing_in_doubt_is_400_and_the_end_of_the_connection(doubtful_answers: dict[str, bytes], name: str) -> None:
    heard = doubtful_answers[name]
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 "), heard
    assert b"connection: close" in head.lower()
    assert json.loads(body)["code"] == "malformed_request"
    assert heard.count(b"HTTP/1.1 ") == 1


@on_uvloop
async def test_trailers_are_no_headers(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those that come in one piece with the head, before the application looks."""
    async with a_site(settings, monkeypatch) as site:
        token = (await login(site, settings))["authorization"]
        request = (
            "POST /v1/ledgers HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
            f"Authorization: {token}\r\nX-Correlation-ID: trailer\r\n\r\n"
        )
        answer = await site.raw(request.encode())
        assert answer.status_code == 401
        assert answer.headers["x-correlation-id"] != "trailer"


@on_uvloop
async def test_requests_in_one_piece_are_answered_in_order(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site, connected(site) as (reader, writer):
        ids = [f"r-{number}" for number in range(20)]
        writer.write(b"".join(LIVE + f"X-Correlation-ID: {each}\r\n\r\n".encode() for each in ids))
        writer.write(LIVE + b"Connection: close\r\n\r\n")
        heard = (await rest_of(reader)).lower()
        assert heard.count(b"http/1.1 200 ") == 21
        places = [heard.index(f"x-correlation-id: {each}\r\n".encode()) for each in ids]
        assert places == sorted(places)


@on_uvloop
async def test_an_upgrade_is_not_taken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_site(settings, monkeypatch) as site:
        for protocol in ("h2c", "websocket"):
            upgrade = f"Connection: Upgrade\r\nUpgrade: {protocol}\r\n"
            async with connected(site) as (reader, writer):
                for status, request in (
                    (200, f"{LIVE.decode()}{upgrade}\r\n"),
                    (422, f"{POST}{upgrade}Content-Length: 2\r\n\r\n{{}}"),
                    (200, f"{LIVE.decode()}\r\n"),
                ):
                    writer.write(request.encode())
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
                    assert head.startswith(f"HTTP/1.1 {status} ".encode())
                    await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
