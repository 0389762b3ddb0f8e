"""Streams of server-sent events: how they are sent, how many there may be, when they end, and what wakes them.

A stream holds no more than one page of what it sends, since it reads the next one only when its client has taken this
one; a client that takes nothing is cut off as every slow reader is (`api.server`). So nothing piles up here, however
many follow a ledger and however slowly.

Who may follow is asked again every LOOK_S, and an answer that takes as long is none: the stream of a session, a key or
a grant that ended ends within twice that time, and END_S. A client that does not even read this far is disconnected.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from litestar import Request, Response
from litestar.response.base import ASGIResponse

from api.waiting import Waiters
from domain.errors import DomainError, InfrastructureError
from infrastructure.metrics import STREAMS_CLOSED, STREAMS_OPENED, meter
from infrastructure.postgres import OUTSIDE
from infrastructure.redis import end_tasks

if TYPE_CHECKING:
    from litestar.types import Receive, Send

log = structlog.get_logger(__name__)

MOST: Final = 1_000
"""Streams of one process."""
MOST_OF_ONE: Final = 32
"""Streams of one principal in one process."""
BEAT_S: Final = 15.0
"""After so long without an event comes a comment, so that neither side nor a proxy takes the other for gone."""
LOOK_S: Final = 10.0
FOLLOW_S: Final = 1.0
"""How often it is asked whether a ledger that is followed has gone on, notice or not."""
END_S: Final = 1.0
"""For the last words to a client that may not be listening."""

MEDIA_TYPE: Final = "text/event-stream"
BEAT: Final = b": \n\n"
CARRIER: Final = "carrier"
"""Where a request's state has its connection, if the server is ours."""

HEADS: Final = "SELECT actor, seq FROM actors WHERE actor = ANY ($1::text[])"

_HEADERS: Final = {"x-accel-buffering": "no"}

Allowed = Callable[[], Awaitable[bool]]
Content = AsyncGenerator[bytes, None]


class Carrier(Protocol):
    """A connection, as a stream on it needs it."""

    def carry(self, end: Callable[[], None] | None) -> None:
        """Calls `end` when the client has gone or the server stops, until None is said."""

    def cut(self, waiting_for: str) -> None:
        """Disconnects the client, whatever it has not read yet."""


class Follower:
    """One stream's place in an actor's journal. `woken` is set when there may be more behind `after`."""

    __slots__ = ("after", "woken")

    def __init__(self, after: int) -> None:
        self.after = after
        self.woken = asyncio.Event()


