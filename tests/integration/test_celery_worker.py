"""The task behind the doorbell, by a real worker process on a real broker, with pytest-celery's fixtures: no Docker."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import kombu.pools
import msgspec
import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from pytest_celery import CeleryTestSetup, CeleryTestWorker, RedisTestBroker

from cli.serve import alive_file
from domain.ledger.commands import PostTransaction
from infrastructure import embedded
from infrastructure.embedded import Addresses
from infrastructure.processes import Program, choose_port
from infrastructure.settings import Settings, load, parse
from tests.books import post
from tests.conftest import temporary_state
from tests.local_processes import LocalProcess
from tests.stack import wait_for
from tests.turns import Desk, open_desk

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 45


def pay(description: str | None = None) -> PostTransaction:
    return msgspec.structs.replace(post(("bank", "till", "1")), description=description)


@pytest.fixture(scope="module")
def valkey() -> Iterator[LocalProcess]:
    """A broker of this file's own: it is killed and restarted, always on the same port."""
    with temporary_state() as folder:
        state, port = embedded.make_state_directory(folder), choose_port()
        url = embedded.valkey_url(port, "secret")
        process = LocalProcess(embedded.valkey(state, port=port, password="secret"), {"url": url, "host_url": url})
        yield process
        process.teardown()


@pytest.fixture
def sweep_ms() -> int:
    """How often the worker looks for actors that nobody woke it for."""
    return 300


