"""What somebody may try who means harm, one test each: the exact answer, and that nothing was changed.

docs/security.md says of each threat what stops it. The numbers keep the tests in order; 17, 18, 20 and 37 are kept free
for exports, streams and webhooks, which there are none of yet.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kombu.connection import Connection

from infrastructure.settings import SettingsError, parse
from tests.conftest import run_sql
from tests.e2e.client import PATIENCE_S, ROOT, Client, Json, fresh, log_lines, open_books, posting, redis_command
from tests.e2e.digests import digest
from tests.e2e.forgery import Genuine, connection_settings, encoded, genuine_token, signing_key
from tests.e2e.operations import BODIES, operations
from tests.e2e.people import Person, Town, a_town, log_in
from tests.stack import Stack, wait_for

WAIT = f"wait={PATIENCE_S}"
JSON = {"content-type": "application/json"}
NOBODY = "00000000-0000-7000-8000-000000000001"


@dataclass
class Scene:
    """Ada's books, Eve who wants something of them, and the service between the two."""

    stack: Stack
    town: Town
    ada: Client
    ada_herself: Person
    eve: Client
    ledger: str
    eves: str
    job: str
    batch: str

    @property
    def base(self) -> str:
        return f"/v1/ledgers/{self.ledger}"

    @property
    def token(self) -> str:
        """Ada's access token."""
        return self.ada.http.headers["authorization"].removeprefix("Bearer ")

    @property
    def database(self) -> str:
        return self.stack.connection["database_url"]

    def ids(self) -> Mapping[str, str]:
        thing = {"account": "wallets:alice", "transaction": self.job, "job": self.job, "batch": self.batch}
        return {"ledger": self.ledger, **thing}


@pytest.fixture(scope="module")
def scene(stack: Stack) -> Iterator[Scene]:
    with a_town(stack) as town:
        herself = town.add(name="ada")
        ada, eve = town.enter(herself), town.newcomer()
        ledger, eves = open_books(ada, least="0"), open_books(eve)
        job = ada.done(f"/v1/ledgers/{ledger}/transactions", posting("100.00"))["id"]
        lines = {"commands": [{"kind": "post_transaction", **posting()}]}
        batch = ada.post(f"/v1/ledgers/{ledger}/commands", lines).json()["batch"]
        yield Scene(stack, town, ada, herself, eve, ledger, eves, job, batch)


@contextmanager
def unchanged(scene: Scene, *but: str) -> Iterator[None]:
    """Nothing in the daybook is changed meanwhile, but in the named tables, where something is."""
    before = digest(scene.stack)
    yield
    after = digest(scene.stack)
    assert sorted(table for table in before if before[table] != after[table]) == sorted(but)


