"""`/metrics`: who may read it, what it counts, and that losing a server takes away only what comes from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api import metrics as exposition
from infrastructure import journal, metrics
from infrastructure.metrics import Meter, meter
from infrastructure.postgres import open_pool
from infrastructure.redis import open_redis
from infrastructure.settings import Settings
from tests.journals import on_a_loop
from tests.service import running_service

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    meter._counts.clear()


@on_a_loop
async def test_only_operators_and_admins_may_read_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        assert (await service.client.get("/metrics")).status_code == 401
        assert (await (await service.user("user")).get("/metrics")).status_code == 403
        assert (await (await service.user("operator")).get("/metrics")).status_code == 200
        answer = await (await service.user("admin")).get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(("role", "status"), [("operator", 200), ("admin", 403), ("user", 403)])
@on_a_loop
async def test_a_scraper_comes_with_an_operators_api_key(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, role: str, status: int
) -> None:
    async with running_service(settings, monkeypatch) as service:
        owner = await service.user(role)
        made = await owner.post("/v1/api-keys", {"name": "prometheus", "scopes": ["ledger:read"]})
        assert made.status_code == 201, made.text
        headers = {"authorization": f"Bearer {made.json()['secret']}"}
        assert (await service.client.get("/metrics", headers=headers)).status_code == status


@on_a_loop
async def test_requests_commands_turns_mailboxes_and_lag_are_measured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(settings, monkeypatch) as service:
        async with service.pool.acquire() as db:
            await journal.register_subscribers(db, ["kafka", "redis"])
        ada, operator = await service.user(), await service.user("operator")
        ledger = {"id": "measured", "name": "Measured"}
        first = await ada.post("/v1/ledgers", ledger, idempotency_key="k1", prefer="wait=5")
        assert first.status_code == 201
        assert (await ada.post("/v1/ledgers", ledger, idempotency_key="k1")).headers["idempotent-replayed"] == "true"
        assert (await ada.post("/v1/ledgers", {"id": "measured", "name": "Again"})).status_code == 409
        service.bell.working = False
        account = {"name": "assets:bank", "currency": "USD", "type": "asset"}
        assert (await ada.post("/v1/ledgers/measured/accounts", account)).status_code == 202

        found = samples((await operator.get("/metrics")).text)
        assert value(found, "daybook_requests_total", method="POST", route="/v1/ledgers", status="201") == 1
        assert value(found, "daybook_request_seconds_count", method="POST", route="/v1/ledgers") == 3
        assert value(found, "daybook_commands_accepted_total", kind="create_ledger") == 1
        assert value(found, "daybook_commands_replayed_total", kind="create_ledger") == 1
        assert value(found, "daybook_commands_refused_total", code="ledger_exists") == 1
        assert value(found, "daybook_commands_accepted_total", kind="open_account") == 1
        assert value(found, "daybook_commands_finished_total", kind="create_ledger", status="succeeded") == 1
        assert value(found, "daybook_turns_total", actor_type="ledger", result="done") == 1
        assert value(found, "daybook_turn_seconds_count", actor_type="ledger") == 1
        assert value(found, "daybook_mailbox_commands", actor_type="ledger") == 1
        assert value(found, "daybook_mailbox_oldest_seconds", actor_type="ledger") > 0
        assert value(found, "daybook_dead_letters") == 0
        for subscriber in ("kafka", "redis"):
            assert value(found, "daybook_subscriber_events_behind", subscriber=subscriber) == 1
            assert value(found, "daybook_subscriber_actors_behind", subscriber=subscriber) == 1
            assert value(found, "daybook_subscriber_oldest_seconds", subscriber=subscriber) > 0


@on_a_loop
async def test_paths_that_nobody_routes_make_one_series(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service(settings, monkeypatch) as service:
        ada, operator = await service.user(), await service.user("operator")
        for number in range(3):
            assert (await ada.get(f"/v1/made-up-{number}")).status_code == 404
        assert (await ada.client.request("BREW", "/v1/coffee", headers=ada.headers)).status_code in (404, 405)
        found = samples((await operator.get("/metrics")).text)
        assert value(found, "daybook_requests_total", method="GET", route="none", status="404") == 3
        assert not [labels for _, labels in found if any("made-up" in text or "BREW" in text for _, text in labels)]


@on_a_loop
async def test_what_cannot_be_reached_is_left_out_and_said(settings: Settings) -> None:
    gone = open_redis(replace(settings, redis_url="redis://127.0.0.1:1/0"))
    async with await open_pool(settings, application="test", size=2) as pool:
        found = samples((await exposition.gather(pool, gone)).decode())
    assert value(found, "daybook_scrape_ok", part="counters") == 0
    assert value(found, "daybook_scrape_ok", part="mailboxes") == 1
    assert value(found, "daybook_dead_letters") == 0
    await gone.aclose()

    redis = open_redis(settings)
    found = samples((await exposition.gather(pool, redis)).decode())
    assert value(found, "daybook_scrape_ok", part="counters") == 1
    assert value(found, "daybook_scrape_ok", part="mailboxes") == 0
    await redis.aclose()


@on_a_loop
async def test_counts_outlive_an_outage_of_redis_and_add_up_over_processes(settings: Settings) -> None:
    gone = open_redis(replace(settings, redis_url="redis://127.0.0.1:1/0"))
    redis = open_redis(settings)
    one, other = Meter(), Meter()
    one.command_accepted("open_account", 2)
    await one.push(gone)
    one.command_accepted("open_account")
    await one.push(redis)
    other.command_accepted("open_account", 4)
    other.turn_finished("ledger", 0.004, "done")
    other.turn_finished("ledger", 99.0, "done")
    await other.push(redis)
    found = {entry.name: entry for entry in metrics.series(await metrics.read(redis))}
    assert found[metrics.ACCEPTED].value == 7
    turns = dict(found[metrics.TURN_SECONDS].buckets)
    assert (turns["0.0025"], turns["0.005"], turns["30.0"], turns["+Inf"]) == (0, 1, 1, 2)
    assert found[metrics.TURN_SECONDS].sum_s == pytest.approx(99.004)
    await gone.aclose()
    await redis.aclose()


def test_fields_of_another_release_are_left_out() -> None:
    assert list(metrics.series({"daybook_gone|x": 1, "daybook_turns|ledger": 1, "daybook_turns|ledger|done": 2})) == [
        metrics.Series("daybook_turns", ("ledger", "done"), 2)
    ]
