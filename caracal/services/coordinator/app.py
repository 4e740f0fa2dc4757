"""The Coordinator: so far its operational routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from caracal.services.connections import pool
from caracal.services.health import Health
from caracal.services.http import App, Edge, no_route
from caracal.settings import Settings

_BODY_LIMIT = 1_048_576


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the Coordinator."""
    health = Health(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with pool(settings) as connections:
            health.watch(database=connections)
            yield

    app = Starlette(lifespan=lifespan)
    return health.around(Edge(no_route, body_limit=_BODY_LIMIT), lifespan=app)