def problem(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of a refusal. Fails for an answer that is none."""
    content = answer.json()
    assert answer.headers["content-type"] == "application/problem+json" and content["status"] == answer.status_code
    return answer.status_code, content["code"]


# -- 1 to 14: to be let in --------------------------------------------------------------------------------------------

UNAUTHORIZED = (401, "unauthorized")


def authorised_by(scene: Scene, http: httpx.Client, token: str | bytes | None) -> list[httpx.Response]:
    """A read and a command with a token of one's own choice."""
    headers: dict[str, str | bytes] = {"x-correlation-id": "the-same"}
    if token is not None:
        headers["authorization"] = b"Bearer " + (token if isinstance(token, bytes) else token.encode())
    read = http.get(scene.base, headers=headers)  # type: ignore[arg-type]
    return [read, http.post(f"{scene.base}/transactions", json=posting(), headers=headers)]  # type: ignore[arg-type]


def turned_away(scene: Scene, *tokens: str | bytes) -> None:
    """None of the tokens is let in, all are told the same, and nothing is changed."""
    http = scene.town.visitor()
    none = authorised_by(scene, http, None)
    with unchanged(scene):
        for token in tokens:
            for answer, without in zip(authorised_by(scene, http, token), none, strict=True):
                assert problem(answer) == UNAUTHORIZED, token
                assert answer.content == without.content
                assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.fixture(scope="module")
def genuine(scene: Scene) -> Genuine:
    found = genuine_token(scene.stack, scene.token)
    # what is refused below is refused for what was changed
    assert authorised_by(scene, scene.town.visitor(), found.forged(jti="another"))[0].status_code == 200
    return found


def test_01_to_ask_without_a_token(scene: Scene) -> None:
    http = scene.town.visitor()
    with unchanged(scene):
        for headers in ({}, {"authorization": "Basic YWRhOmFkYQ=="}, {"authorization": "Bearer"}, {"cookie": "a=b"}):
            for operation in operations(http):
                path = operation.path.format(**{**dict.fromkeys(operation.names, NOBODY), **scene.ids()})
                if path.startswith("/v1/") or path in ("/metrics", "/auth/me", "/auth/sessions", "/auth/logout"):
                    body = BODIES.get(str(operation), lambda: None)()
                    answer = http.request(operation.method, path, json=body, headers=headers)
                    assert problem(answer) == UNAUTHORIZED, str(operation)
        for address in (
            "//v1/ledgers",
            "/v1//ledgers",
            "/V1/ledgers",
            "/v1/ledgers/",
            "/./v1/ledgers",
            "/%761/ledgers",
        ):
            assert http.get(address).status_code in (401, 404)


def test_02_a_token_without_a_signature(scene: Scene, genuine: Genuine) -> None:
    said, signature = encoded(genuine.claims), scene.token.rpartition(".")[2]
    heads = [encoded({**genuine.header, "alg": name}) for name in ("none", "None", "NONE", "nOnE", "", None)]
    turned_away(
        scene,
        *(f"{head}.{said}.{end}" for head in heads for end in ("", signature)),
        f"{scene.token.rpartition('.')[0]}.",
        scene.token.rpartition(".")[0],
    )


def test_03_a_token_of_another_algorithm(scene: Scene, genuine: Genuine) -> None:
    turned_away(
        scene,
        genuine.signed(rsa_key(65537, 2048), "RS256"),
        genuine.signed(ec_key(SECP256R1()), "ES256"),
        genuine.signed(Ed25519PrivateKey.generate(), "EdDSA"),
        genuine.forged({"alg": "HS512"}, how="sha512"),
        *(genuine.forged({"alg": name}) for name in ("RS256", "hs256", "HS384", "EdDSA", None, ["HS256"])),
    )
    # an installation with a public key: who knows it must not be able to sign with it
    had_rows = run_sql(scene.database, "SELECT count(*) FROM signing_keys") != "0"
    public = signing_key(scene.stack, make="EdDSA")
    http = scene.town.visitor()

    def published() -> list[Json]:
        keys: list[Json] = http.get("/.well-known/jwks.json").json()["keys"]
        return [key for key in keys if key["kid"] == public.kid]

    try:
        assert isinstance(public.signer, Ed25519PrivateKey) and public.public is not None
        token = genuine.signed(public.signer, "EdDSA", kid=public.kid)
        wait_for(published, seconds=PATIENCE_S, what="the new key")
        assert authorised_by(scene, http, token)[0].status_code == 200
        (jwk,) = published()
        pem = public.signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        known = (public.public, pem, pem.strip(), jwk["x"].encode(), json.dumps(jwk).encode(), b"")
        turned_away(scene, *(genuine.forged({"kid": public.kid}, key) for key in known))
    finally:
        if had_rows:
            signing_key(scene.stack, make="HS256")
        else:
            # as it was: the one key that follows from the secret
            run_sql(scene.database, "DELETE FROM signing_keys")
            wait_for(lambda: not published(), seconds=PATIENCE_S, what="the key before")


KIDS: Sequence[Any] = (
    *("../../../../dev/null", "/dev/null", "' UNION SELECT 'a' --", "*", "", "\0", "a" * 1_000),
    *(None, 1, [], {}),
)


def test_04_a_key_id_that_is_a_path_or_a_query(scene: Scene, genuine: Genuine) -> None:
    keys = (None, b"", b"\0")
    # one that might be a key's is looked for, and once
    turned_away(
        scene, *(genuine.forged({"kid": kid}, key) for kid in KIDS for key in keys), genuine.forged({"kid": "0" * 16})
    )


def test_05_a_token_that_brings_its_own_key(scene: Scene, genuine: Genuine) -> None:
    mine = b"m" * 32
    jwk = {"kty": "oct", "kid": genuine.key.kid, "alg": "HS256", "k": base64.urlsafe_b64encode(mine).decode()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        brought: list[Json] = [{"jwk": jwk}, {"jku": url}, {"x5u": url}, {"x5c": [jwk["k"]]}]
        turned_away(
            scene, *(genuine.forged({**header, **kid}, mine) for header in brought for kid in ({}, {"kid": "1"}))
        )
        # nobody came to ask for keys
        with pytest.raises(BlockingIOError):
            listener.accept()


CRITICAL: Sequence[Json] = (
    {"crit": ["b64"], "b64": False},
    {"crit": ["b64"], "b64": True},
    {"crit": ["exp"], "exp": 1},
    {"crit": ["unknown"]},
    {"crit": []},
    {"crit": "kid"},
    {"crit": None},
)


def test_06_a_critical_extension_that_nobody_understands(scene: Scene, genuine: Genuine) -> None:
    turned_away(scene, *(genuine.forged(header) for header in CRITICAL))


def test_07_a_token_out_of_its_time(scene: Scene, genuine: Genuine) -> None:
    now = int(time.time())
    turned_away(
        scene,
        genuine.forged(exp=now - 60),
        genuine.forged(exp=0),
        genuine.forged(exp=None),
        genuine.forged(nbf=now + 120),
        genuine.forged(nbf=None),
        genuine.forged(iat=now + 120),
        genuine.forged(iat=None),
        genuine.forged(exp="never"),
        genuine.forged(exp=float("inf")),
    )


def test_08_a_token_for_somebody_else(scene: Scene, genuine: Genuine) -> None:
    audience = genuine.claims["aud"]
    others: Sequence[Any] = (
        "daybook",
        f"{audience}-web",
        audience.upper(),
        "",
        [],
        [audience, "another"],
        {"a": audience},
        1,
        None,
    )
    turned_away(scene, *(genuine.forged(aud=other) for other in others))


def test_09_a_token_from_somebody_else(scene: Scene, genuine: Genuine) -> None:
    issuer = genuine.claims["iss"]
    others: Sequence[Any] = (
        issuer[:-1],
        issuer[:3],
        f"{issuer}2",
        issuer.upper(),
        f"https://{issuer}",
        "",
        [],
        [issuer],
        None,
    )
    turned_away(scene, *(genuine.forged(iss=other) for other in others))


def test_10_a_refresh_token_as_an_access_token(scene: Scene, genuine: Genuine) -> None:
    tokens = log_in(scene.town.visitor(), scene.ada_herself)
    turned_away(
        scene,
        tokens["refresh_token"],
        genuine.forged(typ="refresh"),
        genuine.forged(typ=None),
        *(genuine.forged({"typ": name}) for name in ("JWT", "rt+jwt", "", None)),
    )
    with unchanged(scene):
        answer = scene.town.visitor().post("/auth/refresh", json={"refresh_token": tokens["access_token"]})
        assert problem(answer) == UNAUTHORIZED


def test_11_a_token_whose_session_has_ended(scene: Scene) -> None:
    def log_out(person: Person, http: httpx.Client) -> httpx.Response:
        return http.post("/auth/logout")

    def change_password(person: Person, http: httpx.Client) -> httpx.Response:
        return http.post(f"/v1/users/{person.id}/password", json={"password": secrets.token_urlsafe(12)})

    def disable(person: Person, http: httpx.Client) -> httpx.Response:
        return scene.town.admin.post(f"/v1/users/{person.id}/disable", {})

    ended = []
    for end, status in ((log_out, 204), (change_password, 202), (disable, 202)):
        person, http, elsewhere = scene.town.add(), scene.town.visitor(), scene.town.visitor()
        tokens = log_in(http, person)
        elsewhere.headers["authorization"] = f"Bearer {tokens['access_token']}"
        assert elsewhere.get("/auth/me").status_code == 200
        http.headers["authorization"] = elsewhere.headers["authorization"]
        assert end(person, http).status_code == status
        # at once, and not only when the command has been applied
        assert problem(elsewhere.get("/auth/me")) == UNAUTHORIZED
        ended.append((elsewhere, tokens["refresh_token"]))
    with unchanged(scene):
        for flushed in (False, True):
            if flushed:
                redis_command(scene.stack, "FLUSHALL")
            for http, refresh_token in ended:
                assert problem(http.get("/auth/me")) == UNAUTHORIZED
                assert problem(http.post("/v1/ledgers", json={"id": fresh(), "name": "Books"})) == UNAUTHORIZED
                assert problem(http.post("/auth/refresh", json={"refresh_token": refresh_token})) == UNAUTHORIZED


def test_12_a_refresh_token_that_was_used_before(scene: Scene) -> None:
    http, herself = scene.town.visitor(), scene.town.add()
    chain = [log_in(http, herself)]
    for _ in range(2):
        chain.append(http.post("/auth/refresh", json={"refresh_token": chain[-1]["refresh_token"]}).json())
    newest = {"authorization": f"Bearer {chain[-1]['access_token']}"}
    assert http.get("/auth/me", headers=newest).status_code == 200
    with unchanged(scene, "sessions"):
        answer = http.post("/auth/refresh", json={"refresh_token": chain[0]["refresh_token"]})
        assert problem(answer) == UNAUTHORIZED
    with unchanged(scene):
        # its whole family is dead: thief and owner must log in again
        assert problem(http.get("/auth/me", headers=newest)) == UNAUTHORIZED
        for tokens in chain:
            answer = http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
            assert problem(answer) == UNAUTHORIZED
    open_sessions = f"SELECT count(*) FROM sessions WHERE user_id = '{herself.id}' AND ended_at IS NULL"
    assert run_sql(scene.database, open_sessions) == "0"


def test_13_two_refreshes_at_once(scene: Scene) -> None:
    herself = scene.town.add()
    first = log_in(scene.town.visitor(), herself)["refresh_token"]
    visitors = [scene.town.visitor() for _ in range(8)]
    with unchanged(scene, "sessions"), ThreadPoolExecutor(len(visitors)) as threads:
        answers = list(threads.map(lambda http: http.post("/auth/refresh", json={"refresh_token": first}), visitors))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1
    assert run_sql(scene.database, f"SELECT generation FROM sessions WHERE user_id = '{herself.id}'") == "1"


def make_key(client: Client, *scopes: str, **members: object) -> Json:
    made = client.post("/v1/api-keys", {"name": "a key", "scopes": scopes, **members})
    assert made.status_code == 201, made.text
    content: Json = made.json()
    return content


def bearing(scene: Scene, key: Json) -> Client:
    """A machine with an API key."""
    http = scene.town.visitor()
    http.headers["authorization"] = f"Bearer {key['secret']}"
    return Client(http, "", "")


def test_14_an_api_key_that_is_revoked_expired_or_made_up(scene: Scene) -> None:
    revoked = make_key(scene.ada, "ledger:read", "ledger:write")
    soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    expiring = make_key(scene.ada, "ledger:read", "ledger:write", expires_at=soon)
    for key in (revoked, expiring):
        assert bearing(scene, key).get(scene.base).status_code == 200
    assert scene.ada.http.delete(f"/v1/api-keys/{revoked['id']}").status_code == 204
    secret = revoked["secret"]
    turned_away(
        scene, secret, secret[:-1], secret + "a", secret.swapcase(), f"dbk_{'a' * 43}", "dbk_", revoked["prefix"]
    )
    machine = bearing(scene, expiring)
    wait_for(lambda: machine.get(scene.base).status_code == 401, seconds=PATIENCE_S, what="the end of a key")
    redis_command(scene.stack, "FLUSHALL")
    turned_away(scene, secret, expiring["secret"])


# -- 15 to 24: to see or do what is not one's own ---------------------------------------------------------------------


def test_15_somebody_elses_ledger_on_every_route(scene: Scene) -> None:
    # test_strangers.py compares each answer with the one for what does not exist
    with unchanged(scene):
        tried = [operation for operation in operations(scene.eve.http) if "ledger" in operation.names]
        assert len(tried) >= 12
        for operation in tried:
            path = operation.path.format(**{**dict.fromkeys(operation.names, NOBODY), **scene.ids()})
            answer = scene.eve.http.request(operation.method, path, json=BODIES.get(str(operation), lambda: None)())
            assert problem(answer) == (404, "not_found"), str(operation)


def test_16_somebody_elses_job_and_batch(scene: Scene) -> None:
    with unchanged(scene):
        for kind, name in (("jobs", scene.job), ("batches", scene.batch)):
            paths = [f"/v1/{kind}/{name}", f"/v1/{kind}/{name.upper()}"]
            for answer in (scene.eve.get(path, prefer="wait=1", x_correlation_id="the-same") for path in paths):
                unknown = scene.eve.get(f"/v1/{kind}/{NOBODY}", x_correlation_id="the-same")
                assert problem(answer) == (404, "not_found")
                assert answer.text.lower().replace(name, NOBODY) == unknown.text.lower()


def test_17_somebody_elses_export_and_its_file(scene: Scene) -> None:
    asked = BODIES["POST /v1/ledgers/{ledger}/exports"]()
    path = f"{scene.base}/exports"
    made = scene.ada.done(path, asked)
    with unchanged(scene):
        assert problem(scene.eve.post(path, asked)) == (404, "not_found")
        for address in (made["links"]["self"], made["links"]["download"]):
            answer = scene.eve.get(address, x_correlation_id="the-same")
            unknown = scene.eve.get(address.replace(made["id"], NOBODY), x_correlation_id="the-same")
            assert problem(answer) == (404, "not_found")
            assert answer.text.replace(made["id"], NOBODY) == unknown.text
            # nor by way of a ledger of one's own
            assert problem(scene.eve.get(address.replace(scene.ledger, scene.eves))) == (404, "not_found")
    # a link that was good once is good for nothing without the grant
    guest = scene.town.add()
    scene.town.grant(scene.ledger, guest, "reader")
    visitor = scene.town.enter(guest)
    assert visitor.get(made["links"]["download"]).status_code == 200
    ended = scene.ada.http.delete(f"{scene.base}/grants/{guest.id}", headers={"prefer": WAIT})
    assert ended.status_code == 204
    assert problem(visitor.get(made["links"]["download"])) == (404, "not_found")
    assert problem(scene.town.visitor().get(made["links"]["download"])) == (401, "unauthorized")


def test_19_somebody_elses_account_in_a_transaction_of_ones_own(scene: Scene) -> None:
    scene.ada.done(f"{scene.base}/accounts", {"name": "secret:vault", "currency": "USD", "type": "liability"})
    path, before = f"/v1/ledgers/{scene.eves}/transactions", scene.ada.get(scene.base).content
    refusals = [scene.eve.post(path, posting(credit=name), prefer=WAIT) for name in ("secret:vault", "nobody:vault")]
    assert [problem(answer) for answer in refusals] == [(422, "account_not_found")] * 2
    details = [
        answer.json()["detail"].replace(name, "") for answer, name in zip(refusals, ("secret", "nobody"), strict=True)
    ]
    assert details[0] == details[1]
    with unchanged(scene):
        for name in (f"{scene.ledger}/secret:vault", f"../{scene.ledger}/secret:vault", f"{scene.ledger}#secret:vault"):
            assert problem(scene.eve.post(path, posting(credit=name))) == (422, "validation_failed")
    assert scene.ada.get(scene.base).content == before


def test_21_somebody_elses_idempotency_key(scene: Scene) -> None:
    key, body = fresh("key"), posting("3.00")
    first = scene.ada.post(f"{scene.base}/transactions", body, idempotency_key=key)
    assert first.status_code == 202
    with unchanged(scene):
        for sent in (body, posting("4.00")):
            answer = scene.eve.post(f"{scene.base}/transactions", sent, idempotency_key=key)
            assert problem(answer) == (404, "not_found")
            assert not {"idempotent-replayed", "daybook-job", "location"} & set(answer.headers)
    with unchanged(scene, "commands", "idempotency_keys", "actors"):
        own = scene.eve.post(f"/v1/ledgers/{scene.eves}/transactions", body, idempotency_key=key)
        assert (own.status_code, "idempotent-replayed" in own.headers) == (202, False)
        assert own.json()["id"] != first.json()["id"]


def test_22_a_reader_writes(scene: Scene) -> None:
    reader = scene.town.add()
    scene.town.grant(scene.ledger, reader, "reader")
    client = scene.town.enter(reader)
    # an export is a reading
    tried = [
        operation
        for operation in operations(client.http)
        if "ledger" in operation.names and operation.method != "GET" and "/exports" not in operation.path
    ]
    with unchanged(scene):
        assert len(tried) >= 4
        for operation in tried:
            path = operation.path.format(**{**dict.fromkeys(operation.names, reader.id), **scene.ids()})
            answer = client.http.request(operation.method, path, json=BODIES.get(str(operation), lambda: None)())
            assert problem(answer) == (403, "forbidden"), str(operation)


def test_23_an_api_key_that_grants_itself_more(scene: Scene) -> None:
    other = open_books(scene.ada)
    made = make_key(scene.ada, "ledger:read", "ledger:write", ledgers=[scene.ledger])
    limited, reading = bearing(scene, made), bearing(scene, make_key(scene.ada, "ledger:read"))
    user = scene.ada.read("/auth/me")["id"]
    more = {"name": "more", "scopes": ["ledger:read", "ledger:write"]}
    eves = bearing(scene, make_key(scene.eve, "ledger:read", "ledger:write"))
    forbidden, absent = (403, "forbidden"), (404, "not_found")
    with unchanged(scene):
        for machine in (limited, reading):
            assert problem(machine.post("/v1/api-keys", more)) == forbidden
            assert problem(machine.get("/v1/api-keys")) == forbidden
            assert problem(machine.http.delete(f"/v1/api-keys/{made['id']}")) == forbidden
            assert problem(machine.http.put(f"{scene.base}/grants/{user}", json={"role": "owner"})) == forbidden
            assert problem(machine.get("/auth/sessions")) == forbidden
            assert problem(machine.post(f"/v1/users/{user}/password", {"password": "a new password"})) == forbidden
        for path, body in (("transactions", posting()), ("accounts", BODIES["POST /v1/ledgers/{ledger}/accounts"]())):
            assert problem(reading.post(f"{scene.base}/{path}", body)) == forbidden
            assert problem(limited.post(f"/v1/ledgers/{other}/{path}", body)) == absent
            assert problem(eves.post(f"{scene.base}/{path}", body)) == absent
        assert problem(reading.post("/v1/ledgers", {"id": fresh(), "name": "Books"})) == forbidden
        assert problem(limited.post("/v1/ledgers", {"id": fresh(), "name": "Books"})) == forbidden
        assert problem(limited.get(f"/v1/ledgers/{other}")) == problem(eves.get(scene.base)) == absent
        assert limited.get(scene.base).status_code == reading.get(scene.base).status_code == 200
        # nor can Eve find out by a key's bounds what there is
        bounds: list[Json] = [{**more, "ledgers": [scene.eves, ledger]} for ledger in (scene.ledger, fresh())]
        refusals = [scene.eve.post("/v1/api-keys", body, x_correlation_id="the-same") for body in bounds]
        assert problem(refusals[0]) == VALIDATION
        assert refusals[0].text.replace(scene.ledger, "") == refusals[1].text.replace(bounds[1]["ledgers"][1], "")


def test_24_a_user_who_plays_the_administrator(scene: Scene) -> None:
    person, operator = scene.town.add(), scene.town.add("operator")
    other, admin_roles = scene.ada_herself.id, {"roles": ["admin"]}
    with unchanged(scene, "sessions"):
        clients = [scene.town.enter(person), scene.town.enter(operator)]
    with unchanged(scene):
        for client, own in zip(clients, (person.id, operator.id), strict=True):
            answers = [
                client.get("/v1/users"),
                client.post("/v1/users", {"username": fresh("user"), "password": "a long password", **admin_roles}),
                client.http.patch(f"/v1/users/{own}", json=admin_roles),
                client.http.patch(f"/v1/users/{other}", json={"roles": ["user"]}),
                client.post(f"/v1/users/{other}/password", {"password": "a new password"}),
                client.post(f"/v1/users/{other}/disable", {}),
                client.post(f"/v1/users/{own}/disable", {}),
            ]
            assert [problem(answer) for answer in answers] == [(403, "forbidden")] * len(answers)
        assert problem(clients[0].get("/metrics")) == (403, "forbidden")


# -- 25 to 34: to be misunderstood ------------------------------------------------------------------------------------

VALIDATION = (422, "validation_failed")
MALFORMED = (400, "malformed_request")


def refused(scene: Scene, path: str, bodies: Sequence[object], expected: tuple[int, str], **headers: str) -> None:
    """All the bodies are refused by the owner's own route as expected, and change nothing."""
    with unchanged(scene):
        for body in bodies:
            assert problem(scene.ada.post(path, body, **headers)) == expected, body


EXTRA: Sequence[Json] = ({"owner_id": NOBODY}, {"seq": 7}, {"role": "owner"}, {"__class__": "x"}, {"constructor": {}})


def test_25_members_that_nobody_asked_for(scene: Scene) -> None:
    ledger = {"id": fresh(), "name": "Books"}
    refused(scene, "/v1/ledgers", [{**ledger, **more} for more in EXTRA], MALFORMED)
    opening = {"name": "wallets:eve", "currency": "USD", "type": "liability"}
    extra = [*EXTRA, {"balance": "1000000.00"}, {"posted_credits": "1"}, {"status": "open"}]
    refused(scene, f"{scene.base}/accounts", [{**opening, **more} for more in extra], MALFORMED)
    extra = [*EXTRA, {"id": NOBODY}, {"status": "posted"}, {"recorded_at": "2020-01-01T00:00:00Z"}]
    refused(scene, f"{scene.base}/transactions", [posting(**more) for more in extra], MALFORMED)
    nested = posting()
    nested["postings"][0]["currency"] = "EUR"
    refused(scene, f"{scene.base}/transactions", [nested], MALFORMED)
    refused(scene, "/auth/login", [{"username": "ada", "password": "x", "roles": ["admin"]}], MALFORMED)


NO_LIMITS = (
    *("-0", "+1", "1e3", "1E3", "NaN", "Infinity", "-Infinity", "", " 1", "1 ", "1_000", "1,5", "１２", "١"),
    *("0x10", "01", "1.", ".5", "1.0.0", "ten", "1\n", "1\0", "9" * 39, "1" + "0" * 38, f"0.{'0' * 18}1"),
)
NO_AMOUNTS: Sequence[Any] = (
    *(*NO_LIMITS, "0", "0.00", "-1"),
    *(1, 1.1, 0.1, -1, 10**38, 1e308, True, None, [], {}, ["1"], {"amount": "1"}),
)


def test_26_amounts_that_are_none(scene: Scene) -> None:
    refused(scene, f"{scene.base}/transactions", [posting(amount) for amount in NO_AMOUNTS], VALIDATION)
    for literal in (b"NaN", b"Infinity", b"-Infinity", b"01", b"1."):
        raw = b'{"postings":[{"debit":"assets:bank","credit":"wallets:alice","amount":%s}]}' % literal
        refused(scene, f"{scene.base}/transactions", [raw], MALFORMED)
    opening = {"name": "wallets:limit", "currency": "USD", "type": "liability"}
    refused(scene, f"{scene.base}/accounts", [{**opening, "min_balance": limit} for limit in NO_LIMITS], VALIDATION)


# letters of other alphabets, wide ones, text that runs backwards, what can't be seen, and what folds to ASCII
LOOKALIKES = (
    *("w\u0430llets:a", "wallets\uff1aa", "wallets:\u202eecila", "wallets:a\u200bb", "wallets:a\u2060"),
    *("wallets:\u017f", "wallets:\u212a", "wallets:\ufb01", "wallets:é", "Wallets:a"),
)
NO_ACCOUNTS = (*LOOKALIKES, "wallets:a\0", "wallets:a\n", " wallets:a", "")
NO_LEDGERS = (
    *("\u0430cme", "acme\u200b", "acm\uff45", "Acme", "a\u202ecme", "acme\0", "acme\n"),
    *("-acme", "acme_", "a" * 64, ""),
)
NO_CURRENCIES = ("\u0405D0", "US\u200bD", "ＵＳＤ", "usd", "POINTS\0", "POINTS\n", "P", "")
# what is not seen, or turns round what is
NO_LINES = ("a\0", "a\nb", "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffa", "a\u2028b", "a\x1bb")
NO_TEXTS: Sequence[Json] = (
    *({"description": "a\0b"}, {"metadata": {"a": "\0"}}),
    *({"reference": line} for line in NO_LINES),
    *({"metadata": {line: "a"}} for line in NO_LINES),
)


def test_27_names_that_look_like_others(scene: Scene) -> None:
    opening = {"currency": "USD", "type": "liability"}
    refused(scene, f"{scene.base}/accounts", [{"name": name, **opening} for name in NO_ACCOUNTS], VALIDATION)
    refused(scene, f"{scene.base}/transactions", [posting(credit=name) for name in NO_ACCOUNTS], VALIDATION)
    refused(scene, "/v1/ledgers", [{"id": name, "name": "Books"} for name in NO_LEDGERS], VALIDATION)
    refused(scene, "/v1/ledgers", [{"id": fresh(), "name": line} for line in NO_LINES], VALIDATION)
    keys = [{"name": line, "scopes": ["ledger:read"]} for line in NO_LINES]
    refused(scene, "/v1/api-keys", keys, VALIDATION)
    with unchanged(scene):
        for name in (*NO_LINES, "\u0430da", "ada\u200b", "a" * 300, ""):
            body = {"username": name, "password": secrets.token_urlsafe(12)}
            assert problem(scene.town.admin.post("/v1/users", body)) == VALIDATION, name
    # refused when its turn came: that is in the daybook, and there is no user
    with unchanged(scene, "actors", "commands"):
        body = {"username": scene.ada_herself.username.upper(), "password": secrets.token_urlsafe(12)}
        assert problem(scene.town.admin.post("/v1/users", body, prefer=WAIT)) == (409, "username_taken")
    refused(scene, f"{scene.base}/currencies", [{"code": code, "scale": 0} for code in NO_CURRENCIES], VALIDATION)
    refused(scene, f"{scene.base}/transactions", [posting(**text) for text in NO_TEXTS], VALIDATION)
    surrogate = b'{"postings":[{"debit":"assets:bank","credit":"wallets:alice","amount":"1"}],"description":"\\ud800"}'
    refused(scene, f"{scene.base}/transactions", [surrogate], VALIDATION)
    with unchanged(scene):
        for name in (*NO_ACCOUNTS[:-1], "\0"):
            assert problem(scene.ada.get(f"{scene.base}/accounts/{quote(name)}")) == (404, "not_found")


CLIMBING = ("..", ".", "../x", "a:..", "..:a", "a:.:b", "a/../b", "/etc/passwd", "a\\b", "%2e%2e", "a:%2e%2e", "~")


def test_28_names_that_climb(scene: Scene) -> None:
    opening = {"currency": "USD", "type": "liability"}
    refused(scene, f"{scene.base}/accounts", [{"name": name, **opening} for name in CLIMBING], VALIDATION)
    refused(scene, "/v1/ledgers", [{"id": name, "name": "Books"} for name in CLIMBING], VALIDATION)
    own, token = f"/v1/ledgers/{scene.eves}", f"authorization: {scene.eve.http.headers['authorization']}"
    to_files = ("/docs/../../../etc/passwd", "/docs/..%2f..%2fetc%2fpasswd", "/problems/../../etc/passwd", "/docs//etc")
    to_adas = (f"{own}/../{scene.ledger}", f"{own}/accounts/..%2f..%2f{scene.ledger}", f"{own}%2f..%2f{scene.ledger}")
    with unchanged(scene):
        for path in (*to_files, *to_adas):
            status, body = raw(scene, f"GET {path} HTTP/1.1", token)
            assert status in (400, 404) and b"root:" not in body and b"Books" not in body, path


def raw(scene: Scene, request: str | bytes, *headers: str | bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Sends what no client library would; the status and everything that came back."""
    lines = [line if isinstance(line, bytes) else line.encode() for line in (request, *headers)]
    address = urlsplit(scene.stack.connection["api"])
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=PATIENCE_S) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Host: daybook", b"Connection: close", b"", body]))
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer


METACHARACTERS = (
    "'; DROP TABLE users; --",
    "' OR '1'='1",
    "*",
    "%",
    "_",
    "a:*\r\nFLUSHALL\r\n",
    "$1",
    "{0}",
    "${a}",
    "\\",
    "\u2028",
)


def one_line(text: str) -> str:
    """The text without what no reference may have."""
    return "".join(text.splitlines())


def test_29_what_means_something_to_sql_or_redis(scene: Scene) -> None:
    users = run_sql(scene.database, "SELECT count(*) FROM users")
    for text in METACHARACTERS:
        wanted: Json = {"description": text, "reference": one_line(text) + fresh(), "metadata": {"a": text}}
        made = scene.ada.done(f"{scene.base}/transactions", posting(**wanted), idempotency_key=fresh("key") + "*:'--")
        assert {name: made[name] for name in wanted} == wanted
        assert scene.ada.http.get(f"{scene.base}/transactions/{made['id']}").json() == made
        found = scene.ada.http.get(f"{scene.base}/transactions", params={"reference": wanted["reference"]}).json()
        assert [item["id"] for item in found["items"]] == [made["id"]]
    with unchanged(scene):
        http, visitor = scene.eve.http, scene.town.visitor()
        for text in METACHARACTERS:
            for path, name in (("accounts", "prefix"), ("transactions", "account"), ("transactions", "reference")):
                answer = http.get(f"/v1/ledgers/{scene.eves}/{path}", params={name: text})
                assert answer.status_code in (200, 422) and (answer.status_code == 422 or answer.json()["items"] == [])
            assert problem(http.get("/v1/jobs", params={"cursor": text})) == MALFORMED
            for path in ("/v1/ledgers", f"/v1/ledgers/{scene.eves}/accounts", "/v1/jobs", "/v1/batches"):
                assert http.get(f"{path}/{quote(text, safe='')}").status_code == 404
            answer = visitor.post("/auth/login", json={"username": text, "password": text})
            assert problem(answer) == (401, "invalid_credentials")
    assert run_sql(scene.database, "SELECT count(*) FROM users") == users
    assert redis_command(scene.stack, "DBSIZE") > 0


def test_30_members_that_come_twice(scene: Scene) -> None:
    line = b'{"debit":"assets:bank","credit":"wallets:alice","amount":"1"}'
    bodies = [
        b'{"postings":[%s],"postings":[%s]}' % (line, line),
        b'{"postings":[%s],"p\\u006fstings":[%s]}' % (line, line),
        b'{"postings":[{"debit":"assets:bank","credit":"wallets:alice","amount":"1","amount":"1000"}]}',
        b'{"postings":[%s],"metadata":{"a":"1","a":"2"}}' % line,
        b'{"postings":[%s],"reference":null,"reference":"a"}' % line,
    ]
    refused(scene, f"{scene.base}/transactions", bodies, MALFORMED)
    twice = b'{"kind":"post_transaction","kind":"open_account","postings":[%s]}' % line
    refused(scene, f"{scene.base}/commands", [b'{"commands":[%s]}' % twice], MALFORMED)
    refused(scene, f"{scene.base}/commands", [twice], MALFORMED, content_type="application/x-ndjson")


def test_31_bodies_that_are_too_deep(scene: Scene) -> None:
    depths = (33, 100, 5_000, 400_000)
    nested = [b"[" * depth + b"]" * depth for depth in depths] + [
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"[" * 500_000,
    ]
    refused(scene, f"{scene.base}/transactions", nested, MALFORMED)
    within = [b'{"postings":[],"metadata":{"a":%s}}' % body for body in nested]
    refused(scene, f"{scene.base}/transactions", within, MALFORMED)
    # as deep as is allowed, it is read, and found to be something else
    refused(scene, f"{scene.base}/transactions", [b"[" * 32 + b"]" * 32], VALIDATION)


def test_32_a_key_for_another_request(scene: Scene) -> None:
    key, path = fresh("key"), f"{scene.base}/transactions"
    first = scene.ada.done(path, posting("1.00"), idempotency_key=key)
    with unchanged(scene):
        for body in (
            posting("1.000"),
            posting("2.00"),
            posting("1.00", reference="r"),
            posting("1.00", "wallets:alice", "assets:bank"),
        ):
            assert problem(scene.ada.post(path, body, idempotency_key=key)) == (422, "idempotency_key_reused")
        again = scene.ada.post(path, posting("1.00"), idempotency_key=key, prefer=WAIT)
        assert (again.json(), again.headers["idempotent-replayed"]) == (first, "true")


def test_33_bodies_that_are_too_large_or_compressed(scene: Scene) -> None:
    path, commands = f"{scene.base}/transactions", f"{scene.base}/commands"
    valid = json.dumps(posting()).encode()
    refused(scene, path, [valid + b" " * (1 << 20), b'"' + b"a" * (1 << 20) + b'"'], (413, "payload_too_large"))
    refused(scene, commands, [b" " * ((16 << 20) + 1)], (413, "payload_too_large"))
    for encoding in ("gzip", "deflate", "br", "identity, gzip", "x-unknown"):
        refused(scene, path, [valid], (415, "unsupported_media_type"), content_encoding=encoding)
    for kind in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-7",
    ):
        refused(scene, path, [valid], (415, "unsupported_media_type"), content_type=kind)
    with unchanged(scene):
        token = f"authorization: Bearer {scene.token}"
        announced = raw(
            scene, f"POST {path} HTTP/1.1", token, "content-type: application/json", "content-length: 99999999999"
        )
        assert announced[0] == 413


def test_34_a_correlation_id_that_forges_the_log(scene: Scene) -> None:
    token, forged = f"authorization: Bearer {scene.token}", '{"event":"request","principal":"admin","forged":true}'
    ids = (f"a {forged}", "a" * 10_240, "a" * 65, "", "a%0d%0a", "ä", "a\tb", "a,b", "\x1b[2J")
    with unchanged(scene):
        for name in ids:
            status, answer = raw(scene, f"GET {scene.base} HTTP/1.1", token, f"x-correlation-id: {name}")
            said = re.findall(rb"(?im)^x-correlation-id: (.*)\r$", answer)
            # refused as no HTTP, or replaced
            assert status in (200, 400, 431) and len(said) == 1
            assert re.fullmatch(rb"[0-9a-f]{32}", said[0]), (name, said)
        for end in (b"\r\n", b"\n", b"\r"):
            header = b"x-correlation-id: a" + end + b" " + forged.encode()
            status, answer = raw(scene, f"GET {scene.base} HTTP/1.1", token, header)
            assert status in (200, 400) and b"forged" not in answer
        marker = scene.ada.get(scene.base, x_correlation_id=(last := fresh("last")))
        assert marker.headers["x-correlation-id"] == last
    found = wait_for_log(scene, last)
    assert found and "forged" not in scene.stack.log()


def wait_for_log(scene: Scene, correlation_id: str) -> bool:
    def is_there() -> bool:
        return bool(log_lines(scene.stack, "api.1", correlation_id=correlation_id))

    wait_for(is_there, seconds=PATIENCE_S, what="the last line")
    return True


# -- 35 to 40: to wear down, to find out, to get in behind ------------------------------------------------------------


def test_35_to_guess_passwords_from_many_addresses(scene: Scene) -> None:
    victim = scene.town.add()
    guess = {"username": victim.username, "password": "wrong"}
    with unchanged(scene):
        # one address that claims to be many
        http = scene.town.visitor()
        claims = (
            {"x-forwarded-for": f"203.0.113.{number}", "forwarded": f"for=203.0.113.{number}"} for number in range(90)
        )
        answers = [http.post("/auth/login", json={}, headers=headers) for headers in claims]
        assert {problem(answer) for answer in answers} == {VALIDATION, (429, "rate_limited")}
        assert [answer.status_code for answer in answers[:60]] == [422] * 60
        # many addresses, one account; and whether it is there makes no difference
        for name in (victim.username, fresh("nobody")):
            wrong = 0
            while (tried := scene.town.visitor().post("/auth/login", json={**guess, "username": name})).is_error:
                if problem(tried) != (401, "invalid_credentials"):
                    break
                wrong += 1
            # 20 at once, and some more if this machine is slow
            assert problem(tried) == (429, "rate_limited") and int(tried.headers["retry-after"]) >= 1
            assert 20 <= wrong < 60
        # while Redis, which counts, does not answer, nobody is let in
        redis_command(scene.stack, "CLIENT", "PAUSE", "1500", "ALL")
        closed = scene.town.visitor().post("/auth/login", json={"username": "ada", "password": "wrong"})
        assert problem(closed) == (503, "unavailable")

        def counts_again() -> bool:
            answer = scene.town.visitor().post("/auth/login", json={"username": fresh("nobody"), "password": "wrong"})
            return answer.status_code == 401

        wait_for(counts_again, seconds=PATIENCE_S, what="logins after the pause")


def durations(scene: Scene) -> tuple[float, float]:
    """The median seconds of logins with a wrong password: as who is there, and as who is not. All else is the same."""
    # few tries an account are allowed a minute, so there are several
    known = [scene.town.add().username for _ in range(6)]
    times: dict[bool, list[float]] = {True: [], False: []}
    seen: set[tuple[int, bytes, str]] = set()
    with unchanged(scene):
        for _ in range(17):
            http = scene.town.visitor()
            for name, exists in product(known, (True, False)):
                guess = {"username": name if exists else fresh("user"), "password": "wrong"}
                began = time.perf_counter()
                answer = http.post("/auth/login", json=guess, headers={"x-correlation-id": "the-same"})
                times[exists].append(time.perf_counter() - began)
                assert problem(answer) == (401, "invalid_credentials")
                headers = [item for item in answer.headers.multi_items() if item[0] not in ("date", "ratelimit")]
                seen.add((answer.status_code, answer.content, str(headers)))
    assert len(seen) == 1
    return statistics.median(times[True]), statistics.median(times[False])


def test_36_to_find_out_who_has_an_account(scene: Scene) -> None:
    # one hash that is not computed would make it tenfold; a second try is for a machine that was busy
    for _ in range(2):
        known, unknown = durations(scene)
        if 1 / 1.15 < known / unknown < 1.15:
            return
    pytest.fail(f"a login as somebody who is there takes {known / unknown:.2f} times as long")


def refuses_to_start(scene: Scene, process: str, **changed: str) -> str:
    """What a process of the product says instead of starting with these settings; empty ones are unset."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    chosen = connection_settings(scene.stack, secrets.token_urlsafe(48))
    chosen["DAYBOOK_FLOWER_PASSWORD"] = secrets.token_urlsafe(24)
    command = [sys.executable, "-m", "cli", *process.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**inherited, **chosen, **changed}, cwd=ROOT, timeout=PATIENCE_S
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_38_to_come_in_by_flower_redis_or_kafka(scene: Scene) -> None:
    # the details are in tests/test_production.py
    with unchanged(scene):
        assert "DAYBOOK_FLOWER_PASSWORD" in refuses_to_start(scene, "flower", DAYBOOK_FLOWER_PASSWORD="")
        said = refuses_to_start(
            scene,
            "api",
            DAYBOOK_ENVIRONMENT="production",
            DAYBOOK_REDIS_URL="redis://10.0.0.5:6379/0",
            DAYBOOK_KAFKA_SERVERS="10.0.0.6:9092",
        )
        assert all(f"DAYBOOK_{name}" in said for name in ("REDIS_URL", "KAFKA_SE")), said
        for login in (None, ("admin", "admin"), (scene.stack.connection["flower_user"], "")):
            assert httpx.get(f"{scene.stack.connection['flower']}/api/workers", auth=login).status_code == 401


class Bomb:
    """What a worker runs that unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_39_to_send_workers_code_or_orders_through_the_queue(scene: Scene, tmp_path: Path) -> None:
    scar = tmp_path / "scar"
    headers = {"task": "tasks.turns.run", "id": NOBODY, "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    orders: list[tuple[list[Any], Json]] = [
        ([f"ledger:{scene.ledger}'; DELETE FROM grants; --"], {}),
        ([{"actor": f"ledger:{scene.ledger}"}], {}),
        ([["ledger"]], {}),
        ([None], {}),
        (["x" * 100_000], {}),
        ([f"ledger:{scene.ledger}", {"kind": "post_transaction", **posting("666")}], {}),
        ([f"ledger:{scene.ledger}"], {"principal": NOBODY, "role": "owner"}),
        ([f"user:{NOBODY}"], {}),
        ([], {}),
    ]
    with unchanged(scene):
        with Connection(scene.stack.connection["broker_url"]) as broker, broker.Producer() as producer:
            for serializer in ("pickle", "yaml"):
                body: Any = ([Bomb(scar) if serializer == "pickle" else "ledger:a"], {}, {})
                producer.publish(body, routing_key="ledgers", serializer=serializer, headers=headers)
            for arguments, named in orders:
                producer.publish((arguments, named, {}), routing_key="ledgers", serializer="json", headers=headers)
            nonsense = {**headers, "task": "os.system"}
            producer.publish((["true"], {}, {}), routing_key="ledgers", serializer="json", headers=nonsense)
            producer.publish(
                b"\x80\x04nonsense", routing_key="ledgers", content_type="application/json", content_encoding="binary"
            )

        def are_taken() -> bool:
            return not redis_command(scene.stack, "LLEN", "ledgers") and not redis_command(
                scene.stack, "HLEN", "unacked"
            )

        wait_for(are_taken, seconds=PATIENCE_S, what="an empty queue")
    assert not scar.exists()
    # and the worker goes on
    scene.ada.done(f"{scene.base}/transactions", posting())


def test_40_to_start_with_a_secret_that_is_known(scene: Scene) -> None:
    example = "change-me-to-a-long-random-secret-key"
    said = refuses_to_start(scene, "api", DAYBOOK_ENVIRONMENT="production", DAYBOOK_SECRET_KEY=example)
    assert "DAYBOOK_SECRET_KEY" in said and example not in said
    for secret in (secrets.token_urlsafe(48)[:31], "a" * 48, "my-super-secret-signing-key-2024-q"):
        with pytest.raises(SettingsError, match="DAYBOOK_SECRET_KEY") as refusal:
            parse({**connection_settings(scene.stack, secret), "DAYBOOK_ENVIRONMENT": "production"})
        assert secret not in str(refusal.value)


def test_40_secrets_in_what_is_written_down(scene: Scene) -> None:
    person = scene.town.add(name="canary")
    http = scene.town.visitor()
    tokens = log_in(http, person)
    http.headers["authorization"] = f"Bearer {tokens['access_token']}"
    asked = fresh("canary")
    mistakes = [
        http.post("/auth/login", json={"username": person.username, "password": [person.password]}),
        http.post("/auth/login", json={"username": person.password, "password": person.password}),
        http.post("/auth/login", content=json.dumps({"password": person.password}).encode()[:-1], headers=JSON),
        http.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"], "again": 1}),
        http.get(f"/v1/ledgers?token={tokens['access_token']}&password={person.password}"),
        http.get(f"/v1/ledgers/{scene.ledger}", headers={"x-correlation-id": asked}),
    ]
    kept = json.loads((scene.stack.state / "secrets.json").read_text())
    mine = [person.password, *(tokens[name] for name in ("access_token", "refresh_token"))]
    # the first user's password and Flower's are shown to whoever starts the product
    hidden = [*mine, *(kept[name] for name in ("secret_key", "postgres_password", "valkey_password"))]
    for answer in mistakes:
        assert answer.status_code >= 400
        assert not [secret for secret in hidden if secret in answer.text + str(answer.headers)]
    wait_for_log(scene, asked)
    log = scene.stack.log()
    assert not [secret for secret in hidden if secret in log]
    for table, column in (
        ("commands", "payload"),
        ("commands", "problem"),
        ("journal", "event"),
        ("sessions", "user_agent::bytea"),
    ):
        for secret in hidden:
            like = f"SELECT count(*) FROM {table} WHERE position('{secret}'::bytea IN {column}) > 0"
            assert run_sql(scene.database, like) == "0", (table, column)
