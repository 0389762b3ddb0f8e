"""Users over HTTP: made, changed and disabled by administrators; what counts at once, and what only when applied."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from domain.catalog import HANDLERS
from domain.identity.commands import ChangePassword, UpdateUser
from domain.messages import Command, Event, Recorded
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, Service, User, running_service

Patch = pytest.MonkeyPatch

NOBODY = "01890000-0000-7000-8000-000000000000"
PASSWORD = "an old and long one"
OTHER = "a new and long one"


def a_name() -> str:
    return f"user-{uuid4().hex[:12]}"


async def ask(user: User, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
    """Sends a command and waits for its outcome, unless a header says otherwise."""
    given = {"prefer": "wait=10", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await user.client.request(method, path, json=body, headers={**user.headers, **given})


async def register(admin: User, name: str = "", **members: Any) -> Json:
    answer = await ask(admin, "POST", "/v1/users", {"username": name or a_name(), "password": PASSWORD, **members})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def log_in(service: Service, name: str, password: str = PASSWORD) -> httpx.Response:
    return await service.client.post("/auth/login", json={"username": name, "password": password})


async def entered(service: Service, made: Json, password: str = PASSWORD) -> User:
    answer = await log_in(service, made["username"], password)
    assert answer.status_code == 200, answer.text
    return User(UUID(made["id"]), {"authorization": f"Bearer {answer.json()['access_token']}"}, service.client)


async def status_of(user: User, path: str = "/auth/me") -> int:
    return (await user.get(path)).status_code


async def journal(service: Service, user: str) -> list[Json]:
    rows = await service.pool.fetch("SELECT event FROM journal WHERE actor = $1 ORDER BY seq", f"user:{user}")
    return [json.loads(row["event"]) for row in rows]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# -- making, listing, changing ----------------------------------------------------------------------------------------


@on_a_loop
async def test_a_user_is_registered_and_logs_in(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        name = a_name()
        answer = await ask(admin, "POST", "/v1/users", {"username": name, "password": PASSWORD})
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert answer.headers["location"] == f"/v1/users/{made['id']}"
        assert answer.headers["daybook-job"] == made["id"]
        assert made == {
            "id": made["id"],
            "username": name,
            "roles": ["user"],
            "status": "active",
            "created_at": made["created_at"],
            "version": 1,
        }
        assert made["created_at"].endswith("Z")
        me = (await (await entered(service, made)).get("/auth/me")).json()
        assert (me["id"], me["username"], me["roles"]) == (made["id"], name, ["user"])

        job = (await admin.get(f"/v1/jobs/{made['id']}")).json()
        assert (job["kind"], job["actor"], job["status"]) == ("register_user", f"user:{made['id']}", "succeeded")
        assert job["result"] == {"resource": f"/v1/users/{made['id']}", "seq": 1}
        (event,) = await journal(service, made["id"])
        assert (event["type"], event["data"]) == ("UserRegistered", {"username": name, "roles": ["user"]})
        assert event["balances"] == []


@on_a_loop
async def test_users_are_listed_newest_first_in_pages(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = [await register(admin, roles=["operator", "user"]) for _ in range(3)]
        first = (await admin.get("/v1/users?limit=2")).json()
        assert first["items"] == [made[2], made[1]]
        assert first["items"][0]["roles"] == ["operator", "user"]
        second = (await admin.get(f"/v1/users?limit=2&cursor={first['next']}")).json()
        assert second["items"][0] == made[0]
        assert code(await admin.get("/v1/users?cursor=!")) == (400, "malformed_request")
        assert code(await admin.get("/v1/users?limit=0")) == (422, "validation_failed")
        assert code(await admin.get("/v1/users?role=admin")) == (422, "validation_failed")


@on_a_loop
async def test_new_roles_count_with_the_next_request(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin, roles=["admin"])
        user = await entered(service, made)
        assert await status_of(user, "/v1/users") == 200
        answer = await ask(admin, "PATCH", f"/v1/users/{made['id']}", {"roles": ["user"]})
        assert answer.status_code == 200, answer.text
        assert "location" not in answer.headers
        assert answer.json() == {**made, "roles": ["user"], "version": 2}
        # the same session, with its new roles
        assert await status_of(user, "/v1/users") == 403
        assert (await user.get("/auth/me")).json()["roles"] == ["user"]
        again = await ask(admin, "PATCH", f"/v1/users/{made['id']}", {"roles": ["user"]})
        assert (again.status_code, again.json()["version"]) == (200, 2)
        assert [event["type"] for event in await journal(service, made["id"])] == ["UserRegistered", "UserUpdated"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"username": "", "password": PASSWORD}, "#/username"),
        ({"username": "a" * 65, "password": PASSWORD}, "#/username"),
        ({"username": "аda", "password": PASSWORD}, "#/username"),  # a Cyrillic а
        ({"username": "ada\0", "password": PASSWORD}, "#/username"),
        ({"username": "\u202eada", "password": PASSWORD}, "#/username"),
        ({"username": "ada\n", "password": PASSWORD}, "#/username"),
        ({"username": "ada lovelace", "password": PASSWORD}, "#/username"),
        ({"username": ".ada", "password": PASSWORD}, "#/username"),
        ({"username": 5, "password": PASSWORD}, "#/username"),
        ({"username": "ada"}, "#/password"),
        ({"username": "ada", "password": "elevenchars"}, "#/password"),
        ({"username": "ada", "password": "x" * 1_025}, "#/password"),
        ({"username": "ada", "password": "\0" * 20}, "#/password"),
        ({"username": "ada", "password": ["x"] * 20}, "#/password"),
        ({"username": "ada", "password": PASSWORD, "roles": []}, "#/roles"),
        ({"username": "ada", "password": PASSWORD, "roles": ["root"]}, "#/roles/0"),
        ({"username": "ada", "password": PASSWORD, "roles": ["user", "user"]}, "#/roles"),
    ],
)
@on_a_loop
async def test_what_is_no_user_is_refused_on_receipt(
    shared_settings: Settings, monkeypatch: Patch, body: Json, pointer: str
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        answer = await ask(admin, "POST", "/v1/users", body)
        assert code(answer) == (422, "validation_failed"), answer.text
        assert {error["pointer"] for error in answer.json()["errors"]} == {pointer}
        assert "daybook-job" not in answer.headers


@on_a_loop
async def test_members_that_nobody_knows_are_refused(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        path = f"/v1/users/{admin.id}"
        for method, at, body in (
            ("POST", "/v1/users", {"username": "ada", "password": PASSWORD, "status": "active"}),
            ("PATCH", path, {"roles": ["admin"], "username": "root"}),
            ("POST", f"{path}/password", {"password": PASSWORD, "old": PASSWORD}),
            ("POST", f"{path}/disable", {"reason": "because"}),
        ):
            assert code(await ask(admin, method, at, body)) == (400, "malformed_request")


# -- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "operator"])
@on_a_loop
async def test_only_administrators_manage_users(shared_settings: Settings, monkeypatch: Patch, role: str) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        user, other = await service.user(role), await service.user()
        for method, path, body in (
            ("POST", "/v1/users", {"username": a_name(), "password": PASSWORD}),
            ("POST", "/v1/users", {"username": ""}),
            ("GET", "/v1/users", None),
            ("GET", "/v1/users?limit=0", None),
        ):
            assert code(await ask(user, method, path, body)) == (403, "forbidden"), (method, path)
        # the same for a user who is there, for nobody, and for what is no id
        for method, rest, body in (
            ("PATCH", "", {"roles": ["admin"]}),
            ("POST", "/password", {"password": OTHER}),
            ("POST", "/password", {"password": "short"}),
            ("POST", "/disable", {}),
        ):
            answers = [await ask(user, method, f"/v1/users/{whose}{rest}", body) for whose in (other.id, NOBODY, "x")]
            told = [{**answer.json(), "instance": "", "correlation_id": ""} for answer in answers]
            assert told[0] == told[1] == told[2]
            assert {answer.status_code for answer in answers} == {403}
        # not oneself either, but for the password
        assert code(await ask(user, "PATCH", f"/v1/users/{user.id}", {"roles": ["admin"]})) == (403, "forbidden")
        assert code(await ask(user, "POST", f"/v1/users/{user.id}/disable", {})) == (403, "forbidden")
        assert await service.pool.fetchval("SELECT count(*) FROM commands WHERE principal = $1", user.id) == 0


@on_a_loop
async def test_nobody_is_not_found(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        for whose in (NOBODY, "x", NOBODY.replace("-", "")):
            for method, rest, body in (
                ("PATCH", "", {"roles": ["admin"]}),
                ("POST", "/password", {"password": OTHER}),
                ("POST", "/disable", {}),
            ):
                answer = await ask(admin, method, f"/v1/users/{whose}{rest}", body)
                assert code(answer) == (404, "not_found"), (method, rest)
        assert await service.pool.fetchval("SELECT count(*) FROM actors WHERE actor LIKE 'user:0189%'") == 0


@on_a_loop
async def test_authority_is_looked_at_again_when_it_is_applied(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin, fallen, other = await service.user("admin"), await service.user("admin"), await service.user()
        service.bell.working = False
        asked = [
            await ask(fallen, "POST", "/v1/users", {"username": a_name(), "password": PASSWORD}, prefer=""),
            await ask(fallen, "PATCH", f"/v1/users/{other.id}", {"roles": ["admin"]}, prefer=""),
            await ask(fallen, "POST", f"/v1/users/{other.id}/password", {"password": OTHER}, prefer=""),
            await ask(fallen, "POST", f"/v1/users/{other.id}/disable", {}, prefer=""),
        ]
        assert [answer.status_code for answer in asked] == [202] * 4
        service.bell.working = True
        assert (await ask(admin, "PATCH", f"/v1/users/{fallen.id}", {"roles": ["user"]})).status_code == 200
        assert service.bell.turns is not None
        for answer in asked:
            await service.bell.turns.work(answer.json()["actor"])
            job = (await fallen.get(f"/v1/jobs/{answer.json()['id']}")).json()
            assert (job["status"], job["problem"]["code"]) == ("rejected", "not_found")
        row = await service.pool.fetchrow("SELECT roles, status, version FROM users WHERE id = $1", other.id)
        assert tuple(row) == (["user"], "active", 0)
        assert await service.pool.fetchval("SELECT count(*) FROM pending_credentials WHERE user_id = $1", other.id) == 0
        assert await journal(service, str(other.id)) == []


@on_a_loop
async def test_somebody_is_left_who_may_make_administrators(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        for method, rest, body in (("PATCH", "", {"roles": ["user"]}), ("POST", "/disable", {})):
            answer = await ask(admin, method, f"/v1/users/{admin.id}{rest}", body)
            assert code(answer) == (409, "precondition_failed")
            assert answer.json()["job"] == answer.headers["daybook-job"]
        # a disable that is refused has ended the sessions all the same: it counted as accepted
        assert await status_of(admin) == 401


@on_a_loop
async def test_two_administrators_do_not_remove_each_other(settings: Settings, monkeypatch: Patch) -> None:
    """Different actors, so nothing but the turns' own lock can stop them."""
    async with running_service(settings, monkeypatch) as service:
        for _ in range(5):
            ada, bob = await service.user("admin"), await service.user("admin")
            await service.pool.execute("UPDATE users SET roles = '{user}' WHERE id <> ALL ($1)", [ada.id, bob.id])
            answers = await asyncio.gather(
                ask(ada, "PATCH", f"/v1/users/{bob.id}", {"roles": ["user"]}),
                ask(bob, "PATCH", f"/v1/users/{ada.id}", {"roles": ["user"]}),
            )
            admins = "SELECT count(*) FROM users WHERE 'admin' = ANY (roles) AND status = 'active'"
            assert await service.pool.fetchval(admins) == 1
            assert sorted(answer.status_code for answer in answers) in ([200, 403], [200, 404], [200, 409])


