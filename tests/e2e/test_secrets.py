"""Secrets stay where they are kept: nothing that logs, answers, journals, queues or measures repeats one."""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import redis
from confluent_kafka import Consumer, TopicPartition

from tests.conftest import run_sql, temporary_state
from tests.e2e.client import PATIENCE_S, Client, fresh, posting
from tests.e2e.people import Person, Town
from tests.stack import Stack, running_stack, wait_for

# All that is logged of a run of `daybook up`, but for the greeting, which shows two passwords to whoever started it.
FROM_A_PROCESS = re.compile(r"^[a-z]+(\.\d+)?\s*\| ")
TABLES = "commands", "journal", "actors", "users", "sessions", "idempotency_keys", "batches", "api_keys", "turn_marks"


def canary() -> str:
    """A secret that comes up nowhere by chance."""
    return f"cage-{secrets.token_urlsafe(24)}"


@dataclass
class Visit:
    """What was said in secret, and every answer that must not repeat it."""

    stack: Stack
    town: Town
    told: dict[str, str] = field(default_factory=dict)
    answers: list[httpx.Response] = field(default_factory=list)

    def secret(self, name: str) -> str:
        """A new secret, under the name that a failure gives it."""
        return self.told.setdefault(name, canary())

    def heard(self, answer: httpx.Response, status: int) -> httpx.Response:
        """An answer that shows no secret. It must have this status."""
        assert answer.status_code == status, answer.text
        self.answers.append(answer)
        return answer


@pytest.fixture(scope="module")
def visit() -> Iterator[Visit]:
    """A product that logs all it can, after a visit of all that has to do with secrets."""
    environment = {name: canary() for name in ("DAYBOOK_ADMIN_PASSWORD", "DAYBOOK_KAFKA_PASSWORD")}
    with (
        temporary_state() as state,
        running_stack(state, environment={**environment, "DAYBOOK_LOG_LEVEL": "debug"}) as stack,
    ):
        town = Town(stack)
        kept: dict[str, str] = json.loads((state / "secrets.json").read_text())
        # what the operator chose counts, not what was made up in its place
        told = {**{name: value for name, value in kept.items() if name != "admin_password"}, **environment}
        with town.opened:
            made = Visit(stack, town, told)
            _log_in_and_fail(made)
            user = _change_users(made)
            _use_keys(made, user)
            _misspell(made, user)
            yield made


def _log_in_and_fail(visit: Visit) -> None:
    http, name = visit.town.visitor(), visit.stack.connection["username"]
    tokens = http.post("/auth/login", json={"username": name, "password": visit.stack.connection["password"]}).json()
    visit.told |= {"an access token": tokens["access_token"], "a refresh token": tokens["refresh_token"]}
    for username in (name, "nobody"):
        wrong = {"username": username, "password": visit.secret(f"a wrong password of {username}")}
        visit.heard(http.post("/auth/login", json=wrong), 401)
    successor = http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()
    visit.told |= {"the next access token": successor["access_token"], "the next": successor["refresh_token"]}
    last = http.post("/auth/refresh", json={"refresh_token": successor["refresh_token"]}).json()
    visit.told |= {"the last access token": last["access_token"], "the last refresh token": last["refresh_token"]}
    # used again: it ends the session
    visit.heard(http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}), 401)
    visit.heard(http.get("/auth/me", headers={"authorization": f"Bearer {last['access_token']}"}), 401)


def _change_users(visit: Visit) -> Client:
    admin, wait = visit.town.admin, {"prefer": f"wait={PATIENCE_S}"}
    name, first, second = fresh("user"), visit.secret("a first password"), visit.secret("a second password")
    body = {"username": name, "password": first}
    user = visit.heard(admin.post("/v1/users", body, **wait), 201)
    again = {"username": name, "password": visit.secret("a password of another's name")}
    visit.heard(admin.post("/v1/users", again, **wait), 409)
    visit.heard(admin.post("/v1/users", {"username": fresh(), "password": "short"}, **wait), 422)
    path = f"/v1/users/{user.json()['id']}"
    visit.heard(admin.post(f"{path}/password", {"password": second}, **wait), 200)
    return visit.town.enter(Person(user.json()["id"], name, second, ("user",)))


