"""The gate before the tasks: of what stands in the queue, only what Daybook itself sends gets through.

Whoever can write to the broker can put anything there. A message is looked at before Celery reads it: JSON, a task of
this worker's pool, the arguments of that task and nothing else, a correlation id that can stand in a log. Whatever
else it is gets logged, once, and is gone; the worker goes on. What got through is still only a hint: the tasks look up
in the daybook what there is to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from celery.worker import consumer
from celery.worker.control import Panel
from kombu.message import Message
from kombu.transport import redis, virtual

from tasks.app import QUEUE_OF_ACTOR, app
from tasks.queues import TIME_LIMITS_S

log = structlog.get_logger(__name__)

LONGEST_BODY: Final = 2_048
LONGEST_HEADERS: Final = 4_096
LONGEST_NAME: Final = 200
SHOWN: Final = 200

_CORRELATION: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ACTOR: Final = re.compile(r"([a-z]{1,20}):[A-Za-z0-9._-]{1,64}")
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Would have Celery send more, wait, run for ever, or show another name than the task's.
_INSTRUCTIONS: Final = ("eta", "group", "shadow", "compression", "stamps", "replaced_task_nesting", "retries")

WATCHING: Final = frozenset(
    {"ping", "heartbeat", "stats", "active", "active_queues", "registered", "reserved", "scheduled", "revoked", "conf"}
)
"""Commands from the broker that a worker heeds: those that Flower sends. None of them changes anything."""


def objection(message: Message, pools: Collection[str]) -> str | None:
    """What is wrong with a message for a worker of these pools; None when nothing is."""
    headers = message.headers
    if message.errors:
        return "unreadable"
    if (message.content_type, message.content_encoding) != ("application/json", "utf-8"):
        return "not JSON"
    if not isinstance(headers, dict) or "task" not in headers:
        return "no headers"
    return (
        _objection_to_headers(headers)
        or _objection_to_body(message.body)
        or _objection_to_task(headers["task"], msgspec.json.decode(message.body)[0], pools)
    )


def _objection_to_headers(headers: Mapping[str, Any]) -> str | None:
    if len(repr(headers)) > LONGEST_HEADERS:
        return "too long"
    if not all(_matches(_CORRELATION, headers.get(name)) for name in ("id", "root_id")):
        return "malformed id"
    if "correlation" in headers and not _matches(_CORRELATION, headers["correlation"]):
        return "malformed correlation id"
    if any(headers.get(name) for name in _INSTRUCTIONS) or not _is_usual(headers):
        return "instructions beside the task"
    return None


def _is_usual(headers: Mapping[str, Any]) -> bool:
    """No time limit, or the task's own, which Celery repeats in a message where it knows the task: in the workers."""
    given, task = headers.get("timelimit"), headers["task"]
    own = TIME_LIMITS_S.get(task, app.conf.task_time_limit) if isinstance(task, str) else None
    return not given or given in ([None, None], [own, None])


def _objection_to_body(body: object) -> str | None:
    """Celery's second protocol: arguments, named arguments, what to do afterwards."""
    if not isinstance(body, (bytes, str)) or len(body) > LONGEST_BODY:
        return "too long"
    try:
        args, kwargs, afterwards = msgspec.json.decode(body, type=tuple[list[str], dict[str, Any], dict[str, Any]])
    except (msgspec.DecodeError, UnicodeError):
        return "malformed body"
    if kwargs or any(afterwards.values()):
        return "more than arguments"
    return None if all(map(_is_name, args)) else "malformed argument"


def _is_name(text: str) -> bool:
    """Whether it can be the name of an actor, or of a subscriber, which may be a function's."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable() and " " not in text


def _objection_to_task(task: object, args: list[str], pools: Collection[str]) -> str | None:
    expected = TASKS.get(task) if isinstance(task, str) else None
    if expected is None:
        return "no such task"
    pool = expected(args)
    if pool is None:
        return "wrong arguments"
    return None if pool in pools else "for another pool"


def _pool_of_turn(args: list[str]) -> str | None:
    found = _ACTOR.fullmatch(args[0]) if len(args) == 1 else None
    return None if found is None else QUEUE_OF_ACTOR.get(found[1])


def _pool_of_delivery(args: list[str]) -> str | None:
    return "events" if len(args) == 2 and _ACTOR.fullmatch(args[1]) else None


def _pool_of_export(args: list[str]) -> str | None:
    return "exports" if len(args) == 1 and _ID.fullmatch(args[0]) else None


def _pool_of_sweep(args: list[str]) -> str | None:
    return None if args else "maintenance"


TASKS: Final[Mapping[str, Callable[[list[str]], str | None]]] = {
    "tasks.turns.run": _pool_of_turn,
    "tasks.deliveries.deliver": _pool_of_delivery,
    "tasks.exports.run": _pool_of_export,
    "tasks.sweeps.sweep": _pool_of_sweep,
    "tasks.sweeps.expire": _pool_of_sweep,
    "tasks.sweeps.join_due": _pool_of_sweep,
    "tasks.sweeps.seal": _pool_of_sweep,
}
"""Every task, and which pool its arguments are for; None when they are not its arguments."""


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


# -- in Celery's worker -----------------------------------------------------------------------------------------------


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Celery's consumer, with the gate in front of it."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **kwargs)
        pools = frozenset(self.app.amqp.queues.consume_from)

        def guard(message: Message) -> None:
            reason = objection(message, pools)
            if reason is None:
                handle(message)
                return
            _note_dropped(reason, message.headers)
            message.reject_log_error(log, self.connection_errors)  # type: ignore[no-untyped-call]

        return guard


class _Plain(virtual.Message):
    """A message that is not unpacked on arrival: a small one could become a very large one."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        headers = payload.get("headers")
        if isinstance(headers, dict) and headers.pop("compression", None):
            payload["content-type"] = "compressed"
        super().__init__(payload, channel=channel, **kwargs)  # type: ignore[no-untyped-call]


class _Channel(redis.Channel):
    """Redis's lists, from which anything else than a message is dropped instead of ending the worker."""

    Message = _Plain

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            _note_dropped("no message", error)
            return True


class Transport(redis.Transport):
    """kombu's own for Redis, over such channels."""

    Channel = _Channel


def _note_dropped(reason: str, headers: object) -> None:
    log.warning("message_dropped", reason=reason, headers=repr(headers)[:SHOWN])


def close_remote_control() -> None:
    """Has this worker heed only those who watch: nobody who can write to the broker stops, slows or moves it."""
    for name in set(Panel.data) - WATCHING:
        Panel.data[name] = partial(_refuse, name)


def _refuse(name: str, _state: object, **_arguments: object) -> dict[str, str]:
    log.warning("command_refused", command=name)
    return {"error": "refused"}


def stand_guard() -> None:
    """Puts the gate before this worker process. To be called before the worker is made."""
    close_remote_control()
    app.conf.worker_consumer = "tasks.gate:Consumer"
    if app.conf.broker_url.startswith(("redis://", "rediss://")):
        app.conf.broker_transport = "tasks.gate:Transport"
