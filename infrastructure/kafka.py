"""Kafka, one producer a process: what is published arrives in order and at least once, or its caller is told otherwise.

The producer is idempotent and refuses gaps, so what reaches the broker of one `publish` is a prefix of it. After any
failure the producer is emptied and thrown away: a later call starts afresh, with nothing of the past behind its back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from domain.errors import InfrastructureError
from infrastructure.settings import Settings

PUBLISH_S: Final = 10.0
"""Seconds after which a publish that has not been acknowledged in full counts as failed."""

LOST_S: Final = 2.0
"""The same once no broker can be reached: whoever else wants this process need not wait longer."""

MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""The largest event: 1,000 postings between accounts with the longest names have about 3 MB."""


class KafkaRecord(msgspec.Struct, frozen=True):
    """A message as it is published. All of one key meet in one partition, in order."""

    key: str
    value: bytes
    headers: list[tuple[str, str | bytes]]


class KafkaUnavailable(InfrastructureError):
    """The broker did not take everything in time. `taken` says how many of the first records it surely has."""

    def __init__(self, detail: str, taken: int = 0) -> None:
        super().__init__(detail)
        self.taken: Final = taken


class Kafka:
    """A producer made at its first use. One publish at a time; no call blocks the event loop."""

    def __init__(self, settings: Settings, publish_s: float = PUBLISH_S) -> None:
        self._settings = settings
        self._publish_s = publish_s
        self._producer: Producer | None = None
        self._trouble = ""
        self._turn = asyncio.Lock()

    async def connected(self) -> bool:
        """Whether the producer is there and has lost no broker since it was made. One that has is thrown away."""
        async with self._turn:
            if self._producer is not None:
                self._producer.poll(0)
                if self._trouble:
                    await asyncio.to_thread(self._discard)
            return self._producer is not None

    async def publish(self, topic: str, records: Sequence[KafkaRecord]) -> None:
        """Publishes records of one key in order, and waits until every replica in sync has all of them.

        Raises KafkaUnavailable.
        """
        async with self._turn:
            await asyncio.to_thread(self._publish, topic, records)

    async def close(self) -> None:
        """Ends the producer. What is being published is finished first."""
        async with self._turn:
            await asyncio.to_thread(self._discard)

    def _publish(self, topic: str, records: Sequence[KafkaRecord]) -> None:
        failed: list[KafkaError | None] = []
        unanswered = 0
        try:
            producer = self._producer = self._producer or self._connect()
            for record in records:
                producer.produce(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=record.headers,
                    on_delivery=lambda error, _: failed.append(error),
                )
            unanswered = self._await_answers(producer)
        except (KafkaException, BufferError) as error:
            self._discard()
            raise KafkaUnavailable(f"Kafka: {error}") from error
        if failed or unanswered:
            # one key at a time comes here and gaps are refused, so what the broker has is a prefix of the records
            taken = len(records) - len(failed) - unanswered
            why = self._trouble or (str(failed[0]) if failed else "no answer in time")
            self._discard()
            raise KafkaUnavailable(f"Kafka: {why}", taken)

    def _await_answers(self, producer: Producer) -> int:
        """How many records are still without an answer when it stops waiting."""
        began = time.monotonic()
        while unanswered := producer.flush(0.1):
            waited = time.monotonic() - began
            if waited > self._publish_s or (self._trouble and waited > LOST_S):
                break
        return unanswered

    def _connect(self) -> Producer:
        self._trouble = ""
        timeout_ms = int(self._publish_s * 1000)
        return Producer(
            {
                **connection(self._settings),
                "acks": "all",
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                # a topic that vanished must be noticed, not made anew without what it had: see infrastructure/topics.py
                "allow.auto.create.topics": False,
                # a success is no answer that anybody has to be called for: counting what fails costs a third
                "delivery.report.only.error": True,
                "linger.ms": 2,
                "message.timeout.ms": timeout_ms,
                "request.timeout.ms": timeout_ms // 2,
                "topic.metadata.propagation.max.ms": timeout_ms // 2,
                "message.max.bytes": MESSAGE_BYTES,
                # as Java's clients do, so that a key's partition does not depend on who publishes
                "partitioner": "murmur2_random",
                "error_cb": self._note,
            }
        )

    def _note(self, error: KafkaError) -> None:
        self._trouble = error.str()

    def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(in_queue=True, in_flight=True, blocking=True)
            # nothing is left to wait for, so that its end, with the last reference, is quick
            del producer


def connection(settings: Settings) -> dict[str, Any]:
    """How any client of this installation reaches Kafka."""
    made: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_servers,
        "client.id": "daybook",
        "security.protocol": settings.kafka_security,
        "socket.timeout.ms": 5_000,
        "socket.connection.setup.timeout.ms": 3_000,
        "reconnect.backoff.max.ms": 2_000,
        # failures are reported by whoever meets them; the library's own lines add nothing
        "log_level": 0,
    }
    if settings.kafka_security.startswith("sasl"):
        made |= {
            "sasl.mechanism": settings.kafka_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password,
        }
    if settings.kafka_ca_file:
        made["ssl.ca.location"] = settings.kafka_ca_file
    return made