class Streams:
    """All streams of this process, with the connections they read by: requests never wait for them."""

    def __init__(self, pool: asyncpg.Pool[Record], waiters: Waiters) -> None:
        self.pool: Final = pool
        self._waiters: Final = waiters
        self._of: Counter[UUID] = Counter()
        self._ends: set[asyncio.Event] = set()
        self._followers: dict[str, set[Follower]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to listen and to look. `close` ends it."""
        self._waiters.heard = self._hear
        self._tasks = [asyncio.create_task(self._look())]

    async def close(self) -> None:
        """Ends every stream."""
        for end in self._ends:
            end.set()
        await end_tasks(*self._tasks)

    @property
    def count(self) -> int:
        return len(self._ends)

    def admit(self, owner: UUID) -> None:
        """Raises InfrastructureError: 429 for one stream too many of the owner's, 503 when the process has enough."""
        if self._of[owner] >= MOST_OF_ONE:
            raise InfrastructureError(f"You have {MOST_OF_ONE} streams open; close one first.", "rate_limited", 5)
        if self.count >= MOST:
            raise InfrastructureError("Too many streams are open.", retry_after_s=5)

    @contextmanager
    def held(self, owner: UUID, kind: str, end: asyncio.Event) -> Iterator[None]:
        """Counts a stream for as long as it is open. Raises what `admit` raises."""
        self.admit(owner)
        self._of[owner] += 1
        self._ends.add(end)
        meter.count(STREAMS_OPENED, kind)
        try:
            yield
        finally:
            meter.count(STREAMS_CLOSED, kind)
            self._ends.discard(end)
            self._of[owner] -= 1
            if not self._of[owner]:
                del self._of[owner]

    @contextmanager
    def following(self, actor: str, after: int) -> Iterator[Follower]:
        """A place behind `after`, woken when the actor's journal goes on."""
        follower = Follower(after)
        self._followers.setdefault(actor, set()).add(follower)
        try:
            yield follower
        finally:
            others = self._followers[actor]
            others.discard(follower)
            if not others:
                del self._followers[actor]

    def _hear(self, actor: str | None) -> None:
        """Of a turn; None is that turns may have been missed."""
        for followed in (*self._followers,) if actor is None else (actor,):
            for follower in self._followers.get(followed, ()):
                follower.woken.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await self._wake_those_behind()
            except OUTSIDE as error:
                log.warning("heads_not_read", error=repr(error))
            except Exception:
                # nobody would be woken any more if nobody looked
                log.exception("heads_not_read")

    async def _wake_those_behind(self) -> None:
        if not self._followers:
            return
        for row in await self.pool.fetch(HEADS, list(self._followers)):
            for follower in self._followers.get(row["actor"], ()):
                if follower.after < row["seq"]:
                    follower.woken.set()


class EventStream(Response[bytes]):
    """A response that goes on until its content ends, its client goes, it is no longer allowed, or the server stops."""

    def __init__(
        self,
        request: Request[Any, Any, Any],
        streams: Streams,
        owner: UUID,
        kind: str,
        content: Content,
        allowed: Allowed,
    ) -> None:
        super().__init__(b"", media_type=MEDIA_TYPE, headers=_HEADERS)
        self._streams, self._owner, self._kind = streams, owner, kind
        self._content, self._allowed = content, allowed
        self._end = asyncio.Event()
        self._carrier: Carrier | None = request.scope["state"].get(CARRIER)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        """What Litestar sends."""
        return _Sender(self)

    async def send(self, send: Send, receive: Receive) -> None:
        """Sends the content until something ends it."""
        with suppress(DomainError), self._streams.held(self._owner, self._kind, self._end), self._carried():
            pump = asyncio.create_task(self._pump(send))
            gone = asyncio.create_task(_gone(receive))
            others = (gone, asyncio.create_task(self._end.wait()), asyncio.create_task(self._watch()))
            try:
                await asyncio.wait((pump, *others), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await _cancelled((pump, *others))
                await self._content.aclose()
            if gone.cancelled() and not await _finished(send) and pump.cancelled() and self._carrier is not None:
                # else what the connection still holds would be kept for a slow reader's time
                self._end.clear()
                self._carrier.cut("stream")
                # the server takes a response for broken that is given up before it knows
                with suppress(TimeoutError):
                    async with asyncio.timeout(END_S):
                        await self._end.wait()

    @contextmanager
    def _carried(self) -> Iterator[None]:
        """The connection's own word that it is over. `receive` has none of it while another request waits behind."""
        if self._carrier is None:
            yield
            return
        self._carrier.carry(self._end.set)
        try:
            yield
        finally:
            self._carrier.carry(None)

    async def _pump(self, send: Send) -> None:
        try:
            async for chunk in self._content:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except OUTSIDE as error:
            log.warning("stream_broken", error=repr(error))
        except Exception:
            log.exception("stream_broken")

    async def _watch(self) -> None:
        """Ends when the stream is no longer allowed, or nobody can tell."""
        try:
            while True:
                async with asyncio.timeout(LOOK_S):
                    allowed = await self._allowed()
                if not allowed:
                    return
                await asyncio.sleep(LOOK_S)
        except (*OUTSIDE, DomainError) as error:
            log.warning("stream_not_checked", error=repr(error))
        except Exception:
            log.exception("stream_not_checked")


class _Sender(ASGIResponse):
    __slots__ = ("_stream",)
    _should_set_content_length = False

    def __init__(self, stream: EventStream) -> None:
        super().__init__(headers=stream.headers, media_type=MEDIA_TYPE, status_code=200)
        self._stream = stream

    async def send_body(self, send: Send, receive: Receive) -> None:
        await self._stream.send(send, receive)


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(tasks: Sequence[asyncio.Task[None] | asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _finished(send: Send) -> bool:
    """Ends the response properly, if its client reads; else the connection is to be closed."""
    try:
        async with asyncio.timeout(END_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        return False
    return True
