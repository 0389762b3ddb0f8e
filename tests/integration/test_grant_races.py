"""Who has been put out of a ledger is out: whatever Redis kept, forgot, or was just being told.

A revocation counts from its commit on, which is before the turn says anything to Redis. Each scene is also played with
the part of the protocol taken away that it is there for, and must then catch somebody being served who is out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from litestar import Litestar

from api import admission
from api.app import create_app
from infrastructure import cache as cache_module
from infrastructure import embedded
from infrastructure import grants as grants_module
from infrastructure.cache import Cache, Span
from infrastructure.processes import await_ready, choose_port, start, stop
from infrastructure.redis import RedisUnavailable, open_redis
from infrastructure.repositories import ledger as ledgers
from infrastructure.settings import Settings
from tests.conftest import temporary_state
from tests.integration.test_cache_races import Race as Asking
from tests.integration.test_cache_races import pause
from tests.integration.test_grants import give, take
from tests.journals import on_a_loop
from tests.service import Service, User, open_books, running_service
from tests.turns import nothing
from workers.notices import Notices

Patch = pytest.MonkeyPatch

SOUND_S = 4
CAUGHT_S = 20


class Served(Exception):
    """Somebody was served who was out."""


@dataclass
class Guest:
    """Somebody who is let in and put out, so many times. `out`: the last revocation has committed."""

    user: User
    headers: list[tuple[bytes, bytes]]
    times: int = 0
    out: bool = False


@dataclass
class TellingNotices:
    """A turn's line to Redis, held up now and again. It hears of a commit before Redis does."""

    notices: Notices
    dice: random.Random
    on_commit: Callable[[Sequence[str]], None]

    async def begin(self, actor: str, views: Sequence[str], turn: UUID) -> None:
        await self.notices.begin(actor, views, turn)
        await pause(self.dice, 2)

    async def announce(self, actor: str, views: Sequence[str], turn: UUID, span: Span) -> None:
        self.on_commit(views)
        await pause(self.dice, 2)
        await self.notices.announce(actor, views, turn, span)


@dataclass
class Race:
    """A ledger, its owner, and the guests."""

    service: Service
    apps: list[Litestar]
    ledger: str
    owner: User
    guests: list[Guest]
    flushing: bool
    over: bool = False
    served: int = 0
    refused: int = 0
    caught: Served | None = None
    asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        self.asking = Asking(
            self.service, self.apps, open_redis(self.service.services.settings), self.ledger, "", [], False
        )

    def committed(self, views: Sequence[str]) -> None:
        for guest in self.guests:
            if f"grant:{guest.user.id}" in views and guest.times % 2 == 0:
                guest.out = True

    async def admit(self, guest: Guest) -> None:
        """In and out again. Odd times in, even times out."""
        while not self.over:
            guest.out = False
            guest.times += 1
            assert (await give(self.owner, self.ledger, guest.user, "reader")).status_code == 200
            await asyncio.sleep(0.005)
            guest.times += 1
            assert (await take(self.owner, self.ledger, guest.user)).status_code == 204
            assert guest.out
            await asyncio.sleep(0.005)

    async def ask(self, guest: Guest, dice: random.Random) -> None:
        """One question after another. Raises Served."""
        asking = replace_headers(self.asking, guest.headers)
        while not self.over:
            out, times = guest.out, guest.times
            path = f"/v1/ledgers/{self.ledger}" + dice.choice(("", "/accounts/assets:bank", "/grants"))
            status, _ = await asking.get(dice.choice(self.apps), path, "")
            assert status in (200, 404)
            if out and guest.times == times and status != 404:
                raise Served(f"{status} for {path} after revocation {times // 2}")
            self.served += status == 200
            self.refused += status == 404

    async def run(self, seconds: float) -> None:
        dice = random.Random(3)
        runners = [self.admit(guest) for guest in self.guests]
        runners += [self.ask(guest, random.Random(dice.random())) for guest in self.guests for _ in range(4)]
        if self.flushing:
            runners.append(self.forget(dice))
        tasks = [asyncio.create_task(runner) for runner in runners]
        try:
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            self.over = True
            for task in done:
                task.result()
            await asyncio.gather(*tasks)
        except Served as served:
            self.caught = served
        finally:
            self.over = True
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.asking.redis.aclose()

    async def forget(self, dice: random.Random) -> None:
        while not self.over:
            await asyncio.sleep(dice.uniform(0.001, 0.02))
            await self.asking.redis.flushall()


def replace_headers(asking: Asking, headers: list[tuple[bytes, bytes]]) -> Asking:
    return replace(asking, headers=headers)


def headers_of(user: User) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in user.headers.items()]


def slow_stores(monkeypatch: Patch) -> None:
    """Time between what a filler reads and what it stores."""
    store, dice = Cache._store, random.Random(5)

    async def slowed(cache: Cache, *arguments: Any) -> bool:
        await pause(dice, 2)
        return await store(cache, *arguments)

    monkeypatch.setattr(Cache, "_store", slowed)


