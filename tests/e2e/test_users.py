"""Users of the running product: made, let in, moved and shut out, with workers and without, down to Kafka."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.e2e.client import PATIENCE_S, Client, Json, daybook, events_of, fresh, logged_in, redis_command
from tests.stack import Stack, wait_for

PASSWORD = secrets.token_urlsafe(12)
OTHER = secrets.token_urlsafe(12)
WAIT = f"wait={PATIENCE_S}"


def send(client: Client, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.http.request(method, path, json=body, headers=given)


def register(admin: Client, *roles: str) -> Json:
    body = {"username": fresh("user"), "password": PASSWORD, "roles": list(roles or ("user",))}
    return admin.done("/v1/users", body)


def log_in(stack: Stack, made: Json, password: str) -> httpx.Response:
    login = {"username": made["username"], "password": password}
    return httpx.post(f"{stack.connection['api']}/auth/login", json=login, timeout=PATIENCE_S)


@contextmanager
def without_workers(stack: Stack) -> Iterator[None]:
    """Stops whoever serves users in their tracks for the length of a `with`."""
    pid = stack.pid_of("identity.1")
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def made(admin: Client) -> Json:
    """Somebody who has gone through everything: registered, another password, other roles, disabled."""
    user = register(admin)
    path = f"/v1/users/{user['id']}"
    for method, rest, body in (
        ("POST", "/password", {"password": OTHER}),
        ("PATCH", "", {"roles": ["operator"]}),
        ("POST", "/disable", {}),
    ):
        answer = send(admin, method, f"{path}{rest}", body, prefer=WAIT)
        assert answer.status_code == 200, answer.text
        user = answer.json()
    return user


def test_a_user_lives_from_registration_to_the_end(admin: Client, made: Json) -> None:
    assert (made["status"], made["roles"], made["version"]) == ("disabled", ["operator"], 4)
    assert made in admin.read("/v1/users?limit=1000")["items"]


def test_its_events_reach_kafka_and_redis(stack: Stack, made: Json) -> None:
    actor = f"user:{made['id']}"
    messages = {message.value() or b"": message for message in events_of(stack, actor, 4)}
    events = [json.loads(value) for value in messages]
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    kinds = ["UserRegistered", "PasswordChanged", "UserUpdated", "UserDisabled"]
    assert [event["type"] for event in events] == kinds
    headers = dict(next(iter(messages.values())).headers() or [])
    assert headers["ce_type"] == b"daybook.user.UserRegistered"
    assert headers["ce_subject"] == made["id"].encode()
    assert events[0]["data"] == {"username": made["username"], "roles": ["user"]}
    wait_for(
        lambda: redis_command(stack, "XLEN", f"stream:{actor}") == 4, seconds=PATIENCE_S, what="the stream has them"
    )
    for text in map(bytes.decode, messages):
        assert PASSWORD not in text and OTHER not in text and "argon2" not in text


def test_a_password_is_changed_while_no_worker_runs(stack: Stack, admin: Client) -> None:
    made = register(admin)
    with logged_in(stack, made["username"], PASSWORD) as here, logged_in(stack, made["username"], PASSWORD) as there:
        with without_workers(stack):
            answer = here.post(f"/v1/users/{made['id']}/password", {"password": OTHER})
            assert answer.status_code == 202, answer.text
            # all sessions, the one it was asked in, too
            assert [client.get("/auth/me").status_code for client in (here, there)] == [401, 401]
            assert log_in(stack, made, PASSWORD).status_code == 401
            with logged_in(stack, made["username"], OTHER) as again:
                assert again.get("/auth/me").status_code == 200
                job = f"/v1/jobs/{answer.json()['id']}"
                assert again.read(job)["status"] == "accepted"
        with logged_in(stack, made["username"], OTHER) as again:
            assert again.outcome(answer.json()["id"])["status"] == "succeeded"
        assert log_in(stack, made, PASSWORD).status_code == 401
        assert here.get("/auth/me").status_code == 401


def test_who_is_disabled_is_out_while_no_worker_runs(stack: Stack, admin: Client) -> None:
    made = register(admin)
    with logged_in(stack, made["username"], PASSWORD) as user:
        with without_workers(stack):
            answer = admin.post(f"/v1/users/{made['id']}/disable")
            assert answer.status_code == 202, answer.text
            assert user.get("/auth/me").status_code == 401
            right, wrong = log_in(stack, made, PASSWORD), log_in(stack, made, OTHER)
            assert (right.status_code, right.json()["code"]) == (401, "invalid_credentials")
            assert right.json()["detail"] == wrong.json()["detail"]
        assert admin.outcome(answer.json()["id"])["status"] == "succeeded"
        assert log_in(stack, made, PASSWORD).status_code == 401
        assert user.get("/auth/me").status_code == 401


def test_new_roles_count_with_the_next_request(stack: Stack, admin: Client) -> None:
    made = register(admin, "admin")
    with logged_in(stack, made["username"], PASSWORD) as user:
        assert user.get("/v1/users").status_code == 200
        demoted = send(admin, "PATCH", f"/v1/users/{made['id']}", {"roles": ["user"]}, prefer=WAIT)
        assert demoted.status_code == 200, demoted.text
        assert user.get("/v1/users").status_code == 403
        assert user.read("/auth/me")["roles"] == ["user"]


def test_of_many_who_want_a_name_one_has_it(admin: Client) -> None:
    name = fresh("wanted")
    body = {"username": name, "password": PASSWORD}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: admin.post("/v1/users", body, prefer=WAIT), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 7]
    assert {answer.json().get("code") for answer in answers} == {None, "username_taken"}


def test_a_key_makes_one_user(admin: Client) -> None:
    body = {"username": fresh("keyed"), "password": PASSWORD}
    key = fresh("key")
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: admin.post("/v1/users", body, idempotency_key=key, prefer=WAIT), range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = admin.post("/v1/users", {**body, "password": OTHER}, idempotency_key=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_the_command_line_and_the_api_make_the_same_users(stack: Stack, admin: Client) -> None:
    name = fresh("typed")
    added = daybook(stack, "users", "add", name, typed=PASSWORD)
    assert (added.returncode, added.stdout) == (0, f"Added {name}.\n"), added.stderr
    newest = admin.read("/v1/users?limit=10")["items"]
    assert [(user["roles"], user["version"]) for user in newest if user["username"] == name] == [(["user"], 1)]
    # whose events nobody rang for, but a sweep finds
    (user,) = [user["id"] for user in newest if user["username"] == name]
    assert len(events_of(stack, f"user:{user}", 1)) == 1


def test_everything_agrees_with_the_journals_after_it_all(stack: Stack, made: Json) -> None:
    found = daybook(stack, "verify", "--json")
    content = json.loads(found.stdout)
    of_users = {kind: told for kind, told in content["differences"].items() if "user:" in str(told)}
    assert of_users == {}
    assert content["read"]["users"] > 5
