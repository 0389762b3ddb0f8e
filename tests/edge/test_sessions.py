"""Sessions as their users see and end them, under refreshes and logins at once, from two processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from infrastructure.cache import for_this_run
from infrastructure.postgres import open_pool
from infrastructure.redis import RedisUnavailable
from infrastructure.sessions import TOUCHED_S, end_sessions_of, session_key
from infrastructure.settings import Settings
from tests.edge.test_auth import NOWHERE, OLDER, PASSWORD, Door, a_door, bearer, code
from tests.journals import on_a_loop
from tests.service import add_user, running_service

LONG_AGO = "UPDATE sessions SET last_used_at = clock_timestamp() - make_interval(secs => $1)"
LAST_USED = "SELECT last_used_at FROM sessions WHERE id = $1"
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@asynccontextmanager
async def two_doors(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Door, Door]]:
    """The same house: two processes' worth of API, each with a cache and keys of its own."""
    async with a_door(settings, monkeypatch) as one, running_service(settings, monkeypatch) as other:
        yield one, Door(other, one.ada)


async def sessions(door: Door, token: str, query: str = "") -> httpx.Response:
    return await door.client.get(f"/auth/sessions{query}", headers=bearer(token))


async def end(door: Door, token: str, session: object) -> httpx.Response:
    return await door.client.delete(f"/auth/sessions/{session}", headers=bearer(token))


async def log_in(door: Door, agent: str) -> dict[str, Any]:
    body = {"username": "ada", "password": PASSWORD}
    found: dict[str, Any] = (await door.client.post("/auth/login", json=body, headers={"user-agent": agent})).json()
    return found


# -- seen and ended ---------------------------------------------------------------------------------------------------


