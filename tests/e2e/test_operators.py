"""What operators look at: Flower, metrics, health."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.client import PATIENCE_S, Client, Json, open_books, posting
from tests.stack import Stack, wait_for

POOLS = ("ledgers", "identity", "events", "maintenance", "exports")

SERIES = {
    # requests, commands, turns and deliveries: counters and histograms
    *("daybook_requests_total", "daybook_request_seconds_bucket"),
    *("daybook_commands_accepted_total", "daybook_commands_replayed_total", "daybook_commands_refused_total"),
    *("daybook_commands_finished_total", "daybook_turns_total", "daybook_turn_commands_total"),
    *("daybook_turn_seconds_bucket", "daybook_turn_seconds_count", "daybook_turn_seconds_sum"),
    *("daybook_deliveries_total", "daybook_delivery_seconds_bucket", "daybook_delivered_events_total"),
    # mailboxes: depth and the oldest one's age; subscribers: lag
    *("daybook_mailbox_commands", "daybook_mailbox_oldest_seconds", "daybook_dead_letters"),
    *("daybook_subscriber_events_behind", "daybook_subscriber_actors_behind"),
    *("daybook_subscriber_oldest_seconds", "daybook_subscriber_failing_actors", "daybook_scrape_ok"),
}


@pytest.fixture(scope="module")
def flower(stack: Stack) -> Iterator[httpx.Client]:
    """Flower, behind its password."""
    connection = stack.connection
    login = (connection["flower_user"], connection["flower_password"])
    with httpx.Client(base_url=connection["flower"], auth=login, timeout=PATIENCE_S) as client:
        yield client


def content(client: httpx.Client, path: str) -> Json:
    found: Json = client.get(path).raise_for_status().json()
    return found


def test_flower_shows_the_workers_of_each_queue(flower: httpx.Client) -> None:
    def queues_of_pools() -> dict[str, list[str]]:
        workers = content(flower, "/api/workers?refresh=1")
        return {name.split("-")[0]: [queue["name"] for queue in one["active_queues"]] for name, one in workers.items()}

    expected = {pool: [pool] for pool in POOLS}
    wait_for(lambda: queues_of_pools() == expected, seconds=PATIENCE_S, what=f"workers of {expected}")
    assert all(pool in flower.get("/workers").text for pool in POOLS)


def test_flower_shows_turns_and_deliveries(flower: httpx.Client, ada: Client) -> None:
    ledger = open_books(ada)

    def succeeded(task: str) -> bool:
        seen = content(flower, f"/api/tasks?taskname={task}&limit=100").values()
        return any(f"ledger:{ledger}" in one["args"] and one["state"] == "SUCCESS" for one in seen)

    for task in ("tasks.turns.run", "tasks.deliveries.deliver"):
        wait_for(lambda task=task: succeeded(task), seconds=PATIENCE_S, what=f"{task} in Flower")  # type: ignore[misc]


def test_a_jobs_way_leads_to_its_task_in_flower(flower: httpx.Client, ada: Client) -> None:
    ledger = open_books(ada)
    job = ada.post(f"/v1/ledgers/{ledger}/transactions", posting()).json()
    told = ada.get(job["links"]["events"]).text
    blocks = [block for block in told.split("\n\n") if block.startswith("id: ")]
    steps = {name: json.loads(data) for name, _, data in (way(block) for block in blocks)}
    first, second, *published, last = steps
    assert (first, second, last) == ("accepted", "turn", "finished")
    assert sorted(published) == ["published.kafka", "published.redis"]
    assert steps["finished"] == ada.read(f"/v1/jobs/{job['id']}") and steps["turn"]["seq"] == 4
    path = f"/api/task/info/{steps['turn']['task']}"
    wait_for(lambda: flower.get(path).status_code == 200, seconds=PATIENCE_S, what=f"{path} in Flower")
    task = content(flower, path)
    assert task["name"] == "tasks.turns.run" and f"ledger:{ledger}" in task["args"]
    # its page, for people, behind the same password
    page = flower.get(f"/task/{task['uuid']}")
    assert page.status_code == 200 and task["uuid"] in page.text and f"ledger:{ledger}" in page.text


def way(block: str) -> tuple[str, str, str]:
    """A step's id, name and data."""
    step, name, data = (line.partition(": ")[2] for line in block.splitlines())
    return step, name, data


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks"])
def test_flower_shows_nothing_without_its_password(stack: Stack, path: str) -> None:
    for login in (None, (stack.connection["flower_user"], "wrong")):
        answer = httpx.get(stack.connection["flower"] + path, auth=login, timeout=PATIENCE_S)
        assert answer.status_code == 401
        assert "ledgers" not in answer.text


def test_flower_changes_nothing(flower: httpx.Client) -> None:
    (worker,) = [name for name in content(flower, "/api/workers") if name.startswith("maintenance")]
    for path in (f"/api/worker/shutdown/{worker}", f"/api/worker/pool/restart/{worker}"):
        assert flower.post(path).status_code in (401, 403, 404, 405)
    assert flower.post("/api/task/send-task/tasks.sweeps.sweep", json={"args": []}).status_code in (401, 403, 404, 405)


def test_metrics_name_every_series(ada: Client, olga: Client) -> None:
    ledger = open_books(ada)
    for _ in range(2):
        ada.done(f"/v1/ledgers/{ledger}/transactions", posting(), idempotency_key="twice")
    assert ada.post(f"/v1/ledgers/{ledger}/transactions", {}).status_code == 422

    def missing() -> set[str]:
        answer = olga.get("/metrics")
        assert answer.status_code == 200
        return SERIES - {
            sample.name for family in text_string_to_metric_families(answer.text) for sample in family.samples
        }

    wait_for(lambda: not missing(), seconds=PATIENCE_S, what=f"the series {missing()}")
    assert ada.get("/metrics").status_code == 403


def test_health_says_what_is_checked(stack: Stack) -> None:
    api = stack.connection["api"]
    assert httpx.get(f"{api}/health/live").json() == {"status": "ok"}
    ready = httpx.get(f"{api}/health/ready")
    assert ready.status_code == 200 and ready.json()["missing"] == []
    assert set(ready.json()["checks"].values()) == {"ok"}