def _use_keys(visit: Visit, user: Client) -> None:
    visit.told["a user's token"] = str(user.http.headers["authorization"]).removeprefix("Bearer ")
    made = user.post("/v1/api-keys", {"name": "till", "scopes": ["ledger:read", "ledger:write"]})
    assert made.status_code == 201, made.text
    visit.told["an API key"] = key = made.json()["secret"]
    bearer = {"authorization": f"Bearer {key}"}
    ledger, http, wait = fresh(), visit.town.visitor(), {"prefer": f"wait={PATIENCE_S}"}
    user.done("/v1/ledgers", {"id": ledger, "name": "Books"})
    visit.heard(http.get(f"/v1/ledgers/{ledger}", headers=bearer), 200)
    refused = http.post(f"/v1/ledgers/{ledger}/transactions", json=posting(), headers={**bearer, **wait})
    visit.heard(refused, 422)
    visit.heard(http.post("/v1/api-keys", json={"name": "more", "scopes": ["ledger:read"]}, headers=bearer), 403)
    visit.heard(user.get("/v1/api-keys"), 200)
    visit.heard(user.http.delete(f"/v1/api-keys/{made.json()['id']}"), 204)
    visit.heard(http.get(f"/v1/ledgers/{ledger}", headers=bearer), 401)


def _misspell(visit: Visit, user: Client) -> None:
    """Secrets where they do not belong."""
    http, said, typed = visit.town.visitor(), {"content-type": "application/json"}, visit.secret("a mistyped password")
    bodies = (
        (f'{{"username": "ada", "password": "{typed}"'.encode(), 400),
        (f'{{"username": "ada", "password": "{typed}", "password": "{typed}"}}'.encode(), 400),
        (f'{{"username": "ada", "password": "{typed}", "otp": "{typed}"}}'.encode(), 400),
        (f'{{"username": ["{typed}"], "password": "{typed}"}}'.encode(), 422),
        (f'"{typed}"'.encode(), 422),
    )
    for body, status in bodies:
        visit.heard(http.post("/auth/login", content=body, headers=said), status)
    visit.heard(http.post("/auth/login", content=typed.encode(), headers={"content-type": "text/plain"}), 415)
    visit.heard(http.post("/auth/refresh", json={"refresh_token": visit.secret("a forged refresh token")}), 401)
    visit.heard(http.post("/auth/refresh", json={"refresh_token": {"a": visit.secret("a nested token")}}), 422)
    basic = b64encode(f"ada:{visit.secret('a basic password')}".encode()).decode()
    for value in (f"Basic {basic}", f"Bearer {visit.secret('a forged token')}", f"Bearer dbk_{visit.secret('a key')}"):
        visit.told[f"the header {value[:9]}"] = value.rpartition(" ")[2]
        visit.heard(http.get("/auth/me", headers={"authorization": value}), 401)
    query = visit.secret("a token in a query")
    visit.heard(http.get(f"/auth/me?access_token={query}"), 401)
    visit.heard(user.get(f"/v1/ledgers?access_token={query}"), 422)


