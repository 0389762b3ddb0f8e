"""Connections to Postgres: every one with time limits, a name to be recognised by, and durable commits."""

from __future__ import annotations

from typing import Final, TypeAlias

import asyncpg
from asyncpg import Record

from infrastructure.settings import Settings

# Strings, since asyncpg's classes are generic to type checkers only.
Connection: TypeAlias = "asyncpg.Connection[Record] | asyncpg.pool.PoolConnectionProxy[Record]"
"""What a transaction is opened on."""
Db: TypeAlias = "Connection | asyncpg.Pool[Record]"
"""Whatever runs a statement."""

OUTSIDE: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a lost connection, a restart or a full disk raises."""

IDLE_IN_TRANSACTION_MS = 30_000


async def open_pool(
    settings: Settings,
    *,
    application: str,
    size: int,
    least: int = 1,
    synchronous_commit: str = "on",
    idle_ms: int | None = None,
    whole_tables: bool = False,
) -> asyncpg.Pool[Record]:
    """Opens a pool of up to `size` connections, named `daybook-{application}` in pg_stat_activity.

    With `least` 0 it opens without Postgres, and connects when first used.
    Statements end after `settings.statement_timeout_ms`; a transaction left idle ends after `idle_ms`, else 30 s.
    Plans use indexes, however small a table is, but for who has `whole_tables` to read.
    """
    return await asyncpg.create_pool(
        settings.database_url,
        min_size=least,
        max_size=size,
        timeout=5,
        command_timeout=settings.statement_timeout_ms / 1000 + 5,
        server_settings={
            "application_name": f"daybook-{application}",
            "statement_timeout": str(settings.statement_timeout_ms),
            "idle_in_transaction_session_timeout": str(idle_ms or IDLE_IN_TRANSACTION_MS),
            "synchronous_commit": synchronous_commit,
            "timezone": "UTC",
            "jit": "off",
            # Statements are planned once, while tables may still be small, and each was written with an index in mind:
            # a plan that reads the whole table would be kept while that grows, until it is analyzed.
            "enable_seqscan": "on" if whole_tables else "off",
        },
        reset=_leave_as_is,
    )


async def _leave_as_is(_connection: Connection) -> None:
    """Spares every return to a pool a trip to Postgres. What a transaction left open is rolled back before this.

    Nothing outlives its transaction here: no SET but SET LOCAL, no cursor, no LISTEN. A session's advisory lock is held
    until the pool is closed, as `daybook prepare` wants it.
    """