async def race(settings: Settings, monkeypatch: Patch, seconds: float, *, flushing: bool) -> Race:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(settings, monkeypatch))
        other = create_app(settings)
        await stack.enter_async_context(other.lifespan())
        owner = await service.user()
        ledger = await open_books(owner)
        guests = [Guest(user, headers_of(user)) for user in [await service.user() for _ in range(3)]]
        running = Race(service, [service.app, other], ledger, owner, guests, flushing)
        turns = service.bell.turns
        assert turns is not None and isinstance(turns.notices, Notices)
        telling: Any = TellingNotices(turns.notices, random.Random(7), running.committed)
        service.bell.turns = replace(turns, notices=telling)
        slow_stores(monkeypatch)
        await running.run(seconds)
        return running


@pytest.mark.parametrize("flushing", [False, True])
@on_a_loop
async def test_nobody_is_served_who_has_been_put_out(settings: Settings, monkeypatch: Patch, flushing: bool) -> None:
    ran = await race(settings, monkeypatch, SOUND_S, flushing=flushing)
    assert ran.caught is None
    assert sum(guest.times for guest in ran.guests) > 30
    assert ran.served > 50
    assert ran.refused > 50


# -- the moments that matter, one by one ------------------------------------------------------------------------------


@dataclass
class Scene:
    """A ledger of Ada's whose reader Bob is about to be put out; his grant is in Redis."""

    service: Service
    ada: User
    bob: User
    ledger: str
    hooks: Hooks

    async def ask(self) -> int:
        return (await self.bob.get(f"/v1/ledgers/{self.ledger}")).status_code

    async def put_out(self) -> None:
        assert (await take(self.ada, self.ledger, self.bob)).status_code == 204

    async def kept(self) -> bytes | None:
        """What Redis holds of Bob's grant."""
        slot: bytes | None = await self.service.services.redis.call("GET", f"view:{self.ledger}:grant:{self.bob.id}")
        return slot


@dataclass
class Hooks:
    """What happens when a turn has barred its views, and when it has committed."""

    notices: Notices
    barred: Callable[[], Awaitable[None]] = nothing
    committed: Callable[[], Awaitable[None]] = nothing

    async def begin(self, actor: str, views: Sequence[str], turn: UUID) -> None:
        await self.notices.begin(actor, views, turn)
        await self.barred()

    async def announce(self, actor: str, views: Sequence[str], turn: UUID, span: Span) -> None:
        await self.committed()
        await self.notices.announce(actor, views, turn, span)


@asynccontextmanager
async def a_scene(settings: Settings, monkeypatch: Patch) -> AsyncIterator[Scene]:
    async with running_service(settings, monkeypatch) as service:
        turns = service.bell.turns
        assert turns is not None and isinstance(turns.notices, Notices)
        hooks = Hooks(turns.notices)
        service.bell.turns = replace(turns, notices=cast("Notices", hooks))
        ada, bob = await service.user(), await service.user()
        scene = Scene(service, ada, bob, await open_books(ada), hooks)
        assert (await give(ada, scene.ledger, bob, "reader")).status_code == 200
        assert [await scene.ask(), await scene.ask()] == [200, 200]
        assert (await scene.kept() or b"").endswith(b"@reader")
        yield scene


async def after_the_commit(scene: Scene) -> int:
    """Committed, and Redis not told yet."""
    seen: list[int] = []

    async def ask() -> None:
        seen.append(await scene.ask())

    scene.hooks.committed = ask
    await scene.put_out()
    return seen[0]


async def a_filler_that_read_before(scene: Scene) -> int:
    """Somebody has read the old grant, and stores it when all is over."""
    reached, go_on, store = asyncio.Event(), asyncio.Event(), Cache._store

    async def late(cache: Cache, key: str, *arguments: Any) -> bool:
        if "grant:" in key and str(scene.bob.id) in key:
            reached.set()
            await go_on.wait()
        return await store(cache, key, *arguments)

    await scene.service.services.redis.call("FLUSHALL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cache, "_store", late)
        filling = asyncio.create_task(scene.ask())
        await reached.wait()
        await scene.put_out()
        go_on.set()
        await filling
    return await scene.ask()


async def a_flush_before_the_commit(scene: Scene) -> int:
    """Redis has forgotten the bar, and somebody reads and stores before the turn commits."""
    seen: list[int] = []
    filled = asyncio.Event()
    save = ledgers.save

    async def flush_and_fill() -> None:
        await scene.service.services.redis.call("FLUSHALL")
        # who waits for the turn's commit is not waited for
        await asyncio.wait([asyncio.create_task(scene.ask())], timeout=0.3)
        filled.set()

    async def save_later(*arguments: Any) -> None:
        await filled.wait()
        await save(*arguments)

    async def ask() -> None:
        seen.append(await scene.ask())

    scene.hooks.barred, scene.hooks.committed = flush_and_fill, ask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "save", save_later)
        await scene.put_out()
    return seen[0]


def no_bar(monkeypatch: Patch) -> None:
    """The copies are dropped after the commit only."""

    async def begin_write(*_: Any) -> None:
        return None

    monkeypatch.setattr(cache_module, "begin_write", begin_write)


