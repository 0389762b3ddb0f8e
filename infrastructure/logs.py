"""Logs: one line an event, as JSON, or readable when a person watches a terminal. Set up once a process.

Everything goes through one formatter, other people's `logging` too, and each line carries the correlation id of the
request or command that it belongs to.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from datetime import datetime
from typing import Final

import msgspec
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from infrastructure.settings import Settings

correlation_id: Final[ContextVar[str | None]] = ContextVar("correlation_id", default=None)
"""What the current request, or the commands being applied, are known by."""

_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


class RequestLine(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged of every HTTP request: never a query, a header or a body.

    `key` is how the secret of an API key begins.
    """

    method: str
    route: str
    status: int
    ms: float
    principal: str | None
    address: str
    correlation_id: str
    event: str = "request"
    level: str = "info"
    key: str | None = None
    timestamp: datetime


def _add_correlation_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    current = correlation_id.get()
    if current is not None and "correlation_id" not in event:
        event["correlation_id"] = current
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event).decode()


def log_request(line: RequestLine) -> None:
    """Writes a request's line. As JSON it goes past structlog, whose processors would cost more than routing does."""
    if not sys.stderr.isatty():
        if logging.root.isEnabledFor(logging.INFO):
            sys.stderr.write(_encode(line).decode() + "\n")
        return
    fields = msgspec.structs.asdict(line)
    del fields["event"], fields["level"], fields["timestamp"]
    structlog.get_logger().info("request", **fields)


def configure_logging(settings: Settings) -> None:
    """Makes this process log to standard error, from `settings.log_level` up."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_correlation_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, _render_json]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
