"""Logging in, staying logged in and out: over HTTP, on real Postgres and Valkey, and without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from infrastructure.sessions import session_key
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Service, add_user, running_service

PASSWORD = "correct horse battery staple"
NOWHERE = "redis://127.0.0.1:1"
OLDER = "UPDATE sessions SET rotated_at = rotated_at - interval '11 seconds'"
EXPIRED = "UPDATE sessions SET expires_at = clock_timestamp()"
DISABLE = "UPDATE users SET status = 'disabled'"


@dataclass
class Door:
    """Where ada logs in."""

    service: Service
    ada: UUID

    @property
    def client(self) -> httpx.AsyncClient:
        return self.service.client

    async def login(self, username: str = "ada", password: str = PASSWORD, **more: Any) -> httpx.Response:
        body = {"username": username, "password": password, **more}
        return await self.client.post("/auth/login", json=body)

    async def tokens(self) -> dict[str, Any]:
        answer = await self.login()
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def refresh(self, token: str) -> httpx.Response:
        return await self.client.post("/auth/refresh", json={"refresh_token": token})

    async def me(self, token: str) -> httpx.Response:
        return await self.client.get("/auth/me", headers=bearer(token))

    async def logout(self, token: str) -> httpx.Response:
        return await self.client.post("/auth/logout", headers=bearer(token))

    def session_of(self, token: str) -> UUID:
        verified = self.service.services.tokens.verify(token.encode())
        assert verified is not None
        return verified.session_id


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@asynccontextmanager
async def a_door(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    async with running_service(settings, monkeypatch) as service:
        yield Door(service, await add_user(service.pool, "ada", PASSWORD, ["user"]))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


@on_a_loop
async def test_in_and_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        answer = await door.login()
        assert answer.status_code == 200
        assert set(answer.json()) == {"access_token", "refresh_token", "token_type", "expires_in"}
        assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 900)
        assert answer.headers["cache-control"] == "no-store"
        token = answer.json()["access_token"]
        me = await door.me(token)
        assert me.json() == {"id": str(door.ada), "username": "ada", "roles": ["user"], "grants": []}
        await door.service.pool.execute(
            "INSERT INTO grants VALUES ('books', $1, 'writer'), ('acme', $1, 'owner')", door.ada
        )
        granted = (await door.me(token)).json()["grants"]
        assert granted == [{"ledger": "acme", "role": "owner"}, {"ledger": "books", "role": "writer"}]
        out = await door.logout(token)
        assert (out.status_code, out.content) == (204, b"")
        assert code(await door.me(token)) == (401, "unauthorized")
        assert code(await door.logout(token)) == (401, "unauthorized")
        assert code(await door.refresh(answer.json()["refresh_token"])) == (401, "unauthorized")


@on_a_loop
async def test_every_way_of_not_getting_in_looks_the_same(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        await add_user(door.service.pool, "eve", PASSWORD, ["user"])
        await door.service.pool.execute("UPDATE users SET status = 'disabled' WHERE username = 'eve'")
        await door.service.pool.execute(
            "INSERT INTO users (id, username, roles) VALUES (gen_random_uuid(), 'bot', '{user}')"
        )
        answers = [
            await door.login("nobody"),
            await door.login("ada", "wrong"),
            await door.login("ada", PASSWORD + " "),
            await door.login("Ada"),
            await door.login("eve"),
            await door.login("bot"),
        ]
        bodies = [{**answer.json(), "correlation_id": None} for answer in answers]
        assert {answer.status_code for answer in answers} == {401}
        assert bodies == [bodies[0]] * len(bodies)
        assert bodies[0]["code"] == "invalid_credentials"
        assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}


@on_a_loop
async def test_an_unknown_user_costs_a_verification_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        verified: list[bool] = []
        passwords = door.service.services.passwords

        async def noted(password_hash: str | None, password: str) -> bool:
            found = await type(passwords).matches(passwords, password_hash, password)
            verified.append(password_hash is not None)
            return found

        monkeypatch.setattr(passwords, "matches", noted)
        await door.login("nobody")
        await door.login("ada", "wrong")
        assert verified == [False, True]


@on_a_loop
async def test_bodies_of_logins(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        assert code(await door.login(password="")) == (422, "validation_failed")
        assert code(await door.login(remember=True)) == (400, "malformed_request")
        assert code(await door.client.post("/auth/login", content=b"{}")) == (415, "unsupported_media_type")
        nothing = await door.client.post("/auth/login")
        assert code(nothing) == (422, "validation_failed")
        assert [fault["pointer"] for fault in nothing.json()["errors"]] == ["#/username", "#/password"]


@on_a_loop
async def test_refresh_rotates(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        first = await door.tokens()
        second = (await door.refresh(first["refresh_token"])).json()
        assert second["refresh_token"] != first["refresh_token"]
        assert (await door.me(second["access_token"])).status_code == 200
        third = (await door.refresh(second["refresh_token"])).json()
        assert (await door.me(third["access_token"])).status_code == 200
        # one session all along
        assert len({door.session_of(pair["access_token"]) for pair in (first, second, third)}) == 1


@on_a_loop
async def test_a_lost_reply_is_repeated(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        first = await door.tokens()
        second, again = [(await door.refresh(first["refresh_token"])).json() for _ in range(2)]
        assert again["refresh_token"] == second["refresh_token"]
        assert (await door.refresh(second["refresh_token"])).status_code == 200


@pytest.mark.parametrize("successor_used", [True, False], ids=["successor used", "ten seconds over"])
def test_reuse_ends_the_session(settings: Settings, monkeypatch: pytest.MonkeyPatch, successor_used: bool) -> None:
    @on_a_loop
    async def run() -> None:
        async with a_door(settings, monkeypatch) as door:
            first = await door.tokens()
            newest = (await door.refresh(first["refresh_token"])).json()
            if successor_used:
                newest = (await door.refresh(newest["refresh_token"])).json()
            else:
                await door.service.pool.execute(OLDER)
            assert (await door.me(newest["access_token"])).status_code == 200
            assert code(await door.refresh(first["refresh_token"])) == (401, "unauthorized")
            assert code(await door.refresh(newest["refresh_token"])) == (401, "unauthorized")
            assert code(await door.me(newest["access_token"])) == (401, "unauthorized")
            assert await door.service.pool.fetchval("SELECT end_reason FROM sessions") == "refresh token used again"

    run()


@on_a_loop
async def test_refreshes_at_once_get_one_successor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        first = await door.tokens()
        answers = await asyncio.gather(*(door.refresh(first["refresh_token"]) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["refresh_token"] for answer in answers}) == 1
        assert await door.service.pool.fetchval("SELECT generation FROM sessions") == 1


@pytest.mark.parametrize("change", [EXPIRED, DISABLE], ids=["expired", "disabled"])
def test_no_refresh_beyond_the_end(settings: Settings, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    @on_a_loop
    async def run() -> None:
        async with a_door(settings, monkeypatch) as door:
            tokens = await door.tokens()
            await door.service.pool.execute(change)
            assert code(await door.refresh(tokens["refresh_token"])) == (401, "unauthorized")
            # never seen by Redis, so Postgres is asked
            assert code(await door.me(tokens["access_token"])) == (401, "unauthorized")

    run()


@on_a_loop
async def test_a_token_lives_no_longer_than_its_session(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, session_s=100), monkeypatch) as door:
        assert (await door.tokens())["expires_in"] == 100


@on_a_loop
async def test_a_session_is_read_from_postgres_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
        await door.me(token)
        services = door.service.services
        slot = await services.redis.call("GET", session_key(door.session_of(token)))
        assert slot is not None
        assert slot.startswith(b"V:")
        assert 0 < await services.redis.call("PTTL", session_key(door.session_of(token))) <= 60_000
        await services.redis.call("FLUSHALL")
        assert (await door.me(token)).status_code == 200


@on_a_loop
async def test_flushing_redis_revives_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
        await door.me(token)
        await door.logout(token)
        await door.service.services.redis.call("FLUSHALL")
        assert (await door.me(token)).status_code == 401


@on_a_loop
async def test_a_logout_during_a_fill_wins(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
        services = door.service.services
        session = door.session_of(token)
        reached, go_on = asyncio.Event(), asyncio.Event()
        fill = services.cache.fill

        async def held_up(key: str, read: Callable[[], Awaitable[bytes | None]], ttl_s: float) -> bytes | None:
            async def slow_read() -> bytes | None:
                slot = await read()
                reached.set()
                await go_on.wait()
                return slot

            return await fill(key, slow_read, ttl_s)

        monkeypatch.setattr(services.cache, "fill", held_up)
        slow = asyncio.create_task(door.me(token))
        await reached.wait()
        await services.sessions.end(door.ada, session, "logout")
        go_on.set()
        await slow
        assert await services.redis.call("EXISTS", session_key(session)) == 0
        assert (await door.me(token)).status_code == 401


@on_a_loop
async def test_an_account_is_tried_only_so_often(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, login_rate_account=3), monkeypatch) as door:
        answers = [await door.login(password="wrong") for _ in range(3)] + [await door.login()]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert code(answers[-1]) == (429, "rate_limited")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert (await door.login("nobody")).status_code == 401


@on_a_loop
async def test_an_address_tries_only_so_often(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, login_rate_address=3), monkeypatch) as door:
        spoofed = [{"x-forwarded-for": f"10.0.0.{number}"} for number in range(5)]
        answers = [await door.client.post("/auth/login", json={}, headers=headers) for headers in spoofed]
        assert [answer.status_code for answer in answers] == [422, 422, 422, 429, 429]
        assert answers[0].headers["ratelimit-policy"] == '"login";q=3;w=60'
        assert answers[0].headers["ratelimit"] == '"login";r=2'
        assert answers[3].headers["ratelimit"] == f'"login";r=0;t={answers[3].headers["retry-after"]}'
        # the rest of the API is not affected
        assert (await door.client.get("/nothing")).status_code == 404


@on_a_loop
async def test_behind_a_trusted_proxy_clients_count_apart(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = replace(settings, login_rate_address=1, trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    async with a_door(limited, monkeypatch) as door:

        async def status(forwarded: str) -> int:
            answer = await door.client.post("/auth/login", json={}, headers={"x-forwarded-for": forwarded})
            return answer.status_code

        assert await status("192.0.2.1") == 422
        assert await status("192.0.2.2, 10.1.2.3") == 422
        assert await status("192.0.2.2") == 429
        # what stands left of the first address that is no proxy is what that client says
        assert await status("198.51.100.7, 192.0.2.1") == 429
        assert await status("2001:db8::1") == 422
        assert await status("2001:db8::2") == 429


@on_a_loop
async def test_junk_tokens_are_one_address(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, request_rate_address=5), monkeypatch) as door:
        answers = await asyncio.gather(*(door.me(f"junk.{number}") for number in range(50)))
        assert {answer.status_code for answer in answers} == {401, 429}


@on_a_loop
async def test_a_principal_has_a_limit_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = replace(settings, request_rate_address=1_000_000, request_rate_user=2)
    async with a_door(limited, monkeypatch) as door:
        tokens = [(await door.tokens())["access_token"] for _ in range(2)]
        answers = await asyncio.gather(*(door.me(tokens[number % 2]) for number in range(20)))
        assert {answer.status_code for answer in answers} == {200, 429}
        limits = {answer.headers["ratelimit-policy"] for answer in answers if answer.status_code == 429}
        assert limits == {'"principal";q=2;w=1'}


@on_a_loop
async def test_without_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, redis_url=NOWHERE), monkeypatch) as door:
        refused = await door.login()
        assert code(refused) == (503, "unavailable")
        assert refused.headers["retry-after"] == "1"
        # sessions are checked in Postgres
        ada = await door.service.user()
        assert (await ada.get("/auth/me")).status_code == 200
        # and end there, but nobody may be told so before their copies are gone
        assert code(await ada.post("/auth/logout")) == (503, "unavailable")
        assert (await ada.get("/auth/me")).status_code == 401


@on_a_loop
async def test_without_redis_a_process_counts_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(replace(settings, redis_url=NOWHERE, request_rate_address=5), monkeypatch) as door:
        answers = await asyncio.gather(*(door.client.get("/nothing") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {404, 429}


@on_a_loop
async def test_without_both(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        token = (await door.tokens())["access_token"]
    gone = replace(settings, redis_url=NOWHERE, database_url="postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setattr("tests.service.open_pool", lambda *_, **__: _nothing())
    async with running_service(gone, monkeypatch) as service:
        answer = await service.client.get("/auth/me", headers=bearer(token))
        assert code(answer) == (503, "unavailable")
        assert (await service.client.get("/health/live")).status_code == 200
        ready = await service.client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["missing"] == ["postgres", "migrations", "redis"]


class _Nothing:
    async def close(self) -> None:
        pass


async def _nothing() -> _Nothing:
    return _Nothing()


@on_a_loop
async def test_ready_names_what_is_missing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        assert (await door.client.get("/health/ready")).json() == {
            "status": "ok",
            "missing": [],
            "checks": {"postgres": "ok", "migrations": "ok", "redis": "ok"},
        }
        await door.service.pool.execute("UPDATE alembic_version SET version_num = '0000'")
        ready = await door.client.get("/health/ready")
        assert (ready.status_code, ready.json()["missing"]) == (503, ["migrations"])


@on_a_loop
async def test_a_stranger_sees_what_does_not_exist(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        pool = door.service.pool
        owner, stranger, admin = await door.service.user(), await door.service.user(), await door.service.user("admin")
        await pool.execute("INSERT INTO ledger_reservations VALUES ('acme', $1, gen_random_uuid())", owner.id)

        async def answer(user: Any, ledger: str) -> tuple[int, str]:
            found = await user.get(f"/v1/ledgers/{ledger}/accounts/none")
            body = {**found.json(), "correlation_id": None}
            return found.status_code, str(body).replace(ledger, "…")

        assert await answer(stranger, "acme") == await answer(stranger, "nope")
        assert (await answer(stranger, "acme"))[0] == 404
        granted = "INSERT INTO grants VALUES ('acme', $1, $2)"
        await pool.execute(granted, owner.id, "owner")
        await pool.execute(granted, stranger.id, "reader")
        opening = {"name": "a", "currency": "USD", "type": "asset"}
        low = await stranger.post("/v1/ledgers/acme/accounts", opening)
        assert code(low) == (403, "forbidden")
        # the role is in Redis now, for a minute at most
        key = f"view:acme:grant:{stranger.id}"
        slot = await door.service.services.redis.call("GET", key)
        assert slot == b"V:%b@reader" % door.service.services.redis.server
        assert 0 < await door.service.services.redis.call("PTTL", key) <= 60_000
        assert code(await stranger.post("/v1/ledgers/acme/accounts", opening)) == (403, "forbidden")
        assert (await owner.post("/v1/ledgers/acme/accounts", opening)).status_code == 202
        assert (await admin.post("/v1/ledgers/acme/accounts", opening)).status_code == 202
        assert code(await admin.post("/v1/ledgers/nope/accounts", opening)) == (404, "not_found")
        operator = await door.service.user("operator")
        assert code(await operator.post("/v1/ledgers/acme/accounts", opening)) == (404, "not_found")
