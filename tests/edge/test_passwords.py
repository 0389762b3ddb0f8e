"""Passwords at the door: nobody learns who has an account, no burst stalls the rest, and old hashes are renewed."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice

import pytest
from argon2 import PasswordHasher

from infrastructure import passwords
from infrastructure.settings import Settings
from tests.edge.test_auth import PASSWORD, a_door, code
from tests.journals import on_a_loop
from tests.service import add_user

CHEAP = PasswordHasher(time_cost=1, memory_cost=4 * 1024, parallelism=1)
"""Argon2 with less to do, so that whatever else differs shows all the more."""

TRIES = 200
HASH = "SELECT password_hash FROM credentials WHERE user_id = $1"


def generous(settings: Settings) -> Settings:
    return replace(settings, login_rate_address=1_000_000, login_rate_account=1_000_000)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_hasher", CHEAP)
    monkeypatch.setattr(passwords, "_NOBODYS", CHEAP.hash("nobody's"))


@on_a_loop
@pytest.mark.usefixtures("cheap")
async def test_no_way_of_not_getting_in_takes_longer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        pool = door.service.pool
        await add_user(pool, "eve", PASSWORD, ["user"])
        await pool.execute("UPDATE users SET status = 'disabled' WHERE username = 'eve'")
        ways = {
            "unknown": ("nobody", PASSWORD),
            "wrong password": ("ada", "wrong"),
            "disabled": ("eve", PASSWORD),
        }
        seconds: dict[str, list[float]] = defaultdict(list)
        bodies = set()
        for _ in range(TRIES):
            for way, (username, password) in ways.items():
                begun = time.perf_counter()
                answer = await door.login(username, password)
                seconds[way].append(time.perf_counter() - begun)
                bodies.add((answer.status_code, str({**answer.json(), "correlation_id": None})))
        assert len(bodies) == 1
        medians = {way: statistics.median(took) for way, took in seconds.items()}
        assert max(medians.values()) < 1.5 * min(medians.values()), medians


class Gate:
    """Argon2 behind a gate: how many verifications there were, and how many at once at the most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.all = self.most = self._now = 0
        self._lock = threading.Lock()
        self._verify = passwords.matches
        monkeypatch.setattr(passwords, "matches", self._matches)

    def _matches(self, password_hash: str | None, password: str) -> bool:
        with self._lock:
            self.all += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            assert self.open.wait(30)
            return self._verify(password_hash, password)
        finally:
            with self._lock:
                self._now -= 1


