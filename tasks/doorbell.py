"""The doorbell: wakes a worker for an actor. Best effort: it may be lost, doubled or late, and nothing breaks.

Ringing never blocks its caller. One thread takes what was rung, drops actors whose bell is outstanding (a key in
Redis that the worker deletes before it looks), and publishes the rest in one batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Collection, Iterable
from typing import Any, Final

import structlog
from redis import Redis
from redis.exceptions import RedisError

from infrastructure.bells import bell_key, lapse_ms
from infrastructure.broker import queues_of
from infrastructure.settings import Settings
from tasks.app import QUEUE_OF_ACTOR, app
from tasks.pacing import Pacing

log = structlog.get_logger(__name__)

_BATCH: Final = 500
_BACKLOG: Final = 10_000
# Seconds that a bell is left alone after it was rung. Only busy actors meet this: an event may reach its subscribers
# that much later, and hundreds of turns are followed by tens of deliveries. They cost the same, few events or many.
_QUIET_S: Final = 0.005
_CROWD_QUIET_S: Final = 0.025
_FEW_QUIET_S: Final = 0.25
_MANY_QUIET_S: Final = 0.1
_MANY: Final = 200

Ring = tuple[str, str, tuple[str, ...], str | None]
"""Queue, task name, arguments, correlation id."""


class Doorbell:
    """Rings for one process. Make it after the fork; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._redis = Redis.from_url(settings.redis_url, socket_timeout=1, socket_connect_timeout=1)
        queues = queues_of(settings.broker_url)
        timeouts: dict[str, Any] = {"socket_timeout": 1, "socket_connect_timeout": 1}
        self._broker = None if queues is None else Redis.from_url(queues[0], **timeouts, **queues[1])
        self._rung: queue.Queue[tuple[float, Ring] | None] = queue.Queue(_BACKLOG)
        self._pacing = Pacing[Ring]()
        self._thread = threading.Thread(target=self._serve, name="doorbell", daemon=True)
        self._thread.start()

    def ring(self, actor: str, correlation_id: str | None = None, *, many: bool = False) -> None:
        """Wakes a worker for `actor`, which has got a command, or one of `many` together. Returns at once."""
        target = QUEUE_OF_ACTOR.get(actor.partition(":")[0])
        if target is not None:
            quiet_s = _CROWD_QUIET_S if many else _QUIET_S
            self._put((quiet_s, (target, "tasks.turns.run", (actor,), correlation_id)))

    def ring_delivery(self, subscriber: str, actor: str, events: int = 0, *, again: bool = False) -> None:
        """Wakes a worker to deliver `actor`'s journal, which grew by `events`, to `subscriber`. Returns at once.

        `again`: a delivery has made room for others, and is to go on behind them.
        """
        quiet_s = _QUIET_S if again else _MANY_QUIET_S if events >= _MANY else _FEW_QUIET_S
        self._put((quiet_s, ("events", "tasks.deliveries.deliver", (subscriber, actor), None)))

    def ring_export(self, export: str) -> None:
        """Wakes a worker to write an export, by its id. Returns at once."""
        self._put((_QUIET_S, ("exports", "tasks.exports.run", (export,), None)))

    def close(self) -> None:
        """Publishes what was rung and ends the thread, within two seconds."""
        self._put(None)
        self._thread.join(2)
        self._redis.close()
        if self._broker is not None:
            self._broker.close()

    def _put(self, ring: tuple[float, Ring] | None) -> None:
        try:
            self._rung.put_nowait(ring)
        except queue.Full:
            log.warning("doorbell_overrun")

    def _serve(self) -> None:
        _import_what_publishing_needs()
        more = True
        while more:
            more = self._collect()
            rings = self._pacing.take_due() if more else self._pacing.take_all()
            if rings:
                try:
                    self._publish(self._unanswered(rings))
                except Exception as error:
                    # Whatever it is (a batch raises what the broker's own library does), this thread goes on: without
                    # it nobody is ever woken again. The sweep finds what nobody was woken for.
                    log.warning("doorbell_failed", rings=len(rings), error=repr(error))

    def _collect(self) -> bool:
        """Waits for a ring, or for one that was held back, and takes what else has been rung. False: being closed."""
        try:
            rung = self._rung.get(timeout=self._pacing.wait_s())
            while rung is not None:
                quiet_s, ring = rung
                self._pacing.hold(ring[2], quiet_s, ring)
                if len(self._pacing) >= _BATCH:
                    return True
                rung = self._rung.get_nowait()
        except queue.Empty:
            return True
        return False

    def _unanswered(self, rings: list[Ring]) -> list[Ring]:
        """Those whose bell was not outstanding; now it is. With Redis down, all of them."""
        try:
            ahead = self._lengths({ring[0] for ring in rings})
            with self._redis.pipeline(transaction=False) as pipe:
                for ring in rings:
                    pipe.set(bell_key(*ring[2]), b"1", nx=True, px=lapse_ms(ahead[ring[0]]))
                return [ring for ring, new in zip(rings, pipe.execute(), strict=True) if new]
        except RedisError:
            return rings

    def _lengths(self, queues: Collection[str]) -> dict[str, int]:
        if self._broker is None:
            return dict.fromkeys(queues, 0)
        try:
            with self._broker.pipeline(transaction=False) as pipe:
                for queue in queues:
                    pipe.llen(queue)
                return dict(zip(queues, pipe.execute(), strict=True))
        except RedisError as error:
            # a bell that lapses too early costs a message, no more
            log.warning("queues_not_measured", error=repr(error))
            return dict.fromkeys(queues, 0)

    def _publish(self, rings: Iterable[Ring]) -> None:
        with app.producer_or_acquire() as producer, producer.batch():
            for target, task, arguments, correlation_id in rings:
                headers = {} if correlation_id is None else {"correlation": correlation_id}
                app.send_task(task, arguments, queue=target, producer=producer, headers=headers, retry=False)


def _import_what_publishing_needs() -> None:
    """Celery and kombu import much at their first message, half a second during which no request would be served."""
    _ = app.backend
    with app.connection_for_write() as connection:
        _ = connection.transport_cls
