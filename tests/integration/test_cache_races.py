"""Readers and writers racing on real servers: nobody is answered with less than was acknowledged before they asked.

Writers do what a turn does: change Postgres, put tombstones, commit, remove them. A version is acknowledged from its
commit on. Where Redis forgets everything at random, tombstones too, a plain read may miss a commit until the turn has
ended; a read with `min_version` never may.

Every part of the protocol is also taken away in turn, and the same race must then catch somebody being lied to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from litestar import Litestar
from redis.asyncio import Redis

from api import queries
from api.app import create_app
from infrastructure import cache as cache_module
from infrastructure import projections
from infrastructure.cache import Cache, seq_key, view_key
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Service, open_books, posting, running_service

Patch = pytest.MonkeyPatch

LOCK = "SELECT seq FROM actors WHERE actor = $1 FOR NO KEY UPDATE"
ADVANCE = "UPDATE actors SET seq = $2 WHERE actor = $1"
MOVE = "UPDATE accounts SET posted_debits = posted_debits + 1, version = $3 WHERE ledger = $1 AND name = $2"
ALTER = "UPDATE transactions SET version = $3 WHERE ledger = $1 AND id = $2::text::uuid"

ACCOUNTS = ("accounts/assets:bank", "accounts/wallets:alice")
LISTS = ("accounts", "transactions")
SOUND_S = 6
CAUGHT_S = 30


class Stale(Exception):
    """An answer was older than what its reader could know."""


@dataclass
class Race:
    """A ledger, two API processes' worth of readers, and what has been acknowledged, by path within the ledger."""

    service: Service
    apps: list[Litestar]
    redis: Redis
    ledger: str
    transaction: str
    headers: list[tuple[bytes, bytes]]
    flushing: bool
    committed: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    answers: int = 0
    reads: int = 0
    over: bool = False
    stale: Stale | None = None

    @property
    def things(self) -> tuple[str, ...]:
        return (*ACCOUNTS, f"transactions/{self.transaction}")

    async def write(self, dice: random.Random) -> None:
        """One turn after another. Postings move accounts, captures and reversals a transaction, too."""
        actor = f"ledger:{self.ledger}"
        while not self.over:
            paths = dice.sample(self.things, dice.choice((1, 2)))
            views, turn = [path.replace("s/", ":", 1) for path in paths], str(uuid4())
            async with self.service.pool.acquire() as db:
                async with db.transaction():
                    seq = await db.fetchval(LOCK, actor) + 1
                    await db.execute(ADVANCE, actor, seq)
                    for kind, _, name in (path.partition("/") for path in paths):
                        await db.execute(MOVE if kind == "accounts" else ALTER, self.ledger, name, seq)
                    await cache_module.begin_write(self.redis, self.ledger, views, turn)
                    await pause(dice)
                for path in (*paths, *LISTS):
                    self.committed[path] = max(seq, self.committed.get(path, 0))
            await pause(dice)
            async with self.redis.pipeline(transaction=False) as pipe:
                cache_module.end_write(pipe, self.ledger, views, turn)
                await pipe.execute()
            for path in (*paths, *LISTS):
                self.ended[path] = max(seq, self.ended.get(path, 0))
            await pause(dice, 4)

    async def read(self, dice: random.Random) -> None:
        """One question after another. Raises Stale."""
        while not self.over:
            what = dice.choice((*self.things, *LISTS))
            path = f"/v1/ledgers/{self.ledger}/{what}"
            known = (self.ended if self.flushing else self.committed).get(what, 0)
            query = ""
            if dice.random() < 0.2:
                known = max(known, self.committed.get(what, 0))
                query = f"min_version={known}"
            status, etag = await self.get(dice.choice(self.apps), path, query)
            if status != 200:
                raise AssertionError(f"{status} for {path}?{query}")
            if etag < known:
                raise Stale(f"{path}?{query}: {etag}, though {known} was acknowledged")
            self.answers += 1

    async def get(self, app: Litestar, path: str, query: str) -> tuple[int, int]:
        """Status and version of an answer, straight through the application."""
        scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "state": {},
            "headers": self.headers, "client": ("127.0.0.1", 1), "server": ("daybook.test", 80), "extensions": {},
            "app": app, "litestar_app": app,
        }  # fmt: skip
        start: dict[str, Any] = {}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                start.update(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        await app.asgi_handler(scope, receive, send)  # type: ignore[arg-type]
        etag = dict(start["headers"]).get(b"etag", b'"0.0"').strip(b'"')
        return start["status"], int(etag.split(b".")[1])

    async def forget(self, dice: random.Random) -> None:
        """Redis loses everything, now and again."""
        while not self.over:
            await asyncio.sleep(dice.uniform(0.001, 0.05))
            await self.redis.flushall()

    async def run(self, seconds: float) -> None:
        """The race. It ends as soon as somebody was answered with too little: see `stale`."""
        dice = random.Random(1)
        runners = [self.write(random.Random(dice.random())) for _ in range(4)]
        runners += [self.read(random.Random(dice.random())) for _ in range(12)]
        if self.flushing:
            runners.append(self.forget(dice))
        tasks = [asyncio.create_task(runner) for runner in runners]
        try:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            self.over = True
            for task in done:
                task.result()
            await asyncio.gather(*tasks)
        except Stale as stale:
            self.stale = stale
        finally:
            self.over = True
            await asyncio.gather(*tasks, return_exceptions=True)


async def pause(dice: random.Random, times: int = 1) -> None:
    """Mostly nothing, sometimes a little while: so that every gap is wide open at times."""
    await asyncio.sleep(dice.choice((0, 0, 0.001, 0.004)) * times)


def slow(name: str, ran: list[str]) -> Callable[..., Awaitable[Any]]:
    """A function of `projections`, with a pause between reading and storing what was read."""
    read, dice, times = getattr(projections, name), random.Random(name), 4 if name.startswith("list") else 1

    async def slowed(*arguments: Any) -> Any:
        found = await read(*arguments)
        ran.append(name)
        await pause(dice, times)
        return found

    return slowed


async def race(settings: Settings, monkeypatch: Patch, seconds: float, *, flushing: bool) -> Race:
    """Runs it on a fresh ledger."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(settings, monkeypatch))
        ada = await service.user()
        ledger = await open_books(ada)
        posted = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10")
        other = create_app(settings)
        await stack.enter_async_context(other.lifespan())
        redis = open_redis(settings)
        stack.push_async_callback(redis.aclose)
        ran: list[str] = []
        for name in ("find_account", "list_accounts", "find_transaction", "list_transactions", "find_seq"):
            monkeypatch.setattr(projections, name, slow(name, ran))
        headers = [(name.encode(), value.encode()) for name, value in ada.headers.items()]
        running = Race(service, [service.app, other], redis, ledger, posted.json()["id"], headers, flushing)
        await running.run(seconds)
        running.reads = len(ran)
        return running


@pytest.mark.parametrize("flushing", [False, True])
@on_a_loop
async def test_nobody_is_answered_with_less_than_was_acknowledged(
    settings: Settings, monkeypatch: Patch, flushing: bool
) -> None:
    ran = await race(settings, monkeypatch, SOUND_S, flushing=flushing)
    assert ran.stale is None
    assert ran.answers > 300, "readers have read"
    assert all(ran.committed[path] > 50 for path in (*ran.things, *LISTS)), "writers have written"
    assert ran.reads < ran.answers, "not without the cache or others' reads"


# -- the same race without one part of the protocol -------------------------------------------------------------------


def store_without_lease(monkeypatch: Patch) -> None:
    """A filler stores what it read, whatever happened meanwhile."""

    async def lease(_cache: Cache, _key: str) -> str:
        return "L:"

    async def store(cache: Cache, key: str, _lease: str, value: bytes | None, ttl_s: float) -> bool:
        await cache._redis.call("SET", key, value or b"", "EX", int(ttl_s))
        return True

    monkeypatch.setattr(Cache, "_lease", lease)
    monkeypatch.setattr(Cache, "_store", store)


def delete_after_the_commit_only(monkeypatch: Patch) -> None:
    """No tombstones: the old value is served between commit and deletion."""

    async def begin_write(*_: Any) -> None:
        return None

    monkeypatch.setattr(cache_module, "begin_write", begin_write)


def join_any_fill(monkeypatch: Patch) -> None:
    """Whoever comes while a fill is under way gets what it has read."""

    async def fill(cache: Cache, key: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float) -> bytes | None:
        flight = cache._flights.get(key)
        if flight is None:
            flight = cache._flights[key] = cache_module._Flight()
            flight.task = asyncio.create_task(cache._fly(flight, key, read, ttl_s))
        return (await asyncio.shield(flight.task))[0]

    monkeypatch.setattr(Cache, "fill", fill)


def join_any_list(monkeypatch: Patch) -> None:
    """The same for lists."""
    read = queries.Shared.read

    async def shared(self: Any, key: str, how: Any, _suffices: Any = None) -> Any:
        return await read(self, key, how, lambda _: True)

    monkeypatch.setattr(queries.Shared, "read", shared)


def remove_anybodys_tombstone(monkeypatch: Patch) -> None:
    """A turn's end also opens what the next turn has barred."""

    def end_write(pipe: Any, ledger: str, views: Any, _turn: str) -> None:
        pipe.delete(seq_key(ledger), *(view_key(ledger, what) for what in views))

    monkeypatch.setattr(cache_module, "end_write", end_write)


@pytest.mark.parametrize(
    "mutant",
    [
        store_without_lease,
        delete_after_the_commit_only,
        join_any_fill,
        join_any_list,
        remove_anybodys_tombstone,
    ],
)
@on_a_loop
async def test_the_race_catches_every_part_that_is_missing(
    settings: Settings, monkeypatch: Patch, mutant: Callable[[Patch], None]
) -> None:
    mutant(monkeypatch)
    assert (await race(settings, monkeypatch, CAUGHT_S, flushing=False)).stale is not None


@on_a_loop
async def test_what_a_flush_let_in_before_the_commit_goes_at_the_turns_end(
    settings: Settings, monkeypatch: Patch
) -> None:
    """Redis forgets the tombstones, somebody fills the old value, then the turn commits and ends."""
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        redis = open_redis(settings)
        views = ["account:assets:bank"]
        paths = [f"/v1/ledgers/{ledger}/accounts/assets:bank", f"/v1/ledgers/{ledger}/accounts"]
        async with service.pool.acquire() as db, db.transaction():
            await db.execute(ADVANCE, f"ledger:{ledger}", 4)
            await db.execute(MOVE, ledger, "assets:bank", 4)
            await cache_module.begin_write(redis, ledger, views, "t")
            await redis.flushall()
            for path in paths:
                for _ in range(2):
                    assert '.4"' not in (await ada.get(path)).headers["etag"]
        for path in paths:
            assert (await ada.get(f"{path}?min_version=4")).headers["etag"] == '"1.4"'
        async with redis.pipeline(transaction=False) as pipe:
            cache_module.end_write(pipe, ledger, views, "t")
            await pipe.execute()
        for path in paths:
            assert (await ada.get(path)).headers["etag"] == '"1.4"'
        await redis.aclose()
