"""That the fixture is a real Kafka: it keeps what it acknowledged, in order, and knows its own version's features."""

from __future__ import annotations

import secrets

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def test_what_is_produced_is_consumed_again(apache_kafka: str) -> None:
    topic = f"round-trip-{secrets.token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": apache_kafka})
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=-1)])[topic].result(20)
    producer = Producer({"bootstrap.servers": apache_kafka, "enable.idempotence": True, "acks": "all"})
    for number in range(100):
        producer.produce(topic, key=b"ledger:a", value=str(number).encode())
    assert producer.flush(20) == 0

    consumer = Consumer({"bootstrap.servers": apache_kafka, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: list[int] = []
    try:
        for message in consumer.consume(100, timeout=20):
            assert message.error() is None
            values.append(int(message.value() or b"-1"))
    finally:
        consumer.close()
    assert values == list(range(100))
