"""Reads as of a moment, and statements, over HTTP: what they name, what repeats them, and what caches may keep."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from api.cursors import Position
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, User, a_ledger, open_books, posting, running_service

Patch = pytest.MonkeyPatch

FIRST = "2026-01-01T00:00:00.000000Z"
SECOND = "2026-01-02T00:00:00.000000Z"
THIRD = "2026-01-03T00:00:00.000000Z"


async def post(user: User, ledger: str, **body: Any) -> Json:
    answer = await user.post(f"/v1/ledgers/{ledger}/transactions", {**posting(), **body}, prefer="wait=10")
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


async def read(user: User, path: str) -> Json:
    answer = await user.get(path)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def every_line(user: User, path: str, limit: int) -> list[Json]:
    """All lines of a statement; what covers the range must be the same on every page."""
    pages = [await read(user, f"{path}&limit={limit}")]
    while pages[-1]["next"] is not None:
        pages.append(await read(user, f"{path}&limit={limit}&cursor={pages[-1]['next']}"))
    heads = [{name: page[name] for name in page if name not in ("items", "next")} for page in pages]
    assert heads == heads[:1] * len(pages)
    return [line for page in pages for line in page["items"]]


@on_a_loop
async def test_shapes_name_their_seq(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        alice = f"{root}/accounts/wallets:alice"
        first = await post(ada, ledger, **posting("100.00"), effective_at=FIRST, reference="dep-1")
        held = {**posting("40.00", "wallets:alice", "assets:bank"), "pending": True, "effective_at": FIRST}
        pending = await post(ada, ledger, **held)
        captured = await ada.post(
            f"{root}/transactions/{pending['id']}/capture",
            {"amount": "30.00", "final": False, "effective_at": THIRD},
            prefer="wait=10",
        )
        assert captured.status_code == 200, captured.text
        capture = captured.json()["captures"][0]
        seq = capture["seq"]

        now = await read(ada, alice)
        assert "seq" not in now
        # with what was recorded alone an account is whole
        assert await read(ada, f"{alice}?seq={seq}") == now | {"seq": seq}
        assert await read(ada, f"{alice}?recorded_at={capture['recorded_at']}") == now | {"seq": seq}
        before = await read(ada, f"{alice}?recorded_at={pending['recorded_at']}")
        figures = {"pending_debits": "40.00", "posted_debits": "0.00", "balance": "100.00", "available": "60.00"}
        assert before == now | {"seq": seq - 1, "version": seq - 1} | figures
        # holds have no effective time
        unknown: Json = dict.fromkeys(("pending_debits", "pending_credits", "available"))
        then = await read(ada, f"{alice}?effective_at={SECOND}")
        assert then == now | unknown | {"seq": seq, "posted_debits": "0.00", "balance": "100.00"}
        assert await read(ada, f"{alice}?effective_at={SECOND}&seq={seq}") == then
        both = await read(ada, f"{alice}?effective_at={THIRD}&recorded_at={pending['recorded_at']}")
        assert both == then | {"seq": seq - 1, "version": seq - 1}

        listed = await read(ada, f"{root}/accounts?effective_at={SECOND}&prefix=wallets:")
        assert listed == {
            "seq": seq, "effective_at": SECOND, "recorded_at": None, "items": [then], "next": None,
        }  # fmt: skip
        balances = await read(ada, f"{root}/balances?effective_at={SECOND}&prefix=wallets:")
        assert balances == {
            "seq": seq, "effective_at": SECOND, "recorded_at": None, "next": None,
            "items": [
                {"currency": "USD", "type": "liability", "accounts": 1, "posted_debits": "0.00",
                 "posted_credits": "100.00", "balance": "100.00", **unknown},
            ],
        }  # fmt: skip
        trial = await read(ada, f"{root}/trial-balance?effective_at={SECOND}&recorded_at={first['recorded_at']}")
        assert (trial["seq"], trial["recorded_at"]) == (first["seq"], first["recorded_at"])
        assert (trial["items"][0]["debits"], trial["items"][0]["difference"]) == ("100.00", "0.00")

        statement = await read(ada, f"{alice}/statement?from={SECOND}&to=2026-02-01T00:00:00Z")
        assert statement == {
            "account": "wallets:alice", "currency": "USD", "from": SECOND, "to": "2026-02-01T00:00:00.000000Z",
            "seq": seq, "opening": "100.00", "closing": "70.00", "next": None,
            "items": [
                {"transaction": pending["id"], "entry": capture["id"], "posting": 0, "counterparty": "assets:bank",
                 "direction": "debit", "amount": "30.00", "balance": "70.00", "reference": None, "description": None,
                 "effective_at": THIRD, "recorded_at": capture["recorded_at"], "seq": seq},
            ],
        }  # fmt: skip
        whole = await read(ada, f"{alice}/statement")
        assert [whole[name] for name in ("from", "to", "opening", "closing")] == [None, None, "0.00", "70.00"]
        assert [line["entry"] for line in whole["items"]] == [first["id"], capture["id"]]
        assert whole["items"][0]["reference"] == "dep-1"


@on_a_loop
async def test_what_was_told_once_is_told_again(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        statement = f"{root}/accounts/wallets:alice/statement?from={FIRST}&to={THIRD}"
        for number in range(7):
            moment = FIRST if number % 3 else SECOND
            last = await post(ada, ledger, **posting(f"{number + 1}.00"), effective_at=moment)
        closed = await ada.post(f"{root}/periods", {"before": FIRST}, prefer="wait=10")
        assert closed.status_code == 200, closed.text
        old = await every_line(ada, statement, 100)
        page = await read(ada, f"{statement}&limit=2")
        accounts = await read(ada, f"{root}/accounts?effective_at={SECOND}&limit=1")
        names = [f"{root}/{name}" for name in ("accounts", "balances", "trial-balance", "accounts/wallets:alice")]
        times = f"effective_at={SECOND}&recorded_at={last['recorded_at']}"
        told = {path: await read(ada, f"{path}?{times}") for path in names}

        # backdated into the range; and one that a closed period refuses
        for moment in (FIRST, SECOND):
            await post(ada, ledger, **posting("1000.00"), effective_at=moment)
        refused = await ada.post(
            f"{root}/transactions", {**posting(), "effective_at": "2025-12-31T00:00:00Z"}, prefer="wait=10"
        )
        assert refused.json()["code"] == "period_closed"
        opened = {"name": "assets:aaa", "currency": "USD", "type": "asset"}
        assert (await ada.post(f"{root}/accounts", opened, prefer="wait=10")).status_code == 201

        assert (await read(ada, statement))["closing"] == "2028.00"
        for again in (f"&recorded_at={last['recorded_at']}", f"&seq={page['seq']}"):
            assert await every_line(ada, statement + again, 3) == old
        # later pages belong to the first
        lines = page["items"]
        while page["next"] is not None:
            page = await read(ada, f"{statement}&limit=2&cursor={page['next']}")
            lines += page["items"]
            assert page["closing"] == "28.00"
        assert lines == old
        rest = await read(ada, f"{root}/accounts?effective_at={SECOND}&limit=5&cursor={accounts['next']}")
        assert rest["seq"] == accounts["seq"]
        assert [item["name"] for item in accounts["items"] + rest["items"]] == ["assets:bank", "wallets:alice"]
        for path, answer in told.items():
            assert await read(ada, f"{path}?{times}") == answer
            repeated = await read(ada, f"{path}?effective_at={SECOND}&seq={answer['seq']}")
            assert repeated | {"recorded_at": 0} == answer | {"recorded_at": 0}
        before_all = f"{root}/accounts/assets:aaa?seq={last['seq']}"
        assert (await ada.get(before_all)).status_code == 404
        assert (await ada.get(f"{root}/accounts/assets:aaa/statement?seq={last['seq']}")).status_code == 404
        empty = await read(ada, f"{root}/accounts?recorded_at=2020-01-01T00:00:00Z")
        assert (empty["seq"], empty["items"]) == (0, [])


@on_a_loop
async def test_kept_answers_end_with_the_next_event(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        alice = f"/v1/ledgers/{ledger}/accounts/wallets:alice"
        # as long as it is not past, a time takes in what comes
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        paths = (f"{alice}?recorded_at={later}", f"{alice}?effective_at={later}", f"{alice}/statement?to={later}")
        for number in range(1, 4):
            made = await post(ada, ledger)
            for path in paths * 2:
                answer = await ada.get(f"{path}&min_version={made['seq']}" if number == 2 else path)
                assert answer.json()["seq"] == made["seq"]
                assert answer.json().get("closing", answer.json().get("balance")) == f"{number}.00"
                assert answer.headers["etag"] == f'"1.{made["seq"]}"'
                unchanged = await ada.get(path, if_none_match=answer.headers["etag"])
                assert (unchanged.status_code, unchanged.content) == (304, b"")


@on_a_loop
async def test_a_seq_that_is_yet_to_come_is_waited_for(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        paths = ("accounts/wallets:alice", "trial-balance", "accounts/wallets:alice/statement")
        for early in await asyncio.gather(*(ada.get(f"{root}/{path}?seq=4") for path in paths)):
            assert (early.status_code, early.json()["code"]) == (409, "version_not_reached")
        asked = asyncio.create_task(ada.get(f"{root}/balances?seq=4"))
        await post(ada, ledger)
        answer = await asked
        assert (answer.status_code, answer.json()["seq"]) == (200, 4)
        for path in ("accounts", "accounts/wallets:alice", "accounts/wallets:alice/statement", "balances"):
            assert (await ada.get(f"/v1/ledgers/{a_ledger()}/{path}?seq=0")).status_code == 404
        for name in ("nobody", "Nobody", "a b"):
            assert (await ada.get(f"{root}/accounts/{name}/statement")).status_code == 404


@on_a_loop
async def test_cursors_of_a_statement_are_its_own(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for _ in range(2):
            await post(ada, ledger, effective_at=FIRST)
        path = f"/v1/ledgers/{ledger}/accounts/wallets:alice/statement"
        cursor = (await read(ada, f"{path}?limit=1"))["next"]
        assert len((await read(ada, f"{path}?limit=9&cursor={cursor}"))["items"]) == 1
        for query in (f"from={FIRST}&cursor={cursor}", f"recorded_at={THIRD}&cursor={cursor}", "cursor=x"):
            assert (await ada.get(f"{path}?{query}")).status_code == 400
        good = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=Position)
        for last in (
            ("yesterday", 4, 0, 5), ("2026-01-01T00:00:00", 4, 0, 5), (FIRST, 4, 1 << 40, 5), (FIRST, 4, 0, 99),
            (FIRST, 4, 0), (FIRST, -1, 0, 5),
        ):  # fmt: skip
            forged = Position(good.epoch, good.digest, last).text()
            answer = await ada.get(f"{path}?cursor={forged}")
            assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), last
        restored = Position(good.epoch + 1, good.digest, good.last).text()
        assert (await ada.get(f"{path}?cursor={restored}")).status_code == 400
