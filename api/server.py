"""What uvicorn needs beside the application: an answer, with the same headers, to what is not even HTTP."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.middleware.security_headers import headers_of_all
from api.problems import MEDIA_TYPE, problem_bytes
from infrastructure.logs import RequestLine, log_request
from infrastructure.settings import load

# Bytes; clients send about one thousand.
MOST_HEAD: Final = 65_536


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it. Requests that can't be parsed never reach the application, so they end here.

    So do those without one `Host` (RFC 9112, 3.2), and those that never come to the end of their headers.
    """

    _head: int | None = None

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts. Raises ValueError, which the parser makes its own error, when it is too much."""
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The request is known but for its body. Raises ValueError as above."""
        self._head = None
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("not one Host")
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes came in. Those of a header that is not complete yet are counted, too."""
        unfinished = self._head is not None
        super().data_received(data)
        if unfinished and self._head is not None and not self.transport.is_closing():
            try:
                self._count(len(data))
            except ValueError as error:
                self.send_400_response(str(error))

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
        self._head = (self._head or 0) + size
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
            *headers_of_all(load()),
            (b"x-correlation-id", correlation_id.encode()),
        ]
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
