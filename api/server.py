"""What uvicorn needs beside the application: an answer, with the same headers, to what is not even HTTP."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.middleware.security_headers import headers_of_all
from api.problems import MEDIA_TYPE, problem_bytes
from infrastructure.logs import RequestLine, log_request
from infrastructure.settings import load


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 as uvicorn speaks it. Requests that can't be parsed never reach the application, so they end here."""

    def send_400_response(self, msg: str) -> None:
        """Answers a request without method, path or headers that could be read, and closes the connection."""
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
