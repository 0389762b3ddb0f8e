"""The task behind the doorbell, by a real worker process on a real broker, with pytest-celery's fixtures: no Docker."""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
import pickle
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

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
from tests.conftest import run_sql, temporary_state
from tests.local_processes import LocalProcess
from tests.stack import alive, descendants, wait_for
from tests.turns import Desk, open_desk

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 45
BACKLOG = 40_000
EXPIRED = "SELECT true FROM transactions WHERE id = $1 AND status = 'expired'"


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
        "DAYBOOK_TURN_COMMANDS": "100",
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
    celery_setup.worker.assert_log_exists("message_dropped")


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


def test_a_hold_ends_in_time_though_nobody_sends_sweeps(celery_setup: CeleryTestSetup, settings: Settings) -> None:
    async def work(desk: Desk) -> None:
        over = datetime.now(UTC) - timedelta(days=1)
        held = await desk.accept(msgspec.structs.replace(pay(), pending=True, expires_at=over))
        ring(celery_setup, desk.actor)
        assert await finished(desk, held) == ["succeeded"]
        began = time.monotonic()
        await until(lambda: desk.db.fetchval(EXPIRED, held[0]), "it has expired")
        assert time.monotonic() - began < 5

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


@pytest.mark.parametrize("sweep_ms", [600_000])
def test_a_busy_ledger_keeps_nobody_waiting(celery_setup: CeleryTestSetup, settings: Settings) -> None:
    """A worker that stays with one ledger leaves it after a turn when another is rung for."""
    from tasks.doorbell import Doorbell

    async def work(busy: Desk, bell: Doorbell, client: redis.Redis) -> None:
        async with open_desk(settings) as quiet:
            backlog = await busy.accept(*[pay() for _ in range(BACKLOG)])
            lengths: list[int] = []
            done = asyncio.Event()

            async def keep_ringing() -> None:
                while not done.is_set():
                    bell.ring(busy.actor)
                    lengths.append(int(client.llen("ledgers")))
                    await asyncio.sleep(0.01)

            ringing = asyncio.create_task(keep_ringing())
            first = await turns_of(busy)
            await until(lambda: passed(busy, first + 100), "the busy one has been busy for some time")
            before = await turns_of(busy)
            for _ in range(5):
                ids = await quiet.accept(pay())
                bell.ring(quiet.actor)
                assert await finished(quiet, ids) == ["succeeded"]
            assert "accepted" in await busy.statuses(backlog[-1:]), "the busy one is still at it"
            # each has waited for about one of them; without making room it would be as many as fit into a second
            assert await turns_of(busy) - before < 100
            assert max(lengths) <= 2, "no message for somebody who is there"
            done.set()
            await ringing

    with closing(Doorbell(settings)) as bell, redis.Redis.from_url(settings.redis_url) as client:
        client.flushall()
        at_work(settings, lambda desk: work(desk, bell, client))


async def passed(desk: Desk, turns: int) -> bool:
    return await turns_of(desk) > turns


async def turns_of(desk: Desk) -> int:
    counted: int = await desk.db.fetchval("SELECT count(*) FROM turns WHERE actor = $1", desk.actor)
    return counted


# -- what Daybook did not send ----------------------------------------------------------------------------------------


class Exploit:
    """Unpickled, it would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def message(actor: object = "ledger:nobody", **changed: Any) -> dict[str, Any]:
    """A message as the doorbell sends it, as it stands in the broker's list, but for what is changed."""
    body = changed.pop("body", msgspec.json.encode([[actor], {}, dict.fromkeys(("chain", "chord", "callbacks"))]))
    envelope = {name: changed.pop(name) for name in ("content-type", "content-encoding") if name in changed}
    task_id = str(uuid4())
    headers = {"lang": "py", "task": "tasks.turns.run", "id": task_id, "root_id": task_id, "retries": 0, "eta": None}
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        **envelope,
        "headers": {
            **headers,
            "argsrepr": "('ledger:nobody',)",
            "kwargsrepr": "{}",
            "timelimit": [None, None],
            **changed,
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "ledgers"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }


def arguments(*args: object, **embedded: object) -> bytes:
    return msgspec.json.encode([args, embedded.pop("kwargs", {}), embedded])


