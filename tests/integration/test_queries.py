"""Queries over HTTP: shapes, lists and their cursors, versions, what the cache answers and what it must not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from infrastructure.projections import TransactionFilter, list_transactions
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import Json, User, a_ledger, open_books, posting, running_service
from tests.turns import Desk, at_a_desk

Patch = pytest.MonkeyPatch

COUNT_STATEMENTS = """
SELECT count(*), max(query_start) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'daybook-api%'
"""


# Of those that a page of transactions was read by.
PLANS = """
SELECT sum(generic_plans) AS generic, sum(custom_plans) AS custom FROM pg_prepared_statements
WHERE statement LIKE '%postings_before%' AND statement NOT LIKE '%pg_prepared_statements%'
"""


async def post(user: User, ledger: str, **body: Any) -> Json:
    """A transaction, applied: its resource."""
    answer = await user.post(f"/v1/ledgers/{ledger}/transactions", {**posting(), **body}, prefer="wait=10")
    assert answer.status_code == 201, answer.text
    resource: Json = answer.json()
    return resource


async def every_page(user: User, path: str, limit: int) -> list[list[Json]]:
    """All pages of a list."""
    pages, cursor = [], None
    while True:
        joint = "&" if "?" in path else "?"
        answer = await user.get(f"{path}{joint}limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["items"])
        cursor = answer.json()["next"]
        if cursor is None:
            return pages


def faults(answer: httpx.Response) -> dict[str, str]:
    """Pointer → detail of a validation problem."""
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "validation_failed"
    return {fault["pointer"]: fault["detail"] for fault in answer.json()["errors"]}


# -- shapes -----------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_every_shape_is_the_contracts_with_every_field(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        moment = "2026-01-02T03:04:05.678900Z"
        made = await post(ada, ledger, reference="dep-1", metadata={"k": "v"}, effective_at=moment)
        root = f"/v1/ledgers/{ledger}"

        shown = (await ada.get(root)).json()
        assert list(shown) == ["id", "name", "metadata", "owner", "accounts", "epoch", "seq", "version", "created_at"]
        assert (shown["id"], shown["owner"], shown["accounts"], shown["seq"]) == (ledger, str(ada.id), 2, 4)

        opened_at = (await ada.get(f"{root}/accounts")).json()["items"][1]["opened_at"]
        assert (await ada.get(f"{root}/accounts/wallets:alice")).json() == {
            "ledger": ledger, "name": "wallets:alice", "currency": "USD", "type": "liability",
            "normal_balance": "credit", "status": "open", "min_balance": None, "max_balance": None,
            "posted_debits": "0.00", "posted_credits": "1.00", "pending_debits": "0.00", "pending_credits": "0.00",
            "balance": "1.00", "available": "1.00", "metadata": {}, "opened_at": opened_at, "version": 4,
        }  # fmt: skip

        transaction = (await ada.get(f"{root}/transactions/{made['id']}")).json()
        recorded_at = transaction.pop("recorded_at")
        assert recorded_at.endswith("Z") and len(recorded_at) == 27
        assert transaction == {
            "id": made["id"], "ledger": ledger, "status": "posted",
            "postings": [{"debit": "assets:bank", "credit": "wallets:alice", "amount": "1.00", "currency": "USD",
                          "posted": "1.00", "held": "0.00"}],
            "reference": "dep-1", "description": None, "metadata": {"k": "v"}, "effective_at": moment,
            "expires_at": None, "captures": [], "reverses": None, "reversed_by": None, "seq": 4, "version": 4,
        }  # fmt: skip

        assert (await ada.get(f"{root}/currencies")).json() == {"items": [{"code": "USD", "scale": 2}], "next": None}
        balance = (await ada.get(f"{root}/balances")).json()
        assert balance == {
            "seq": 4, "effective_at": None, "recorded_at": None,
            "items": [
                {"currency": "USD", "type": kind, "accounts": 1, "posted_debits": debits, "posted_credits": credits,
                 "pending_debits": "0.00", "pending_credits": "0.00", "balance": "1.00", "available": "1.00"}
                for kind, debits, credits in (("asset", "1.00", "0.00"), ("liability", "0.00", "1.00"))
            ],
            "next": None,
        }  # fmt: skip
        assert (await ada.get(f"{root}/trial-balance")).json() == {
            "seq": 4, "effective_at": None, "recorded_at": None,
            "items": [{"currency": "USD", "debits": "1.00", "credits": "1.00", "difference": "0.00", "types": [
                {"type": "asset", "debits": "1.00", "credits": "0.00"},
                {"type": "liability", "debits": "0.00", "credits": "1.00"},
            ]}],
        }  # fmt: skip
        assert (await ada.get("/v1/ledgers")).json() == {"items": [shown], "next": None}


@on_a_loop
async def test_the_journal_comes_as_exact_bytes_in_a_chain(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        for number in range(3):
            await post(ada, ledger, description=f"№ {number} \u2028 “quoted”")
        path = f"/v1/ledgers/{ledger}/journal"
        whole = await ada.get(path)
        assert whole.headers["content-type"] == "application/x-ndjson"
        previous, lines = bytes(32).hex(), [json.loads(line) for line in whole.text.strip("\n").split("\n")]
        assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
        for line in lines:
            assert list(line) == ["epoch", "seq", "previous_hash", "hash", "event"]
            assert line["previous_hash"] == previous
            chained = hashlib.sha256(bytes.fromhex(previous) + line["event"].encode()).hexdigest()
            assert line["hash"] == chained
            previous = line["hash"]
        part = await ada.get(f"{path}?after=2&limit=2")
        assert [json.loads(line) for line in part.text.strip().split("\n")] == lines[2:4]
        assert (await ada.get(f"{path}?after=6")).text == ""
        assert (await ada.get(f"{path}?after=600")).text == ""


# -- lists ------------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_accounts_by_name_prefix_and_currency(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}/accounts"
        names = ["a", "a-b", "a.b", "a:b", "a:b:c", "a_b", "ab", "z"]
        for name in names:
            body = {"name": name, "currency": "EUR" if ":" in name else "JPY", "type": "asset"}
            assert (await ada.post(root, body, prefer="wait=10")).status_code == 201
        everything = sorted([*names, "assets:bank", "wallets:alice"])
        for limit in (1, 3, 10, 1000):
            pages = await every_page(ada, root, limit)
            assert [item["name"] for page in pages for item in page] == everything
            assert all(len(page) <= limit for page in pages)
            assert pages[-1], "no empty page at the end"
        prefixed = [item["name"] for page in await every_page(ada, f"{root}?prefix=a:", 1) for item in page]
        assert prefixed == ["a:b", "a:b:c"]
        assert [i["name"] for i in (await ada.get(f"{root}?prefix=a&currency=JPY")).json()["items"]] == [
            "a", "a-b", "a.b", "a_b", "ab",
        ]  # fmt: skip
        for nothing in ("prefix=%25", "prefix=a%25", "prefix=a~", "prefix=%C3%BC", "currency=CHF"):
            assert (await ada.get(f"{root}?{nothing}")).json() == {"items": [], "next": None}


@on_a_loop
async def test_transactions_by_every_filter_and_over_ties(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        body = {"name": "wallets:bob", "currency": "USD", "type": "liability"}
        assert (await ada.post(f"/v1/ledgers/{ledger}/accounts", body, prefer="wait=10")).status_code == 201
        base = datetime(2026, 1, 1, tzinfo=UTC)
        made = []
        for number in range(9):
            # three at each moment, in an order that is not that of their seqs
            moment = (base + timedelta(days=number % 3)).isoformat()
            both = [posting(credit="wallets:bob")["postings"][0], posting()["postings"][0]]
            lines = both if number % 4 == 0 else both[:1] if number % 2 else both[1:]
            made.append(await post(ada, ledger, postings=lines, effective_at=moment, reference=f"r{number}"))
        newest_first = [item["id"] for item in reversed(made)]
        root = f"/v1/ledgers/{ledger}/transactions"
        for limit in (1, 2, 4, 9, 100):
            found = [item for page in await every_page(ada, root, limit) for item in page]
            assert [item["id"] for item in found] == newest_first
            assert found == list(reversed(made))

        async def ids(query: str, limit: int = 2) -> list[str]:
            return [item["id"] for page in await every_page(ada, f"{root}?{query}", limit) for item in page]

        def those(chosen: Any) -> list[str]:
            return [item["id"] for number, item in reversed(list(enumerate(made))) if chosen(number)]

        assert await ids("account=wallets:bob") == those(lambda n: n % 4 == 0 or n % 2)
        assert await ids("account=wallets:alice") == those(lambda n: n % 2 == 0)
        assert await ids("account=assets:bank") == newest_first
        assert await ids("account=no:such") == []
        assert await ids("reference=r5") == [made[5]["id"]]
        assert await ids("reference=r5&account=wallets:alice") == []
        assert await ids("reference=r5&account=wallets:bob") == [made[5]["id"]]
        assert await ids("status=posted") == newest_first
        assert await ids("status=pending") == []
        assert await ids("from=2026-01-02T00:00:00Z&to=2026-01-03T00:00:00Z") == those(lambda n: n % 3 == 1)
        assert await ids("from=2026-01-02T00:00:00Z&account=wallets:alice") == those(lambda n: n % 3 and n % 2 == 0)
        assert await ids("to=2026-01-01T00:00:00Z") == []
        assert await ids("from=2026-01-03T01:00:00%2B01:00") == those(lambda n: n % 3 == 2)


@on_a_loop
async def test_held_transactions_by_every_filter(settings: Settings, monkeypatch: Patch) -> None:
    """Captures have moved money at seqs between those of transactions: none of them is taken for one."""
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        body = {"name": "wallets:bob", "currency": "USD", "type": "liability"}
        assert (await ada.post(f"/v1/ledgers/{ledger}/accounts", body, prefer="wait=10")).status_code == 201
        root = f"/v1/ledgers/{ledger}/transactions"
        parts = {"capture": {"amounts": ["0.25", "0"], "final": False}, "whole": {}, "void": {}}
        base, made = datetime(2026, 1, 1, tzinfo=UTC), []
        for number in range(16):
            alice, bob = posting()["postings"][0], posting(credit="wallets:bob")["postings"][0]
            lines = [bob, bob] if number % 4 == 0 else [alice, bob] if number % 4 == 1 else [alice, alice]
            moment = (base + timedelta(days=number % 3)).isoformat()
            made.append(
                await post(ada, ledger, postings=lines, effective_at=moment, pending=number % 4 != 3 and number > 1)
            )
            # the one before last ends in one of the ways there are, behind the newer ones
            for ended, doing in ((number - 2, ("capture", "whole")), (number - 5, ("capture", "void"))):
                if ended > 1 and ended % 4 != 3 and (ended % 3 == 0) is (doing[1] == "void") and ended % 5:
                    for what in doing:
                        verb = "capture" if what == "whole" else what
                        done = await ada.post(f"{root}/{made[ended]['id']}/{verb}", parts[what], prefer="wait=10")
                        assert done.status_code == 200, done.text
        shown = [(await ada.get(f"{root}/{item['id']}")).json() for item in reversed(made)]
        found = {item["status"] for item in shown}
        assert found == {"posted", "pending", "captured"}, "what was captured in part stays captured once it is voided"
        for account in (None, "wallets:alice", "wallets:bob", "assets:bank"):
            for status in (None, "posted", "pending", "captured", "voided"):
                for start in (None, "2026-01-02T00:00:00.000000Z"):
                    fitting = [
                        item
                        for item in shown
                        if account in (None, *(line[side] for line in item["postings"] for side in ("debit", "credit")))
                        and status in (None, item["status"])
                        and (start is None or item["effective_at"] >= start)
                    ]
                    given = {"account": account, "status": status, "from": start}
                    query = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
                    for limit in (2, 100):
                        pages = await every_page(ada, f"{root}?{query}", limit)
                        assert [item for page in pages for item in page] == fitting, query


@on_a_loop
async def test_a_page_ends_early_rather_than_hold_too_many_postings(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        line = posting()["postings"][0]
        for _ in range(23):
            await post(ada, ledger, postings=[line] * 1000)
        pages = await every_page(ada, f"/v1/ledgers/{ledger}/transactions", 1000)
        assert [len(page) for page in pages] == [20, 3]
        pages = await every_page(ada, f"/v1/ledgers/{ledger}/transactions?account=wallets:alice", 1000)
        assert [len(page) for page in pages] == [20, 3]


@on_a_loop
async def test_ledgers_newest_first_and_only_ones_own(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada, bob, admin = await service.user(), await service.user(), await service.user("admin")
        own = [await open_books(ada) for _ in range(5)]
        other = await open_books(bob)
        pages = await every_page(ada, "/v1/ledgers", 2)
        assert [[item["id"] for item in page] for page in pages] == [[own[4], own[3]], [own[2], own[1]], [own[0]]]
        everybodys = [item["id"] for page in await every_page(admin, "/v1/ledgers", 4) for item in page]
        assert everybodys == [other, *own[::-1]]


@on_a_loop
async def test_sums_over_many_currencies(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        big = "9" * 35 + ".99"
        for code, amount in (("EUR", "0.01"), ("JPY", "7"), ("USD", big)):
            for name, kind in (("bank", "asset"), ("one", "liability"), ("two", "liability"), ("rent", "expense")):
                body = {"name": f"{code.lower()}:{name}", "currency": code, "type": kind}
                assert (await ada.post(f"{root}/accounts", body, prefer="wait=10")).status_code == 201
            name = code.lower()
            await post(ada, ledger, **posting(amount, f"{name}:bank", f"{name}:one"))
            await post(ada, ledger, **posting(amount, f"{name}:bank", f"{name}:two"))
            await post(ada, ledger, **posting(amount, f"{name}:one", f"{name}:rent"))
        await ada.get(f"{root}/balances")
        pages = await every_page(ada, f"{root}/balances?prefix=eur:", 1)
        assert [(i["currency"], i["type"], i["accounts"], i["balance"]) for p in pages for i in p] == [
            ("EUR", "asset", 1, "0.02"), ("EUR", "expense", 1, "-0.01"), ("EUR", "liability", 2, "0.01"),
        ]  # fmt: skip
        everything = [(i["currency"], i["type"]) for p in await every_page(ada, f"{root}/balances", 2) for i in p]
        assert everything == sorted(everything) and len(everything) == len(set(everything)) == 9
        trial = {item["currency"]: item for item in (await ada.get(f"{root}/trial-balance")).json()["items"]}
        assert list(trial) == ["EUR", "JPY", "USD"]
        assert (trial["JPY"]["debits"], trial["JPY"]["credits"], trial["JPY"]["difference"]) == ("14", "14", "0")
        assert trial["EUR"]["types"] == [
            {"type": "asset", "debits": "0.02", "credits": "0.00"},
            {"type": "expense", "debits": "0.00", "credits": "0.01"},
            {"type": "liability", "debits": "0.00", "credits": "0.01"},
        ]
        assert trial["USD"]["debits"] == "1" + "9" * 35 + ".98"


@on_a_loop
async def test_cursors_are_bound_to_their_query_and_epoch(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger, other = await open_books(ada), await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        cursor = (await ada.get(f"{root}/accounts?limit=1")).json()["next"]
        again = await ada.get(f"{root}/accounts?cursor={cursor}&limit=5")
        assert [item["name"] for item in again.json()["items"]] == ["wallets:alice"]
        for elsewhere in (
            f"{root}/accounts?prefix=a&cursor={cursor}",
            f"{root}/transactions?cursor={cursor}",
            f"/v1/ledgers/{other}/accounts?cursor={cursor}",
            f"/v1/ledgers?cursor={cursor}",
            f"{root}/accounts?cursor={cursor[:-3]}",
            f"{root}/accounts?cursor=",
            f"{root}/accounts?cursor=%00",
            f"{root}/accounts?cursor=WzEsMl0",
        ):
            refused = await ada.get(elsewhere)
            assert (refused.status_code, refused.json()["code"]) == (400, "malformed_request"), elsewhere
        await service.pool.execute("UPDATE actors SET epoch = 2 WHERE actor = $1", f"ledger:{ledger}")
        await service.services.redis.call("FLUSHALL")
        assert (await ada.get(f"{root}/accounts?cursor={cursor}")).status_code == 400


# -- parameters, and who may ask --------------------------------------------------------------------------------------


@on_a_loop
async def test_wrong_parameters_are_named(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        assert (await ada.get(f"{root}/accounts?prefix=%ff")).json()["code"] == "malformed_request"
        assert (await ada.get("/v1/jobs?kind=%ff")).json()["code"] == "malformed_request"
        assert faults(await ada.get("/v1/jobs?status=")).keys() == {"#/status"}
        for limit in ("0", "1001", "-1", "x", "", "1.5", "+1", "%D9%A1", "99999999999999999999"):
            assert faults(await ada.get(f"{root}/accounts?limit={limit}")).keys() == {"#/limit"}
        assert faults(await ada.get(f"{root}/accounts?limit=1&limit=2")).keys() == {"#/limit"}
        assert faults(await ada.get(f"{root}/accounts?colour=red&limit=x")).keys() == {"#/colour", "#/limit"}
        query = "from=yesterday&to=2026-01-01&status=lost&account=A"
        assert faults(await ada.get(f"{root}/transactions?{query}")).keys() == {
            "#/from", "#/to", "#/status", "#/account",
        }  # fmt: skip
        assert faults(await ada.get(f"{root}/accounts?prefix=%00")).keys() == {"#/prefix"}
        for path in (f"{root}/accounts/wallets:alice", f"{root}/accounts", f"{root}/balances", f"{root}/trial-balance"):
            for name in ("effective_at", "recorded_at"):
                found = faults(await ada.get(f"{path}?{name}=2026-01-01T00:00:00"))
                assert found == {f"#/{name}": "must be an RFC 3339 time with its offset"}
            assert faults(await ada.get(f"{path}?seq=-1")) == {"#/seq": "must be a whole number, not negative"}
        for path in (root, f"{root}/journal", f"{root}/transactions", f"{root}/currencies"):
            found = faults(await ada.get(f"{path}?seq=1"))
            assert found == {"#/seq": "is no parameter of this address"}
        statement = f"{root}/accounts/wallets:alice/statement"
        found = faults(await ada.get(f"{statement}?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z"))
        assert found == {"#/to": "must not be before `from`"}
        found = faults(await ada.get(f"{statement}?effective_at=2026-01-01T00:00:00Z&seq=x"))
        assert found == {
            "#/effective_at": "is no parameter of this address",
            "#/seq": "must be a whole number, not negative",
        }
        assert faults(await ada.get(f"{root}?min_version=x")).keys() == {"#/min_version"}
        # what was refused must not have become a cached answer either
        assert faults(await ada.get(f"{root}?min_version=x")).keys() == {"#/min_version"}
        assert (await ada.get(f"{root}/accounts?limit=1000")).status_code == 200


@on_a_loop
async def test_the_description_names_the_parameters_there_are(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user("admin")
        ledger = await open_books(ada)
        posted = await ada.post(f"/v1/ledgers/{ledger}/transactions", posting(), prefer="wait=10")
        names = {"ledger": ledger, "account": "wallets:alice", "transaction": posted.json()["id"]}
        names["job"] = names["transaction"]
        document = (await ada.get("/openapi.json")).json()
        reads = {
            path: what["get"] for path, what in document["paths"].items() if path.startswith("/v1/") and "get" in what
        }
        del reads["/v1/batches/{batch}"], reads["/v1/jobs/{job}"]
        # what a ledger holds: exports and streams are asked in other ways
        named = {path: re.findall(r"\{(\w+)\}", path) for path in reads}
        reads = {path: what for path, what in reads.items() if {*named[path]} <= {*names} and "/events" not in path}
        every = {place["name"] for what in reads.values() for place in what["parameters"] if place.get("in") == "query"}
        assert {"limit", "cursor", "min_version", "after", "prefix", "from", "status"} <= every
        for path, what in reads.items():
            address = path.format(**names)
            answer = await ada.get(address)
            tag = answer.headers.get("etag")
            assert answer.headers["content-type"] in what["responses"]["200"]["content"], path
            assert (tag is not None) is ("304" in what["responses"]), path
            found = await ada.get(f"{address}?{'&'.join(f'{name}=%00' for name in every - {'cursor'})}")
            unknown = {place for place, detail in faults(found).items() if detail == "is no parameter of this address"}
            known = {f"#/{place['name']}" for place in what["parameters"] if place.get("in") == "query"}
            assert unknown == {f"#/{name}" for name in every - {"cursor"}} - known, path
            cursor = await ada.get(f"{address}?cursor=x")
            assert cursor.status_code == (400 if "#/cursor" in known else 422), path


@on_a_loop
async def test_a_stranger_sees_what_does_not_exist(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada, eve = await service.user(), await service.user()
        operator, admin = await service.user("operator"), await service.user("admin")
        ledger = await open_books(ada)
        made = await post(ada, ledger)
        rests = ["", "/currencies", "/accounts", "/accounts/assets:bank", f"/transactions/{made['id']}"]
        for rest in [*rests, "/transactions", "/balances", "/trial-balance", "/journal"]:
            # twice, so that the second one finds it cached
            for _ in range(2):
                assert (await ada.get(f"/v1/ledgers/{ledger}{rest}")).status_code == 200
            assert (await admin.get(f"/v1/ledgers/{ledger}{rest}")).status_code == 200
            nowhere = await eve.get(f"/v1/ledgers/{a_ledger()}{rest}")
            for user in (eve, operator):
                hidden = await user.get(f"/v1/ledgers/{ledger}{rest}")
                assert (hidden.status_code, _told(hidden)) == (404, _told(nowhere)), rest
            assert (await service.client.get(f"/v1/ledgers/{ledger}{rest}")).status_code == 401
        # 404 comes before 422, but a cursor that can't be read is 400 to everybody
        assert (await eve.get(f"/v1/ledgers/{ledger}/accounts?limit=x")).status_code == 404
        assert (await eve.get(f"/v1/ledgers/{ledger}/accounts?cursor=x")).status_code == 400
        for missing in ("/accounts/no:such", "/accounts/NO", "/transactions/x", f"/transactions/{ada.id}", "/nothing"):
            assert (await ada.get(f"/v1/ledgers/{ledger}{missing}")).status_code == 404
        assert (await eve.get("/v1/ledgers")).json() == {"items": [], "next": None}


def _told(answer: httpx.Response) -> Json:
    """A problem without what names the request."""
    return {name: value for name, value in answer.json().items() if name not in ("instance", "correlation_id")}


# -- before a transaction is applied ----------------------------------------------------------------------------------


@on_a_loop
async def test_a_transaction_is_there_from_its_acceptance(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        service.bell.working = False
        ledger = a_ledger()
        root = f"/v1/ledgers/{ledger}"
        assert (await ada.post("/v1/ledgers", {"id": ledger, "name": "Books"})).status_code == 202
        for name, kind in (("assets:bank", "asset"), ("wallets:alice", "liability")):
            await ada.post(f"{root}/accounts", {"name": name, "currency": "USD", "type": kind})
        good = (await ada.post(f"{root}/transactions", {**posting("5"), "reference": "r"})).json()["id"]
        bad = (await ada.post(f"{root}/transactions", posting(credit="no:such"))).json()["id"]
        for identifier in (good, bad):
            waiting = await ada.get(f"{root}/transactions/{identifier}")
            assert waiting.status_code == 200
            assert "etag" not in waiting.headers
            assert waiting.json()["status"] == "accepted"
            assert [waiting.json()[name] for name in ("seq", "version", "recorded_at")] == [None] * 3
            assert {waiting.json()["postings"][0][name] for name in ("currency", "posted", "held")} == {None}
        for rest in ("", "/accounts", "/accounts/assets:bank", "/transactions", "/balances", "/journal"):
            assert (await ada.get(f"{root}{rest}")).status_code == 404
        await service.work(ledger)
        applied = await ada.get(f"{root}/transactions/{good}")
        assert (applied.json()["status"], applied.json()["seq"], applied.headers["etag"]) == ("posted", 4, '"1.4"')
        refused = await ada.get(f"{root}/transactions/{bad}")
        assert (refused.status_code, refused.json()["job"]) == (404, bad)
        assert [item["id"] for item in (await ada.get(f"{root}/transactions")).json()["items"]] == [good]


# -- versions ---------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_etags_are_versions_and_spare_the_body(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        made = await post(ada, ledger)
        await post(ada, ledger)
        tags = {
            f"{root}/transactions/{made['id']}": '"1.4"',
            f"{root}/accounts/assets:bank": '"1.5"',
            root: '"1.5"',
            f"{root}/accounts": '"1.5"',
            f"{root}/journal": '"1.5"',
        }
        for path, tag in tags.items():
            for _ in ("from Postgres", "from the cache"):
                answer = await ada.get(path)
                assert (answer.status_code, answer.headers["etag"]) == (200, tag), path
                for same in (tag, f"W/{tag}", "*", f'"x", {tag}', f'W/"1.1",W/{tag}'):
                    unchanged = await ada.get(path, if_none_match=same)
                    assert (unchanged.status_code, unchanged.content) == (304, b""), same
                    assert unchanged.headers["etag"] == tag
                    assert unchanged.headers["x-correlation-id"] and unchanged.headers["x-frame-options"]
                for other in ('"1.1"', '"15"', tag.strip('"'), ""):
                    assert (await ada.get(path, if_none_match=other)).status_code == 200, other
        await post(ada, ledger)
        changed = await ada.get(f"{root}/accounts/assets:bank", if_none_match='"1.5"')
        assert (changed.status_code, changed.headers["etag"]) == (200, '"1.6"')


@on_a_loop
async def test_min_version_waits_and_then_says_so(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        paths = [f"{root}/accounts/assets:bank", root, f"{root}/accounts", f"{root}/balances", f"{root}/journal"]
        service.bell.working = False
        for turn, path in enumerate(paths, start=4):
            for _ in range(2):
                assert (await ada.get(path)).status_code == 200
            loop = asyncio.get_running_loop()
            begun = loop.time()
            late = await ada.get(f"{path}?min_version={turn}")
            assert (late.status_code, late.json()["code"]) == (409, "version_not_reached")
            assert 0.9 < loop.time() - begun < 2
            await ada.post(f"{root}/transactions", posting())
            asked = asyncio.create_task(ada.get(f"{path}?min_version={turn}"))
            await asyncio.sleep(0)
            await service.work(ledger)
            answer = await asked
            assert answer.status_code == 200
            assert int(answer.headers["etag"].strip('"').split(".")[1]) >= turn
            begun = loop.time()
            assert (await ada.get(f"{path}?min_version={turn}")).status_code == 200
            assert (await ada.get(f"{path}?min_version=0")).status_code == 200
            assert loop.time() - begun < 0.5


@on_a_loop
async def test_min_version_of_a_thing_that_later_events_did_not_change(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        body = {"name": "idle", "currency": "USD", "type": "asset"}
        assert (await ada.post(f"{root}/accounts", body, prefer="wait=10")).status_code == 201
        assert (await ada.get(f"{root}/accounts/idle")).headers["etag"] == '"1.4"'
        for _ in range(3):
            await post(ada, ledger)
        answer = await ada.get(f"{root}/accounts/idle?min_version=7")
        assert (answer.status_code, answer.headers["etag"]) == (200, '"1.4"')
        assert (await ada.get(f"{root}/accounts/no?min_version=7")).status_code == 404


# -- the cache --------------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_hit_makes_no_sql_statement(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada, admin = await service.user(), await service.user("admin")
        ledger = await open_books(ada)
        made = await post(ada, ledger)
        root = f"/v1/ledgers/{ledger}"
        rests = ["", "/currencies", "/accounts", "/accounts?prefix=a&limit=5", "/accounts/assets:bank"]
        rests += [f"/transactions/{made['id']}", "/transactions?status=posted", "/balances", "/trial-balance"]
        made_key = await ada.post("/v1/api-keys", {"name": "n", "scopes": ["ledger:read"], "ledgers": [ledger]})
        machine = User(ada.id, {"authorization": f"Bearer {made_key.json()['secret']}"}, ada.client)
        for user in (ada, admin, machine):
            for rest in rests:
                first = await user.get(root + rest)
                assert first.status_code == 200
                for _ in range(3):
                    await user.get(root + rest)
                before = await service.pool.fetchrow(COUNT_STATEMENTS)
                for number in range(100):
                    joint = "&" if "?" in rest else "?"
                    path = root + rest + (f"{joint}min_version=4" if number % 4 == 0 else "")
                    headers = {"if_none_match": '"0.0"'} if number % 3 == 0 else {}
                    hit = await user.get(path, **headers)
                    assert (hit.status_code, hit.content) == (200, first.content)
                    assert hit.headers["etag"] == first.headers["etag"]
                assert await service.pool.fetchrow(COUNT_STATEMENTS) == before, rest


@on_a_loop
async def test_the_count_of_statements_would_see_one(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        before = await service.pool.fetchrow(COUNT_STATEMENTS)
        await service.services.redis.call("FLUSHALL")
        await ada.get(f"/v1/ledgers/{ledger}")
        assert await service.pool.fetchrow(COUNT_STATEMENTS) != before


@on_a_loop
async def test_every_change_is_seen_at_once(settings: Settings, monkeypatch: Patch) -> None:
    """Read, change, read again: through the cache, through every kind of answer."""
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        for turn in range(1, 6):
            await post(ada, ledger)
            for _ in range(2):
                assert (await ada.get(root)).json()["seq"] == 3 + turn
                assert (await ada.get(f"{root}/accounts/assets:bank")).json()["balance"] == f"{turn}.00"
                assert (await ada.get(f"{root}/accounts")).json()["items"][0]["balance"] == f"{turn}.00"
                assert (await ada.get(f"{root}/balances")).json()["seq"] == 3 + turn
                assert (await ada.get(f"{root}/trial-balance")).json()["items"][0]["debits"] == f"{turn}.00"
                assert len((await ada.get(f"{root}/transactions")).json()["items"]) == turn


@on_a_loop
async def test_every_change_of_a_transaction_and_its_accounts_is_seen_at_once(
    settings: Settings, monkeypatch: Patch
) -> None:
    """The same for what changes after it was made: each view is in the cache when the next command is applied."""
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        held = await post(ada, ledger, **posting("10"), pending=True)
        alice, path = f"{root}/accounts/wallets:alice", f"{root}/transactions/{held['id']}"

        async def look(version: int, status: str, posted: str, pending: str) -> None:
            for _ in range(2):
                seen = await ada.get(path)
                account = (await ada.get(alice)).json()
                assert (seen.json()["status"], seen.json()["version"]) == (status, version)
                assert seen.headers["etag"] == f'"1.{version}"'
                assert (account["balance"], account["pending_credits"]) == (posted, pending)
                assert (await ada.get(f"{root}/transactions?account=wallets:alice")).json()["items"][-1] == seen.json()

        await look(4, "pending", "0.00", "10.00")
        for verb, body, after in (
            ("capture", {"amount": "3", "final": False}, (5, "pending", "3.00", "7.00")),
            ("capture", {"amount": "1", "final": False}, (6, "pending", "4.00", "6.00")),
            ("void", {}, (7, "captured", "4.00", "0.00")),
            ("reverse", {}, (8, "captured", "0.00", "0.00")),
        ):
            await ada.post(f"{path}/{verb}", body, prefer="wait=10")
            await look(*after)
        reversal = (await ada.get(path)).json()["reversed_by"]
        assert (await ada.get(f"{root}/transactions/{reversal}")).json()["reverses"] == held["id"]
        for verb, status in (("freeze", "frozen"), ("unfreeze", "open"), ("close", "closed")):
            for _ in range(2):
                await ada.get(alice)
            await ada.post(f"{alice}/{verb}", prefer="wait=10")
            assert (await ada.get(alice)).json()["status"] == status


@on_a_loop
async def test_reads_go_on_without_redis(settings: Settings, monkeypatch: Patch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada = await service.user()
        ledger = await open_books(ada)
        await post(ada, ledger)

        async def gone(*_: Any) -> Any:
            from infrastructure.redis import RedisUnavailable

            raise RedisUnavailable("gone")

        monkeypatch.setattr(service.services.redis, "call", gone)
        monkeypatch.setattr(service.services.redis, "run", gone)
        for rest in ("", "/accounts", "/accounts/assets:bank", "/balances", "/journal", "/accounts?min_version=4"):
            assert (await ada.get(f"/v1/ledgers/{ledger}{rest}")).status_code == 200


@on_a_loop
async def test_names_that_look_like_keys_stay_inert(settings: Settings, monkeypatch: Patch) -> None:
    """Nothing in a path or query reaches a key of another kind, ledger or principal, nor glob nor Lua nor SQL."""
    async with running_service(settings, monkeypatch) as service:
        ada, eve = await service.user(), await service.user()
        ledger = await open_books(ada)
        root = f"/v1/ledgers/{ledger}"
        assert (await ada.get(f"{root}/accounts/assets:bank")).status_code == 200
        assert (await ada.get(root)).status_code == 200
        keys = set(await service.services.redis.call("KEYS", "*"))
        evil = [
            f"/v1/ledgers/x:{ledger}", f"/v1/ledgers/{ledger}:account:assets:bank", "/v1/ledgers/*", "/v1/ledgers/%00",
            f"/v1/ledgers/{ledger}%0d%0aSET%20a%20b", f"/v1/ledgers/{ledger}/accounts/*",
            f"/v1/ledgers/{ledger}/accounts/a%0d%0aDEL%20x", f"/v1/ledgers/{ledger}/accounts/%00",
            f"/v1/ledgers/{ledger}/accounts/'%20OR%201=1--", f"/v1/ledgers/{ledger}/transactions/*",
            f"/v1/ledgers/{ledger}/accounts/{'a' * 600}", f"/v1/ledgers/{ledger}/accounts/%2e%2e",
        ]  # fmt: skip
        for path in evil:
            for user in (ada, eve):
                answer = await user.get(path)
                assert answer.status_code in (404, 405), (path, answer.text)
        tricky = ["*", "%0d%0aFLUSHALL", "' OR 1=1--", "a:b?x", "}:{", "&limit=1"]
        for query in (f"prefix={prefix}" for prefix in tricky):
            answer = await ada.get(f"{root}/accounts?{query}")
            assert answer.status_code == 200, query
            again = await ada.get(f"{root}/accounts?{query}")
            assert again.content == answer.content
            assert (await eve.get(f"{root}/accounts?{query}")).status_code == 404
        new = {key.decode() for key in set(await service.services.redis.call("KEYS", "*")) - keys}
        allowed = (f"list:{ledger}:1.3:{root}/accounts?", "rl:", "session:", f"view:{ledger}:grant:", f"seq:{ledger}")
        assert all(key.startswith(allowed) for key in new), new


@at_a_desk
async def test_a_range_of_time_is_looked_up_by_what_lies_within_it_however_often_it_is_asked(desk: Desk) -> None:
    """Of a plan for any range a day of a busy account would cost all that it has ever moved."""
    await desk.db.execute("SET plan_cache_mode = force_generic_plan")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ranges = [{"start": start}, {"end": start}, {"start": start, "end": start + timedelta(days=1)}]
    for within in ranges:
        for others in ({}, {"account": "bank"}, {"status": "voided"}, {"account": "bank", "status": "pending"}):
            wanted = TransactionFilter(**within, **others)
            assert await list_transactions(desk.db, desk.ledger, wanted, 1_000, 10) is not None
    (plans,) = await desk.db.fetch(PLANS)
    assert (plans["generic"], plans["custom"]) == (0, len(ranges) * 4)
    assert await desk.db.fetchval("SHOW plan_cache_mode") == "force_generic_plan", "the connection is others', too"
