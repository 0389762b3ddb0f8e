"""The HTTP application: five layers around the router, the routes, and what they work with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from litestar import Litestar

from api import (
    accounts,
    api_keys,
    auth,
    batches,
    bulk,
    currencies,
    exports,
    grants,
    health,
    job_actions,
    jobs,
    jwks,
    ledgers,
    metrics,
    openapi,
    pages,
    periods,
    problems,
    schedules,
    sessions,
    streams,
    transactions,
    users,
    views,
)
from api.context import Services
from api.middleware.authentication import Authentication
from api.middleware.correlation_id import CorrelationID
from api.middleware.logging import Logging
from api.middleware.rate_limit import RateLimit
from api.middleware.security_headers import SecurityHeaders
from api.semantics import Semantics
from infrastructure.logs import configure_logging
from infrastructure.memory import relieve_collector
from infrastructure.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.types import ASGIApp

    Layer = Callable[[ASGIApp, Services], ASGIApp]

# Outermost first. Litestar's own middleware runs after routing and never sees a 404, a 405 or a bad Host; these do.
PIPELINE: Final[tuple[Layer, ...]] = (
    lambda app, _: CorrelationID(app),
    lambda app, services: SecurityHeaders(app, services.settings),
    lambda app, services: RateLimit(app, services),
    lambda app, services: Authentication(app, services),
    lambda app, _: Logging(app),
)

ROUTES: Final[list[Any]] = [
    *auth.ROUTES,
    *sessions.ROUTES,
    *jwks.ROUTES,
    *api_keys.ROUTES,
    *health.ROUTES,
    *metrics.ROUTES,
    *ledgers.ROUTES,
    *grants.ROUTES,
    *currencies.ROUTES,
    *accounts.ROUTES,
    *transactions.ROUTES,
    *periods.ROUTES,
    *schedules.ROUTES,
    *bulk.ROUTES,
    *jobs.ROUTES,
    *job_actions.ROUTES,
    *streams.ROUTES,
    *batches.ROUTES,
    *users.ROUTES,
    *views.ROUTES,
    *exports.ROUTES,
    *openapi.ROUTES,
    *pages.ROUTES,
]


def create_app(settings: Settings | None = None) -> Litestar:
    """Makes the application. It starts without Postgres and Redis, too, and says so in `/health/ready`."""
    chosen = load() if settings is None else settings
    configure_logging(chosen)
    services = Services(chosen)

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        await services.open()
        try:
            async with metrics.pushing(chosen) as services.metrics:
                relieve_collector()
                yield
        finally:
            await services.close()

    app = Litestar(
        route_handlers=ROUTES,
        lifespan=[lifespan],
        exception_handlers={Exception: problems.handle},
        openapi_config=None,
        logging_config=None,
    )
    app.state["services"] = services
    app.asgi_handler = Semantics(views.Hits(app.asgi_handler))
    for layer in reversed(PIPELINE):
        app.asgi_handler = layer(app.asgi_handler, services)
    return app
