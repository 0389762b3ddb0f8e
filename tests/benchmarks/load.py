"""A load generator that costs little, since it shares the machine with what it measures.

It writes requests that were built beforehand and reads no more of an answer than its status, its length and when it
came. One request at a time on each connection, which stays open.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Final, cast

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class LoadError(Exception):
    """The service did not answer as the measurement needs it to."""


@dataclass
class Run:
    """What a load came to. Times are seconds on time.perf_counter's clock."""

    began: float = 0.0
    ended: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    surprise: bytes = b""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / (self.ended - self.began)

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many percent of the answers came within."""
        return quantiles(self.latencies_s, n=100, method="inclusive")[percent - 1] * 1000


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode() + body


def json_request(path: str, headers: Mapping[str, str], content: object) -> bytes:
    """The bytes of a POST with a JSON body."""
    return request("POST", path, {"content-type": "application/json", **headers}, json.dumps(content).encode())


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], run: Run, expected: int) -> None:
        self._requests = requests
        self._run = run
        self._expected = expected
        self._buffer = b""
        self._sent_at = 0.0
        self.done: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def start(self) -> None:
        following = next(self._requests, None)
        if following is None:
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head_end = buffer.find(_HEAD_END)
        if head_end < 0:
            self._buffer = buffer
            return
        at = buffer.find(_LENGTH, 0, head_end)
        length = int(buffer[at + len(_LENGTH) : buffer.find(b"\r\n", at)]) if at > 0 else 0
        if len(buffer) < head_end + 4 + length:
            self._buffer = buffer
            return
        self._buffer = b""
        self._run.latencies_s.append(time.perf_counter() - self._sent_at)
        status = int(buffer[9:12])
        self._run.statuses[status] += 1
        if status != self._expected and not self._run.surprise:
            self._run.surprise = buffer
        self.start()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            if exc is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(exc)


async def drive(port: int, requests: Iterable[bytes], *, connections: int, expected: int) -> Run:
    """Sends all of `requests`, each as soon as a connection is free. Raises LoadError for any other status."""
    run = Run()
    shared = iter(requests)
    loop = asyncio.get_running_loop()
    opened = [
        (await loop.create_connection(lambda: _Connection(shared, run, expected), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    run.began = time.perf_counter()
    for connection in opened:
        connection.start()
    await asyncio.gather(*(connection.done for connection in opened))
    run.ended = time.perf_counter()
    if set(run.statuses) != {expected}:
        raise LoadError(f"answers by status: {dict(run.statuses)}; one of them: {run.surprise[:1_000]!r}")
    return run
