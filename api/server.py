"""What uvicorn needs beside the application: an answer to what is not even HTTP, and patience that has an end.

A client may take its time, but not for ever: to send a request, to read the answer, or to do nothing. Nobody sets a
timer for that; one of the process's own looks at all connections now and then, and each only notes since when it waits
for what.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
import struct
import sys
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.live import CARRIER
from api.middleware.correlation_id import CorrelationID
from api.middleware.rate_limit import turn_away
from api.middleware.security_headers import SecurityHeaders, headers_of_all
from api.problems import MEDIA_TYPE, problem_bytes
from domain.errors import InfrastructureError
from infrastructure.logs import RequestLine, log_request
from infrastructure.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.types import Message, Receive, Scope, Send
    from uvicorn import Config
    from uvicorn.server import ServerState

log = structlog.get_logger(__name__)

MOST_HEAD: Final = 65_536
"""Bytes of a request's target and headers; clients send about one thousand."""
HEADER_COST: Final = 32
"""What a header counts beside its bytes, so that a great many empty ones are too much as well."""

LEAST_RATE: Final = 16_384
"""Bytes a second: who sends or reads at least as many is not too slow, however much it is."""
LOOK_S: Final = 1.0
OWN_FILES: Final = 200
"""File descriptors that are not for clients: Postgres, Redis, logs and the like."""

