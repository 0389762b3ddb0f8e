"""What Daybook is not: one Celery task a transfer, on the same broker, calling the reference's function.

This module is the Celery application, too: `celery --app tests.benchmarks.per_task worker`.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

import asyncpg
from celery import Celery
from celery.signals import worker_process_init

from tests.benchmarks.reference import Reference

CONCURRENCY: Final = 4
QUEUE: Final = "benchmark"
READY_S: Final = 30.0
DONE_S: Final = 300.0

COUNT: Final = "SELECT count(*) FROM transfers"

app = Celery("benchmark", broker=os.environ.get("BENCHMARK_BROKER", "redis://"))
app.conf.update(
    result_backend=None,
    task_ignore_result=True,
    task_default_queue=QUEUE,
    task_serializer="json",
    accept_content=["json"],
)

_process: dict[str, Any] = {}


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _connect(**_: object) -> None:
    _process["runner"] = runner = asyncio.Runner()
    _process["db"] = runner.run(asyncpg.connect(os.environ["BENCHMARK_DATABASE"]))


@app.task(name="transfer")  # type: ignore[untyped-decorator]
def transfer(debited: str, credited: str, amount: int) -> None:
    """One transfer, one task."""
    _process["runner"].run(_process["db"].execute("SELECT transfer($1, $2, $3)", debited, credited, amount))


@contextmanager
def worker(broker_url: str, database_url: str) -> Iterator[str]:
    """A worker with a few processes for the length of a `with`; the address of its broker, a database of its own."""
    broker = urlsplit(broker_url)._replace(path="/9").geturl()
    environment = {**os.environ, "BENCHMARK_BROKER": broker, "BENCHMARK_DATABASE": database_url}
    flags = ("--concurrency", str(CONCURRENCY), "--loglevel", "info", "--without-gossip", "--without-mingle")
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "--app", "tests.benchmarks.per_task", "worker", *flags],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
        )
        try:
            _await_ready(process, output)
            yield broker
        finally:
            process.terminate()
            process.wait(20)


def _await_ready(process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while b" ready." not in Path(output.name).read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the worker did not start:\n{Path(output.name).read_text()[-2_000:]}")
        time.sleep(0.05)


async def measure(broker_url: str, reference: Reference, accounts: int, count: int) -> dict[str, float]:
    """Publishes `count` tasks and waits until their transfers are all there."""
    reference.fund(accounts)
    db = await asyncpg.connect(reference.url)
    try:
        # in this thread: a worker started from another one would end with that
        with worker(broker_url, reference.url) as broker:
            app.conf.broker_url = broker
            began = time.perf_counter()
            _publish(accounts, count)
            published = time.perf_counter()
            deadline = time.monotonic() + DONE_S
            while await db.fetchval(COUNT) < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not {count} transfers after {DONE_S} s")
                await asyncio.sleep(0.02)
            ended = time.perf_counter()
    finally:
        await db.close()
    return {"rate": count / (ended - began), "published": count / (published - began)}


def _publish(accounts: int, count: int) -> None:
    with app.producer_or_acquire() as producer:
        for _ in range(count):
            debited, credited = random.sample(range(1, accounts + 1), 2)
            transfer.apply_async((f"wallets:{debited}", f"wallets:{credited}", 100), producer=producer)
