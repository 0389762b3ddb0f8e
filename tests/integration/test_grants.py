"""Grants over HTTP: who is let in, who may do what then, and that whoever is put out is out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, Service, User, a_ledger, open_books, posting, running_service

Patch = pytest.MonkeyPatch
NOBODY = UUID("01890000-0000-7000-8000-000000000000")


def grants_of(ledger: str, user: User | UUID | None = None) -> str:
    name = user.id if isinstance(user, User) else user
    return f"/v1/ledgers/{ledger}/grants" + ("" if name is None else f"/{name}")


async def give(owner: User, ledger: str, user: User | UUID, role: str, **headers: str) -> httpx.Response:
    sent = {**owner.headers, "prefer": "wait=10", **headers}
    return await owner.client.put(grants_of(ledger, user), json={"role": role}, headers=sent)


async def take(owner: User, ledger: str, user: User | UUID, **headers: str) -> httpx.Response:
    sent = {**owner.headers, "prefer": "wait=10", **headers}
    return await owner.client.delete(grants_of(ledger, user), headers=sent)


async def change(owner: User, ledger: str, metadata: object, **headers: str) -> httpx.Response:
    sent = {**owner.headers, "prefer": "wait=10", **headers}
    return await owner.client.patch(f"/v1/ledgers/{ledger}", json={"metadata": metadata}, headers=sent)


async def listed(user: User, ledger: str) -> list[tuple[str, str]]:
    items = (await user.get(grants_of(ledger))).json()["items"]
    return [(item["user"], item["role"]) for item in items]


async def journal(user: User, ledger: str) -> list[str]:
    """The types of all events."""
    lines = (await user.get(f"/v1/ledgers/{ledger}/journal?limit=1000")).text.splitlines()
    return [json.loads(json.loads(line)["event"])["type"] for line in lines]


# -- giving and taking ------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_grant_is_given_listed_changed_and_taken(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        assert await listed(ada, ledger) == [(str(ada.id), "owner")]
        given = await give(ada, ledger, bob, "reader")
        assert given.status_code == 200, given.text
        (item, creator) = (await ada.get(grants_of(ledger))).json()["items"]
        assert given.json() == item
        assert item.keys() == {"user", "username", "role", "granted_at"}
        assert (item["user"], item["username"], item["role"]) == (str(bob.id), f"user-{bob.id}", "reader")
        assert creator["granted_at"] == (await ada.get(f"/v1/ledgers/{ledger}")).json()["created_at"]
        assert "location" not in given.headers

        assert (await give(ada, ledger, bob, "owner")).json()["role"] == "owner"
        assert await listed(bob, ledger) == [(str(bob.id), "owner"), (str(ada.id), "owner")]
        taken = await take(bob, ledger, ada)
        assert (taken.status_code, taken.content) == (204, b"")
        assert await listed(bob, ledger) == [(str(bob.id), "owner")]
        assert (await ada.get(grants_of(ledger))).status_code == 404
        assert (await journal(bob, ledger))[3:] == ["AccessGranted", "AccessGranted", "AccessRevoked"]


@on_a_loop
async def test_a_grant_is_a_job_like_any_other(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        key = {"idempotency-key": "k-1", "prefer": ""}
        first = await give(ada, ledger, bob, "writer", **key)
        assert first.status_code == 202
        job = first.json()
        assert (job["kind"], job["actor"]) == ("grant_access", f"ledger:{ledger}")
        assert job["links"]["resource"] == grants_of(ledger)
        again = await give(ada, ledger, bob, "writer", **{**key, "prefer": "wait=10"})
        assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
        assert again.headers["daybook-job"] == job["id"]
        for other in (
            await give(ada, ledger, bob, "reader", **key),
            await take(ada, ledger, bob, **key),
            await change(ada, ledger, {"role": "writer"}, **key),
        ):
            assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        gone = await take(ada, ledger, bob, **{"idempotency-key": "k-2"})
        replayed = await take(ada, ledger, bob, **{"idempotency-key": "k-2"})
        assert (gone.status_code, replayed.status_code) == (204, 204)
        assert replayed.headers["daybook-job"] == gone.headers["daybook-job"]
        kinds = [item["kind"] for item in (await ada.get(f"/v1/jobs?ledger={ledger}")).json()["items"]]
        assert kinds[:2] == ["revoke_access", "grant_access"]
        assert kinds.count("grant_access") == 1


@on_a_loop
async def test_whoever_may_not_see_what_came_of_a_command_is_told_its_job(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        await give(ada, ledger, bob, "writer")
        path, sent = f"/v1/ledgers/{ledger}/transactions", {"prefer": "wait=10", "idempotency-key": "k-1"}
        made = await bob.client.post(path, json=posting(), headers={**bob.headers, **sent})
        job = made.headers["daybook-job"]
        await take(ada, ledger, bob)
        again = await bob.client.post(path, json=posting(), headers={**bob.headers, **sent})
        assert (again.status_code, again.json()["code"], again.json()["job"]) == (404, "not_found", job)
        told = {name: again.headers.get(name) for name in ("daybook-job", "idempotent-replayed", "preference-applied")}
        assert told == {"daybook-job": job, "idempotent-replayed": "true", "preference-applied": "wait"}
        assert (await bob.get(f"/v1/jobs/{job}")).json()["status"] == "succeeded"


@on_a_loop
async def test_grants_come_newest_first_in_pages_with_the_ledgers_version(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, *others = [await service.user() for _ in range(5)]
        ledger = await open_books(ada)
        for other in (*others, others[0]):
            assert (await give(ada, ledger, other, "reader")).status_code == 200
        order = [str(user.id) for user in (others[0], *reversed(others[1:]), ada)]
        found: list[str] = []
        cursor = ""
        for _ in range(3):
            page = await ada.get(f"{grants_of(ledger)}?limit=2{cursor}")
            assert page.headers["etag"] == '"1.8"'
            found += [item["user"] for item in page.json()["items"]]
            cursor = f"&cursor={page.json()['next']}"
        assert found == order
        assert page.json()["next"] is None
        same = await ada.get(grants_of(ledger), if_none_match='"1.8"')
        assert same.status_code == 304
        for _ in range(2):
            assert [item["user"] for item in (await ada.get(grants_of(ledger))).json()["items"]] == order
        await take(ada, ledger, others[1])
        assert str(others[1].id) not in dict(await listed(ada, ledger))


WRONG_GRANTS: list[tuple[str, object, int]] = [
    (str(NOBODY), {"role": "admin"}, 422),
    (str(NOBODY), {}, 422),
    (str(NOBODY), {"role": None}, 422),
    (str(NOBODY), {"role": ["reader"]}, 422),
    (str(NOBODY), [], 422),
    (str(NOBODY), {"role": "reader", "user": str(NOBODY)}, 400),
    (str(NOBODY), {"role": "reader", "granted_at": "now"}, 400),
    (f"{NOBODY}?role=owner", {"role": "reader"}, 422),
    ("ada", {"role": "reader"}, 404),
    ("ada", {"role": "emperor"}, 404),
    (NOBODY.hex, {"role": "reader"}, 404),
    ("me", {"role": "reader"}, 404),
    (f"{NOBODY}/x", {"role": "reader"}, 404),
]


@on_a_loop
async def test_what_can_be_seen_to_be_wrong_in_a_grant(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for path, body, status in WRONG_GRANTS:
            answer = await ada.client.put(f"{grants_of(ledger)}/{path}", json=body, headers=ada.headers)
            assert answer.status_code == status, (path, body, answer.text)
        assert await journal(ada, ledger) == ["LedgerCreated", "AccountOpened", "AccountOpened"]


@on_a_loop
async def test_taking_a_grant_takes_no_body(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        await give(ada, ledger, bob, "reader")
        path = grants_of(ledger, bob)
        as_json = {**ada.headers, "content-type": "application/json"}
        for content, headers, status in (
            (b'{"role":"reader"}', as_json, 400),
            (b"[]", as_json, 422),
            (b"{", as_json, 400),
            (b"{}", {**ada.headers, "content-type": "text/plain"}, 415),
            (b"{}", as_json, 202),
        ):
            answer = await ada.client.request("DELETE", path, content=content, headers=headers)
            assert answer.status_code == status, answer.text


@on_a_loop
async def test_rules_that_refuse_a_grant(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob, dan = [await service.user() for _ in range(3)]
        await service.pool.execute("UPDATE users SET status = 'disabled' WHERE id = $1", dan.id)
        ledger = await open_books(ada)
        for answer, code in (
            (await give(ada, ledger, NOBODY, "reader"), "not_found"),
            (await give(ada, ledger, dan, "reader"), "not_found"),
            (await take(ada, ledger, bob), "not_found"),
            (await take(ada, ledger, NOBODY), "not_found"),
            (await give(ada, ledger, ada, "writer"), "precondition_failed"),
            (await take(ada, ledger, ada), "precondition_failed"),
        ):
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == ({"not_found": 404}.get(code, 409), code)
            assert problem["job"] == answer.headers["daybook-job"]
            assert problem["errors"] is None
        assert await listed(ada, ledger) == [(str(ada.id), "owner")]


# -- metadata ---------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_metadata_is_merged_and_null_deletes(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        before = (await ada.get(f"/v1/ledgers/{ledger}")).json()
        changed = await change(ada, ledger, {"tier": "1", "city": "Köln"})
        assert changed.status_code == 200, changed.text
        assert changed.json() == {
            **before,
            "metadata": {"city": "Köln", "tier": "1"},
            "seq": before["seq"] + 1,
            "version": before["seq"] + 1,
        }
        assert changed.headers["daybook-job"]
        assert (await change(ada, ledger, {"tier": None, "city": "Bonn", "ghost": None})).json()["metadata"] == {
            "city": "Bonn"
        }
        assert (await ada.get(f"/v1/ledgers/{ledger}")).json()["metadata"] == {"city": "Bonn"}
        assert (await journal(ada, ledger))[3:] == ["MetadataChanged"] * 2


WRONG_METADATA: list[tuple[Json | str, int, str | None]] = [
    ({}, 422, "#/metadata"),
    ({"metadata": None}, 422, "#/metadata"),
    ({"metadata": []}, 422, "#/metadata"),
    ({"metadata": {"a": 1}}, 422, "#/metadata/a"),
    ({"metadata": {"a": None, "b": "x" * 501, "": "y"}}, 422, "#/metadata/b"),
    ({"metadata": {"k" * 41: None}}, 422, "#/metadata/" + "k" * 41),
    ({"metadata": {f"k{number}": "" for number in range(51)}}, 422, "#/metadata"),
    ({"metadata": {f"k{number}": None for number in range(101)}}, 422, "#/metadata"),
    ({"metadata": {"a": {"b": None}}}, 422, "#/metadata/a"),
    ({"metadata": {"a": "\0"}}, 422, "#/metadata/a"),
    ({"metadata": {}, "name": "Other"}, 400, "#/name"),
    ({"metadata": {}, "owner": str(NOBODY)}, 400, "#/owner"),
    ('{"metadata":{"a":null,"a":"1"}}', 400, None),
]


@on_a_loop
async def test_what_can_be_seen_to_be_wrong_in_metadata(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for body, status, pointer in WRONG_METADATA:
            sent: dict[str, Any] = {"content": body} if isinstance(body, str) else {"json": body}
            headers = {**ada.headers, "content-type": "application/json"}
            answer = await ada.client.patch(f"/v1/ledgers/{ledger}", headers=headers, **sent)
            assert answer.status_code == status, (body, answer.text)
            errors = answer.json()["errors"]
            assert (None if errors is None else errors[0]["pointer"]) == pointer, body
        assert (await ada.get(f"/v1/ledgers/{ledger}")).json()["seq"] == 3


@on_a_loop
async def test_fifty_keys_are_the_most_and_what_is_merged_counts(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        fifty = {f"k{number}": "" for number in range(50)}
        assert (await change(ada, ledger, fifty)).status_code == 200
        refused = await change(ada, ledger, {"one-more": ""})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
        assert [error["pointer"] for error in refused.json()["errors"]] == ["#/metadata"]
        assert refused.json()["job"] == refused.headers["daybook-job"]
        others = {f"l{number}": "" for number in range(50)}
        assert (await change(ada, ledger, {**dict.fromkeys(fifty), **others})).json()["metadata"] == others


@on_a_loop
async def test_a_null_is_part_of_what_an_idempotency_key_stands_for(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        key = {"idempotency-key": "k"}
        assert (await change(ada, ledger, {"a": "1", "b": None}, **key)).status_code == 200
        assert (await change(ada, ledger, {"b": None, "a": "1"}, **key)).headers["idempotent-replayed"] == "true"
        assert (await change(ada, ledger, {"a": "1"}, **key)).status_code == 422


# -- who may do what --------------------------------------------------------------------------------------------------


def everything(service: Service, ledger: str, user: User, other: User) -> dict[str, Callable[[], Any]]:
    """What can be asked of a ledger, by the role that it needs."""
    root = f"/v1/ledgers/{ledger}"
    name = f"wallets:{uuid4().hex}"
    currency = f"C{uuid4().hex[:10].upper()}"
    account = {"name": name, "currency": "USD", "type": "liability"}
    lines = {"commands": [{"kind": "post_transaction", **posting()}]}
    return {
        "reader get": lambda: user.get(root),
        "reader grants": lambda: user.get(f"{root}/grants"),
        "reader accounts": lambda: user.get(f"{root}/accounts"),
        "reader account": lambda: user.get(f"{root}/accounts/assets:bank"),
        "reader journal": lambda: user.get(f"{root}/journal"),
        "reader balances": lambda: user.get(f"{root}/balances"),
        "writer account": lambda: user.post(f"{root}/accounts", account, prefer="wait=10"),
        "writer currency": lambda: user.post(f"{root}/currencies", {"code": currency, "scale": 0}, prefer="wait=10"),
        "writer post": lambda: user.post(f"{root}/transactions", posting(), prefer="wait=10"),
        "writer bulk": lambda: user.post(f"{root}/commands", lines, prefer="wait=10"),
        "owner metadata": lambda: change(user, ledger, {"a": uuid4().hex}),
        "owner grant": lambda: give(user, ledger, other, "reader"),
        "owner revoke": lambda: take(user, ledger, other),
    }


RANKS = ("stranger", "reader", "writer", "owner")


@on_a_loop
async def test_each_role_may_do_what_it_may_and_no_more(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob, carol = [await service.user() for _ in range(3)]
        ledger = await open_books(ada)
        # up and down again: what was allowed a moment ago is not any more
        for role in ("stranger", "reader", "writer", "owner", "writer", "reader", "stranger", "owner", "stranger"):
            if role == "stranger":
                await take(ada, ledger, bob)
            else:
                assert (await give(ada, ledger, bob, role)).status_code == 200
            seq = (await ada.get(f"/v1/ledgers/{ledger}")).json()["seq"]
            done = 0
            for name, ask in everything(service, ledger, bob, carol).items():
                need = name.partition(" ")[0]
                answer = await ask()
                if role == "stranger":
                    expected = {404}
                elif RANKS.index(role) < RANKS.index(need):
                    expected = {403}
                else:
                    expected = {200, 201, 204}
                    done += need != "reader"
                assert answer.status_code in expected, (role, name, answer.text)
            assert (await ada.get(f"/v1/ledgers/{ledger}")).json()["seq"] == seq + done
            mine = [item["id"] for item in (await bob.get("/v1/ledgers")).json()["items"]]
            assert mine == ([] if role == "stranger" else [ledger])
            shown = (await bob.get("/auth/me")).json()["grants"]
            assert shown == ([] if role == "stranger" else [{"ledger": ledger, "role": role}])


@on_a_loop
async def test_an_administrator_owns_every_ledger_without_a_grant(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, anna, bob = await service.user(), await service.user("admin"), await service.user()
        ledger = await open_books(ada)
        for name, ask in everything(service, ledger, anna, bob).items():
            assert (await ask()).status_code in (200, 201, 204), name
        # the ledger's last owner needs a successor, also when an administrator asks
        assert (await take(anna, ledger, ada)).status_code == 409
        assert (await give(anna, ledger, bob, "owner")).status_code == 200
        assert (await take(anna, ledger, ada)).status_code == 204
        assert await listed(anna, ledger) == [(str(bob.id), "owner")]
        everybodys = [item["id"] for item in (await anna.get("/v1/ledgers")).json()["items"]]
        assert ledger in everybodys
        assert (await anna.get("/auth/me")).json()["grants"] == []


# -- authority when a command is applied ------------------------------------------------------------------------------


async def outcome(user: User, answer: httpx.Response) -> tuple[str, str | None]:
    """What became of an accepted command."""
    assert answer.status_code == 202, answer.text
    job = (await user.get(answer.headers["location"], prefer="wait=10")).json()
    return job["status"], None if job["problem"] is None else job["problem"]["code"]


@on_a_loop
async def test_what_is_accepted_before_a_revocation_applies_is_decided_by_its_place_in_the_mailbox(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        await give(ada, ledger, bob, "owner")
        service.bell.working = False
        before = await bob.post(f"{root}/transactions", posting())
        revoked = await take(ada, ledger, bob, prefer="")
        # accepted, though its refusal is certain: what is not applied yet changes nobody's rights
        later = [
            await bob.post(f"{root}/transactions", posting()),
            await bob.post(f"{root}/accounts", {"name": "wallets:bob", "currency": "USD", "type": "liability"}),
            await bob.post(f"{root}/currencies", {"code": "POINTS", "scale": 0}),
            await give(bob, ledger, bob, "owner", prefer=""),
            await take(bob, ledger, ada, prefer=""),
            await change(bob, ledger, {"a": "1"}, prefer=""),
        ]
        assert (await bob.get(root)).status_code == 200
        await service.work(ledger)
        assert await outcome(ada, before) == ("succeeded", None)
        assert await outcome(ada, revoked) == ("succeeded", None)
        for answer in later:
            assert await outcome(ada, answer) == ("rejected", "not_found")
            # a submitter always sees its own jobs
            assert await outcome(bob, answer) == ("rejected", "not_found")
        assert (await bob.get(root)).status_code == 404
        assert (await bob.post(f"{root}/transactions", posting())).status_code == 404


@on_a_loop
async def test_a_command_needs_its_role_when_it_is_applied(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        await give(ada, ledger, bob, "owner")
        service.bell.working = False
        await give(ada, ledger, bob, "reader", prefer="")
        post = await bob.post(f"/v1/ledgers/{ledger}/transactions", posting())
        own = await give(bob, ledger, bob, "owner", prefer="")
        await give(ada, ledger, bob, "writer", prefer="")
        again = await bob.post(f"/v1/ledgers/{ledger}/transactions", posting())
        await service.work(ledger)
        codes = [await outcome(bob, answer) for answer in (post, own, again)]
        assert codes == [("rejected", "not_found"), ("rejected", "not_found"), ("succeeded", None)]


@on_a_loop
async def test_whoever_is_disabled_meanwhile_does_nothing_more(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, anna, bob = await service.user(), await service.user("admin"), await service.user()
        ledger, never = await open_books(ada), a_ledger()
        await give(ada, ledger, bob, "owner")
        root = f"/v1/ledgers/{ledger}"
        service.bell.working = False
        accepted = [
            await bob.post(f"{root}/transactions", posting()),
            await bob.post(f"{root}/accounts", {"name": "wallets:bob", "currency": "USD", "type": "liability"}),
            await bob.post(f"{root}/currencies", {"code": "POINTS", "scale": 0}),
            await give(bob, ledger, bob, "reader", prefer=""),
            await take(bob, ledger, ada, prefer=""),
            await change(bob, ledger, {"a": "1"}, prefer=""),
            await bob.post("/v1/ledgers", {"id": never, "name": "Never"}),
        ]
        await service.pool.execute("UPDATE users SET status = 'disabled' WHERE id = $1", bob.id)
        await service.work(ledger)
        await service.work(never)
        for answer in accepted:
            assert await outcome(anna, answer) == ("rejected", "not_found")
        assert (await ada.get(root)).json()["seq"] == 4
        assert (await anna.get(f"/v1/ledgers/{never}")).status_code == 404


@pytest.mark.parametrize(("roles", "status"), [(["operator"], "rejected"), (["admin"], "succeeded")])
@on_a_loop
async def test_roles_count_as_they_are_when_a_command_is_applied(
    shared_settings: Settings, monkeypatch: Patch, roles: list[str], status: str
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob, anna = await service.user(), await service.user(), await service.user("admin")
        ledger, mine = await open_books(ada), a_ledger()
        service.bell.working = False
        created = await bob.post("/v1/ledgers", {"id": mine, "name": "Mine"})
        posted = await anna.post(f"/v1/ledgers/{ledger}/transactions", posting())
        for user in (bob, anna):
            await service.pool.execute("UPDATE users SET roles = $2 WHERE id = $1", user.id, roles)
        await service.work(ledger)
        await service.work(mine)
        for user, answer in ((bob, created), (anna, posted)):
            assert (await outcome(user, answer))[0] == status


@on_a_loop
async def test_a_bulk_request_loses_its_rest_when_the_grant_goes(shared_settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        ledger = await open_books(ada)
        await give(ada, ledger, bob, "writer")
        lines = {"commands": [{"kind": "post_transaction", **posting()}] * 3}
        service.bell.working = False
        batches = [await bob.post(f"/v1/ledgers/{ledger}/commands", lines)]
        await take(ada, ledger, bob, prefer="")
        batches.append(await bob.post(f"/v1/ledgers/{ledger}/commands", lines))
        await service.work(ledger)
        counts = [(await bob.get(answer.headers["location"])).json()["counts"] for answer in batches]
        assert [(count["succeeded"], count["rejected"]) for count in counts] == [(3, 0), (0, 3)]


@on_a_loop
async def test_two_owners_who_put_each_other_out_at_once_leave_one(
    shared_settings: Settings, monkeypatch: Patch
) -> None:
    async with running_service(shared_settings, monkeypatch) as service:
        for _ in range(5):
            ada, bob = await service.user(), await service.user()
            ledger = await open_books(ada)
            await give(ada, ledger, bob, "owner")
            answers = await asyncio.gather(take(ada, ledger, bob), take(bob, ledger, ada))
            assert sorted(answer.status_code for answer in answers) == [204, 404]
            rows = await service.pool.fetch("SELECT role FROM grants WHERE ledger = $1", ledger)
            assert [row["role"] for row in rows] == ["owner"]
