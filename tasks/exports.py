"""The task that writes an export's file. It may take long, and has the pool `exports` to itself."""

from __future__ import annotations

from uuid import UUID

import structlog

from tasks.app import app
from tasks.queues import TIME_LIMITS_S
from tasks.runtime import runtime
from workers.exports.run import run as write

log = structlog.get_logger(__name__)

NAME = "tasks.exports.run"


@app.task(name=NAME, time_limit=TIME_LIMITS_S[NAME])  # type: ignore[untyped-decorator]
def run(export: str) -> None:
    """Writes one export, unless somebody is at it. Whatever the message says is looked up: no such id, no file."""
    try:
        wanted = UUID(export)
    except ValueError:
        log.warning("not_an_export")
        return
    process = runtime()
    with structlog.contextvars.bound_contextvars(export=export):
        process.run(write(process.pool, wanted))