def forgeries(trace: Path) -> dict[str, object]:
    """What somebody who can write to the broker might put into the queue."""
    pickled = pickle.dumps([["ledger:nobody"], {}, {"exploit": Exploit(trace)}])
    bomb = zlib.compress(b"[" * 50_000_000, 9)
    return {
        "pickle": message(body=pickled, **{"content-type": "application/x-python-serialize"}),
        "pickle in binary": message(
            body=pickled, **{"content-type": "application/x-python-serialize", "content-encoding": "binary"}
        ),
        "pickle that says it is JSON": message(body=pickled),
        "YAML": message(
            body=f"!!python/object/apply:os.system ['touch {trace}']".encode(), **{"content-type": "application/x-yaml"}
        ),
        "a content type unknown": message(**{"content-type": "application/data"}),
        "an encoding unknown": message(**{"content-encoding": "rot13"}),
        "a packed body": message(body=bomb, compression="application/x-gzip"),
        "no task of ours": message(task="os.system"),
        "a task of Celery's": message(task="celery.chord_unlock"),
        "a task that is no text": message(task=["tasks.turns.run"]),
        "one argument more": message(body=arguments("ledger:nobody", "ledger:nobody")),
        "named arguments": message(body=arguments("ledger:nobody", kwargs={"self": 1})),
        "no argument": message(body=arguments()),
        "a body that is no list": message(body=b"{}"),
        "a body of numbers": message(body=b"[[1],{},{}]"),
        "no body": message(body=b""),
        "a deep body": message(body=b"[" * 2_000),
        "a long body": message(body=b" " * 1_000_000),
        "what to do afterwards": message(body=arguments("ledger:nobody", callbacks=[{"task": "tasks.turns.run"}])),
        "an actor that is no text": message({"not": "a name"}),
        "an actor of absurd length": message("ledger:" + "x" * 1_000),
        "an actor of absurd characters": message("ledger:acme\r\nDEL *\x00"),
        "an actor with a pattern": message("ledger:*"),
        "an actor of no type": message("nobody:there"),
        "an actor of another pool": message("user:0192f0c1-7d5b-7c54-b7a5-2a3a6a0b9d11"),
        "another pool's task": message(task="tasks.deliveries.deliver", body=arguments("kafka", "ledger:nobody")),
        "a sweep in the wrong pool": message(task="tasks.sweeps.sweep", body=arguments()),
        "a correlation id with CR and LF": message(correlation='x\r\n{"event":"forged"}'),
        "a correlation id of 10 KB": message(correlation="x" * 10_240),
        "a correlation id that is no text": message(correlation={"a": 1}),
        "a task's id with CR and LF": message(id='x\r\n{"event":"forged"}'),
        "in a hundred years": message(eta="2126-01-01T00:00:00Z"),
        "no time limit": message(timelimit=[10**9, None]),
        "headers of 1 MB": message(origin="x" * 1_000_000),
        "no headers": {**message(), "headers": None},
        "headers that are a list": {**message(), "headers": ["task"]},
        "the first protocol": {**message(body=b'{"task":"tasks.turns.run","id":"1","args":["x"]}'), "headers": {}},
        "no properties": {"body": ""},
        "no delivery": {**message(), "properties": {"delivery_info": {}, "delivery_tag": []}},
        "a list": [],
        "a number": 7,
        "no JSON": b"hello\xff",
        "nothing": b"",
    }


@pytest.mark.parametrize("sweep_ms", [600_000])
def test_what_daybook_did_not_send_is_dropped_and_logged_once(
    celery_setup: CeleryTestSetup, settings: Settings, tmp_path: Path
) -> None:
    worker, trace = celery_setup.worker, tmp_path / "trace"
    family = descendants(worker.container.pid)
    bad = forgeries(trace)

    async def work(desk: Desk) -> None:
        ids = await desk.accept(pay())
        before = database_content(settings)
        with redis.Redis.from_url(settings.redis_url) as client:
            # by a worker that another test has killed
            left = set(client.hkeys("unacked"))
            for one in bad.values():
                raw = one if isinstance(one, bytes) else msgspec.json.encode(one)
                client.lpush("ledgers", raw)
            await until(lambda: truth(dropped(worker.logs()) >= len(bad)), "every one was dropped")
            assert client.llen("ledgers") == 0
            assert database_content(settings) == before
            ring(celery_setup, desk.actor)
            assert await finished(desk, ids) == ["succeeded"]
            await until(lambda: truth(set(client.hkeys("unacked")) <= left), "nothing is to be delivered again")

    at_work(settings, work)
    assert dropped(worker.logs()) == len(bad), "each is logged once"
    for line in worker.logs().splitlines():
        assert msgspec.json.decode(line)["event"] != "forged", "each log line is our own"
        assert len(line) < 2_000
    assert not trace.exists()
    assert alive(family) == family, "no process has died of it"


