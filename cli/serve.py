"""`daybook api`, `worker`, `beat` and `flower`: each becomes one of the processes that the Procfile names."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from infrastructure import settings
from infrastructure.logs import configure_logging
from infrastructure.settings import Settings

if TYPE_CHECKING:
    from litestar.types import ASGIApp

# Clients that are still waiting for an answer get this long; `daybook up` allows 10 s for everything.
GRACE_S: Final = 3
# Flower keeps tasks in memory.
FLOWER_TASKS: Final = 10_000


def api() -> None:
    """Run the HTTP API."""
    chosen = settings.load()
    run_server("cli.serve:create_child_app" if chosen.api_processes > 1 else "api.app:create_app", chosen)


def run_server(factory: str, chosen: Settings) -> None:
    """Serves what the factory, named `module:function`, makes."""
    import uvicorn

    from api.server import allow_files

    allow_files(chosen.connections)
    uvicorn.run(
        factory,
        factory=True,
        host=chosen.host,
        port=chosen.port,
        workers=chosen.api_processes if chosen.api_processes > 1 else None,
        loop="uvloop",
        http="api.server:Protocol",
        ws="none",
        lifespan="on",
        # the application writes its own line for each request, and judges proxies itself
        access_log=False,
        log_config=None,
        log_level=chosen.log_level,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=chosen.idle_s,
        timeout_graceful_shutdown=GRACE_S,
    )


def create_child_app() -> ASGIApp:
    """The application in one of several processes, which end with the one that started them."""
    from api.app import create_app
    from infrastructure.processes import die_with_parent

    die_with_parent()
    return create_app()


def worker(pool: str) -> NoReturn:
    """Run a Celery worker. It touches `{pool}-{instance}.alive` in the state folder every 2 s, for health checks.

    Parameters
    ----------
    pool
        The queue it serves: ledgers, identity, events, maintenance or exports.
    """
    chosen = settings.load()
    # By default Celery waits for ever on SIGTERM; as SIGQUIT it gives a turn a few seconds, then puts it back. To be
    # said before Celery is imported, and by its class, since its command line also imports Flower's.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")
    from celery.signals import heartbeat_sent, worker_ready
    from celery.utils.nodenames import default_nodename, host_format

    from tasks.app import app
    from tasks.gate import stand_guard

    _log_as_json(chosen)
    stand_guard()
    alive = alive_file(Path(chosen.state_dir), pool, chosen.instance)
    alive.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    alive.unlink(missing_ok=True)

    def note_ready(**_: object) -> None:
        alive.touch()

    def note_heartbeat(**_: object) -> None:
        # the first heartbeat comes before the worker takes messages
        if alive.exists():
            alive.touch()

    worker_ready.connect(note_ready)
    heartbeat_sent.connect(note_heartbeat)
    made = app.Worker(
        hostname=host_format(default_nodename(f"{pool}-{chosen.instance}@%h")),
        queues=[pool],
        concurrency=1,
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    made.start()
    sys.exit(made.exitcode or 0)


def beat() -> None:
    """Run Celery's scheduler. One is enough, and two do no harm but ring twice."""
    chosen = settings.load()
    from tasks.app import app

    _log_as_json(chosen)
    state = Path(chosen.state_dir)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    app.Beat(schedule=str(state / "beat-schedule"), quiet=True).run()


def alive_file(state: Path, pool: str, instance: int) -> Path:
    """What a worker touches every 2 s from when it takes messages, for supervisors and health checks."""
    return state / f"{pool}-{instance}.alive"


def _log_as_json(chosen: Settings) -> None:
    """Has Celery log as everything else does, and without a line for each message: turns and sweeps log themselves."""
    from celery.signals import setup_logging

    def configure(**_: object) -> None:
        configure_logging(chosen)
        if chosen.log_level != "debug":
            for chatty in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
                logging.getLogger(chatty).setLevel(logging.WARNING)

    setup_logging.connect(configure, weak=False)


def flower() -> NoReturn:
    """Run Flower, Celery's monitor, behind a password and for reading only."""
    chosen = settings.load("flower_password")
    # its options may come from the environment, too, some of which take the password away again
    for name in [name for name in os.environ if name.startswith("FLOWER_")]:
        del os.environ[name]
    # in the environment, since everybody can read the arguments of a process
    os.environ["FLOWER_BASIC_AUTH"] = f"{chosen.flower_user}:{chosen.flower_password}"
    flags = (
        *(f"--address={chosen.flower_host}", f"--port={chosen.flower_port}"),
        # workers send events unasked, and would not listen
        *("--read_only=True", "--enable_events=False"),
        *(f"--max_tasks={FLOWER_TASKS}", f"--logging={chosen.log_level}"),
    )
    # no shell is what is wanted: each flag stays one argument
    os.execv(sys.executable, [sys.executable, "-m", "celery", "--app", "tasks.app", "--quiet", "flower", *flags])  # nosec B606