def _kafka(visit: Visit) -> str:
    """Every message, once there are some of each topic."""
    servers = {"bootstrap.servers": visit.stack.connection["kafka_servers"], "group.id": fresh("secrets")}
    consumer = Consumer({**servers, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    found: list[str] = []

    def each_came() -> bool:
        for message in consumer.consume(1_000, timeout=0.2):
            assert message.error() is None, message.error()
            found.append(f"{message.key()!r} {message.value()!r} {message.headers()!r}")
        return all(any(kind in one for one in found) for kind in ("LedgerCreated", "UserRegistered", "PasswordChanged"))

    try:
        topics = consumer.list_topics(timeout=PATIENCE_S).topics
        wanted = ("daybook.ledger.events", "daybook.user.events")
        consumer.assign([TopicPartition(topic, number, 0) for topic in wanted for number in topics[topic].partitions])
        wait_for(each_came, seconds=PATIENCE_S, what="events of ledgers and of users in Kafka")
    finally:
        consumer.close()
    return "\n".join(found)


def _logs(visit: Visit) -> str:
    lines = [line for line in visit.stack.log().splitlines() if FROM_A_PROCESS.match(line)]
    assert any("api.1" in line and "/auth/login" in line for line in lines), "the API has logged"
    assert any("ledgers.1" in line for line in lines), "a worker has logged"
    return "\n".join([*lines, *(file.read_text(errors="replace") for file in (visit.stack.state / "logs").iterdir())])


def _answers(visit: Visit) -> str:
    return "\n".join(f"{answer.headers!r} {answer.text}" for answer in visit.answers)


def _jobs(visit: Visit) -> str:
    admin = visit.town.admin
    listed = admin.read("/v1/jobs?limit=1000")["items"]
    assert {"register_user", "change_password", "create_ledger"} <= {job["kind"] for job in listed}
    return json.dumps([admin.read(f"/v1/jobs/{job['id']}") for job in listed])


def _metrics(visit: Visit) -> str:
    return visit.heard(visit.town.admin.get("/metrics"), 200).text


def _flower(visit: Visit) -> str:
    known = visit.stack.connection
    with httpx.Client(base_url=known["flower"], auth=(known["flower_user"], known["flower_password"])) as flower:
        pages = [flower.get(path) for path in ("/api/workers?refresh=1", "/api/tasks?limit=1000", "/workers", "/tasks")]
    assert [page.status_code for page in pages] == [200] * len(pages)
    assert "tasks.turns.run" in pages[1].text
    return "\n".join(page.text for page in pages)


def _tables(visit: Visit) -> str:
    url = visit.stack.connection["database_url"]
    return "\n".join(run_sql(url, f"SELECT t FROM {table} AS t") for table in TABLES)


def _redis(visit: Visit) -> str:
    """Every key and value, the queues and streams among them."""
    found: list[str] = []
    with redis.Redis.from_url(visit.stack.connection["redis_url"]) as client:
        read: dict[bytes, Callable[[bytes], object]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"stream": client.xrange,
        }
        for key in client.scan_iter():
            kind = client.type(key)
            assert kind in (*read, b"none")
            found.append(f"{key!r} {read[kind](key)!r}" if kind in read else "")
    return "\n".join(found)


def _processes(visit: Visit) -> str:
    """The arguments that anybody on the machine can read."""
    lines = [Path(file).read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    return b"\n".join(lines).decode(errors="replace")


PLACES: dict[str, Callable[[Visit], str]] = {
    "logs": _logs,
    "answers": _answers,
    "jobs": _jobs,
    "metrics": _metrics,
    "Kafka": _kafka,
    "Flower": _flower,
    "tables": _tables,
    "Redis": _redis,
    "arguments": _processes,
}


def is_in(secret: str, content: str) -> bool:
    """As it is, or as Postgres shows bytes."""
    return secret in content or secret.encode().hex() in content


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_repeated(visit: Visit, place: str) -> None:
    assert len(visit.told) > 20
    content = PLACES[place](visit)
    assert len(content) > 100, "there is something to look at"
    repeated = [name for name, secret in visit.told.items() if is_in(secret, content)]
    assert repeated == []


def test_a_secret_that_were_repeated_would_be_found(visit: Visit) -> None:
    ledger, said = fresh("canary"), canary()
    visit.town.admin.done("/v1/ledgers", {"id": ledger, "name": said})
    read = visit.town.admin.read(f"/v1/ledgers/{ledger}")
    assert read["name"] == said
    for place in ("Redis", "tables", "Kafka"):
        wait_for(lambda place=place: is_in(said, PLACES[place](visit)), seconds=PATIENCE_S, what=f"it is in {place}")