@pytest.fixture
def environment(
    valkey: LocalProcess, servers: Addresses, database: str, sweep_ms: int, tmp_path: Path
) -> dict[str, str]:
    return {
        "DAYBOOK_DATABASE_URL": database,
        "DAYBOOK_REDIS_URL": valkey.celeryconfig["url"],
        "DAYBOOK_KAFKA_SERVERS": servers.kafka_servers,
        "DAYBOOK_SECRET_KEY": "s" * 48,
        "DAYBOOK_SWEEP_MS": str(sweep_ms),
        "DAYBOOK_STATE_DIR": str(tmp_path),
        "DAYBOOK_HANDLERS": "tests.e2e.poison",
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return parse(environment)


# -- pytest-celery's fixtures, on local processes ----------------------------------------------------------------------


@pytest.fixture
def celery_broker(valkey: LocalProcess) -> RedisTestBroker:
    if valkey.status != "running":
        valkey.restart()
    return RedisTestBroker(valkey)


@pytest.fixture
def celery_backend_cluster() -> None:
    """None: tasks have no results."""


@pytest.fixture
def celery_setup_app(celery_broker: RedisTestBroker, environment: dict[str, str]) -> Iterator[Celery]:
    """The product's own application, which reads the environment when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        load.cache_clear()
        from tasks.app import app
    app.conf.update(broker_url=celery_broker.config()["url"])
    yield app
    # what was opened in this process is closed, and may be opened anew
    kombu.pools.reset()
    app._after_fork()
    load.cache_clear()


@pytest.fixture
def celery_worker(
    celery_broker: RedisTestBroker,
    celery_setup_app: Celery,
    environment: dict[str, str],
    settings: Settings,
    tmp_path: Path,
) -> Iterator[CeleryTestWorker]:
    """`daybook worker ledgers`, as the Procfile runs it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
    program = Program(
        name="worker",
        command=(sys.executable, "-m", "cli", "worker", "ledgers"),
        env={**inherited, **environment, "PYTHONPATH": str(ROOT)},
        log=tmp_path / "worker.log",
        ready=alive_file(Path(settings.state_dir), "ledgers", settings.instance).exists,
    )
    worker = CeleryTestWorker(LocalProcess(program), celery_setup_app)
    yield worker
    worker.teardown()


# -- tests ------------------------------------------------------------------------------------------------------------


def at_work(settings: Settings, work: Callable[[Desk], Awaitable[None]]) -> None:
    """Runs a coroutine at a desk whose turns nobody but the worker takes."""

    async def sit() -> None:
        async with open_desk(settings) as desk:
            await work(desk)

    asyncio.run(asyncio.wait_for(sit(), 2 * PATIENCE_S))


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        await asyncio.sleep(0.02)


async def finished(desk: Desk, ids: list[Any]) -> list[str]:
    """The statuses of commands, once none of them waits."""

    async def none_waits() -> bool:
        return "accepted" not in await desk.statuses(ids)

    await until(none_waits, "every command has its outcome")
    return await desk.statuses(ids)


def ring(setup: CeleryTestSetup, actor: object) -> None:
    """Sends a doorbell's message."""
    setup.app.send_task("tasks.turns.run", (actor,), queue="ledgers", retry=False)


@pytest.mark.parametrize("sweep_ms", [600_000])
def test_a_message_makes_a_turn(celery_setup: CeleryTestSetup, settings: Settings) -> None:
    assert celery_setup.ready()

    async def work(desk: Desk) -> None:
        ids = await desk.accept(pay(), pay(), post(("bank", "nobody", "1")))
        ring(celery_setup, desk.actor)
        assert await finished(desk, ids) == ["succeeded", "succeeded", "rejected"]
        assert (await desk.applied())[3:] == ids[:2]
        # one that names nobody does nothing, and stops nothing
        for name in ("nobody:there", {"not": "a name"}):
            ring(celery_setup, name)
        ids = await desk.accept(pay())
        ring(celery_setup, desk.actor)
        assert await finished(desk, ids) == ["succeeded"]

    at_work(settings, work)
    celery_setup.worker.assert_log_exists("not_an_actor")


@pytest.mark.parametrize("sweep_ms", [600_000])
def test_a_message_whose_process_was_killed_is_delivered_again(
    celery_setup: CeleryTestSetup, settings: Settings
) -> None:
    # With no sweep to help, each kill needs a redelivery, until the culprit is found and set aside.
    async def work(desk: Desk) -> None:
        ids = await desk.accept(pay(), pay(), pay("kill!"), pay())
        ring(celery_setup, desk.actor)
        assert await finished(desk, ids) == ["succeeded", "succeeded", "failed", "succeeded"]
        assert (await desk.applied())[3:] == [ids[0], ids[1], ids[3]]

    at_work(settings, work)
    assert celery_setup.worker.container.status == "running"


def test_a_worker_killed_in_a_turn_leaves_it_to_the_next_one(
    celery_setup: CeleryTestSetup, settings: Settings, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()

    async def work(desk: Desk) -> None:
        ids = await desk.accept(pay(), pay(f"hold!{gate}"), pay())
        ring(celery_setup, desk.actor)
        await until(desk.mark, "a turn has begun")
        celery_setup.worker.kill()
        assert await desk.statuses(ids) == ["accepted"] * 3
        gate.unlink()
        celery_setup.worker.restart()
        assert await finished(desk, ids) == ["succeeded"] * 3
        assert (await desk.applied())[3:] == ids

    at_work(settings, work)


def test_a_broker_that_was_gone_delays_and_loses_nothing(celery_setup: CeleryTestSetup, settings: Settings) -> None:
    async def work(desk: Desk) -> None:
        celery_setup.broker.kill()
        while_gone = await desk.accept(pay(), pay())
        with pytest.raises(OperationalError):
            ring(celery_setup, desk.actor)
        celery_setup.broker.restart()
        # nobody rings again: the worker's own sweep finds them
        assert await finished(desk, while_gone) == ["succeeded"] * 2
        afterwards = await desk.accept(pay())
        ring(celery_setup, desk.actor)
        assert await finished(desk, afterwards) == ["succeeded"]
        assert (await desk.applied())[3:] == [*while_gone, *afterwards]

    at_work(settings, work)


def test_a_doorbell_outlives_its_broker(
    valkey: LocalProcess, celery_broker: RedisTestBroker, celery_setup_app: Celery, settings: Settings
) -> None:
    from tasks.doorbell import Doorbell

    def rung(actor: str) -> bool:
        try:
            with redis.Redis.from_url(settings.redis_url) as client:
                return any(actor in message["headers"]["argsrepr"] for message in queued(client))
        except redis.RedisError:
            return False

    def queued(client: redis.Redis) -> list[dict[str, Any]]:
        return [msgspec.json.decode(message) for message in client.lrange("ledgers", 0, -1)]

    with closing(Doorbell(settings)) as bell:
        bell.ring("ledger:before")
        wait_for(lambda: rung("ledger:before"), seconds=PATIENCE_S, what="a message")
        valkey.kill()
        # the broker's end of the connection is gone, then the broker: different errors
        bell.ring("ledger:gone")
        bell.ring("ledger:still-gone")
        valkey.restart()

        def heard() -> bool:
            bell.ring("ledger:after")
            return rung("ledger:after")

        wait_for(heard, seconds=PATIENCE_S, what="a message after the restart")
