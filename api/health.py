"""`/health/live`: this process answers. `/health/ready`: so does all that it needs, or the name of what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

import asyncpg
import msgspec
from litestar import Request, Response, get

from api.context import Services, services_of
from infrastructure.migrations import VERSION, newest

PATIENCE_S: Final = 2


class Alive(msgspec.Struct, frozen=True):
    """The process runs."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """`missing` names the checks that failed; each check says `ok` or what is wrong."""

    status: str
    missing: list[str]
    checks: dict[str, str]


@get("/health/live")
async def live() -> Alive:
    """Whether this process answers."""
    return Alive("ok")


@get("/health/ready", answers={200: Readiness, 503: Readiness})
async def ready(request: Request[Any, Any, Any]) -> Response[Readiness]:
    """Whether requests can be served; 503 when not."""
    services = services_of(request)
    names = ("postgres", "migrations", "redis")
    found = await asyncio.gather(_said(_postgres(services)), _said(_migrations(services)), _said(_redis(services)))
    checks = dict(zip(names, found, strict=True))
    missing = [name for name, said in checks.items() if said != "ok"]
    readiness = Readiness("unavailable" if missing else "ok", missing, checks)
    return Response(readiness, status_code=503 if missing else 200, headers={"retry-after": "1"} if missing else None)


async def _said(check: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await check
    except TimeoutError:
        return "no answer"
    except Exception:
        return "not reachable"


async def _postgres(services: Services) -> str:
    await services.pool.fetchval("SELECT 1")
    return "ok"


async def _migrations(services: Services) -> str:
    try:
        found = await services.pool.fetchval(VERSION)
    except asyncpg.UndefinedTableError:
        found = None
    needed = newest()
    return "ok" if found == needed else f"at {found}, needs {needed}: run daybook migrate"


async def _redis(services: Services) -> str:
    await services.redis.call("PING")
    return "ok"


ROUTES: Final = [live, ready]
