"""Coming with an API key: known at once, ended at once, with Redis and without, in one process and in two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from api.app import create_app
from api.context import Services
from domain.clock import format_time
from infrastructure.api_keys import slot_key
from infrastructure.api_secrets import digest_of, new_secret
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Service, User, running_service

Patch = pytest.MonkeyPatch

NOWHERE = "redis://127.0.0.1:1"
REVOKE = "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = $1"
EXPIRE = "UPDATE api_keys SET expires_at = clock_timestamp() WHERE id = $1"
DISABLE = "UPDATE users SET status = 'disabled' WHERE id = (SELECT user_id FROM api_keys WHERE id = $1)"
LAST_USED = "SELECT last_used_at FROM api_keys WHERE id = $1"
STATEMENTS = """
SELECT count(*), max(query_start) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'daybook-api%'
"""


@dataclass
class Key:
    """A key, and the doors one may come to with it."""

    service: Service
    owner: User
    id: UUID
    secret: str
    doors: list[httpx.AsyncClient]

    @property
    def slot(self) -> str:
        return slot_key(digest_of(self.secret.encode()))

    async def me(self, door: int = 0) -> httpx.Response:
        return await self.doors[door].get("/auth/me", headers=bearer(self.secret))

    async def seen(self) -> list[int]:
        """What each process answers."""
        return [(await self.me(door)).status_code for door in range(len(self.doors))]

    async def revoke(self) -> httpx.Response:
        return await self.owner.client.delete(f"/v1/api-keys/{self.id}", headers=self.owner.headers)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def a_key(service: Service, owner: User | None = None, **members: Any) -> Key:
    owner = owner or await service.user()
    answer = await owner.post("/v1/api-keys", {"name": "n", "scopes": ["ledger:read"], **members})
    assert answer.status_code == 201, answer.text
    return Key(service, owner, UUID(answer.json()["id"]), answer.json()["secret"], [service.client])


@asynccontextmanager
async def another_door(settings: Settings, key: Key) -> AsyncIterator[Services]:
    """A second process's API for the length of a `with`."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))  # type: ignore[arg-type]
    async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://daybook.test") as client:
        key.doors.append(client)
        yield app.state["services"]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# -- how a key ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushing", [False, True], ids=["", "after FLUSHALL"])
def test_a_revoked_key_has_ended_everywhere(shared_settings: Settings, monkeypatch: Patch, flushing: bool) -> None:
    @on_a_loop
    async def run() -> None:
        async with running_service(shared_settings, monkeypatch) as service:
            key = await a_key(service)
            async with another_door(shared_settings, key):
                assert await key.seen() == await key.seen() == [200, 200]
                assert (await key.revoke()).status_code == 204
                if flushing:
                    await service.services.redis.call("FLUSHALL")
                assert await key.seen() == await key.seen() == [401, 401]

    run()


@on_a_loop
async def test_a_key_ends_when_it_expires(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        expires_at = datetime.now(UTC) + timedelta(seconds=1.5)
        key = await a_key(service, expires_at=format_time(expires_at))
        async with another_door(shared_settings, key):
            assert await key.seen() == [200, 200]
            await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.01)
            # Redis still has it
            assert (await service.services.redis.call("GET", key.slot)).startswith(b"V:")
            assert await key.seen() == [401, 401]
            await service.services.redis.call("DEL", key.slot)
            assert await key.seen() == [401, 401]


@pytest.mark.parametrize("flushing", [False, True], ids=["", "after FLUSHALL"])
def test_the_keys_of_who_is_disabled_end(shared_settings: Settings, monkeypatch: Patch, flushing: bool) -> None:
    @on_a_loop
    async def run() -> None:
        async with running_service(shared_settings, monkeypatch) as service:
            admin, key = await service.user("admin"), await a_key(service)
            async with another_door(shared_settings, key):
                assert await key.seen() == [200, 200]
                # from the moment that it is accepted: no worker runs yet
                service.bell.working = False
                assert (await admin.post(f"/v1/users/{key.owner.id}/disable", {})).status_code == 202
                if flushing:
                    await service.services.redis.call("FLUSHALL")
                assert await key.seen() == await key.seen() == [401, 401]
                assert service.bell.turns is not None
                await service.bell.turns.work(f"user:{key.owner.id}")
                assert await key.seen() == [401, 401]

    run()