def store_without_lease(monkeypatch: Patch) -> None:
    """A filler stores what it read, whatever happened meanwhile."""

    async def store(cache: Cache, key: str, _lease: str, value: bytes | None, ttl_s: float) -> bool:
        await cache._redis.call("SET", key, value or b"", "EX", int(ttl_s))
        return True

    monkeypatch.setattr(Cache, "_store", store)


def readers_that_do_not_wait(monkeypatch: Patch) -> None:
    monkeypatch.setattr(grants_module, "FIND_ROLE", grants_module.FIND_ROLE.replace("FOR SHARE", ""))


def grants_that_are_not_locked(monkeypatch: Patch) -> None:
    monkeypatch.setattr(ledgers, "LOCK_GRANTS", ledgers.LOCK_GRANTS.replace("FOR UPDATE", ""))


def grants_that_are_no_views(monkeypatch: Patch) -> None:
    """Their copies are left to run out."""
    views = ledgers.views
    monkeypatch.setattr(ledgers, "views", lambda state: [view for view in views(state) if "grant:" not in view])


@pytest.mark.parametrize("moment", [after_the_commit, a_filler_that_read_before, a_flush_before_the_commit])
@on_a_loop
async def test_from_the_commit_on_nobody_is_served(
    settings: Settings, monkeypatch: Patch, moment: Callable[[Scene], Awaitable[int]]
) -> None:
    async with a_scene(settings, monkeypatch) as scene:
        assert await moment(scene) == 404
        assert [await scene.ask() for _ in range(2)] == [404, 404]
        assert await scene.kept() is None


@pytest.mark.parametrize(
    ("moment", "mutant"),
    [
        (after_the_commit, no_bar),
        (after_the_commit, grants_that_are_no_views),
        (a_filler_that_read_before, store_without_lease),
        (a_flush_before_the_commit, readers_that_do_not_wait),
        (a_flush_before_the_commit, grants_that_are_not_locked),
    ],
)
@on_a_loop
async def test_somebody_is_served_who_is_out_when_a_part_is_missing(
    settings: Settings, monkeypatch: Patch, moment: Callable[[Scene], Awaitable[int]], mutant: Callable[[Patch], None]
) -> None:
    mutant(monkeypatch)
    async with a_scene(settings, monkeypatch) as scene:
        assert await moment(scene) == 200


@on_a_loop
async def test_the_race_catches_a_missing_bar(settings: Settings, monkeypatch: Patch) -> None:
    no_bar(monkeypatch)
    assert (await race(settings, monkeypatch, CAUGHT_S, flushing=False)).caught is not None


# -- Redis is killed and comes back with all it knew ------------------------------------------------------------------


class Valkey:
    """A server of this test's own, which writes everything down."""

    def __init__(self, state: Path) -> None:
        self._program = embedded.valkey(
            embedded.make_state_directory(state), port=(port := choose_port()), password="secret"
        )
        self.url = embedded.valkey_url(port, "secret")
        self.start()

    def start(self) -> None:
        self._process = start(self._program)
        await_ready(self._program, self._process, seconds=10)

    def kill(self) -> None:
        self._process.kill()
        stop(self._program, self._process, seconds=5)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with temporary_state() as state:
        server = Valkey(state)
        yield server
        server.kill()


async def revoked_while_redis_was_down(scene: Scene, valkey: Valkey) -> None:
    """Redis dies, Bob is put out, and Redis comes back with his grant."""
    scene.service.bell.working = False
    answer = await take(scene.ada, scene.ledger, scene.bob, prefer="")
    await asyncio.to_thread(valkey.kill)
    await scene.service.work(scene.ledger)
    assert await scene.ask() == 404
    await asyncio.to_thread(valkey.start)
    assert (await scene.ada.get(answer.headers["location"])).json()["status"] == "succeeded"
    deadline = asyncio.get_running_loop().time() + 5
    while True:
        try:
            assert (await scene.kept() or b"").endswith(b"@reader"), "Redis has kept what it was told"
            return
        except RedisUnavailable:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.05)


@on_a_loop
async def test_a_restarted_redis_lets_nobody_in_again(settings: Settings, monkeypatch: Patch, valkey: Valkey) -> None:
    async with a_scene(replace(settings, redis_url=valkey.url), monkeypatch) as scene:
        await revoked_while_redis_was_down(scene, valkey)
        assert [await scene.ask() for _ in range(3)] == [404] * 3


@on_a_loop
async def test_it_would_if_copies_did_not_name_its_run(settings: Settings, monkeypatch: Patch, valkey: Valkey) -> None:
    monkeypatch.setattr(
        admission,
        "role_in",
        lambda slot, _: slot.partition(b"@")[2].decode() if slot and slot[:2] == b"V:" else None,
    )
    async with a_scene(replace(settings, redis_url=valkey.url), monkeypatch) as scene:
        await revoked_while_redis_was_down(scene, valkey)
        assert await scene.ask() == 200