# -- names ------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_of_many_who_want_a_name_one_has_it(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        name = a_name()
        spelt = [name, name.upper(), name.capitalize(), name]
        answers = await asyncio.gather(
            *(ask(admin, "POST", "/v1/users", {"username": each, "password": PASSWORD}) for each in spelt)
        )
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        for answer in answers:
            if answer.status_code == 409:
                problem = answer.json()
                assert problem["code"] == "username_taken"
                assert [error["pointer"] for error in problem["errors"]] == ["#/username"]
        assert await service.pool.fetchval("SELECT count(*) FROM users WHERE lower(username) = $1", name) == 1
        assert await service.pool.fetchval("SELECT count(*) FROM turn_marks") == 0
        left = "SELECT count(*) FROM pending_credentials JOIN commands ON id = command WHERE principal = $1"
        assert await service.pool.fetchval(left, admin.id) == 0


# -- keys -------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_key_belongs_to_whoever_sends_it(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin, other = await service.user("admin"), await service.user("admin")
        body = {"username": a_name(), "password": PASSWORD}
        first = await ask(admin, "POST", "/v1/users", body, idempotency_key="k")
        again = await ask(admin, "POST", "/v1/users", body, idempotency_key="k")
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json() == first.json()
        for changed in ({"password": OTHER}, {"username": a_name()}, {"roles": ["user"]}):
            answer = await ask(admin, "POST", "/v1/users", {**body, **changed}, idempotency_key="k")
            assert code(answer) == (422, "idempotency_key_reused"), changed
        # one scope for all of /v1/users: another user's password is another request
        path = f"/v1/users/{other.id}/password"
        assert code(await ask(admin, "POST", path, {"password": OTHER}, idempotency_key="k"))[0] == 422
        # and another administrator's own
        assert code(await ask(other, "POST", "/v1/users", body, idempotency_key="k")) == (409, "username_taken")
        roles = {"roles": ["operator"]}
        path = f"/v1/users/{first.json()['id']}"
        assert (await ask(admin, "PATCH", path, roles, idempotency_key="r")).status_code == 200
        replay = await ask(admin, "PATCH", path, roles, idempotency_key="r")
        assert (replay.status_code, replay.headers["idempotent-replayed"]) == (200, "true")
        assert len(await journal(service, first.json()["id"])) == 2


