"""The Celery application: queues, routing and the beat schedule. A message is a doorbell; Postgres holds the truth.

The settings are the measured ones: acknowledged late and given back when a worker dies, one message at a time, JSON
only, no results, and time limits on every socket so that a half-open connection can't freeze a worker.
"""

from __future__ import annotations

from typing import Final

from celery import Celery
from kombu.entity import Queue

from infrastructure.broker import tls_of
from infrastructure.settings import load
from tasks.queues import QUEUE_OF_ACTOR as QUEUE_OF_ACTOR
from tasks.queues import QUEUES as QUEUES

_settings = load()
_sweep_s: Final = _settings.sweep_ms / 1000
# Holds are to be released within 5 s of their time, however seldom sweeps are.
_EXPIRE_S: Final = 2
_SEAL_S: Final = 10
DUE_S: Final = 1
"""What is to be executed at a time joins the mailbox within about so long of it."""

app = Celery("daybook", include=["tasks.turns", "tasks.deliveries", "tasks.exports", "tasks.sweeps"])
app.conf.update(
    broker_url=_settings.broker_url,
    broker_use_ssl=tls_of(_settings.broker_url),
    result_backend=None,
    task_ignore_result=True,
    task_serializer="json",
    result_serializer="json",
    event_serializer="json",
    accept_content=["json"],
    result_accept_content=["json"],
    task_queues=[Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
    task_default_queue="maintenance",
    task_create_missing_queues=False,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=60,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    worker_max_memory_per_child=400_000,
    worker_hijack_root_logger=False,
    worker_soft_shutdown_timeout=4,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": 300,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "health_check_interval": 10,
    },
    beat_schedule={
        "sweep": {
            "task": "tasks.sweeps.sweep",
            "schedule": _sweep_s,
            # An old sweep is worth nothing: one that waited longer than the next one's turn is dropped.
            "options": {"queue": "maintenance", "expires": _sweep_s},
        },
        "expire": {
            "task": "tasks.sweeps.expire",
            "schedule": _EXPIRE_S,
            "options": {"queue": "maintenance", "expires": _EXPIRE_S},
        },
        "join_due": {
            "task": "tasks.sweeps.join_due",
            "schedule": DUE_S,
            "options": {"queue": "maintenance", "expires": DUE_S},
        },
        "seal": {
            "task": "tasks.sweeps.seal",
            "schedule": _SEAL_S,
            "options": {"queue": "maintenance", "expires": _SEAL_S},
        },
    },
    beat_max_loop_interval=5,
)
