"""The consumers of journals, one file each."""

from __future__ import annotations

import asyncpg
from asyncpg import Record
from redis.asyncio import Redis

from infrastructure.settings import Settings
from workers.delivery import Subscriber
from workers.subscribers import handlers, kafka, redis


def names(settings: Settings) -> tuple[str, ...]:
    """Every subscriber of this installation. Raises ImportError for a module of handlers that can't be loaded."""
    return (kafka.NAME, redis.NAME, *handlers.load(settings.handlers))


def build(settings: Settings, pool: asyncpg.Pool[Record], client: Redis) -> dict[str, Subscriber]:
    """The subscribers, by name. None connects before its first event."""
    return {
        kafka.NAME: kafka.KafkaSubscriber(settings, pool),
        redis.NAME: redis.RedisSubscriber(client),
        **handlers.load(settings.handlers),
    }
