"""Which limit a request counts against: its address's until it is known who asks, then that principal's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from api.admission import client_address, networks
from infrastructure.settings import Settings, SettingsError, parse
from tests.journals import on_a_loop
from tests.service import ADD_SESSION, Service, User, running_service

PROXIES = networks(("10.0.0.0/8", "2001:db8:aaaa::/48"))


def come_from(client: str, *forwarded: str, **headers: str) -> str:
    scope: Any = {
        "client": (client, 1),
        "headers": [
            *((b"x-forwarded-for", line.encode()) for line in forwarded),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ],
    }
    return client_address(scope, PROXIES)


@pytest.mark.parametrize(
    ("client", "forwarded", "counted"),
    [
        # without a proxy, whatever the request says
        ("192.0.2.1", (), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.1",), "192.0.2.1"),
        ("192.0.2.1", ("198.51.100.1", "10.0.0.1"), "192.0.2.1"),
        # through one: what it saw is at the right, and what it was told stands left of that
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("192.0.2.1",), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.1, 192.0.2.1",), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.1,10.0.0.9 ,\t192.0.2.1",), "192.0.2.1"),
        # through several
        ("10.0.0.1", ("198.51.100.1, 192.0.2.1, 10.0.0.2, 10.0.0.3",), "192.0.2.1"),
        ("10.0.0.1", ("10.0.0.2, 10.0.0.3",), "10.0.0.2"),
        # each proxy may add a line of its own
        ("10.0.0.1", ("198.51.100.1, 192.0.2.1", "10.0.0.2"), "192.0.2.1"),
        ("10.0.0.1", ("198.51.100.1", "192.0.2.1"), "192.0.2.1"),
        # what is no address ends the walk at the last that was believed
        ("10.0.0.1", ("192.0.2.1, unknown",), "10.0.0.1"),
        ("10.0.0.1", ("192.0.2.1, ",), "10.0.0.1"),
        ("10.0.0.1", ("192.0.2.1, 999.1.1.1, 10.0.0.7",), "10.0.0.7"),
        ("10.0.0.1", ("x" * 10_000,), "10.0.0.1"),
        # with ports
        ("10.0.0.1", ("192.0.2.1:4711",), "192.0.2.1"),
        ("10.0.0.1", ("[2001:db8:1:2:3::4]:4711",), "2001:db8:1:2::"),
        # IPv6 clients are networks of 64 bits, IPv4 ones are themselves, also on a socket for both
        ("2001:db8:1:2::1", (), "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", (), "2001:db8:1:2::"),
        ("2001:db8:1:3::1", (), "2001:db8:1:3::"),
        ("fe80::1%eth0", (), "fe80::"),
        ("::ffff:192.0.2.1", (), "192.0.2.1"),
        ("::ffff:192.0.2.2", (), "192.0.2.2"),
        ("::ffff:10.0.0.1", ("192.0.2.1",), "192.0.2.1"),
        ("2001:db8:aaaa::1", ("2001:db8:1:2::9",), "2001:db8:1:2::"),
    ],
)
def test_the_address_that_counts(client: str, forwarded: tuple[str, ...], counted: str) -> None:
    assert come_from(client, *forwarded) == counted


@pytest.mark.parametrize("name", ["forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"])
def test_other_headers_are_not_believed(name: str) -> None:
    said = "for=192.0.2.1" if name == "forwarded" else "192.0.2.1"
    assert come_from("10.0.0.1", **{name: said}) == "10.0.0.1"


def test_a_socket_without_an_address() -> None:
    scope: Any = {"client": None, "headers": [(b"x-forwarded-for", b"192.0.2.1")]}
    assert client_address(scope, PROXIES) == "local"


def test_a_proxy_that_is_none_is_refused_at_start(settings: Settings) -> None:
    needed = {
        "DAYBOOK_DATABASE_URL": settings.database_url,
        "DAYBOOK_REDIS_URL": settings.redis_url,
        "DAYBOOK_KAFKA_SERVERS": settings.kafka_servers,
        "DAYBOOK_SECRET_KEY": settings.secret_key,
    }
    assert parse({**needed, "DAYBOOK_TRUSTED_PROXIES": "10.0.0.1, ::1/64"}).trusted_proxies == ("10.0.0.1", "::1/64")
    with pytest.raises(SettingsError, match=r"DAYBOOK_TRUSTED_PROXIES.*proxy\.local"):
        parse({**needed, "DAYBOOK_TRUSTED_PROXIES": "10.0.0.1,proxy.local"})


RATES: Mapping[str, int] = {"user": 3, "operator": 7, "admin": 12}


def of_roles(settings: Settings) -> Settings:
    return replace(
        settings,
        request_rate_address=1_000_000,
        request_rate_user=RATES["user"],
        request_rate_operator=RATES["operator"],
        request_rate_admin=RATES["admin"],
    )


async def another_token(service: Service, user: User) -> dict[str, str]:
    session = uuid7()
    await service.pool.execute(ADD_SESSION, session, user.id)
    return {"authorization": f"Bearer {service.services.tokens.issue(user.id, session, 3_600)}"}


@pytest.mark.parametrize(
    ("roles", "quota"),
    [
        (("user",), 3),
        (("operator",), 7),
        (("admin",), 12),
        (("user", "operator"), 7),
        (("operator", "user"), 7),
    ],
)
def test_each_role_has_its_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, roles: tuple[str, ...], quota: int
) -> None:
    @on_a_loop
    async def run() -> None:
        async with running_service(of_roles(settings), monkeypatch) as service:
            user = await service.user(*roles)
            begun = asyncio.get_running_loop().time()
            answers = await asyncio.gather(*(user.get("/auth/me") for _ in range(60)))
            seconds = asyncio.get_running_loop().time() - begun
            # the first one brought a token that nobody knew yet; it counts against the same limit
            assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"principal";q={quota};w=1'}
            counts = Counter(answer.status_code for answer in answers)
            assert set(counts) == {200, 429}
            left = [int(a.headers["ratelimit"].partition("r=")[2]) for a in answers if a.status_code == 200]
            assert max(left) == quota - 1
            assert quota <= counts[200] <= quota * (1 + seconds)

    run()


@on_a_loop
async def test_new_tokens_are_no_new_principals(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of forty tokens is unknown at first; together they get no more than one would."""
    slow = replace(settings, request_rate_address=1_000_000, request_rate_user=1)
    async with running_service(slow, monkeypatch) as service:
        ada, bob = await service.user(), await service.user()
        tokens = [await another_token(service, ada) for _ in range(40)]
        begun = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(service.client.get("/auth/me", headers=token) for token in tokens))
        seconds = asyncio.get_running_loop().time() - begun
        admitted = sum(answer.status_code == 200 for answer in answers)
        assert 1 <= admitted <= 1 + seconds
        assert admitted < 40, "the machine was too slow to tell"
        # a neighbour is another one
        assert (await bob.get("/auth/me")).status_code == 200