@on_a_loop
async def test_a_burst_waits_in_a_short_queue(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        ada = await door.tokens()
        gate = Gate(monkeypatch)
        burst = [asyncio.create_task(door.login(f"user-{number}")) for number in range(200)]
        too_many = 200 - passwords.MOST_WAITING
        for done in islice(asyncio.as_completed(burst), too_many):
            answer = await done
            assert code(answer) == (503, "unavailable")
            assert answer.headers["retry-after"] == "1"
        # the rest waits, and nobody else has to
        assert (await door.me(ada["access_token"])).status_code == 200
        assert not all(task.done() for task in burst)
        gate.open.set()
        answers = Counter(code(answer) for answer in await asyncio.gather(*burst))
        assert answers == {(503, "unavailable"): too_many, (401, "invalid_credentials"): passwords.MOST_WAITING}
        assert (gate.all, gate.most) == (passwords.MOST_WAITING, passwords.AT_ONCE)
        assert (await door.login()).status_code == 200


@on_a_loop
async def test_the_loop_goes_on_while_argon2_works(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        ada = await door.tokens()
        burst = asyncio.gather(*(door.login(f"user-{number}") for number in range(passwords.MOST_WAITING)))
        served = 0
        while not burst.done():
            assert (await door.me(ada["access_token"])).status_code == 200
            served += 1
        assert {code(answer) for answer in await burst} == {(401, "invalid_credentials")}
        assert served > passwords.MOST_WAITING


@on_a_loop
async def test_a_client_that_leaves_makes_room(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MOST_WAITING", 4)
    queue = passwords.Passwords()
    busy = threading.Event()
    monkeypatch.setattr(passwords, "matches", lambda *_: busy.wait(10))
    try:
        waiting = [asyncio.create_task(queue.matches(None, "x")) for _ in range(4)]
        await asyncio.sleep(0)
        waiting[3].cancel()
        await asyncio.wait([waiting[3]])
        another = asyncio.create_task(queue.matches(None, "x"))
        await asyncio.sleep(0)
        assert not another.done()
        busy.set()
        assert await asyncio.gather(*waiting[:3], another) == [True] * 4
    finally:
        busy.set()
        queue.close()


# -- hashes of former days --------------------------------------------------------------------------------------------


@on_a_loop
async def test_logging_in_renews_an_old_hash(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        old = CHEAP.hash(PASSWORD)
        changed = "UPDATE credentials SET password_hash = $2 WHERE user_id = $1 RETURNING changed_at"
        changed_at = await door.service.pool.fetchval(changed, door.ada, old)
        assert (await door.login(password="wrong")).status_code == 401
        assert await door.service.pool.fetchval(HASH, door.ada) == old
        # all at once: each of them gets in, whoever is first to renew it
        answers = await asyncio.gather(*(door.login() for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        renewed = await door.service.pool.fetchval(HASH, door.ada)
        assert renewed != old
        assert not passwords.needs_upgrade(renewed)
        assert await door.service.pool.fetchval("SELECT changed_at FROM credentials") == changed_at
        assert (await door.login()).status_code == 200
        assert await door.service.pool.fetchval(HASH, door.ada) == renewed


@on_a_loop
async def test_renewing_undoes_no_change(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        pool = door.service.pool
        await pool.execute("UPDATE credentials SET password_hash = $1", CHEAP.hash(PASSWORD))
        changed = passwords.hash_password("another")
        renew = passwords.Passwords.hash

        async def slow(self: passwords.Passwords, password: str) -> str:
            await pool.execute("UPDATE credentials SET password_hash = $1, changed_at = clock_timestamp()", changed)
            return await renew(self, password)

        monkeypatch.setattr(passwords.Passwords, "hash", slow)
        assert (await door.login()).status_code == 200
        assert await pool.fetchval(HASH, door.ada) == changed


@on_a_loop
async def test_no_time_to_renew_is_no_reason_to_stay_out(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        old = CHEAP.hash(PASSWORD)
        await door.service.pool.execute("UPDATE credentials SET password_hash = $1", old)
        queue = door.service.services.passwords
        verify = queue.matches

        async def and_then_full(password_hash: str | None, password: str) -> bool:
            found = await verify(password_hash, password)
            queue._waiting = passwords.MOST_WAITING
            return found

        monkeypatch.setattr(queue, "matches", and_then_full)
        assert (await door.login()).status_code == 200
        assert await door.service.pool.fetchval(HASH, door.ada) == old


# -- what is typed ----------------------------------------------------------------------------------------------------

OTHERS = (
    "Ada",
    "ADA",
    "ada ",
    " ada",
    "аda",
    "ａｄａ",
    "ada\u200b",
    "ada\u0301",
    "ad\u00e1",
    "ada%",
    "a_a",
    "' OR ''='",
)
LONGEST = 1_024
JSON = {"content-type": "application/json"}


@on_a_loop
async def test_a_name_is_exactly_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        for name in (*OTHERS, "x" * LONGEST, "😀" * LONGEST):
            assert code(await door.login(name)) == (401, "invalid_credentials"), name
        assert (await door.login()).status_code == 200


@on_a_loop
@pytest.mark.usefixtures("cheap")
async def test_passwords_of_any_kind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(generous(settings), monkeypatch) as door:
        for number, password in enumerate(
            ("😀" * LONGEST, " ", "\n", "e\u0301", "\u00e9", "%s' --", "$argon2id$v=19$")
        ):
            await add_user(door.service.pool, f"user-{number}", password, ["user"])
            assert (await door.login(f"user-{number}", password)).status_code == 200
            assert (await door.login(f"user-{number}", password + "x" if number else "x")).status_code == 401
        # as typed: two ways to write an accented letter are two passwords
        assert (await door.login("user-3", "\u00e9")).status_code == 401
        for unfit in ("", "x" * (LONGEST + 1), "a\0b", "\ud800"):
            for body in ({"username": "ada", "password": unfit}, {"username": unfit, "password": "x"}):
                answer = await door.client.post("/auth/login", content=json.dumps(body), headers=JSON)
                assert code(answer) == (422, "validation_failed"), body
        too_long = "x" * (1 << 20)
        assert code(await door.login(password=too_long)) == (413, "payload_too_large")


@on_a_loop
async def test_tokens_are_not_to_be_kept_by_caches(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_door(settings, monkeypatch) as door:
        login = await door.login()
        for answer in (login, await door.refresh(login.json()["refresh_token"]), await door.login(password="x")):
            assert answer.headers.get_list("cache-control") == ["no-store"]
