"""Streams of server-sent events over real sockets: what is sent, to whom it goes back, and when they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self

import asyncpg
import httpx
import pytest
import structlog
from uuid_utils.compat import uuid7

from api import live, server, streams
from api.context import Services
from infrastructure.bells import Bells
from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.edge.test_connections import connections, on_uvloop, until
from tests.edge.test_pipeline import Site, a_site
from tests.service import ADD_SESSION, ADD_USER, a_ledger, posting
from workers.notices import Notices
from workers.turn import Turns

Json = dict[str, Any]
PATIENCE_S = 10
PUT_OUT = "DELETE FROM grants WHERE ledger = $1 AND user_id = $2"
LET_IN = "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, 'reader')"
END_SESSION = "UPDATE sessions SET ended_at = clock_timestamp() WHERE id = $1"


@dataclass
class Event:
    """One that came: its fields, or a comment."""

    fields: dict[str, str] = field(default_factory=dict)
    comment: str = ""

    @property
    def data(self) -> Json:
        found: Json = json.loads(self.fields["data"])
        return found


@dataclass
class Stream:
    """An open one."""

    answer: httpx.Response
    blocks: AsyncIterator[str]

    @classmethod
    def of(cls, answer: httpx.Response) -> Self:
        return cls(answer, cls._blocks(answer))

    @staticmethod
    async def _blocks(answer: httpx.Response) -> AsyncIterator[str]:
        lines: list[str] = []
        async for line in answer.aiter_lines():
            if line:
                lines.append(line)
            else:
                yield "\n".join(lines)
                lines = []

    async def block(self) -> Event:
        """The next event or comment. Raises StopAsyncIteration at the end."""
        text = await asyncio.wait_for(anext(self.blocks), PATIENCE_S)
        found = Event()
        for line in text.split("\n"):
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                found.comment = line[1:].strip()
            else:
                found.fields[name] = value
        return found

    async def event(self) -> Event:
        """The next event."""
        while not (found := await self.block()).fields:
            pass
        return found

    async def rest(self) -> list[Event]:
        """The events up to its end."""
        found = []
        while True:
            try:
                found.append(await self.event())
            except StopAsyncIteration:
                return found


@dataclass
class Town:
    """A running API, the turns of its ledgers, and who asks."""

    site: Site
    pool: asyncpg.Pool[asyncpg.Record]
    turns: Turns

    @property
    def services(self) -> Services:
        services: Services = self.site.app.state["services"]
        return services

    async def user(self, *roles: str) -> Somebody:
        user, session = uuid7(), uuid7()
        await self.pool.execute(ADD_USER, user, f"user-{user}", list(roles or ("user",)))
        await self.pool.execute(ADD_SESSION, session, user)
        token = self.services.tokens.issue(user, session, 3_600)
        return Somebody(self, user, session, {"authorization": f"Bearer {token}"})

    async def work(self, ledger: str) -> None:
        await self.turns.work(f"ledger:{ledger}")


@dataclass
class Somebody:
    """Who is logged in."""

    town: Town
    id: Any
    session: Any
    headers: dict[str, str]

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.town.site.client.get(path, headers={**self.headers, **_named(headers)})

    async def post(self, path: str, body: Json | None = None) -> Json:
        answer = await self.town.site.client.post(path, json=body, headers=self.headers)
        assert answer.status_code < 300, answer.text
        found: Json = answer.json()
        return found

    async def books(self) -> str:
        """A ledger with two accounts, at seq 3."""
        ledger = a_ledger()
        await self.post("/v1/ledgers", {"id": ledger, "name": "Books"})
        for name, kind in (("assets:bank", "asset"), ("wallets:alice", "liability")):
            account = {"name": name, "currency": "USD", "type": kind}
            await self.post(f"/v1/ledgers/{ledger}/accounts", account)
        await self.town.work(ledger)
        return ledger

    async def paid(self, ledger: str) -> str:
        """The id of a transaction that was applied."""
        made = await self.post(f"/v1/ledgers/{ledger}/transactions", posting())
        await self.town.work(ledger)
        return str(made["id"])

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[Stream]:
        given = {**self.headers, **_named(headers)}
        async with self.town.site.client.stream("GET", path, headers=given, timeout=PATIENCE_S * 3) as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store" and answer.headers["x-accel-buffering"] == "no"
            yield Stream.of(answer)


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def a_town(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Town]:
    async with a_site(settings, monkeypatch) as site, await open_pool(settings, application="test", size=4) as pool:
        redis = open_redis(settings)
        try:
            yield Town(site, pool, Turns(pool, pool, Notices(redis), Bells(redis, None), settings, (), lambda *_: None))
        finally:
            await redis.aclose()


@on_uvloop
async def test_a_ledgers_events_as_they_happen_and_from_any_place_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BEAT_S", 0.2)
    monkeypatch.setattr(streams, "BEAT_S", 0.2)
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        ledger = await ada.books()
        path = f"/v1/ledgers/{ledger}/events"
        async with ada.stream(path) as stream:
            assert (await stream.block()).comment == "1.3"
            assert (await stream.block()).comment == "", "a heartbeat"
            first, second = await ada.paid(ledger), await ada.paid(ledger)
            seen = [await stream.event() for _ in range(2)]
            assert [one.fields["id"] for one in seen] == ["1.4", "1.5"]
            assert [one.data["command"] for one in seen] == [first, second]
        journal = [json.loads(line) for line in (await ada.get(f"/v1/ledgers/{ledger}/journal")).text.splitlines()]
        for last in ("0", "1.0", "1.2", "4"):
            async with ada.stream(path, last_event_id=last) as stream:
                behind = [line for line in journal if line["seq"] > int(last.rpartition(".")[2])]
                # the journal's exact bytes
                assert [(await stream.event()).fields["data"] for _ in behind] == [line["event"] for line in behind]
        for last in ("6", "1.6", "2.1", "x", "1.", "-1", "9" * 40):
            assert (await ada.get(path, last_event_id=last)).json()["code"] == "malformed_request", last
        head = await town.site.client.head(path, headers=ada.headers)
        assert head.status_code == 200 and head.headers["content-type"].startswith("text/event-stream")
        assert (await ada.get(f"{path}?after=1")).status_code == 422
        await until(lambda: town.services.streams.count == 0)


@on_uvloop
async def test_without_notices_events_come_a_second_later(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        ledger = await ada.books()
        town.services.recorder.waiters.heard = lambda _: None
        async with ada.stream(f"/v1/ledgers/{ledger}/events") as stream:
            await stream.block()
            paid = await ada.paid(ledger)
            assert (await stream.event()).data["command"] == paid


@on_uvloop
async def test_a_job_on_its_way(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BEAT_S", 0.2)
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        ledger = await ada.books()
        job = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())
        path = job["links"]["events"]
        async with ada.stream(path) as stream:
            accepted = await stream.event()
            assert (accepted.fields["event"], accepted.data["at"]) == ("accepted", job["accepted_at"])
            beat = await stream.block()
            assert (beat.fields, beat.comment) == ({}, "")
            await town.work(ledger)
            turn, *published, finished = await stream.rest()
        assert (turn.fields["id"], turn.data["status"], turn.data["seq"], turn.data["attempts"]) == (
            *("turn", "succeeded", 4),
            1,
        )
        assert turn.data["turn"] is not None and turn.data["task"] is None
        assert all(one.fields["event"] == "published" for one in published)
        assert finished.fields["event"] == "finished"
        assert finished.data == (await ada.get(f"/v1/jobs/{job['id']}")).json()
        async with ada.stream(path, last_event_id="turn") as stream:
            assert [one.fields["event"] for one in await stream.rest()][-1] == "finished"
        # which tells an EventSource not to come back
        assert (await ada.get(path, last_event_id="finished")).status_code == 204
        assert (await ada.get(path, last_event_id="4")).json()["code"] == "malformed_request"
        waiting = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())
        async with ada.stream(waiting["links"]["events"]) as stream:
            await stream.event()
            await ada.post(f"/v1/jobs/{waiting['id']}/cancel")
            (finished,) = await stream.rest()
        assert finished.data["status"] == "cancelled"


@on_uvloop
async def test_a_stream_ends_with_the_grant_the_session_or_the_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # in the product it is asked every 10 s
    assert live.LOOK_S <= 15
    monkeypatch.setattr(live, "LOOK_S", 0.1)
    async with a_town(settings, monkeypatch) as town:
        ada, ben, eve = await town.user(), await town.user(), await town.user()
        ledger = await ada.books()
        path = f"/v1/ledgers/{ledger}/events"
        for missing in (path, f"/v1/ledgers/{a_ledger()}/events"):
            assert (await eve.get(missing)).json()["code"] == "not_found"
        await town.pool.execute(LET_IN, ledger, ben.id)
        async with ben.stream(path) as stream, ada.stream(path) as other:
            await stream.block()
            await town.pool.execute(PUT_OUT, ledger, ben.id)
            assert await stream.rest() == []
            paid = await ada.paid(ledger)
            assert (await other.event()).data["command"] == paid
        key = await ada.post("/v1/api-keys", {"name": "follower", "scopes": ["ledger:read"]})
        machine = replace(ada, headers={"authorization": f"Bearer {key['secret']}"})
        job = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting())
        async with machine.stream(path) as stream, machine.stream(job["links"]["events"]) as of_job:
            await stream.block()
            await of_job.event()
            await town.site.client.delete(f"/v1/api-keys/{key['id']}", headers=ada.headers)
            assert await stream.rest() == [] and await of_job.rest() == []
        async with ada.stream(path) as stream:
            await stream.block()
            await town.pool.execute(END_SESSION, ada.session)
            assert await stream.rest() == []


@on_uvloop
async def test_only_so_many_streams(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_OF_ONE", 2)
    monkeypatch.setattr(live, "MOST", 3)
    async with a_town(settings, monkeypatch) as town:
        ada, ben = await town.user(), await town.user()
        path, his = [f"/v1/ledgers/{await one.books()}/events" for one in (ada, ben)]
        async with ada.stream(path) as one, ada.stream(path) as two:
            await one.block()
            await two.block()
            refused = await ada.get(path)
            assert (refused.json()["code"], "retry-after" in refused.headers) == ("rate_limited", True)
            async with ben.stream(his) as three:
                await three.block()
                assert (await ben.get(his)).json()["code"] == "unavailable"
        await until(lambda: town.services.streams.count == 0)
        async with ada.stream(path) as again:
            await again.block()


@dataclass
class Unread:
    """A stream without end that nobody reads."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pages: int = 0


