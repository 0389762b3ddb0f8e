"""What route handlers work with: one `Services` for the process, made by `create_app` and opened by its lifespan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg import Record
from redis.asyncio import Redis

from api.admission import Admission
from api.live import Streams
from api.queries import Answer, Queries
from api.recording import Recorder, Recording
from domain.bus import QueryBus
from infrastructure.api_keys import ApiKeys
from infrastructure.cache import Cache
from infrastructure.grants import Grants
from infrastructure.key_watch import KeyWatch
from infrastructure.passwords import Passwords
from infrastructure.postgres import open_pool
from infrastructure.redis import SharedRedis
from infrastructure.sessions import Sessions
from infrastructure.settings import Settings
from infrastructure.tokens import Tokens

if TYPE_CHECKING:
    from litestar import Request

POOL_SIZE: Final = 8
STREAM_POOL_SIZE: Final = 2


class Services:
    """Everything outside that a request may need. Nothing here connects before `open`, nor fails when it can't."""

    pool: asyncpg.Pool[Record]
    key_watch: KeyWatch
    sessions: Sessions
    api_keys: ApiKeys
    grants: Grants
    recorder: Recorder
    streams: Streams
    queries: QueryBus[Answer]
    metrics: Redis

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self.redis: Final = SharedRedis(settings.redis_url)
        self.cache: Final = Cache(self.redis)
        self.admission: Final = Admission(settings, self.redis)
        self.tokens: Final = Tokens(settings)
        self.passwords: Final = Passwords()
        self._recording: Final = Recording(settings)

    async def open(self) -> None:
        """Opens the pools. With Postgres or Redis down it succeeds too; requests then get 503."""
        self.pool = await open_pool(self.settings, application="api", size=POOL_SIZE, least=0)
        # of its own, so that busy requests never hold it up, nor are taken for it
        self._key_pool = await open_pool(self.settings, application="keys", size=1, least=0)
        self.key_watch = KeyWatch(self.settings, self.tokens, self._key_pool)
        await self.key_watch.open()
        self.sessions = Sessions(self.pool, self.cache)
        self.api_keys = ApiKeys(self.pool, self.cache)
        self.grants = Grants(self.pool, self.cache)
        self.recorder = await self._recording.open()
        self._stream_pool = await open_pool(self.settings, application="streams", size=STREAM_POOL_SIZE, least=0)
        self.streams = Streams(self._stream_pool, self.recorder.waiters)
        self.streams.start()
        self.queries = Queries(self.pool, self.cache, self.settings.cache_ttl_s).bus()

    async def close(self) -> None:
        """Closes everything; requests that still run get errors."""
        await self.streams.close()
        await self._recording.close()
        self.passwords.close()
        await self.cache.close()
        await self.redis.close()
        await self.key_watch.close()
        await self._key_pool.close()
        await self._stream_pool.close()
        await self.pool.close()


def services_of(request: Request[Any, Any, Any]) -> Services:
    """The process's services."""
    services: Services = request.app.state["services"]
    return services
