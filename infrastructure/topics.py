"""Kafka's topics: made before anything is published, and filled again from the journal when the broker lost them."""

from __future__ import annotations

from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

TOPICS: Final = ("daybook.ledger.events",)
# events are keyed by actor; more partitions than this machine's worth of consumers, since adding some reorders keys
PARTITIONS: Final = 12
TIMEOUT_S: Final = 10

REGISTER_KAFKA: Final = "INSERT INTO subscribers (name) VALUES ('kafka') ON CONFLICT DO NOTHING"

# Taking the lease away makes a delivery that is under way fail its compare-and-set, so it can't undo this.
REPLAY_EVERYTHING: Final = """
    INSERT INTO behind (subscriber, actor, position, head)
    SELECT 'kafka', actor, 0, seq FROM actors WHERE seq > 0
    ON CONFLICT (subscriber, actor) DO UPDATE SET
        position = 0, head = greatest(behind.head, excluded.head),
        lease = NULL, leased_until = NULL, failures = 0, retry_at = NULL, last_error = NULL
"""


async def ensure_topics(connection: asyncpg.Connection | PoolConnectionProxy, servers: str) -> bool:
    """Creates the topics that are missing; whether there were any, in which case everything will be published again.

    The embedded broker forgets all it had when it stops, and a new cluster has nothing yet. The replay is recorded
    before the topics exist: if this process dies in between, the next one still finds them missing.
    Raises confluent_kafka.KafkaException if the broker can't be reached within 10 s.
    """
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
    missing = [name for name in TOPICS if name not in admin.list_topics(timeout=TIMEOUT_S).topics]
    if not missing:
        return False
    async with connection.transaction():
        await connection.execute(REGISTER_KAFKA)
        await connection.execute(REPLAY_EVERYTHING)
    # replication -1: as many copies as the cluster's own default
    wanted = [NewTopic(name, num_partitions=PARTITIONS, replication_factor=-1) for name in missing]
    for created in admin.create_topics(wanted, request_timeout=TIMEOUT_S).values():
        try:
            created.result()
        except KafkaException as error:
            if not _exists_already(error):
                raise
    return True


def _exists_already(error: KafkaException) -> bool:
    reason = error.args[0]
    return isinstance(reason, KafkaError) and reason.code() == KafkaError.TOPIC_ALREADY_EXISTS