@asynccontextmanager
async def unread(somebody: Somebody, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Unread]:
    page = streams.journal.page

    async def endless(*arguments: Any, **options: Any) -> Any:
        stream.pages += 1
        return [replace_event(line) for line in await page(arguments[0], arguments[1], 0, **options)]

    def replace_event(line: Any) -> Any:
        return type(line)(line.seq, line.epoch, b'"' + b"x" * 100_000 + b'"')

    monkeypatch.setattr(streams.journal, "page", endless)
    path = f"/v1/ledgers/{await somebody.books()}/events"
    stream = await sent(somebody, path, last_event_id="0")
    try:
        # a page is asked for when the one before was taken: the last was not
        await until(lambda: stream.pages > 1 and any(one.flow.write_paused for one in connections()))
        yield stream
        # the kernel is not left with what was not read either
        with pytest.raises(ConnectionResetError):
            while await asyncio.wait_for(stream.reader.read(1 << 20), PATIENCE_S):
                pass
    finally:
        stream.writer.transport.abort()


async def sent(somebody: Somebody, *paths: str, **headers: str) -> Unread:
    """Requests on one connection, the one behind the other, that are left to themselves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", somebody.town.site.port, limit=1_024)
    lines = [f"{name}: {value}" for name, value in {"host": "x", **somebody.headers, **_named(headers)}.items()]
    for path in paths:
        writer.write("\r\n".join((f"GET {path} HTTP/1.1", *lines, "", "")).encode())
    return Unread(reader, writer)


@on_uvloop
async def test_who_does_not_read_is_cut_off_and_nothing_piles_up(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.1)
    monkeypatch.setattr(server, "LEAST_RATE", 1 << 20)
    async with (
        a_town(replace(settings, body_s=1), monkeypatch) as town,
        unread(await town.user(), monkeypatch) as stream,
    ):
        await until(lambda: town.services.streams.count == 0)
        # what sockets hold, and a page
        assert stream.pages < 200


@on_uvloop
async def test_who_does_not_read_is_cut_off_at_once_when_nothing_is_allowed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_S", 0.1)
    assert settings.body_s > PATIENCE_S * 2
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        async with unread(ada, monkeypatch):
            await town.pool.execute(END_SESSION, ada.session)
            # not just forgotten: what was not read yet is gone, too
            async with asyncio.timeout(PATIENCE_S):
                await until(
                    lambda: not any(one.flow.write_paused or one.transport.is_closing() for one in connections())
                )
                await until(lambda: town.services.streams.count == 0)


@on_uvloop
async def test_a_stream_ends_when_nobody_can_tell_in_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # asked every 10 s, answered within 10 s, and a second for the last words
    assert 2 * 10 + 1 < 30 and (live.LOOK_S, live.END_S) == (10, 1)
    monkeypatch.setattr(live, "LOOK_S", 0.1)
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        path = f"/v1/ledgers/{await ada.books()}/events"

        async def never(*_: Any) -> None:
            await asyncio.Event().wait()

        async with ada.stream(path) as stream:
            await stream.block()
            monkeypatch.setattr(streams, "_still", never)
            assert await stream.rest() == []


@on_uvloop
async def test_a_stream_ends_with_its_client_even_if_that_has_asked_for_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert streams.BEAT_S > PATIENCE_S, "it would be found out by the next heartbeat"
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        path = f"/v1/ledgers/{await ada.books()}/events"
        stream = await sent(ada, path, path)
        await stream.reader.readuntil(b"\n\n")
        stream.writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await until(lambda: town.services.streams.count == 0 and len(connections()) <= 1)


@on_uvloop
async def test_a_server_with_streams_stops_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    async with a_town(settings, monkeypatch) as town:
        ada = await town.user()
        path = f"/v1/ledgers/{await ada.books()}/events"
        job = await ada.post(path.replace("events", "transactions"), posting())
        # clients that stay, of which one has asked for another stream behind the first
        for paths in ([path], [job["links"]["events"]], [path, path]):
            opened.append(await sent(ada, *paths))
            await opened[-1].reader.readuntil(b"\n\n")
        assert town.services.streams.count == 3
    for stream in opened:
        # the end of a response: one that does not end by itself is broken off after a second
        assert (await asyncio.wait_for(stream.reader.read(), PATIENCE_S)).endswith(b"0\r\n\r\n")
        stream.writer.close()


@on_uvloop
async def test_a_server_does_not_wait_for_who_does_not_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "END_S", 0.1)
    async with AsyncExitStack() as left:
        async with a_town(settings, monkeypatch) as town:
            await left.enter_async_context(unread(await town.user(), monkeypatch))
            lines = left.enter_context(structlog.testing.capture_logs())
        # a second later the server would break off whatever there is
        assert [line["waiting_for"] for line in lines if line["event"] == "connection_cut"] == ["stream"]
