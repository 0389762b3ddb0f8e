"""The `kafka` subscriber: every event to the topic of its actor's type, as CloudEvents 1.0 in binary mode.

The attributes are headers, the value is the journal's exact bytes. docs/events.md has the whole table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg
from asyncpg import Record
from confluent_kafka import KafkaException

from infrastructure.journal import Line, read_label
from infrastructure.kafka import Kafka, KafkaRecord, KafkaUnavailable
from infrastructure.settings import Settings
from infrastructure.topics import SUBSCRIBER, ensure_topics, topic_of
from workers.delivery import Interrupted, Rewound

NAME: Final = SUBSCRIBER
_SPECVERSION: Final = ("ce_specversion", b"1.0")
_CONTENT_TYPE: Final = ("content-type", b"application/json")


class KafkaSubscriber:
    """Publishes to Kafka, and begins again at the first event when the broker has lost its topics."""

    def __init__(self, settings: Settings, pool: asyncpg.Pool[Record]) -> None:
        self._settings = settings
        self._pool = pool
        self._kafka = Kafka(settings)

    async def publish(self, actor: str, lines: Sequence[Line]) -> int:
        if not await self._kafka.connected() and await self._topics_were_lost():
            raise Rewound
        try:
            await self._kafka.publish(topic_of(actor.partition(":")[0]), [record_of(actor, line) for line in lines])
        except KafkaUnavailable as error:
            if error.taken:
                raise Interrupted(lines[error.taken - 1].seq) from error
            raise
        return len(lines)

    async def close(self) -> None:
        await self._kafka.close()

    async def _topics_were_lost(self) -> bool:
        try:
            async with self._pool.acquire() as connection:
                return await ensure_topics(connection, self._settings)
        except KafkaException as error:
            raise KafkaUnavailable(f"Kafka: {error}") from error


def record_of(actor: str, line: Line) -> KafkaRecord:
    """A journal entry as Kafka carries it: the same entry always gives the same record."""
    label = read_label(line.event)
    kind, _, name = actor.partition(":")
    return KafkaRecord(
        key=actor,
        value=line.event,
        headers=[
            _SPECVERSION,
            ("ce_id", label.id.encode()),
            ("ce_source", f"urn:daybook:{actor}".encode()),
            ("ce_type", f"daybook.{kind}.{label.type}".encode()),
            ("ce_subject", name.encode()),
            ("ce_time", label.recorded_at.encode()),
            # a string, padded: as integers the extension has 32 bits only
            ("ce_sequence", f"{line.seq:020d}".encode()),
            ("ce_epoch", str(line.epoch).encode()),
            ("ce_correlationid", label.correlation_id.encode()),
            _CONTENT_TYPE,
        ],
    )
