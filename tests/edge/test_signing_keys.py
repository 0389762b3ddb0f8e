"""Signing keys: sealed, rotated, retired, told to every process, and the public ones to everybody."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import jwt
import pytest
from asyncpg import Record

from infrastructure import key_watch, signing_keys
from infrastructure.postgres import open_pool
from infrastructure.settings import Settings
from infrastructure.signing_keys import Algorithm, Keyring, SigningKey, UnknownKey, derived_ring
from infrastructure.tokens import Tokens
from tests.journals import on_a_loop
from tests.service import Service, User, running_service

USER, SESSION = uuid4(), uuid4()
OVER = "UPDATE signing_keys SET retired_at = clock_timestamp() WHERE retired_at IS NOT NULL"
JWKS = "/.well-known/jwks.json"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
PATIENCE_S = 15.0


@asynccontextmanager
async def a_pool(settings: Settings) -> AsyncIterator[asyncpg.Pool[Record]]:
    async with await open_pool(settings, application="test", size=8) as pool:
        yield pool


async def rotate(pool: asyncpg.Pool[Record], settings: Settings, algorithm: Algorithm | None = None) -> SigningKey:
    async with pool.acquire() as connection, connection.transaction():
        return await signing_keys.rotate(connection, settings, algorithm)


async def retire(pool: asyncpg.Pool[Record], settings: Settings, kid: str) -> SigningKey | None:
    async with pool.acquire() as connection, connection.transaction():
        return await signing_keys.retire(connection, settings, kid)


def token_of(settings: Settings, ring: Keyring) -> bytes:
    return Tokens(settings, ring).issue(USER, SESSION, 60).encode()


def opens(settings: Settings, ring: Keyring, token: bytes) -> bool:
    return Tokens(settings, ring).verify(token) is not None


@on_a_loop
async def test_a_key_before_anybody_made_one(settings: Settings) -> None:
    async with a_pool(settings) as pool:
        ring = await signing_keys.load(pool, settings)
        assert ring == derived_ring(settings)
        (only,) = await signing_keys.stored(pool, settings)
        assert (only.kid, only.algorithm, only.created_at, only.signs) == (ring.signing.kid, "HS256", None, True)


@on_a_loop
async def test_the_key_before_verifies_until_its_last_token_expired(settings: Settings) -> None:
    async with a_pool(settings) as pool:
        first = token_of(settings, await signing_keys.load(pool, settings))
        key = await rotate(pool, settings)
        ring = await signing_keys.load(pool, settings)
        assert (ring.signing, len(ring.verifying), key.algorithm) == (key, 2, "HS256")
        assert opens(settings, ring, first)
        second = token_of(settings, ring)
        left_s = await pool.fetchval("SELECT extract(epoch FROM max(retired_at) - clock_timestamp()) FROM signing_keys")
        assert settings.access_token_s < left_s <= settings.access_token_s + signing_keys.SLACK_S

        await rotate(pool, settings, "EdDSA")
        ring = await signing_keys.load(pool, settings)
        assert (ring.signing.algorithm, len(ring.verifying)) == ("EdDSA", 3)
        assert opens(settings, ring, first)
        assert opens(settings, ring, second)
        assert (await rotate(pool, settings)).algorithm == "EdDSA"

        await pool.execute(OVER)
        ring = await signing_keys.load(pool, settings)
        assert len(ring.verifying) == 1
        assert not opens(settings, ring, first)
        await signing_keys.prune(pool)
        assert await pool.fetchval("SELECT count(*) FROM signing_keys") == 1


@pytest.mark.parametrize("which", ["derived", "signing", "older"])
def test_a_retired_key_verifies_nothing(settings: Settings, which: str) -> None:
    @on_a_loop
    async def run() -> None:
        async with a_pool(settings) as pool:
            rings = [await signing_keys.load(pool, settings)]
            for _ in range(0 if which == "derived" else 2):
                await rotate(pool, settings, "EdDSA")
                rings.append(await signing_keys.load(pool, settings))
            lost = rings[1 if which == "older" else -1]
            token = token_of(settings, lost)
            another = await retire(pool, settings, lost.signing.kid)
            after = await signing_keys.load(pool, settings)
            assert lost.signing.kid not in after.verifying
            assert not opens(settings, after, token)
            assert another == (None if which == "older" else after.signing)
            assert after.signing.algorithm == lost.signing.algorithm
            for ring in rings:
                assert opens(settings, after, token_of(settings, ring)) is (ring is not lost)
            assert await pool.fetchval("SELECT count(*) FROM signing_keys WHERE kid = $1", lost.signing.kid) == 0

    run()


@on_a_loop
async def test_only_keys_that_are_there_can_be_retired(settings: Settings) -> None:
    async with a_pool(settings) as pool:
        with pytest.raises(UnknownKey):
            await retire(pool, settings, "0" * 16)
        assert await signing_keys.load(pool, settings) == derived_ring(settings)


@on_a_loop
async def test_rotations_at_once_leave_one_that_signs(settings: Settings) -> None:
    async with a_pool(settings) as pool:
        made = await asyncio.gather(*(rotate(pool, settings) for _ in range(8)))
        assert await pool.fetchval("SELECT count(*) FROM signing_keys WHERE retired_at IS NULL") == 1
        ring = await signing_keys.load(pool, settings)
        assert ring.signing in made
        assert set(ring.verifying) == {*(key.kid for key in made), derived_ring(settings).signing.kid}


@on_a_loop
async def test_the_secret_changes_under_the_keys(settings: Settings) -> None:
    changed = replace(settings, secret_key=secrets.token_urlsafe(48), former_secret_key=settings.secret_key)
    without_former = replace(changed, former_secret_key="")
    async with a_pool(settings) as pool:
        await rotate(pool, settings, "EdDSA")
        ring = await signing_keys.load(pool, settings)
        assert await signing_keys.load(pool, changed) == ring
        # nothing opens: the installation goes on with the key that its new secret makes
        assert await signing_keys.load(pool, without_former) == derived_ring(without_former)
        listed = await signing_keys.stored(pool, without_former)
        assert [(key.signs, key.opens) for key in listed] == [(True, True), (False, False), (False, False)]

        await rotate(pool, changed)
        sealed_anew = await signing_keys.load(pool, without_former)
        assert set(sealed_anew.verifying) > set(ring.verifying)
        assert opens(changed, sealed_anew, token_of(settings, ring))


@on_a_loop
async def test_what_was_sealed_is_neither_read_nor_altered(settings: Settings) -> None:
    async with a_pool(settings) as pool:
        await rotate(pool, settings, "EdDSA")
        ring = await signing_keys.load(pool, settings)
        dump = str([tuple(row) for row in await pool.fetch("SELECT * FROM signing_keys")])
        for key in ring.verifying.values():
            assert str(key.private) not in dump
            assert key.private.hex() not in dump
            assert str(key.private) not in repr(key)
        kid = ring.signing.kid
        for harm in (
            "UPDATE signing_keys SET algorithm = 'HS256' WHERE kid = $1",
            "UPDATE signing_keys SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE kid = $1",
            "UPDATE signing_keys SET sealed = (SELECT sealed FROM signing_keys WHERE kid <> $1) WHERE kid = $1",
            "UPDATE signing_keys SET sealed = '' WHERE kid = $1",
            "UPDATE signing_keys SET kid = 'ffffffffffffffff' WHERE kid = $1",
        ):
            async with pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                assert await connection.execute(harm, kid) == "UPDATE 1"
                harmed = await signing_keys.load(connection, settings)
                assert not {kid, "f" * 16} & set(harmed.verifying), harm
                await transaction.rollback()


# -- processes --------------------------------------------------------------------------------------------------------


async def knows(service: Service, user: User, token: str) -> int:
    answer = await service.client.get("/auth/me", headers={"authorization": f"Bearer {token}"})
    return answer.status_code


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Polls until the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - what is awaited happens elsewhere
            await asyncio.sleep(0.02)


async def _is(expected: int, found: Awaitable[int]) -> bool:
    return await found == expected


async def session_of(service: Service, user: User) -> Any:
    return await service.pool.fetchval("SELECT id FROM sessions WHERE user_id = $1", user.id)


@on_a_loop
async def test_a_rotation_is_known_before_its_first_token_comes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "LOOK_S", 1_000)
    async with running_service(settings, monkeypatch) as one, running_service(settings, monkeypatch) as other:
        user = await one.user()
        await rotate(one.pool, settings, "EdDSA")
        await one.services.key_watch._look()
        token = one.services.tokens.issue(user.id, await session_of(one, user), 60)
        assert jwt.get_unverified_header(token)["alg"] == "EdDSA"
        # many at once, of a key that the other process has not heard of
        assert set(await asyncio.gather(*(knows(other, user, token) for _ in range(20)))) == {200}
        assert await knows(other, user, user.headers["authorization"][7:]) == 200


@on_a_loop
async def test_every_process_hears_of_a_retirement(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_watch, "LOOK_S", 0.05)
    async with running_service(settings, monkeypatch) as one, running_service(settings, monkeypatch) as other:
        user = await one.user()
        token = user.headers["authorization"][7:]
        for service in (one, other):
            assert await knows(service, user, token) == 200
        await retire(one.pool, settings, derived_ring(settings).signing.kid)
        for service in (one, other):
            await until(lambda service=service: _is(401, knows(service, user, token)))
            assert service.services.tokens.recall(token.encode()) is None
        # the session goes on, with a token of the new key
        renewed = one.services.tokens.issue(user.id, await session_of(one, user), 60)
        assert await knows(other, user, renewed) == 200


@on_a_loop
async def test_junk_kids_cost_no_statement_each(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_watch, "LOOK_S", 1_000)
    monkeypatch.setattr(key_watch, "LEAST_S", 0.3)
    loads: list[float] = []

    async def counted(db: Any, chosen: Settings) -> Keyring:
        loads.append(time.monotonic())
        return await signing_keys.load(db, chosen)

    monkeypatch.setattr(key_watch, "load", counted)
    async with running_service(settings, monkeypatch) as service:
        user = await service.user()
        for _ in range(20):
            assert await knows(service, user, user.headers["authorization"][7:]) == 200
        assert len(loads) == 1
        ring = service.services.tokens.keys
        genuine = SigningKey("a" * 16, "HS256", b"k" * 32)

        def junk(number: int) -> str:
            key = SigningKey(f"{number:016x}", "HS256", genuine.private)
            return Tokens(settings, Keyring(key, {})).issue(user.id, SESSION, 60)

        assert set(await asyncio.gather(*(knows(service, user, junk(number)) for number in range(100)))) == {401}
        for number in range(4):
            assert await knows(service, user, junk(number)) == 401
        # and those who wait for the next look are not turned away by it
        await rotate(service.pool, settings)
        renewed = Tokens(settings, await signing_keys.load(service.pool, settings))
        token = renewed.issue(user.id, await session_of(service, user), 60)
        answers = await asyncio.gather(knows(service, user, token), *(knows(service, user, junk(n)) for n in range(5)))
        assert answers == [200] + [401] * 5
        assert service.services.tokens.keys != ring
        # however many there are, one after the other or at once
        assert all(later - earlier > 0.25 for earlier, later in pairwise(loads))


@on_a_loop
async def test_keys_whose_time_is_over_are_deleted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_watch, "LOOK_S", 0.05)
    async with running_service(settings, monkeypatch) as service:
        await rotate(service.pool, settings)
        assert await service.pool.fetchval("SELECT count(*) FROM signing_keys") == 2
        await service.pool.execute(OVER)
        monkeypatch.setattr(key_watch, "PRUNE_S", 0)
        await until(lambda: _is(1, service.pool.fetchval("SELECT count(*) FROM signing_keys")))


@on_a_loop
async def test_keys_outlive_postgres_but_not_its_absence_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_watch, "LEAST_S", 0.05)
    async with running_service(settings, monkeypatch) as service:
        user = await service.user()
        token = user.headers["authorization"][7:]
        assert await knows(service, user, token) == 200
        watch, tokens = service.services.key_watch, service.services.tokens
        nowhere = replace(settings, database_url=NOWHERE)
        async with await open_pool(nowhere, application="test", size=1, least=0) as gone:
            monkeypatch.setattr(watch, "_pool", gone)
            await watch._try_to_look()
            # its session is in Redis, its key in this process
            assert await knows(service, user, token) == 200
            # but what could be a new key is not called junk
            stranger = Keyring(SigningKey("b" * 16, "HS256", b"k" * 32), {})
            assert await knows(service, user, Tokens(settings, stranger).issue(user.id, SESSION, 60)) == 503
            # a process that could not read the keys when it started
            tokens.use(stranger)
            tokens.ring = None
            assert await knows(service, user, token) == 503
            assert await knows(service, user, "junk") == 503
            assert (await service.client.get(JWKS)).status_code == 503
            monkeypatch.undo()
        # the first request after Postgres is back finds the keys
        assert await knows(service, user, token) == 200


# -- for others -------------------------------------------------------------------------------------------------------


Json = dict[str, Any]
SNIPPET = re.compile(r"```python\n(import jwt\n.*?)```", re.DOTALL)


def user_of(token: str, keys: Json, monkeypatch: pytest.MonkeyPatch) -> str:
    """What another service, as docs/api.md shows it, makes of a token. It knows nothing but the keys."""
    monkeypatch.setattr(jwt.PyJWKClient, "fetch_data", lambda _: keys)
    names: Json = {}
    (snippet,) = SNIPPET.findall((Path(__file__).parents[2] / "docs" / "api.md").read_text())
    exec(snippet, names)
    user: str = names["user_of"](token)
    return user


@on_a_loop
async def test_others_verify_with_the_public_keys(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        user = await service.user()

        async def published() -> httpx.Response:
            await service.services.key_watch._look()
            return await service.client.get(JWKS)

        async def verified_elsewhere(token: str) -> str:
            return user_of(token, (await published()).json(), monkeypatch)

        answer = await published()
        assert (answer.status_code, answer.json()) == (200, {"keys": []})
        assert answer.headers["cache-control"] == "public, max-age=60"
        assert answer.headers["content-type"] == "application/json"
        pair = await rotate(service.pool, settings, "EdDSA")
        keys = (await published()).json()["keys"]
        # one key, and of it what everybody may know
        assert [set(key) for key in keys] == [{"kty", "crv", "x", "kid", "alg", "use"}]
        assert (keys[0]["kid"], keys[0]["alg"]) == (pair.kid, "EdDSA")
        issue = service.services.tokens.issue
        token = issue(user.id, SESSION, 60)
        assert await verified_elsewhere(token) == str(user.id)
        # what is signed with a shared secret is for Daybook alone, and what is over is over for everybody
        with pytest.raises(jwt.PyJWKClientError):
            await verified_elsewhere(user.headers["authorization"][7:])
        with pytest.raises(jwt.ExpiredSignatureError):
            await verified_elsewhere(issue(user.id, SESSION, -60))
        # the older key stays as long as its tokens are good
        await rotate(service.pool, settings, "EdDSA")
        assert len((await published()).json()["keys"]) == 2
        assert await verified_elsewhere(token) == str(user.id)
        await retire(service.pool, settings, pair.kid)
        with pytest.raises(jwt.PyJWKClientError):
            await verified_elsewhere(token)


def test_on_the_command_line(settings: Settings) -> None:
    def keys(*arguments: str, status: int = 0) -> str:
        environment = {
            "PATH": "/usr/bin:/bin",
            "COLUMNS": "120",
            "DAYBOOK_DATABASE_URL": settings.database_url,
            "DAYBOOK_REDIS_URL": settings.redis_url,
            "DAYBOOK_KAFKA_SERVERS": settings.kafka_servers,
            "DAYBOOK_SECRET_KEY": settings.secret_key,
        }
        command = [sys.executable, "-m", "cli", "keys", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    first = derived_ring(settings).signing.kid
    assert first in keys("list")
    assert "(EdDSA) signs now. Every API process knows within 2 s." in keys("rotate", "--algorithm", "EdDSA")
    listed = keys("list")
    assert listed.index("EdDSA") < listed.index(first)
    assert "verifies until" in listed
    assert f"Retired {first}." in keys("retire", first)
    assert first not in keys("list")
    assert f"There is no key {first}." in keys("retire", first, status=1)
