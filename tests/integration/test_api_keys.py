"""API keys over HTTP: how they are made, what they are good for, and what they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from domain.clock import format_time
from infrastructure import api_keys
from infrastructure.api_secrets import is_secret
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, Service, User, a_ledger, open_books, posting, running_service

Patch = pytest.MonkeyPatch

READ, WRITE = "ledger:read", "ledger:write"
GRANT = "INSERT INTO grants (ledger, user_id, role) VALUES ($1, $2, $3)"
MEMBERS = ["id", "name", "prefix", "scopes", "ledgers", "expires_at", "last_used_at", "created_at"]


async def make(user: User, scopes: Sequence[str] = (READ, WRITE), **members: Any) -> Json:
    """A new key of the user's, as it is answered."""
    answer = await user.post("/v1/api-keys", {"name": "books", "scopes": list(scopes), **members})
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def machine(user: User, scopes: Sequence[str] = (READ, WRITE), **members: Any) -> User:
    """Somebody who comes with a key of the user's."""
    return with_secret(user, (await make(user, scopes, **members))["secret"])


def with_secret(user: User, secret: str) -> User:
    return User(user.id, {"authorization": f"Bearer {secret}"}, user.client)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def faults(answer: httpx.Response) -> dict[str, str]:
    assert code(answer) == (422, "validation_failed"), answer.text
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}


def bare(answer: httpx.Response, *names: str) -> tuple[int, Json]:
    """Status and body without what tells two equal answers apart: correlation ids, and the names asked for."""
    text = answer.text
    for name in names:
        text = text.replace(name, "…")
    body: Json = httpx.Response(200, text=text).json()
    return answer.status_code, {**body, "correlation_id": None}


async def done(user: User, path: str, body: Json) -> Json:
    answer = await user.post(path, body, prefer="wait=10")
    assert answer.status_code == 201, answer.text
    shown: Json = answer.json()
    return shown


# -- making, listing, revoking ----------------------------------------------------------------------------------------


