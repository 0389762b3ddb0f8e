"""Kafka's topics: made before anything is published, and filled again from the journal when the broker lost them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from infrastructure.journal import register_subscribers, set_back
from infrastructure.kafka import MESSAGE_BYTES, connection
from infrastructure.postgres import Connection
from infrastructure.settings import Settings

SUBSCRIBER: Final = "kafka"
ACTOR_TYPES: Final = ("ledger", "user")
# events are keyed by actor; more partitions than this machine's worth of consumers, since adding some reorders keys
PARTITIONS: Final = 12
CREATE_S: Final = 10
LOOK_S: Final = 3


def topic_of(actor_type: str) -> str:
    """The topic of a type of actor: `daybook.ledger.events`."""
    return f"daybook.{actor_type}.events"


async def ensure_topics(db: Connection, settings: Settings) -> bool:
    """Creates the topics that are missing; whether there were any, whose events will all be published again.

    The embedded broker forgets all it had when it stops, and a new cluster has nothing yet. The replay is recorded
    before the topics exist: if this process dies in between, the next one still finds them missing.
    Raises confluent_kafka.KafkaException if the broker can't be reached within 3 s.
    """
    admin = AdminClient(connection(settings))
    there = (await asyncio.to_thread(admin.list_topics, timeout=LOOK_S)).topics
    missing = [actor_type for actor_type in ACTOR_TYPES if topic_of(actor_type) not in there]
    if not missing:
        return False
    await register_subscribers(db, [SUBSCRIBER])
    for actor_type in missing:
        async for _ in set_back(db, SUBSCRIBER, from_seq=1, actor=None, actor_type=actor_type):
            pass
    await asyncio.to_thread(_create, admin, [topic_of(actor_type) for actor_type in missing])
    return True


def _create(admin: AdminClient, topics: Sequence[str]) -> None:
    # replication -1: as many copies as the cluster's own default
    wanted = [
        NewTopic(
            topic,
            num_partitions=PARTITIONS,
            replication_factor=-1,
            config={"max.message.bytes": str(MESSAGE_BYTES)},
        )
        for topic in topics
    ]
    for created in admin.create_topics(wanted, request_timeout=CREATE_S).values():
        try:
            created.result()
        except KafkaException as error:
            cause = error.args[0]
            if not (isinstance(cause, KafkaError) and cause.code() == KafkaError.TOPIC_ALREADY_EXISTS):
                raise