@on_a_loop
async def test_no_password_is_kept_in_clear_or_guessable(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        secret = f"secret {secrets.token_urlsafe(18)}"
        body = {"username": a_name(), "password": secret}
        answer = await ask(admin, "POST", "/v1/users", body, idempotency_key="k")
        assert secret not in answer.text
        tables = await service.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (table,) in tables:
            rows = await service.pool.fetch(f'SELECT "{table}"::text AS row FROM "{table}"')
            for row in rows:
                assert secret not in row["row"]
                assert secret.encode().hex() not in row["row"]
                assert "argon2" not in row["row"] or table == "credentials"
        # what the key holds can't be made from the request without the secret key
        from api.commands import request_hash
        from api.decoding import canonical

        held = await service.pool.fetchval("SELECT request_hash FROM idempotency_keys WHERE principal = $1", admin.id)
        assert held != request_hash("/v1/users", (), canonical(body))
        kept = await service.pool.fetchval(
            "SELECT password_hash FROM credentials WHERE user_id = $1", UUID(answer.json()["id"])
        )
        assert kept.startswith("$argon2id$")


# -- what counts as soon as it is accepted ----------------------------------------------------------------------------


@on_a_loop
async def test_a_new_password_counts_at_once_and_ends_all_sessions(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        here, there = await entered(service, made), await entered(service, made)
        assert await status_of(here) == await status_of(there) == 200
        # no worker runs
        service.bell.working = False
        path = f"/v1/users/{made['id']}/password"
        assert (await ask(here, "POST", path, {"password": OTHER}, prefer="")).status_code == 202
        assert await status_of(here) == await status_of(there) == 401
        assert code(await log_in(service, made["username"])) == (401, "invalid_credentials")
        new = await entered(service, made, OTHER)
        # the one accepted last
        assert (await ask(new, "POST", path, {"password": f"{OTHER} still"}, prefer="")).status_code == 202
        assert (await log_in(service, made["username"], OTHER)).status_code == 401
        new = await entered(service, made, f"{OTHER} still")
        assert service.bell.turns is not None
        await service.bell.turns.work(f"user:{made['id']}")
        # who has logged in with it in between stays
        assert await status_of(new) == 200
        assert (await log_in(service, made["username"], OTHER)).status_code == 401
        await entered(service, made, f"{OTHER} still")
        kinds = [event["type"] for event in await journal(service, made["id"])]
        assert kinds == ["UserRegistered", "PasswordChanged", "PasswordChanged"]
        assert await service.pool.fetchval("SELECT count(*) FROM pending_credentials") == 0
        await service.services.redis.call("FLUSHALL")
        assert await status_of(here) == await status_of(there) == 401
        assert await status_of(new) == 200


@on_a_loop
async def test_who_is_disabled_is_out_at_once(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        user = await entered(service, made)
        assert await status_of(user) == 200
        service.bell.working = False
        path = f"/v1/users/{made['id']}/disable"
        assert (await ask(admin, "POST", path, prefer="")).status_code == 202
        assert await status_of(user) == 401
        wrong = await log_in(service, made["username"], "not the password")
        right = await log_in(service, made["username"])
        assert code(right) == code(wrong) == (401, "invalid_credentials")
        assert right.json()["detail"] == wrong.json()["detail"]
        service.bell.working = True
        answer = await ask(admin, "POST", path, {})
        assert answer.status_code == 200, answer.text
        assert answer.json() == {**made, "status": "disabled", "version": 2}
        assert (await log_in(service, made["username"])).status_code == 401
        # the name stays theirs
        taken = await ask(admin, "POST", "/v1/users", {"username": made["username"], "password": PASSWORD})
        assert code(taken) == (409, "username_taken")
        await service.services.redis.call("FLUSHALL")
        assert await status_of(user) == 401


@on_a_loop
async def test_a_login_under_way_does_not_survive_a_new_password(settings: Settings, monkeypatch: Patch) -> None:
    """The old password is verified, then the change is accepted and even applied, then the session would begin."""
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        sessions = service.services.sessions
        start = sessions.start

        async def late(*arguments: Any) -> UUID | None:
            answer = await ask(admin, "POST", f"/v1/users/{made['id']}/password", {"password": OTHER})
            assert answer.status_code == 200, answer.text
            return await start(*arguments)

        monkeypatch.setattr(sessions, "start", late)
        assert code(await log_in(service, made["username"])) == (401, "invalid_credentials")
        monkeypatch.setattr(sessions, "start", start)
        await entered(service, made, OTHER)


@on_a_loop
async def test_a_login_goes_on_while_its_password_is_taken_over(settings: Settings, monkeypatch: Patch) -> None:
    """Verified while the change waits, begun when it has been applied: the same password, so it is good."""
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        service.bell.working = False
        path = f"/v1/users/{made['id']}/password"
        assert (await ask(admin, "POST", path, {"password": OTHER}, prefer="")).status_code == 202
        sessions = service.services.sessions
        start = sessions.start

        async def late(*arguments: Any) -> UUID | None:
            assert service.bell.turns is not None
            await service.bell.turns.work(f"user:{made['id']}")
            assert await service.pool.fetchval("SELECT count(*) FROM pending_credentials") == 0
            return await start(*arguments)

        monkeypatch.setattr(sessions, "start", late)
        await entered(service, made, OTHER)


@on_a_loop
async def test_a_password_that_is_refused_after_all_ends_what_began_with_it(
    settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin, fallen = await service.user("admin"), await service.user("admin")
        made = await register(admin)
        service.bell.working = False
        path = f"/v1/users/{made['id']}/password"
        assert (await ask(fallen, "POST", path, {"password": OTHER}, prefer="")).status_code == 202
        intruder = await entered(service, made, OTHER)
        assert await status_of(intruder) == 200
        service.bell.working = True
        assert (await ask(admin, "POST", f"/v1/users/{fallen.id}/disable")).status_code == 200
        assert service.bell.turns is not None
        await service.bell.turns.work(f"user:{made['id']}")
        assert await status_of(intruder) == 401
        assert (await log_in(service, made["username"], OTHER)).status_code == 401
        await entered(service, made)


@on_a_loop
async def test_a_copy_that_cannot_be_dropped_is_a_503_and_a_replay_tries_again(
    settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        user = await entered(service, made)
        assert await status_of(user) == 200
        service.bell.working = False
        cache = service.services.cache
        drop = cache.drop

        async def fail(*_: str) -> None:
            from infrastructure.redis import RedisUnavailable

            raise RedisUnavailable("Redis can't be reached.")

        monkeypatch.setattr(cache, "drop", fail)
        path = f"/v1/users/{made['id']}/disable"
        answer = await ask(admin, "POST", path, {}, idempotency_key="k", prefer="")
        assert code(answer) == (503, "unavailable")
        # what Redis has still says so, but no longer than a minute
        assert await status_of(user) == 200
        monkeypatch.setattr(cache, "drop", drop)
        answer = await ask(admin, "POST", path, {}, idempotency_key="k", prefer="")
        assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
        assert await status_of(user) == 401


@on_a_loop
async def test_a_turn_drops_what_the_api_could_not(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        user = await entered(service, made)
        assert await status_of(user) == 200

        async def nothing(*_: object) -> None: ...

        monkeypatch.setattr(service.services.sessions, "drop", nothing)
        assert (await ask(admin, "POST", f"/v1/users/{made['id']}/disable", {})).status_code == 200
        assert await status_of(user) == 401


@on_a_loop
async def test_commands_to_a_user_may_follow_its_registration_at_once(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin = await service.user("admin")
        service.bell.working = False
        body = {"username": a_name(), "password": PASSWORD}
        made = (await ask(admin, "POST", "/v1/users", body, prefer="")).json()
        path = f"/v1/users/{made['id']}"
        assert made["links"]["resource"] == path
        assert (await ask(admin, "PATCH", path, {"roles": ["operator"]}, prefer="")).status_code == 202
        assert (await ask(admin, "POST", f"{path}/password", {"password": OTHER}, prefer="")).status_code == 202
        assert service.bell.turns is not None
        await service.bell.turns.work(made["actor"])
        user = await entered(service, {"id": made["id"], "username": body["username"]}, OTHER)
        assert (await user.get("/auth/me")).json()["roles"] == ["operator"]
        assert [event["seq"] for event in await journal(service, made["id"])] == [1, 2, 3]


@on_a_loop
async def test_jobs_of_users_show_to_submitters_and_operators(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin, operator, stranger = await service.user("admin"), await service.user("operator"), await service.user()
        made = await register(admin)
        user = await entered(service, made)
        answer = await ask(user, "POST", f"/v1/users/{made['id']}/password", {"password": OTHER})
        assert answer.status_code == 200
        job = f"/v1/jobs/{answer.headers['daybook-job']}"
        again = await entered(service, made, OTHER)
        for viewer, status in ((again, 200), (admin, 200), (operator, 200), (stranger, 404)):
            assert await status_of(viewer, job) == status
        kinds = [item["kind"] for item in (await again.get("/v1/jobs")).json()["items"]]
        assert kinds == ["change_password"]
        assert (await again.get("/v1/jobs?kind=change_password")).status_code == 200


# -- commands that break their turns ----------------------------------------------------------------------------------


def breaks(spoilt: UUID, handler: Any) -> Any:
    def handle(command: Command, user: Any, recorded: Recorded) -> list[Event]:
        if recorded.id == spoilt:
            raise RuntimeError("spoilt")
        events: list[Event] = handler(command, user, recorded)
        return events

    return handle


@on_a_loop
async def test_a_command_that_breaks_its_turn_hurts_only_itself(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        admin = await service.user("admin")
        made = await register(admin)
        service.bell.working = False
        path = f"/v1/users/{made['id']}"
        sent = [
            await ask(admin, "POST", f"{path}/password", {"password": OTHER}, prefer=""),
            await ask(admin, "PATCH", path, {"roles": ["operator"]}, prefer=""),
            await ask(admin, "PATCH", path, {"roles": ["admin"]}, prefer=""),
            await ask(admin, "POST", f"{path}/password", {"password": f"{OTHER} still"}, prefer=""),
        ]
        assert [answer.status_code for answer in sent] == [202] * 4
        # the last one's password counts as long as it waits
        user = await entered(service, made, f"{OTHER} still")
        assert await status_of(user) == 200
        for number in (1, 3):
            spoilt, kind = UUID(sent[number].json()["id"]), (UpdateUser, ChangePassword)[number // 2]
            monkeypatch.setitem(HANDLERS, kind, breaks(spoilt, HANDLERS[kind]))  # type: ignore[misc]
        assert service.bell.turns is not None
        await service.bell.turns.work(f"user:{made['id']}")
        jobs = [(await admin.get(f"/v1/jobs/{answer.json()['id']}")).json() for answer in sent]
        assert [job["status"] for job in jobs] == ["succeeded", "failed", "succeeded", "failed"]
        # a dead letter brings nothing, and what began with it is over
        assert await service.pool.fetchval("SELECT count(*) FROM pending_credentials") == 0
        assert await status_of(user) == 401
        assert (await log_in(service, made["username"], f"{OTHER} still")).status_code == 401
        user = await entered(service, made, OTHER)
        assert (await user.get("/auth/me")).json()["roles"] == ["admin"]
        kinds = [event["type"] for event in await journal(service, made["id"])]
        assert kinds == ["UserRegistered", "PasswordChanged", "UserUpdated"]
