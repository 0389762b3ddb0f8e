"""The same promises of delivery as in tests/integration, against a real Apache Kafka."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infrastructure.settings import Settings
from tests.contracts.kafka_deliveries import KafkaDeliveries


class TestApacheKafka(KafkaDeliveries):
    """Apache Kafka in KRaft mode, one node."""

    @pytest.fixture
    def kafka_settings(self, settings: Settings, apache_kafka: str) -> Settings:
        return replace(settings, kafka_servers=apache_kafka)