@on_a_loop
async def test_ones_own_sessions(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        pairs = [await log_in(door, f"browser {number}\0" if number else "") for number in range(4)]
        await add_user(door.service.pool, "eve", PASSWORD, ["user"])
        assert (await door.login("eve")).status_code == 200
        token = pairs[1]["access_token"]
        answer = await sessions(door, token)
        assert answer.status_code == 200
        assert set(answer.json()) == {"items", "next"}
        items = answer.json()["items"]
        ids = [str(door.session_of(pair["access_token"])) for pair in reversed(pairs)]
        assert [item["id"] for item in items] == ids
        assert [item["current"] for item in items] == [False, False, True, False]
        assert set(items[0]) == {
            *("id", "created_at", "last_used_at", "expires_at"),
            *("address", "user_agent", "current"),
        }
        assert items[0]["address"] == "127.0.0.1"
        assert [item["user_agent"] for item in items[:3]] == ["browser 3", "browser 2", "browser 1"]
        assert all(item["created_at"] <= item["last_used_at"] < item["expires_at"] for item in items)

        first = (await sessions(door, token, "?limit=3")).json()
        rest = (await sessions(door, token, f"?limit=3&cursor={first['next']}")).json()
        assert [item["id"] for item in (*first["items"], *rest["items"])] == ids
        assert rest["next"] is None
        # what ended or expired is not among them
        assert (await door.logout(pairs[0]["access_token"])).status_code == 204
        expired = "UPDATE sessions SET expires_at = clock_timestamp() WHERE id = $1"
        await door.service.pool.execute(expired, UUID(ids[0]))
        assert [item["id"] for item in (await sessions(door, token)).json()["items"]] == ids[1:3]


@on_a_loop
async def test_parameters_of_the_list(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
        for query, expected in {
            "?limit=0": (422, "validation_failed"),
            "?limit=1001": (422, "validation_failed"),
            "?limit=١": (422, "validation_failed"),
            "?limit=1&limit=2": (422, "validation_failed"),
            "?all=1": (422, "validation_failed"),
            "?cursor=": (400, "malformed_request"),
            "?cursor=abc": (400, "malformed_request"),
            "?cursor=é": (400, "malformed_request"),
        }.items():
            assert code(await sessions(door, token, query)) == expected, query
        assert code(await door.client.get("/auth/sessions")) == (401, "unauthorized")


@on_a_loop
async def test_one_ends_ones_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        mine, lost = await door.tokens(), await door.tokens()
        await add_user(door.service.pool, "eve", PASSWORD, ["user"])
        eves = (await door.login("eve")).json()["access_token"]
        for token in (mine["access_token"], lost["access_token"], eves):
            assert (await door.me(token)).status_code == 200

        async def refusal(session: object) -> dict[str, Any]:
            answer = await end(door, mine["access_token"], session)
            assert code(answer) == (404, "not_found"), session
            return {**answer.json(), "correlation_id": None, "instance": None}

        # whose it is, and whether it ever was, makes no difference
        unknown = await refusal(uuid4())
        assert await refusal(door.session_of(eves)) == unknown
        for nonsense in ("1", "current", str(uuid4()).replace("-", ""), f"{{{uuid4()}}}"):
            assert await refusal(nonsense) == unknown
        assert (await door.me(eves)).status_code == 200

        gone = door.session_of(lost["access_token"])
        answer = await end(door, mine["access_token"], gone)
        assert (answer.status_code, answer.content) == (204, b"")
        assert code(await door.me(lost["access_token"])) == (401, "unauthorized")
        assert code(await door.refresh(lost["refresh_token"])) == (401, "unauthorized")
        assert await refusal(gone) == unknown
        assert (await door.me(mine["access_token"])).status_code == 200
        # the one that asks is a session like any other
        assert (await end(door, mine["access_token"], door.session_of(mine["access_token"]))).status_code == 204
        assert code(await door.me(mine["access_token"])) == (401, "unauthorized")


# -- last use ---------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_last_use_is_written_once_a_minute(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        pair = await door.tokens()
        session = door.session_of(pair["access_token"])
        pool, redis = door.service.pool, door.service.services.redis
        begun = await pool.fetchval(LAST_USED, session)
        for _ in range(3):
            await redis.call("DEL", session_key(session))
            await door.me(pair["access_token"])
        assert await pool.fetchval(LAST_USED, session) == begun
        await pool.execute(LONG_AGO, TOUCHED_S + 1.0)
        old = await pool.fetchval(LAST_USED, session)
        await door.me(pair["access_token"])
        assert await pool.fetchval(LAST_USED, session) == old  # Redis knew it, and Postgres was not asked
        await redis.call("DEL", session_key(session))
        await door.me(pair["access_token"])
        assert await pool.fetchval(LAST_USED, session) > begun
        await pool.execute(LONG_AGO, 5.0)
        await door.refresh(pair["refresh_token"])
        assert await pool.fetchval(LAST_USED, session) > begun


@on_a_loop
async def test_last_use_without_redis_is_written_no_more_often(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door(replace(settings, redis_url=NOWHERE), monkeypatch) as door:
        user = await door.service.user()
        await door.service.pool.execute(LONG_AGO, TOUCHED_S + 1.0)
        answers = await asyncio.gather(*(user.get("/auth/me") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        written = await door.service.pool.fetchval("SELECT last_used_at FROM sessions")
        await asyncio.gather(*(user.get("/auth/me") for _ in range(30)))
        assert await door.service.pool.fetchval("SELECT last_used_at FROM sessions") == written


@on_a_loop
async def test_a_database_that_only_reads_still_knows_who_one_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
        await door.service.pool.execute(LONG_AGO, TOUCHED_S + 1.0)
        # as when its disk is full: writes fail, reads do not
        frozen = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE disk_full; END $$"
        await door.service.pool.execute(frozen)
        await door.service.pool.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        assert (await door.me(token)).status_code == 200


# -- refreshing -------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_refreshes_at_once_from_two_processes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_doors(settings, monkeypatch) as doors:
        for count in (2, 20):
            first = await doors[0].tokens()
            answers = await asyncio.gather(*(doors[n % 2].refresh(first["refresh_token"]) for n in range(count)))
            assert {answer.status_code for answer in answers} == {200}
            successors = {answer.json()["refresh_token"] for answer in answers}
            assert len(successors) == 1
            for door, answer in zip(doors, answers, strict=False):
                assert (await door.me(answer.json()["access_token"])).status_code == 200
            assert (await doors[1].refresh(successors.pop())).status_code == 200


@on_a_loop
async def test_the_successors_access_token_may_be_used_meanwhile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uses a refresh token is an exchange: a client whose reply was lost may not know of the access token."""
    async with two_doors(settings, monkeypatch) as (one, other):
        first = await one.tokens()
        second = (await one.refresh(first["refresh_token"])).json()
        assert (await other.me(second["access_token"])).status_code == 200
        again = await other.refresh(first["refresh_token"])
        assert (again.status_code, again.json()["refresh_token"]) == (200, second["refresh_token"])


@on_a_loop
async def test_repeating_does_not_prolong_the_ten_seconds(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        first = await door.tokens()
        second = (await door.refresh(first["refresh_token"])).json()
        rotated = await door.service.pool.fetchval("SELECT rotated_at FROM sessions")
        assert (await door.refresh(first["refresh_token"])).status_code == 200
        assert await door.service.pool.fetchval("SELECT rotated_at FROM sessions") == rotated
        await door.service.pool.execute(OLDER)
        assert code(await door.refresh(first["refresh_token"])) == (401, "unauthorized")
        assert code(await door.me(second["access_token"])) == (401, "unauthorized")


@on_a_loop
async def test_two_before_the_newest_is_too_old_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_doors(settings, monkeypatch) as (one, other):
        first = await one.tokens()
        second = (await one.refresh(first["refresh_token"])).json()
        third = (await other.refresh(second["refresh_token"])).json()
        assert (await other.me(third["access_token"])).status_code == 200
        # who has the newest, and who has the oldest, can't be told apart: nobody goes on
        answers = await asyncio.gather(other.refresh(first["refresh_token"]), one.refresh(third["refresh_token"]))
        assert code(answers[0]) == (401, "unauthorized")
        for door in (one, other):
            assert code(await door.me(third["access_token"])) == (401, "unauthorized")
            assert code(await door.refresh(third["refresh_token"])) == (401, "unauthorized")
        if answers[1].status_code == 200:
            assert code(await one.refresh(answers[1].json()["refresh_token"])) == (401, "unauthorized")


@on_a_loop
async def test_what_was_not_given_out_yet_ends_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        pair = await door.tokens()
        early = door.service.services.tokens.refresh_token(door.session_of(pair["access_token"]), 3)
        assert code(await door.refresh(early)) == (401, "unauthorized")
        assert (await door.refresh(pair["refresh_token"])).status_code == 200


@on_a_loop
async def test_refreshing_does_not_prolong_a_session(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, session_s=600), monkeypatch) as door:
        pair = await door.tokens()
        begun = await door.service.pool.fetchval("SELECT expires_at FROM sessions")
        await door.service.pool.execute("UPDATE sessions SET expires_at = expires_at - interval '500 seconds'")
        renewed = (await door.refresh(pair["refresh_token"])).json()
        assert 95 <= renewed["expires_in"] <= 100
        assert (begun - await door.service.pool.fetchval("SELECT expires_at FROM sessions")).total_seconds() == 500


# -- races ------------------------------------------------------------------------------------------------------------


class Held:
    """A filler that has read Postgres, and is kept from storing what it read."""

    def __init__(self, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        cache = door.service.services.cache
        fill = cache.fill

        async def held(key: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float) -> bytes | None:
            async def slow_read() -> bytes | None:
                slot = await read()
                self.reached.set()
                await self.go_on.wait()
                return slot

            return await fill(key, slow_read, ttl_s)

        monkeypatch.setattr(cache, "fill", held)


ENDS: dict[str, Callable[[Door, dict[str, Any]], Awaitable[Any]]] = {
    "logout": lambda door, pair: door.logout(pair["access_token"]),
    "delete": lambda door, pair: end(door, pair["access_token"], door.session_of(pair["access_token"])),
    "reuse": lambda door, pair: door.refresh(pair["refresh_token"]),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_filler_in_another_process_puts_nothing_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    @on_a_loop
    async def run() -> None:
        async with two_doors(settings, monkeypatch) as (one, other):
            pair = await one.tokens()
            newest = (await one.refresh((await one.refresh(pair["refresh_token"])).json()["refresh_token"])).json()
            session = one.session_of(newest["access_token"])
            with monkeypatch.context() as patched:
                held = Held(other, patched)
                slow = asyncio.create_task(other.me(newest["access_token"]))
                await held.reached.wait()
                await ENDS[how](one, {**newest, "refresh_token": pair["refresh_token"]})
                held.go_on.set()
                await slow
            assert await one.service.services.redis.call("EXISTS", session_key(session)) == 0
            for door in (one, other):
                assert code(await door.me(newest["access_token"])) == (401, "unauthorized")

    run()


async def until_waiting(pool: asyncpg.Pool[Any]) -> None:
    async with asyncio.timeout(10):
        while not await pool.fetchval(WAITING):  # noqa: ASYNC110 - it is Postgres that waits
            await asyncio.sleep(0.01)


@on_a_loop
async def test_a_login_under_way_does_not_outlive_a_new_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old password was right when it was looked up. Its session would begin after all others were ended."""
    async with a_door(settings, monkeypatch) as door:
        async with door.service.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            assert await end_sessions_of(connection, [door.ada], "password changed") == []
            await connection.execute("UPDATE credentials SET changed_at = clock_timestamp()")
            late = asyncio.create_task(door.login())
            await until_waiting(door.service.pool)
            await transaction.commit()
        assert code(await late) == (401, "invalid_credentials")
        assert await door.service.pool.fetchval("SELECT count(*) FROM sessions") == 0
        assert (await door.login()).status_code == 200


@on_a_loop
async def test_a_session_that_is_about_to_begin_ends_with_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door(settings, monkeypatch) as door:
        older = door.session_of((await door.tokens())["access_token"])
        pool = door.service.pool
        async with pool.acquire() as logging_in, pool.acquire() as changing:
            login = logging_in.transaction()
            await login.start()
            await logging_in.execute("SELECT FROM users WHERE id = $1 FOR SHARE", door.ada)
            begun = uuid4()
            insert = "INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, now() + interval '1 hour')"
            await logging_in.execute(insert, begun, door.ada)

            async def change() -> list[UUID]:
                async with changing.transaction():
                    return await end_sessions_of(changing, [door.ada], "password changed")

            ending = asyncio.create_task(change())
            await until_waiting(pool)
            await login.commit()
            assert set(await ending) == {older, begun}


@on_a_loop
async def test_without_postgres_a_copy_is_enough_and_without_both_nothing_is(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door(settings, monkeypatch) as door:
        seen, new = (await door.tokens())["access_token"], (await door.tokens())["access_token"]
        probe = "/v1/ledgers/none/accounts/none"
        assert (await door.client.get(probe, headers=bearer(seen))).status_code == 404
        services = door.service.services
        assert 0 < await services.redis.call("PTTL", session_key(door.session_of(seen))) <= 60_000
        nowhere = replace(settings, database_url="postgresql://nobody@127.0.0.1:1/none")
        async with await open_pool(nowhere, application="test", size=1, least=0) as gone:
            monkeypatch.setattr(services.sessions, "_pool", gone)
            assert (await door.client.get(probe, headers=bearer(seen))).status_code == 404
            assert code(await door.me(new)) == (503, "unavailable")

            async def down(*_: object) -> None:
                raise RedisUnavailable("Redis is gone, too.")

            monkeypatch.setattr(services.redis, "call", down)
            monkeypatch.setattr(services.redis, "run", down)
            for token in (seen, new):
                assert code(await door.me(token)) == (503, "unavailable")
                assert code(await door.logout(token)) == (503, "unavailable")
            monkeypatch.undo()
        assert (await door.me(seen)).status_code == 200


@on_a_loop
async def test_without_redis_nobody_is_told_that_a_session_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_door(settings, monkeypatch) as door:
        mine, lost, stale = [await door.tokens() for _ in range(3)]
        ids = [door.session_of(pair["access_token"]) for pair in (mine, lost, stale)]
        newest = (await door.refresh((await door.refresh(stale["refresh_token"])).json()["refresh_token"])).json()
    async with running_service(replace(settings, redis_url=NOWHERE), monkeypatch) as service:
        without = Door(service, door.ada)
        assert (await sessions(without, mine["access_token"])).status_code == 200
        for answer in (
            await end(without, mine["access_token"], ids[1]),
            await without.refresh(stale["refresh_token"]),
        ):
            assert code(answer) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        # and yet they have
        for pair in (lost, newest):
            assert code(await without.me(pair["access_token"])) == (401, "unauthorized")
    async with running_service(settings, monkeypatch) as service:
        back = Door(service, door.ada)
        # Redis still has a copy from before. Asking again deletes it, though there is nothing left to end
        copy = b'{"user":"%s","username":"ada","roles":["user"]}' % str(door.ada).encode()
        redis = service.services.redis
        await redis.call("PING")
        await redis.call("SET", session_key(ids[1]), for_this_run(copy, redis.server), "EX", 60)
        assert (await back.me(lost["access_token"])).status_code == 200
        assert code(await end(back, mine["access_token"], ids[1])) == (404, "not_found")
        assert code(await back.me(lost["access_token"])) == (401, "unauthorized")