@on_a_loop
async def test_a_key_is_made_shown_once_listed_and_revoked(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        expires_at = format_time(datetime.now(UTC) + timedelta(days=1))
        body = {"name": "Kasse № 1", "scopes": [WRITE, READ], "ledgers": [ledger], "expires_at": expires_at}
        answer = await ada.post("/v1/api-keys", body)
        assert answer.status_code == 201
        made = answer.json()
        assert list(made) == [*MEMBERS, "secret"]
        assert {name: made[name] for name in body} == body
        assert made["last_used_at"] is None
        assert made["created_at"].endswith("Z") and len(made["created_at"]) == 27
        assert is_secret(made["secret"].encode())
        assert made["prefix"] == made["secret"][:12]
        assert answer.headers["location"] == f"/v1/api-keys/{made['id']}"
        assert answer.headers["cache-control"] == "no-store"

        other = await make(ada, [READ])
        assert (other["ledgers"], other["expires_at"]) == (None, None)
        listed = (await ada.get("/v1/api-keys")).json()
        expected = [{name: key[name] for name in MEMBERS} for key in (other, made)]
        assert listed == {"items": expected, "next": None}

        gone = await ada.client.delete(f"/v1/api-keys/{made['id']}", headers=ada.headers)
        assert (gone.status_code, gone.content) == (204, b"")
        assert [key["id"] for key in (await ada.get("/v1/api-keys")).json()["items"]] == [other["id"]]


@on_a_loop
async def test_keys_are_their_owners_alone(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, eve, admin = await service.user(), await service.user(), await service.user("admin")
        made = await make(ada)
        nothing = str(uuid4())
        for other in (eve, admin):
            assert (await other.get("/v1/api-keys")).json()["items"] == []
            answers = [
                bare(await ada.client.delete(f"/v1/api-keys/{key}", headers=other.headers), key)
                for key in (made["id"], nothing, "none")
            ]
            assert answers == [answers[0]] * 3
            assert answers[0][0] == 404
        assert (await with_secret(ada, made["secret"]).get("/auth/me")).status_code == 200
        first = await ada.client.delete(f"/v1/api-keys/{made['id']}", headers=ada.headers)
        again = await ada.client.delete(f"/v1/api-keys/{made['id']}", headers=ada.headers)
        assert (first.status_code, code(again)) == (204, (404, "not_found"))


@on_a_loop
async def test_pages_of_keys(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ids = [(await make(ada))["id"] for _ in range(5)]
        found, path = [], "/v1/api-keys?limit=2"
        while path:
            page = (await ada.get(path)).json()
            assert len(page["items"]) <= 2
            found += [key["id"] for key in page["items"]]
            path = page["next"] and f"/v1/api-keys?limit=2&cursor={page['next']}"
        assert found == ids[::-1]
        assert code(await ada.get("/v1/api-keys?cursor=!")) == (400, "malformed_request")
        assert faults(await ada.get("/v1/api-keys?limit=0&order=name")).keys() == {"#/limit", "#/order"}


@on_a_loop
async def test_what_is_wrong_with_a_request_for_a_key(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        good = {"name": "n", "scopes": [READ]}

        async def refused(**members: Any) -> dict[str, str]:
            return faults(await ada.post("/v1/api-keys", {**good, **members}))

        assert faults(await ada.post("/v1/api-keys", {})).keys() == {"#/name", "#/scopes"}
        for name in ("", "x" * 101, 7, "a\0b"):
            assert (await refused(name=name)).keys() == {"#/name"}
        assert (await refused(scopes=[])).keys() == {"#/scopes"}
        assert (await refused(scopes=READ)).keys() == {"#/scopes"}
        assert (await refused(scopes=["ledger:admin"])).keys() == {"#/scopes/0"}
        assert (await refused(scopes=["LEDGER:READ"])).keys() == {"#/scopes/0"}
        assert (await refused(scopes=[READ, READ])).keys() == {"#/scopes/1"}
        assert (await refused(scopes=[READ, WRITE, READ])).keys() == {"#/scopes"}
        assert (await refused(ledgers=[])).keys() == {"#/ledgers"}
        assert (await refused(ledgers=["acme", "Acme"])).keys() == {"#/ledgers/1"}
        assert (await refused(ledgers=[f"l-{number}" for number in range(101)])).keys() == {"#/ledgers"}
        assert (await refused(ledgers=["acme", "acme"])).keys() == {"#/ledgers/1"}
        for moment in ("2020-01-01T00:00:00Z", format_time(datetime.now(UTC)), "0001-01-01T00:00:00Z"):
            assert await refused(expires_at=moment) == {"#/expires_at": "must lie in the future"}
        for moment in ("tomorrow", "2040-01-01", "2040-01-01T00:00:00", 1_900_000_000):
            assert (await refused(expires_at=moment)).keys() == {"#/expires_at"}
        assert faults(await ada.post("/v1/api-keys?force=1", good)).keys() == {"#/force"}

        assert code(await ada.post("/v1/api-keys", {**good, "user_id": str(ada.id)})) == (400, "malformed_request")
        assert code(await ada.post("/v1/api-keys", '{"name":"a","name":"b"}')) == (400, "malformed_request")
        plain = await ada.post("/v1/api-keys", good, content_type="text/plain")
        assert code(plain) == (415, "unsupported_media_type")
        assert (await ada.get("/v1/api-keys")).json()["items"] == []
        # as late as there is, and in another zone; a null is as good as nothing
        late = await make(ada, expires_at="9999-12-31T23:59:59.999999+00:00", ledgers=None)
        assert late["expires_at"] == "9999-12-31T23:59:59.999999Z"


@on_a_loop
async def test_ledgers_that_are_not_ones_own_can_not_be_told_apart(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, eve, admin = await service.user(), await service.user(), await service.user("admin")
        mine, hers, nobodys = await open_books(ada), await open_books(eve), a_ledger()
        answers = []
        for ledger in (hers, nobodys):
            body = {"name": "n", "scopes": [READ], "ledgers": [mine, ledger]}
            answers.append(await ada.post("/v1/api-keys", body))
            assert faults(answers[-1]) == {"#/ledgers/1": "is no ledger that was granted to you"}
        assert bare(answers[0], hers) == bare(answers[1], nobodys)
        # a reader may hand on that it reads, and an administrator any ledger there is
        await service.pool.execute(GRANT, hers, ada.id, "reader")
        assert (await make(ada, [READ, WRITE], ledgers=[hers]))["ledgers"] == [hers]
        assert (await make(admin, ledgers=[mine, hers]))["ledgers"] == [mine, hers]
        unknown = await admin.post("/v1/api-keys", {"name": "n", "scopes": [READ], "ledgers": [nobodys]})
        assert faults(unknown).keys() == {"#/ledgers/0"}


@on_a_loop
async def test_nobody_has_more_keys_than_there_may_be(shared_settings: Settings, monkeypatch: Patch) -> None:
    monkeypatch.setattr(api_keys, "MOST_KEYS", 3)
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        body = {"name": "n", "scopes": [READ]}
        answers = await asyncio.gather(*(ada.post("/v1/api-keys", body) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [422] * 5
        keys = (await ada.get("/v1/api-keys")).json()["items"]
        assert len(keys) == 3
        await ada.client.delete(f"/v1/api-keys/{keys[0]['id']}", headers=ada.headers)
        assert (await ada.post("/v1/api-keys", body)).status_code == 201


@on_a_loop
async def test_a_repeated_request_makes_no_second_key(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, eve = await service.user(), await service.user()
        body = {"name": "n", "scopes": [READ]}
        answers = await asyncio.gather(*(ada.post("/v1/api-keys", body, idempotency_key="k") for _ in range(8)))
        assert {answer.status_code for answer in answers} == {201}
        (first,) = [answer for answer in answers if "idempotent-replayed" not in answer.headers]
        made = first.json()
        for answer in answers:
            if answer is not first:
                assert answer.headers["idempotent-replayed"] == "true"
                assert answer.json() == {**made, "secret": None}
        spelled = await ada.post(
            "/v1/api-keys", '{"scopes":["ledger:read"],"name":"n","ledgers":null}', idempotency_key="k"
        )
        assert spelled.json() == {**made, "secret": None}
        assert len((await ada.get("/v1/api-keys")).json()["items"]) == 1

        # another request under the key, whatever else is wrong with it
        for other in ({**body, "name": "m"}, {**body, "scopes": []}, {**body, "ledgers": ["none"]}):
            assert code(await ada.post("/v1/api-keys", other, idempotency_key="k")) == (422, "idempotency_key_reused")
        assert faults(await ada.post("/v1/api-keys", body, idempotency_key="x" * 256)).keys() == {"Idempotency-Key"}
        # a refusal leaves the key free
        assert faults(await ada.post("/v1/api-keys", {**body, "ledgers": ["none"]}, idempotency_key="l"))
        assert (await ada.post("/v1/api-keys", body, idempotency_key="l")).json()["secret"] is not None
        # somebody else's is another
        hers = await eve.post("/v1/api-keys", body, idempotency_key="k")
        assert hers.json()["secret"] is not None
        assert hers.json()["id"] != made["id"]
        scopes = await service.pool.fetch("SELECT actor FROM idempotency_keys WHERE principal = $1", ada.id)
        assert {row["actor"] for row in scopes} == {f"user:{ada.id}"}


# -- what keys are good for -------------------------------------------------------------------------------------------


@dataclass
class Office:
    """Ada with books, and machines with keys of hers."""

    service: Service
    ada: User
    ledger: str
    other: str
    machines: dict[str, User]


@asynccontextmanager
async def an_office(settings: Settings, monkeypatch: Patch) -> AsyncIterator[Office]:
    async with running_service(settings, monkeypatch) as service:
        ada, eve = await service.user(), await service.user()
        ledger, other, hers = await open_books(ada), await open_books(ada), await open_books(eve)
        await service.pool.execute(GRANT, hers, ada.id, "reader")
        machines = {
            "session": ada,
            "both": await machine(ada),
            "reads": await machine(ada, [READ]),
            "writes": await machine(ada, [WRITE]),
            "both here": await machine(ada, ledgers=[ledger]),
            "reads here": await machine(ada, [READ], ledgers=[ledger]),
            "writes there": await machine(ada, [WRITE], ledgers=[other]),
            "both at hers": await machine(ada, ledgers=[hers]),
            "admin's": await machine(await service.user("admin")),
            "admin's here": await machine(await service.user("admin"), [READ], ledgers=[ledger]),
            "operator's": await machine(await service.user("operator")),
        }
        yield Office(service, ada, ledger, other, machines)


# who: reading the ledger, its account, posting to it; listing ledgers; creating one
MATRIX = {
    "session": (200, 200, 202, 200, 202),
    "both": (200, 200, 202, 200, 202),
    "reads": (200, 200, 403, 200, 403),
    "writes": (403, 403, 202, 403, 202),
    "both here": (200, 200, 202, 200, 403),
    "reads here": (200, 200, 403, 200, 403),
    "writes there": (404, 404, 404, 403, 403),
    "both at hers": (404, 404, 404, 200, 403),
    "admin's": (200, 200, 202, 200, 202),
    "admin's here": (200, 200, 403, 200, 403),
    "operator's": (404, 404, 404, 200, 403),
}


@on_a_loop
async def test_scopes_and_ledgers_bound_what_a_key_may(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        path = f"/v1/ledgers/{office.ledger}"
        found = {}
        # twice, so that the second round is answered by the cache wherever it may be
        for _ in range(2):
            for name, who in office.machines.items():
                answers = [
                    await who.get(path),
                    await who.get(f"{path}/accounts/assets:bank"),
                    await who.post(f"{path}/transactions", posting()),
                    await who.get("/v1/ledgers"),
                    await who.post("/v1/ledgers", {"id": a_ledger(), "name": "New"}),
                ]
                found[name] = tuple(answer.status_code for answer in answers)
                refusals = {code(answer) for answer in answers if answer.status_code >= 400}
                assert refusals <= {(403, "forbidden"), (404, "not_found")}
            assert found == MATRIX


@on_a_loop
async def test_out_of_reach_looks_like_what_does_not_exist(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        nothing = a_ledger()
        for name in ("writes there", "both at hers"):
            who = office.machines[name]
            for rest in ("", "/accounts", "/accounts/assets:bank", "/transactions", "/balances", "/journal", "/grants"):
                answers = [await who.get(f"/v1/ledgers/{ledger}{rest}") for ledger in (office.ledger, nothing)]
                assert bare(answers[0], office.ledger) == bare(answers[1], nothing)
                assert answers[0].status_code == 404
            for rest, body in (("transactions", posting()), ("commands", {"commands": [{"kind": "open_account"}]})):
                answers = [await who.post(f"/v1/ledgers/{ledger}/{rest}", body) for ledger in (office.ledger, nothing)]
                assert bare(answers[0], office.ledger) == bare(answers[1], nothing)
                assert answers[0].status_code == 404


@on_a_loop
async def test_lists_of_ledgers_end_where_the_key_does(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:

        async def listed(name: str) -> set[str]:
            items = (await office.machines[name].get("/v1/ledgers?limit=1000")).json()["items"]
            return {item["id"] for item in items}

        assert await listed("both") == await listed("session") > {office.ledger, office.other}
        assert await listed("reads here") == {office.ledger}
        assert await listed("admin's here") == {office.ledger}
        assert await listed("admin's") >= {office.ledger, office.other}
        assert await listed("operator's") == set()


@on_a_loop
async def test_who_may_command_is_shown_what_came_of_it(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        writes, path = office.machines["writes"], f"/v1/ledgers/{office.ledger}"
        shown = await done(writes, f"{path}/transactions", posting())
        assert shown["status"] == "posted"
        assert code(await writes.get(f"{path}/transactions/{shown['id']}")) == (403, "forbidden")
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        batch = (await writes.post(f"{path}/commands", lines, prefer="wait=10")).json()
        assert batch["counts"]["succeeded"] == 1
        new = a_ledger()
        assert (await done(writes, "/v1/ledgers", {"id": new, "name": "New"}))["id"] == new


@on_a_loop
async def test_keys_of_a_user_share_idempotency_keys_within_their_reach(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        path = f"/v1/ledgers/{office.ledger}/transactions"
        first = await office.ada.post(path, posting(), idempotency_key="k")
        again = await office.machines["writes"].post(path, posting(), idempotency_key="k", prefer="wait=10")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert again.headers["daybook-job"] == first.json()["id"]
        # out of reach, or without the scope, a key that was used tells no more than one that was not
        for name, status in (("writes there", 404), ("reads here", 403), ("operator's", 404)):
            who = office.machines[name]
            answers = [await who.post(path, posting(), idempotency_key=key) for key in ("k", "none")]
            answers += [await who.post(path, posting("2.00"), idempotency_key="k")]
            assert [bare(answer) for answer in answers] == [bare(answers[0])] * 3
            assert answers[0].status_code == status
        bulk = {"commands": [{"kind": "post_transaction", **posting()}]}
        path = f"/v1/ledgers/{office.ledger}/commands"
        await office.ada.post(path, bulk, idempotency_key="b")
        for name, status in (("writes there", 404), ("reads here", 403)):
            answers = [await office.machines[name].post(path, bulk, idempotency_key=key) for key in ("b", "none")]
            assert bare(answers[0]) == bare(answers[1])
            assert answers[0].status_code == status


@on_a_loop
async def test_jobs_and_batches_of_a_key(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        ada, service = office.ada, office.service
        bob = await service.user()
        await service.pool.execute(GRANT, office.ledger, bob.id, "writer")
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        here, there = f"/v1/ledgers/{office.ledger}", f"/v1/ledgers/{office.other}"
        jobs = {
            "ada's here": (await ada.post(f"{here}/transactions", posting())).json()["id"],
            "bob's here": (await bob.post(f"{here}/transactions", posting())).json()["id"],
            "ada's there": (await ada.post(f"{there}/transactions", posting())).json()["id"],
        }
        own = await ada.post(f"/v1/users/{ada.id}/password", {"password": "correct horse battery"})
        assert own.status_code == 202
        jobs["ada's own"] = own.json()["id"]
        ada = await logged_in(service, ada)
        batches = {
            "ada's here": (await ada.post(f"{here}/commands", lines)).json()["batch"],
            "bob's here": (await bob.post(f"{here}/commands", lines)).json()["batch"],
            "ada's there": (await ada.post(f"{there}/commands", lines)).json()["batch"],
        }
        everything = {"ada's here", "bob's here", "ada's there"}
        shown = {
            "both": everything,
            "reads": everything,
            "writes": {"ada's here", "ada's there"},
            "both here": {"ada's here", "bob's here"},
            "reads here": {"ada's here", "bob's here"},
            "writes there": {"ada's there"},
            "both at hers": set(),
            "admin's": everything,
            "admin's here": {"ada's here", "bob's here"},
            "operator's": set(),
        }
        nothing = await ada.get(f"/v1/jobs/{uuid4()}")
        for name, visible in {**shown, "session": {*everything, "ada's own"}}.items():
            who = ada if name == "session" else office.machines[name]
            for kind, job in jobs.items():
                answer = await who.get(f"/v1/jobs/{job}")
                assert answer.status_code == (200 if kind in visible else 404), (name, kind)
                if kind not in visible:
                    assert bare(answer, job)[1].keys() == nothing.json().keys()
            for kind, batch in batches.items():
                answer = await who.get(f"/v1/batches/{batch}")
                assert answer.status_code == (200 if kind in visible else 404), (name, kind)
            listed = await who.get("/v1/jobs?limit=1000")
            assert set(jobs.values()) & {job["id"] for job in listed.json()["items"]} == {
                jobs[kind] for kind in visible
            }
            actors = {job["actor"] for job in listed.json()["items"]}
            assert name == "session" or all(actor.startswith("ledger:") for actor in actors), name
            here_only = (await who.get(f"/v1/jobs?ledger={office.ledger}&limit=1000")).json()["items"]
            wanted = {jobs[kind] for kind in visible if kind.endswith(" here")}
            assert set(jobs.values()) & {job["id"] for job in here_only} == wanted


async def logged_in(service: Service, user: User) -> User:
    """The user with a new session, once what ended the old one was applied."""
    assert service.bell.turns is not None
    await service.bell.turns.work(f"user:{user.id}")
    session = uuid4()
    await service.pool.execute(
        "INSERT INTO sessions (id, user_id, expires_at) VALUES ($1, $2, clock_timestamp() + interval '1 hour')",
        session,
        user.id,
    )
    token = service.services.tokens.issue(user.id, session, 3_600)
    return User(user.id, {"authorization": f"Bearer {token}"}, user.client)


@on_a_loop
async def test_pages_of_jobs_with_a_key(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        for number in range(6):
            ledger = office.ledger if number % 2 else office.other
            await done(office.ada, f"/v1/ledgers/{ledger}/transactions", posting())
        for name in ("both", "writes", "reads here", "admin's here"):
            who, path, paged = office.machines[name], "/v1/jobs?limit=2&kind=post_transaction", []
            whole = [job["id"] for job in (await who.get("/v1/jobs?kind=post_transaction")).json()["items"]]
            assert len(whole) == (3 if name.endswith("here") else 6)
            cursor = ""
            while cursor is not None:
                page = (await who.get(path + (f"&cursor={cursor}" if cursor else ""))).json()
                paged += [job["id"] for job in page["items"]]
                cursor = page["next"]
            assert paged == whole == sorted(whole, reverse=True)


@on_a_loop
async def test_keys_manage_nothing(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        admin, ada = await service.user("admin", "user"), await service.user()
        ledger = await open_books(admin)
        made = await make(admin, [READ, WRITE])
        who = with_secret(admin, made["secret"])
        before = await service.pool.fetch("SELECT count(*) FROM commands")
        user, grant = f"/v1/users/{ada.id}", f"/v1/ledgers/{ledger}/grants/{ada.id}"
        wider = {"name": "wider", "scopes": [READ, WRITE]}
        asked = [
            ("POST", "/v1/api-keys", wider),
            ("GET", "/v1/api-keys", None),
            ("DELETE", f"/v1/api-keys/{made['id']}", None),
            ("DELETE", f"/v1/api-keys/{uuid4()}", None),
            ("POST", "/auth/logout", None),
            ("GET", "/auth/sessions", None),
            ("DELETE", f"/auth/sessions/{uuid4()}", None),
            ("GET", "/metrics", None),
            ("POST", "/v1/users", {"username": "mallory", "password": "correct horse battery staple"}),
            ("GET", "/v1/users", None),
            ("PATCH", user, {"roles": ["admin"]}),
            ("POST", f"{user}/password", {"password": "correct horse battery staple"}),
            ("POST", f"/v1/users/{admin.id}/password", {"password": "correct horse battery staple"}),
            ("POST", f"{user}/disable", {}),
            ("PUT", grant, {"role": "owner"}),
            ("DELETE", grant, None),
        ]
        for method, path, body in asked:
            answer = await service.client.request(method, path, json=body, headers=who.headers)
            assert answer.status_code == 403, f"{method} {path}: {answer.text}"
            assert code(answer) == (403, "forbidden")
        assert await service.pool.fetch("SELECT count(*) FROM commands") == before
        assert len((await admin.get("/v1/api-keys")).json()["items"]) == 1
        # scrapers need a credential that lasts: what is measured, and nothing else, is open to operators' keys
        operator = await service.user("operator")
        assert (await (await machine(operator, [READ])).get("/metrics")).status_code == 200
        # what is no authority over others it may: the ledger's own data, as its owner
        assert (await who.get(f"/v1/ledgers/{ledger}/grants")).status_code == 200
        patched = await service.client.patch(
            f"/v1/ledgers/{ledger}", json={"metadata": {"k": "v"}}, headers=who.headers
        )
        assert patched.status_code == 202


@on_a_loop
async def test_a_key_says_whose_it_is(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        whole = (await office.ada.get("/auth/me")).json()
        assert (await office.machines["reads"].get("/auth/me")).json() == whole
        limited = (await office.machines["writes there"].get("/auth/me")).json()
        assert limited == {**whole, "grants": [{"ledger": office.other, "role": "owner"}]}


@on_a_loop
async def test_a_key_is_worth_no_more_than_its_owner(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        bob, pool = await office.service.user(), office.service.pool
        await pool.execute(GRANT, office.ledger, bob.id, "writer")
        who, path = await machine(bob, ledgers=[office.ledger]), f"/v1/ledgers/{office.ledger}"
        assert (await who.post(f"{path}/transactions", posting())).status_code == 202
        grant = f"{path}/grants/{bob.id}"
        lowered = await office.service.client.put(
            grant, json={"role": "reader"}, headers={**office.ada.headers, "prefer": "wait=10"}
        )
        assert lowered.status_code == 200
        assert code(await who.post(f"{path}/transactions", posting())) == (403, "forbidden")
        assert (await who.get(path)).status_code == 200
        revoked = await office.service.client.delete(grant, headers={**office.ada.headers, "prefer": "wait=10"})
        assert revoked.status_code == 204
        assert code(await who.get(path)) == (404, "not_found")
        assert code(await who.post(f"{path}/transactions", posting())) == (404, "not_found")


@on_a_loop
async def test_what_a_key_commanded_is_applied_by_its_owners_authority(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with an_office(shared_settings, monkeypatch) as office:
        service, bob = office.service, await office.service.user()
        await service.pool.execute(GRANT, office.ledger, bob.id, "writer")
        made = await make(bob, [WRITE])
        who, path = with_secret(bob, made["secret"]), f"/v1/ledgers/{office.ledger}"
        service.bell.working = False
        first = (await who.post(f"{path}/transactions", posting())).json()["id"]
        assert (await bob.client.delete(f"/v1/api-keys/{made['id']}", headers=bob.headers)).status_code == 204
        assert code(await who.post(f"{path}/transactions", posting())) == (401, "unauthorized")
        await service.work(office.ledger)
        # the key was good when the command was accepted, and its owner is still a writer
        assert (await bob.get(f"/v1/jobs/{first}")).json()["status"] == "succeeded"

        who = await machine(bob, [WRITE])
        second = (await who.post(f"{path}/transactions", posting())).json()["id"]
        await service.pool.execute("UPDATE grants SET role = 'reader' WHERE user_id = $1", bob.id)
        await service.work(office.ledger)
        assert (await bob.get(f"/v1/jobs/{second}")).json()["status"] == "rejected"