def test_nobody_stops_or_slows_a_worker_through_the_broker(celery_setup: CeleryTestSetup, settings: Settings) -> None:
    control = celery_setup.app.control
    family = descendants(celery_setup.worker.container.pid)
    assert control.inspect(timeout=5).stats(), "who watches is answered"
    commands = {
        "shutdown": {},
        "pool_shrink": {"n": 1},
        "pool_restart": {},
        "cancel_consumer": {"queue": "ledgers"},
        "add_consumer": {"queue": "elsewhere"},
        "rate_limit": {"task_name": "tasks.turns.run", "rate_limit": "1/d"},
        "time_limit": {"task_name": "tasks.turns.run", "hard": 1},
        "autoscale": {"max": 0, "min": 0},
        "disable_events": {},
    }
    for name, given in commands.items():
        control.broadcast(name, arguments=given)
    # after the others, on the same connection
    assert control.ping(timeout=5)
    assert celery_setup.worker.logs().count('"event":"command_refused"') == len(commands)

    async def work(desk: Desk) -> None:
        ids = await desk.accept(pay())
        ring(celery_setup, desk.actor)
        assert await finished(desk, ids) == ["succeeded"]

    at_work(settings, work)
    assert alive(family) == family
    found = control.inspect(timeout=5).active_queues()
    assert [[queue["name"] for queue in queues] for queues in found.values()] == [["ledgers"]]


@pytest.mark.parametrize("known", [False, True], ids=["from the API", "from a worker"])
def test_what_daybook_sends_gets_through(celery_setup_app: Celery, settings: Settings, known: bool) -> None:
    from tasks.app import QUEUES
    from tasks.doorbell import Doorbell
    from tasks.gate import objection

    if known:
        # Celery says more in a message where it knows the task
        for module in celery_setup_app.conf.include:
            importlib.import_module(module)
        celery_setup_app.finalize()
    with redis.Redis.from_url(settings.redis_url) as client:
        # what other tests have left in the queues
        client.flushall()
    schedule = celery_setup_app.conf.beat_schedule
    for each in schedule.values():
        celery_setup_app.send_task(each["task"], **each["options"], retry=False)
    with closing(Doorbell(settings)) as bell:
        bell.ring("ledger:acme", "from-a-request")
        bell.ring("ledger:books", None)
        bell.ring(f"user:{uuid4()}")
        bell.ring_delivery("kafka", "ledger:acme")
        bell.ring_delivery("handler:some.module.f.<locals>.größe", f"user:{uuid4()}")
    with celery_setup_app.connection_for_read() as connection, connection.channel() as channel:
        take = partial(channel.basic_get, no_ack=True)
        sent = {name: list(iter(partial(take, name), None)) for name in QUEUES}
    counted = {"ledgers": 2, "identity": 1, "events": 2, "maintenance": len(schedule)}
    assert {name: len(messages) for name, messages in sent.items() if messages} == counted
    if known:
        assert {tuple(one.headers["timelimit"]) for one in sent["ledgers"]} == {(60, None)}
    for name, messages in sent.items():
        for one in messages:
            assert objection(one, {name}) is None
            assert objection(one, set(QUEUES) - {name}) == "for another pool"


def database_content(settings: Settings) -> str:
    """Every row there is, as text."""
    tables = "actors", "commands", "journal", "turn_marks", "accounts", "transactions", "behind", "users", "sessions"
    return "\n".join(run_sql(settings.database_url, f"SELECT t FROM {table} AS t ORDER BY 1") for table in tables)


def dropped(log: str) -> int:
    return log.count('"event":"message_dropped"')


async def truth(value: bool) -> bool:
    return value