# Two of these contradict each other; a proxy might go by the one, and the application by the other.
_ONCE: Final = frozenset(
    {b"host", b"authorization", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"}
)

_AT_ONCE: Final = struct.pack("ii", 1, 0)


class Phase(Enum):
    """What a connection waits for: the first byte, the rest of a head, that of a body, us, or the next request."""

    NEW = "new"
    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    IDLE = "idle"


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it. Requests that can't be parsed never reach the application, so they end here.

    So do those without one `Host` (RFC 9112, 3.2), those whose framing is not beyond doubt (6.3), and those that never
    come to the end of their headers. Trailers are dropped: they must not become headers (RFC 9110, 6.5.1).
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._watch = watch_of(server_state, self.loop)
        # bytes of a head, or of trailers, as far as they have come
        self._head = 0
        self._phase = Phase.NEW
        self._since = self.loop.time()
        # bytes of a body
        self._received = 0
        # since when, and how many bytes, the client has not read
        self._stuck: tuple[float, int] | None = None
        self._end_stream: Callable[[], None] | None = None
        self._stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected. One too many is told so once it has sent its request, which it had better do soon."""
        super().connection_made(transport)
        self._outgoing = Outgoing(transport, self.loop)
        if not self._watch.has_room():
            self.app = self._watch.full
            self._since -= self._watch.head_s - LOOK_S

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"][CARRIER] = self
        self._head = self._received = 0
        self._phase, self._since = Phase.HEAD, self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Counts. Raises ValueError, which the parser makes its own error, when it is too much."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer if the headers are complete. Counts and raises as above."""
        self._count(len(name) + len(value) + HEADER_COST)
        if self._phase is Phase.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is known but for its body. Raises ValueError as above."""
        self._check_headers()
        self._head = 0
        self._phase, self._since = Phase.BODY, self.loop.time()
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = self._outgoing  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._received += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete; what it was answered before, its body being of no use, is over, too."""
        self._phase = Phase.IDLE if self.cycle.response_complete else Phase.ANSWER
        self._since = self.loop.time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The request is answered."""
        if self._phase is Phase.ANSWER and not self.pipeline:
            self._phase, self._since = Phase.IDLE, self.loop.time()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came in. Those of a header that is not complete yet are counted, too."""
        unfinished = self._phase is Phase.HEAD
        super().data_received(data)
        if unfinished and self._phase is Phase.HEAD and not self.transport.is_closing():
            try:
                self._count(len(data))
            except ValueError as error:
                self.send_400_response(str(error))

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stuck = None
        super().resume_writing()

    def carry(self, end: Callable[[], None] | None) -> None:
        """What ends the stream of events that is the answer now, which would not end by itself; None: it is over."""
        self._end_stream = end
        if self._stopping or self.transport.is_closing():
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        super().connection_lost(exc)
        self._end()

    def shutdown(self) -> None:
        """The server stops."""
        self._outgoing.flush()
        super().shutdown()
        self._stopping = True
        self._end()

    def look(self, now: float) -> None:
        """Cuts the connection if the client takes too long, without an answer: it would hardly be read."""
        if self.transport.is_closing() or self.flow.write_paused:
            if self._is_stuck(now):
                self.cut("reader")
        elif self.flow.read_paused:
            # it waits for us
            self._since = now
        elif now - self._since > self._patience_s():
            if self._phase is Phase.IDLE:
                self.transport.close()
            else:
                self.cut(self._phase.value)

    def cut(self, waiting_for: str) -> None:
        """Ends the connection, with all that was not read yet: the kernel would keep megabytes of it."""
        if self.flow.write_paused:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        if waiting_for != Phase.NEW.value:
            log.info("connection_cut", waiting_for=waiting_for, address=self.client[0] if self.client else "")
        self.transport.abort()

    def _patience_s(self) -> float:
        watch = self._watch
        match self._phase:
            case Phase.NEW | Phase.HEAD:
                return watch.head_s
            case Phase.BODY:
                return watch.body_s + self._received / LEAST_RATE
            case Phase.IDLE:
                return watch.idle_s
            case Phase.ANSWER:
                return float("inf")

    def _is_stuck(self, now: float) -> bool:
        left = self.transport.get_write_buffer_size()
        if self._stuck is None:
            self._stuck = now, left
        since, size = self._stuck
        return now - since > self._watch.body_s + size / LEAST_RATE

    def _end(self) -> None:
        if self._end_stream is not None:
            self._end_stream()

    def _check_headers(self) -> None:
        headers = self.headers
        names = {name for name, _ in headers}
        version = self.parser.get_http_version()
        if len(names) < len(headers) and any(sum(name == once for name, _ in headers) > 1 for once in _ONCE & names):
            raise ValueError("more than one of a header")
        if b"host" not in names and version == "1.1":
            raise ValueError("no host")
        if b"transfer-encoding" in names:
            coding = next(value for name, value in headers if name == b"transfer-encoding")
            if version != "1.1" or coding.lower() != b"chunked":
                raise ValueError("no framing that is understood")

    def _is_left_to_the_application(self) -> bool:
        """Whether a request before this one is yet to be answered: it is the connection's last, then."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if not cycle.more_body:
            cycle.keep_alive = False
            self.flow.pause_reading()
            return True
        # its own body is what could not be read; the application must not answer, too
        cycle.disconnected = True
        cycle.message_event.set()
        return False

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > MOST_HEAD:
            raise ValueError("The headers are too large.")

    def send_400_response(self, msg: str) -> None:
        """Answers a request without method, path, headers or body that could be read, and closes the connection."""
        if self._is_left_to_the_application():
            return
        correlation_id = secrets.token_hex(16)
        body = problem_bytes("malformed_request", msg, instance="/", correlation_id=correlation_id)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *headers_of_all(self._watch.settings),
            (b"x-correlation-id", correlation_id.encode()),
        ]
        self._outgoing.flush()
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers), b"", body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()
        log_request(
            RequestLine(
                method="",
                route="",
                status=400,
                ms=0,
                principal=None,
                address=self.client[0] if self.client else "",
                correlation_id=correlation_id,
                timestamp=datetime.now(UTC),
            )
        )


class Outgoing:
    """The transport of answers, as far as uvicorn needs it. Head and body of an answer go out together.

    Each write is a packet otherwise, which costs both sides a system call and a wake-up.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport: Final = transport
        self._loop: Final = loop
        self._held: bytes | None = None

    def write(self, data: bytes) -> None:
        """Holds what may be followed by more, until that comes or this turn of the loop is over."""
        held = self._held
        if held is None:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._held = None
            self._transport.writelines((held, data))

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Closes the connection once all is written."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Writes what is held. To be called before anything is done to the transport itself."""
        held, self._held = self._held, None
        if held is not None and not self._transport.is_closing():
            self._transport.write(held)


class Watch:
    """Looks at all connections of a server, as long as it has any."""

    def __init__(self, server_state: ServerState, loop: asyncio.AbstractEventLoop, settings: Settings) -> None:
        self.settings: Final = settings
        self.head_s: Final = settings.head_s
        self.body_s: Final = settings.body_s
        self.idle_s: Final = settings.idle_s
        self.full: Final = CorrelationID(SecurityHeaders(_refuse, settings))
        self._connections: Final = server_state.connections
        self._most: Final = min(settings.connections, _files() - OWN_FILES)
        self._loop: Final = loop
        self._looking = False

    def has_room(self) -> bool:
        """Whether the newest connection is one of those that are served. It is looked at from now on."""
        if not self._looking:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)
        return len(self._connections) <= self._most

    def _look(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            if isinstance(connection, Protocol):
                connection.look(now)
        self._looking = bool(self._connections)
        if self._looking:
            self._loop.call_later(LOOK_S, self._look)


_watches: Final[WeakKeyDictionary[ServerState, Watch]] = WeakKeyDictionary()


def watch_of(server_state: ServerState, loop: asyncio.AbstractEventLoop) -> Watch:
    """The one watch of a server."""
    watch = _watches.get(server_state)
    if watch is None:
        watch = _watches[server_state] = Watch(server_state, loop, load())
    return watch


async def _refuse(scope: Scope, _receive: Receive, send: Send) -> None:
    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    await turn_away(scope, send_and_close, InfrastructureError("Too many clients are connected."))


def allow_files(connections: int) -> None:
    """Lets this process, and those it starts, open as many files as `connections` need, if it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_FILES
    if _files() < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _files() -> int:
    """How many files this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
