"""The consumers of journals, one file each."""

from __future__ import annotations

import asyncpg
from asyncpg import Record
from redis.asyncio import Redis

from infrastructure.settings import Settings
from workers.delivery import Subscriber
from workers.subscribers.handlers import load
from workers.subscribers.kafka import NAME as KAFKA
from workers.subscribers.kafka import KafkaSubscriber
from workers.subscribers.redis import NAME as REDIS
from workers.subscribers.redis import RedisSubscriber


def names(settings: Settings) -> tuple[str, ...]:
    """Every subscriber of this installation. Raises ImportError for a module of handlers that can't be loaded."""
    return (KAFKA, REDIS, *load(settings.handlers))


def build(settings: Settings, pool: asyncpg.Pool[Record], client: Redis) -> dict[str, Subscriber]:
    """The subscribers, by name. None connects before its first event."""
    return {KAFKA: KafkaSubscriber(settings, pool), REDIS: RedisSubscriber(client, pool), **load(settings.handlers)}