@on_a_loop
async def test_a_token_whose_session_ended_counts_against_its_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(replace(settings, request_rate_address=4), monkeypatch) as service:
        ada = await service.user()
        await service.pool.execute("UPDATE sessions SET ended_at = clock_timestamp(), end_reason = 'test'")
        answers = await asyncio.gather(*(ada.get("/auth/me") for _ in range(40)))
        assert {answer.status_code for answer in answers} == {401, 429}
        assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"address";q=4;w=1'}


@on_a_loop
async def test_a_new_role_has_its_limit_at_once(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(of_roles(settings), monkeypatch) as service:
        ada = await service.user()
        assert (await ada.get("/auth/me")).headers["ratelimit-policy"] == '"principal";q=3;w=1'
        await service.pool.execute("UPDATE users SET roles = '{operator}' WHERE id = $1", ada.id)
        await service.services.redis.call("FLUSHALL")
        # the answer that brings the new role is counted by the old one
        await ada.get("/auth/me")
        assert (await ada.get("/auth/me")).headers["ratelimit-policy"] == '"principal";q=7;w=1'


@on_a_loop
async def test_one_round_trip_a_request(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = "one-trip"
        await ada.post("/v1/ledgers", {"id": ledger, "name": "Books"}, prefer="wait=10")
        for _ in range(2):
            assert (await ada.get(f"/v1/ledgers/{ledger}")).status_code == 200
        sent: list[tuple[Any, ...]] = []
        send = service.services.redis._send

        async def counted(command: tuple[Any, ...]) -> Any:
            sent.append(command)
            return await send(command)

        monkeypatch.setattr(service.services.redis, "_send", counted)
        assert (await ada.get(f"/v1/ledgers/{ledger}")).status_code == 200
        assert len(sent) == 1
