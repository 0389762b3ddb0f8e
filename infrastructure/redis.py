"""Redis: clients with short timeouts, and one connection that all requests of a process share.

Requests that run at the same time write their commands into one packet and are answered in order. That costs a
fraction of what a pooled connection a request costs, and Redis less too. It speaks RESP2 through hiredis, as redis-py
does; redis-py's own pipelines take several times the processor time.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import deque
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from domain.errors import InfrastructureError
from infrastructure.broker import queues_of
from infrastructure.settings import Settings

TIMEOUT_S: Final = 0.5
"""Who waits longer than this for Redis goes on without it."""

SECOND_LOOK_S: Final = 0.05

PAUSE_S: Final = 0.25
"""After a failed connection attempt nobody tries again for so long."""

MOST_WAITING: Final = 10_000
"""Commands without a reply on the shared connection; more are refused."""

TURNS_CHANNEL: Final = "daybook:turns"
"""Where turns announce themselves, by the names of their actors, to those who wait for a job."""

_CANCEL_AGAIN_S: Final = 0.25

_INCOMPLETE: Final = object()

_RUN_ID: Final = re.compile(rb"run_id:([0-9a-f]{16})")


class RedisUnavailable(InfrastructureError):
    """Redis can't be reached, is too slow or refuses to work."""


def open_redis(settings: Settings) -> Redis:
    """A client for the service's Redis. It connects when first used and gives up after a second."""
    return _client(settings.redis_url)


def open_queues(settings: Settings) -> Redis | None:
    """A client to look into the broker's queues with; None where the broker is not Redis."""
    queues = queues_of(settings.broker_url)
    return None if queues is None else _client(queues[0], **queues[1])


def _client(url: str, **options: Any) -> Redis:
    client: Redis = Redis.from_url(
        url,
        socket_timeout=1,
        socket_connect_timeout=1,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 1),
        client_name="daybook",
        **options,
    )
    return client


async def end_tasks(*tasks: asyncio.Task[None]) -> None:
    """Cancels tasks until they have ended: redis-py loses about one cancellation in ten that meets it connecting."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)


class Script:
    """A Lua script, known to Redis by its digest."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source: Final = source
        self.digest: Final = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class _Link(asyncio.Protocol):
    """One TCP connection: replies come in the order of the commands."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None
        self.alive = False
        self.server = b""
        self.lost: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's classes
        self._transport = cast(asyncio.Transport, transport)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                _, future = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        while self._waiting:
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(RedisUnavailable("Redis closed the connection."))
        self.lost.set_result(None)

    def abort(self) -> None:
        self.alive = False
        if self._transport is not None:
            self._transport.abort()

    def send(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        if not self.alive:
            # lost between its greeting and its first use: nobody would ever answer
            raise RedisUnavailable("Redis closed the connection.")
        if len(self._waiting) >= MOST_WAITING:
            raise RedisUnavailable("Too many commands wait for Redis.")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(hiredis.pack_command(command))
        self._waiting.append((self._loop.time(), future))
        if self._watch is None:
            self._watch = self._loop.call_later(TIMEOUT_S, self._check)
        return future

    def _flush(self) -> None:
        if self._transport is not None and self.alive:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()

    def _check(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        sent_at, future = self._waiting[0]
        left_s = sent_at + TIMEOUT_S - self._loop.time()
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._check)
        elif future is not self._overdue:
            # perhaps this process was busy, and the reply is there to be read
            self._overdue = future
            self._watch = self._loop.call_later(SECOND_LOOK_S, self._check)
        else:
            self.abort()


class SharedRedis:
    """The connection that all requests of this process share. It connects when needed, and again when it was lost.

    `server` names the very run of the Redis that it is connected to: after a restart or a failover it is another one.
    """

    def __init__(self, url: str) -> None:
        self.server = b""
        self._address: dict[str, Any] = dict(parse_url(url))
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._paused_until = 0.0

    async def call(self, *command: Any) -> Any:
        """Runs one command and gives its reply, strings as bytes.

        Raises RedisUnavailable, at the latest after a second, when there is no reply or the reply is an error.
        """
        reply = await self._send(command)
        if isinstance(reply, hiredis.ReplyError):
            raise RedisUnavailable(f"Redis refused: {reply}")
        return reply

    async def run(self, script: Script, keys: tuple[str, ...], arguments: tuple[Any, ...]) -> Any:
        """Runs a script by its digest, or whole when Redis does not know it (any more). Raises RedisUnavailable."""
        reply = await self._send(("EVALSHA", script.digest, len(keys), *keys, *arguments))
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith("NOSCRIPT"):
                raise RedisUnavailable(f"Redis refused: {reply}")
            return await self.call("EVAL", script.source, len(keys), *keys, *arguments)
        return reply

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._link is not None:
            self._link.abort()
            await self._link.lost
            self._link = None

    async def _send(self, command: tuple[Any, ...]) -> Any:
        link = self._link
        if link is None or not link.alive:
            link = await self._connected()
        return await link.send(command)

    async def _connected(self) -> _Link:
        if asyncio.get_running_loop().time() < self._paused_until:
            raise RedisUnavailable("Redis can't be reached.")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connect_done)
        return await asyncio.shield(self._connecting)

    def _connect_done(self, task: asyncio.Task[_Link]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        if task.exception() is not None:
            self._paused_until = asyncio.get_running_loop().time() + PAUSE_S

    async def _connect(self) -> _Link:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                link = await self._open()
                try:
                    await self._greet(link)
                except BaseException:
                    link.abort()
                    raise
        except (OSError, TimeoutError) as error:
            raise RedisUnavailable("Redis can't be reached.") from error
        self._link = link
        self.server = link.server
        return link

    async def _open(self) -> _Link:
        loop = asyncio.get_running_loop()
        address = self._address
        if path := address.get("path"):
            _, link = await loop.create_unix_connection(lambda: _Link(loop), path)
            return link
        secure = address.get("connection_class") is SSLConnection
        host, port = address.get("host", "localhost"), address.get("port", 6379)
        _, link = await loop.create_connection(lambda: _Link(loop), host, port, ssl=True if secure else None)
        return link

    async def _greet(self, link: _Link) -> None:
        if password := self._address.get("password"):
            _expect(await link.send(("AUTH", self._address.get("username") or "default", password)))
        if number := self._address.get("db"):
            _expect(await link.send(("SELECT", number)))
        _expect(await link.send(("CLIENT", "SETNAME", "daybook-api")))
        told = await link.send(("INFO", "server"))
        found = _RUN_ID.search(told) if isinstance(told, bytes) else None
        # who may not ask takes each connection for a server of its own
        link.server = found[1] if found is not None else secrets.token_hex(8).encode()


def _expect(reply: Any) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise RedisUnavailable(f"Redis refused: {reply}")
