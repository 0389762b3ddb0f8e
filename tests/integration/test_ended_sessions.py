"""A session that ended has ended everywhere and for good: three API processes, and a Valkey that forgets or dies."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis

from infrastructure.embedded import make_state_directory, valkey, valkey_url
from infrastructure.postgres import open_pool
from infrastructure.processes import Program, answers, choose_port
from infrastructure.settings import Settings
from tests.conftest import temporary_state
from tests.local_processes import LocalProcess
from tests.service import add_user
from tests.stack import wait_for

PASSWORD = "correct horse battery staple"
PROCESSES = 3
Tokens = dict[str, Any]


@dataclass
class House:
    """Several doors to the same books."""

    doors: list[httpx.Client]
    processes: list[LocalProcess]
    redis: LocalProcess
    redis_url: str
    settings: Settings

    def log_in(self, username: str, door: int = 0) -> Tokens:
        body = {"username": username, "password": PASSWORD}
        answer = self.doors[door].post("/auth/login", json=body)
        assert answer.status_code == 200, answer.text
        found: Tokens = answer.json()
        return found

    def refresh(self, token: str, door: int = 0) -> httpx.Response:
        return self.doors[door].post("/auth/refresh", json={"refresh_token": token})

    def seen(self, tokens: Tokens) -> list[int]:
        """What each process answers to an access token."""
        return [door.get("/auth/me", headers=bearer(tokens)).status_code for door in self.doors]

    def session_of(self, tokens: Tokens) -> str:
        items = self.doors[0].get("/auth/sessions", headers=bearer(tokens)).json()["items"]
        return next(str(item["id"]) for item in items if item["current"])

    def add(self, *usernames: str, role: str = "user") -> None:
        async def run() -> None:
            async with await open_pool(self.settings, application="test", size=1) as pool:
                for username in usernames:
                    await add_user(pool, username, PASSWORD, [role])

        asyncio.run(run())


def bearer(tokens: Tokens) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens['access_token']}"}


def api(settings: Settings, redis_url: str, state: Any, number: int, port: int) -> Program:
    environment = {
        "PATH": "/usr/bin:/bin",
        "DAYBOOK_DATABASE_URL": settings.database_url,
        "DAYBOOK_REDIS_URL": redis_url,
        "DAYBOOK_KAFKA_SERVERS": settings.kafka_servers,
        "DAYBOOK_SECRET_KEY": settings.secret_key,
        "DAYBOOK_PORT": str(port),
    }
    return Program(
        name=f"api.{number}",
        command=(sys.executable, "-m", "cli", "api"),
        env=environment,
        log=state / "logs" / f"api.{number}.log",
        ready=lambda: answers(port, b"GET /health/live HTTP/1.0\r\nHost: x\r\n\r\n", expected=b"HTTP/1.1 200"),
    )


@pytest.fixture(scope="module")
def house(shared_settings: Settings) -> Iterator[House]:
    with temporary_state() as folder:
        state = make_state_directory(folder)
        ports: list[int] = []
        for _ in range(1 + PROCESSES):
            ports.append(choose_port(taken=frozenset(ports)))
        password = secrets.token_urlsafe(24)
        store = LocalProcess(valkey(state, port=ports[0], password=password))
        running = [store]
        clients: list[httpx.Client] = []
        try:
            url = valkey_url(ports[0], password)
            for number, port in enumerate(ports[1:], 1):
                running.append(LocalProcess(api(shared_settings, url, state, number, port)))
                clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10))
            yield House(clients, running[1:], store, url, shared_settings)
        finally:
            for client in clients:
                client.close()
            for process in reversed(running):
                process.teardown()


def test_what_ended_has_ended_everywhere_and_for_good(house: House) -> None:
    house.add("ada", "bob", "eve")
    house.add("root", role="admin")
    alive, out, deleted, reused = (house.log_in("ada", number % PROCESSES) for number in range(4))
    changed, other_of_bob, disabled, root = (house.log_in(name) for name in ("bob", "bob", "eve", "root"))
    twice = house.refresh(house.refresh(reused["refresh_token"]).json()["refresh_token"], 1).json()
    over = {"logged out": out, "deleted": deleted, "refreshed twice": twice}
    over |= {"changed": changed, "changed, too": other_of_bob, "disabled": disabled}
    for tokens in (alive, root, *over.values()):
        assert house.seen(tokens) == [200] * PROCESSES  # and every process has it in Redis

    first, second, third = house.doors
    assert first.post("/auth/logout", headers=bearer(out)).status_code == 204
    path = f"/auth/sessions/{house.session_of(deleted)}"
    assert second.delete(path, headers=bearer(alive)).status_code == 204
    assert house.refresh(reused["refresh_token"], 2).status_code == 401
    bob = first.get("/auth/me", headers=bearer(changed)).json()["id"]
    new_password = {"password": PASSWORD + "!"}
    answer = third.post(f"/v1/users/{bob}/password", json=new_password, headers=bearer(changed))
    assert answer.status_code == 202, answer.text
    eve = first.get("/auth/me", headers=bearer(disabled)).json()["id"]
    answer = first.post(f"/v1/users/{eve}/disable", headers=bearer(root))
    assert answer.status_code == 202, answer.text

    def ended() -> dict[str, list[int]]:
        return {name: house.seen(tokens) for name, tokens in over.items()}

    nobody = {name: [401] * PROCESSES for name in over}
    assert ended() == nobody
    with redis.Redis.from_url(house.redis_url) as client:
        client.flushall()
        assert ended() == nobody
        client.config_set("appendfsync", "always")
    house.redis.kill()
    # Postgres alone: who is logged in stays so, who is not does not get back in
    assert ended() == nobody
    assert house.seen(alive) == [200] * PROCESSES
    house.redis._start()
    assert ended() == nobody
    assert house.seen(alive) == [200] * PROCESSES
    for tokens in over.values():
        assert house.refresh(tokens["refresh_token"]).status_code == 401


def test_ended_while_redis_was_down(house: House) -> None:
    """Nobody may be told that it ended, since a copy is left. But it has, and no copy counts when Redis comes back."""
    house.add("dan")
    tokens, other = house.log_in("dan"), house.log_in("dan", 1)
    for each in (tokens, other):
        assert house.seen(each) == [200] * PROCESSES
    copies = [f"session:{house.session_of(each)}" for each in (tokens, other)]
    house.redis.kill()
    answer = house.doors[0].post("/auth/logout", headers=bearer(tokens))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert house.seen(tokens) == [401] * PROCESSES
    assert house.seen(other) == [200] * PROCESSES
    # with the process that owes Redis the deletion gone, too
    house.processes[0].kill()
    house.redis._start()
    left = house.doors[1:]
    for _ in range(20):
        assert [door.get("/auth/me", headers=bearer(tokens)).status_code for door in left] == [401] * len(left)
        assert [door.get("/auth/me", headers=bearer(other)).status_code for door in left] == [200] * len(left)
    with redis.Redis.from_url(house.redis_url) as client:
        assert client.exists(*copies) == 2  # Valkey remembered both
    house.processes[0]._start()


def test_what_redis_could_not_be_told_it_is_told(house: House) -> None:
    house.add("fay")
    tokens = house.log_in("fay")
    assert house.seen(tokens) == [200] * PROCESSES
    house.redis.kill("SIGSTOP")
    try:
        answer = house.doors[0].post("/auth/logout", headers=bearer(tokens))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    finally:
        house.redis.kill("SIGCONT")
    wait_for(lambda: house.seen(tokens) == [401] * PROCESSES, seconds=10, what="the copy is gone")