@on_a_loop
async def test_a_new_password_leaves_keys_alone(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        body = {"password": "correct horse battery staple"}
        assert (await key.owner.post(f"/v1/users/{key.owner.id}/password", body)).status_code == 202
        assert (await key.owner.get("/auth/me")).status_code == 401
        assert (await key.me()).status_code == 200


@on_a_loop
async def test_the_owners_new_roles_count_with_the_next_request(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin, key = await service.user("admin"), await a_key(service)
        assert (await key.me()).json()["roles"] == ["user"]
        changed = await service.client.patch(
            f"/v1/users/{key.owner.id}", json={"roles": ["operator"]}, headers={**admin.headers, "prefer": "wait=10"}
        )
        assert changed.status_code == 200, changed.text
        assert (await key.me()).json()["roles"] == ["operator"]


@on_a_loop
async def test_whatever_is_wrong_with_a_key_the_answer_is_one(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ended = []
        for change in (REVOKE, EXPIRE, DISABLE):
            key = await a_key(service)
            assert (await key.me()).status_code == 200
            await service.pool.execute(change, key.id)
            await service.services.redis.call("DEL", key.slot)
            # Postgres says so by itself, and nothing is put back
            assert await service.services.api_keys.find(digest_of(key.secret.encode())) is None
            assert await service.services.redis.call("EXISTS", key.slot) == 0
            ended.append(key.secret)
        unused = await a_key(service)
        await service.pool.execute(REVOKE, unused.id)
        secret = new_secret()
        wrong = [*ended, unused.secret, secret, secret[:-1], secret + "0", secret.lower(), "dbk_", "dbk_" + "0" * 49]
        answers = [await service.client.get("/auth/me", headers=bearer(text)) for text in wrong]
        answers.append(await service.client.get("/auth/me", headers=bearer("eyJhbGciOiJub25lIn0.e30.")))
        bodies = [{**answer.json(), "correlation_id": None} for answer in answers]
        assert bodies == [bodies[0]] * len(bodies)
        assert {code(answer) for answer in answers} == {(401, "unauthorized")}
        assert {answer.headers["www-authenticate"] for answer in answers} == {'Bearer error="invalid_token"'}
        # where nobody needs to be logged in, nobody is asked
        for path in ("/health/live", "/problems/forbidden"):
            assert (await service.client.get(path, headers=bearer(secret))).status_code == 200


@on_a_loop
async def test_a_revocation_during_a_fill_wins(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        async with another_door(shared_settings, key) as others:
            reached, go_on = asyncio.Event(), asyncio.Event()
            fill = others.cache.fill

            async def held_up(slot: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float) -> bytes | None:
                async def slow_read() -> bytes | None:
                    found = await read()
                    reached.set()
                    await go_on.wait()
                    return found

                return await fill(slot, slow_read, ttl_s)

            monkeypatch.setattr(others.cache, "fill", held_up)
            # it has read Postgres, and is about to put what it read into Redis
            slow = asyncio.create_task(key.me(1))
            await reached.wait()
            assert (await key.revoke()).status_code == 204
            go_on.set()
            await slow
            assert await service.services.redis.call("EXISTS", key.slot) == 0
            assert await key.seen() == [401, 401]


@on_a_loop
async def test_revoking_and_filling_at_once(shared_settings: Settings, monkeypatch: Patch) -> None:
    """However they meet: once the revocation is answered, the key is good for nothing."""
    async with running_service(shared_settings, monkeypatch) as service:
        owner = await service.user()
        first = await a_key(service, owner)
        async with another_door(shared_settings, first):
            for number in range(14):
                key = await a_key(service, owner)
                key.doors = first.doors
                ended = asyncio.Event()
                floor: list[int] = []

                async def keep_asking(key: Key, door: int, ended: asyncio.Event, floor: list[int]) -> None:
                    while True:
                        late = ended.is_set()
                        status = (await key.me(door)).status_code
                        if late:
                            floor.append(status)
                            return
                        if status == 200 and door == 0:
                            # a copy that is lost makes the next one fill again
                            await service.services.redis.call("DEL", key.slot)

                asking = [asyncio.create_task(keep_asking(key, door % 2, ended, floor)) for door in range(4)]
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                assert (await key.revoke()).status_code == 204
                ended.set()
                await asyncio.gather(*asking)
                assert floor == [401] * 4
                assert await service.services.redis.call("EXISTS", key.slot) == 0


@on_a_loop
async def test_a_copy_that_comes_back_with_a_restart_counts_for_nothing(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key, redis = await a_key(service), service.services.redis
        async with another_door(shared_settings, key):
            assert await key.seen() == [200, 200]
            copy = await redis.call("GET", key.slot)
            this_run = redis.server
            assert copy.startswith(b"V:%b@" % this_run)
            assert (await key.revoke()).status_code == 204
            # as a Redis that has saved it before, and is another run now, would have it
            await redis.call("SET", key.slot, copy.replace(this_run, b"0" * len(this_run), 1), "PX", 60_000)
            assert await key.seen() == await key.seen() == [401, 401]


# -- without Redis, without Postgres ----------------------------------------------------------------------------------


@on_a_loop
async def test_without_redis_postgres_is_asked(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(replace(shared_settings, redis_url=NOWHERE), monkeypatch) as service:
        key = await a_key(service)
        assert [(await key.me()).status_code for _ in range(3)] == [200] * 3
        # it ends there, but nobody may be told so before its copy is gone
        assert code(await key.revoke()) == (503, "unavailable")
        assert (await key.me()).status_code == 401
        assert code(await key.revoke()) == (503, "unavailable")


@on_a_loop
async def test_without_postgres_a_copy_will_do(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        assert (await key.me()).status_code == 200
        gone = replace(shared_settings, database_url="postgresql://nobody@127.0.0.1:1/none")
        async with another_door(gone, key):
            # known by Redis, and good: what it asks for needs Postgres
            missing = await key.doors[1].get("/v1/nothing", headers=bearer(key.secret))
            assert missing.status_code == 404
            await service.services.redis.call("DEL", key.slot)
            assert code(await key.doors[1].get("/v1/nothing", headers=bearer(key.secret))) == (503, "unavailable")


@on_a_loop
async def test_without_both(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        gone = replace(shared_settings, redis_url=NOWHERE, database_url="postgresql://nobody@127.0.0.1:1/none")
        async with another_door(gone, key):
            assert code(await key.me(1)) == (503, "unavailable")
            # and what is no key is none
            junk = await key.doors[1].get("/auth/me", headers=bearer("dbk_" + "0" * 49))
            assert code(junk) == (401, "unauthorized")


# -- what it costs ----------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_key_costs_one_trip_to_redis(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        assert [(await key.me()).status_code for _ in range(2)] == [200] * 2
        assert 0 < await service.services.redis.call("PTTL", key.slot) <= 60_000
        sent: list[Any] = []
        send = service.services.redis._send

        async def noted(command: Any) -> Any:
            sent.append(command)
            return await send(command)

        monkeypatch.setattr(service.services.redis, "_send", noted)
        before = await service.pool.fetchrow(STATEMENTS)
        for _ in range(10):
            assert (await service.client.get("/v1/nothing", headers=bearer(key.secret))).status_code == 404
        assert [command[0] for command in sent] == ["EVALSHA"] * 10
        assert await service.pool.fetchrow(STATEMENTS) == before


@on_a_loop
async def test_junk_costs_no_more_than_being_counted(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        await (await a_key(service)).me()
        secret = new_secret()
        sent: list[Any] = []
        send = service.services.redis._send

        async def noted(command: Any) -> Any:
            sent.append(command)
            return await send(command)

        monkeypatch.setattr(service.services.redis, "_send", noted)
        before = await service.pool.fetchrow(STATEMENTS)
        swapped = secret[:4] + secret[5] + secret[4] + secret[6:]
        for junk in (
            "dbk_",
            "dbk_x",
            secret[:-1] + "_",
            swapped if swapped != secret else secret[:-1],
            "dbk_" + "z" * 49,
        ):
            answer = await service.client.get("/auth/me", headers=bearer(junk))
            assert answer.status_code == 401
        assert [command[0] for command in sent] == ["EVALSHA"] * 5
        assert await service.pool.fetchrow(STATEMENTS) == before


@on_a_loop
async def test_last_use_is_written_at_most_once_a_minute(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        assert await service.pool.fetchval(LAST_USED, key.id) is None
        await key.me()
        first = await service.pool.fetchval(LAST_USED, key.id)
        assert first is not None
        shown = (await key.owner.get("/v1/api-keys")).json()["items"][0]
        assert shown["last_used_at"] == format_time(first)
        for _ in range(3):
            # every copy lost: as often asked for, but not written
            await service.services.redis.call("DEL", key.slot)
            await key.me()
        assert await service.pool.fetchval(LAST_USED, key.id) == first
        earlier = "UPDATE api_keys SET last_used_at = last_used_at - interval '1 minute' WHERE id = $1"
        await service.pool.execute(earlier, key.id)
        await service.services.redis.call("DEL", key.slot)
        await key.me()
        assert await service.pool.fetchval(LAST_USED, key.id) > first


@on_a_loop
async def test_a_database_that_only_reads_still_knows_keys(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        monkeypatch.setattr("infrastructure.api_keys.TOUCH_KEY", "SELECT 1 / 0")
        assert (await key.me()).status_code == 200


@on_a_loop
async def test_keys_count_for_their_owner(shared_settings: Settings, monkeypatch: Patch) -> None:
    limited = replace(shared_settings, request_rate_address=1_000_000, request_rate_user=20)
    async with running_service(limited, monkeypatch) as service:
        key = await a_key(service)
        other = await a_key(service, key.owner)
        stranger = await a_key(service)
        headers = [bearer(key.secret), bearer(other.secret), key.owner.headers]
        answers = await asyncio.gather(
            *(service.client.get("/v1/nothing", headers=headers[number % 3]) for number in range(60))
        )
        refused = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {404, 429}
        assert {answer.headers["ratelimit-policy"] for answer in refused} == {'"principal";q=20;w=1'}
        assert len(refused) >= 20
        assert (await stranger.me()).status_code == 200


@on_a_loop
async def test_what_comes_with_a_key_that_ended_counts_for_the_address(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        assert (await key.me()).headers["ratelimit-policy"].startswith('"principal"')
        await key.revoke()
        # the first of them finds out
        await key.me()
        for _ in range(3):
            assert (await key.me()).headers["ratelimit-policy"].startswith('"address"')


# -- what nobody gets to see ------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_secret_is_kept_nowhere(
    shared_settings: Settings, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        key = await a_key(service)
        nowhere = {"id": f"l-{key.id.hex[:12]}", "name": "n"}
        headers = {**bearer(key.secret), "x-correlation-id": "c"}
        for method, path, body in (
            ("GET", "/auth/me", None),
            ("POST", "/v1/api-keys", {"name": "wider", "scopes": ["ledger:write"]}),
            ("POST", "/v1/ledgers", nowhere),
            ("GET", "/v1/ledgers?cursor=!", None),
            ("GET", "/v1/nothing", None),
        ):
            answer = await service.client.request(method, path, json=body, headers=headers)
            assert key.secret not in answer.text + str(answer.headers)
        assert (await (await a_key(service, key.owner)).revoke()).status_code == 204
        monkeypatch.setattr("infrastructure.api_keys.FIND_KEY", "SELECT 1 / 0")
        await service.services.redis.call("DEL", key.slot)
        failed = await key.me()
        assert failed.status_code >= 500
        hidden = key.secret[12:]
        assert hidden not in failed.text
        tables = await service.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for table in tables:
            rows = await service.pool.fetch(f'SELECT t::text AS row FROM "{table["tablename"]}" AS t')
            assert not any(hidden in row["row"] for row in rows), table["tablename"]
        for name in await service.services.redis.call("KEYS", "*"):
            assert hidden not in name.decode("latin-1")
            if await service.services.redis.call("TYPE", name) == b"string":
                assert hidden.encode() not in (await service.services.redis.call("GET", name) or b"")
    logged = capfd.readouterr().err
    assert hidden not in logged
    lines = [json.loads(line) for line in logged.splitlines() if '"event":"request"' in line]
    assert {line["key"] for line in lines if line["route"] == "/auth/me"} == {key.secret[:12], None}
    made = [json.loads(line) for line in logged.splitlines() if '"event":"api_key_made"' in line]
    assert (made[0]["id"], made[0]["key"]) == (str(key.id), key.secret[:12])
    revoked = [json.loads(line) for line in logged.splitlines() if '"event":"api_key_revoked"' in line]
    assert [line["id"] for line in revoked] == [made[1]["id"]]


# -- junk -------------------------------------------------------------------------------------------------------------

_CHARACTERS = st.characters(codec="latin-1", exclude_characters="\r\n\0")


def test_no_junk_gets_in(shared_settings: Settings, monkeypatch: Patch) -> None:
    """One service for all that Hypothesis thinks of: whatever stands behind `dbk_` is answered 401, or is no header."""

    @on_a_loop
    async def run() -> None:
        async with running_service(replace(shared_settings, request_rate_address=1_000_000), monkeypatch) as service:
            await (await a_key(service)).me()
            loop = asyncio.get_running_loop()

            async def ask(header: bytes) -> int:
                answer = await service.client.get("/auth/me", headers=[(b"authorization", header)])
                return answer.status_code

            @effort(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
            @given(st.one_of(st.text(_CHARACTERS, max_size=100), st.text("0aZ_", min_size=49, max_size=49)))
            @example("")
            @example("0" * 49)
            @example("é" * 49)
            @example(" " * 49)
            @example("a" * 8_000)
            def tried(rest: str) -> None:
                header = b"Bearer dbk_" + rest.encode("latin-1")
                assert asyncio.run_coroutine_threadsafe(ask(header), loop).result() == 401

            await asyncio.to_thread(tried)
            # made as one makes them, but by somebody else
            assert await ask(b"Bearer " + new_secret().encode()) == 401

    run()
