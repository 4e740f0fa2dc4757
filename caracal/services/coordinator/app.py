"""The Coordinator: all its wires meet here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI

from caracal import __version__
from caracal.events.base import Fact
from caracal.events.store.redis import connect
from caracal.events.store.redis_line import RedisLine
from caracal.key_sets import JwksCache
from caracal.projections.tail import Tail
from caracal.services import refusals
from caracal.services.call import opened
from caracal.services.connections import rings
from caracal.services.consistency import MinPosition
from caracal.services.coordinator import (
    agent,
    agent_service,
    delegation,
    facade,
    heartbeat,
    invocation,
    verification,
)
from caracal.services.coordinator.call import Coordinator, Counters
from caracal.services.coordinator.caller import Identities, Tokens
from caracal.services.coordinator.door import VERIFY, Door, zone_of
from caracal.services.coordinator.limits import Limits
from caracal.services.coordinator.operations import counted, jobs_check, metrics_refusal
from caracal.services.coordinator.view import CoordinatorView
from caracal.services.documented import ERROR, Document, clean, operation_id
from caracal.services.health import Health
from caracal.services.http import App, Edge
from caracal.services.jwks import jwks_fetcher
from caracal.services.published import Published
from caracal.services.refused_requests import Actor, Recorded, recording
from caracal.services.sender import Senders
from caracal.services.traced import FASTAPI_OFF, Traced, exporting
from caracal.settings import Settings

ROUTERS = (
    agent.router,
    heartbeat.router,
    agent_service.router,
    invocation.router,
    delegation.router,
    facade.router,
    verification.router,
)

BODY_LIMIT = 1_048_576
_JWKS_SECONDS = 5.0
_STALE_KEYS_SECONDS = 300.0  # after 5 fresh minutes: 10 in all
_REDIS_SECONDS = 0.5  # that a request waits for its counters
_REACH_SECONDS = 2.0

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the Coordinator."""
    health = Health(
        settings,
        ready_limit=lambda address: parts().limits.ready.enter(address),
        guard=lambda scope: metrics_refusal(scope, settings),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            app.state.coordinator = started = await _start(settings, stack)
            health.watch(
                database=started.pool,
                tail=started.view.tail,
                checks=(jobs_check(started),),
                counters=lambda: counted(started),
            )
            yield

    def parts() -> Coordinator:
        running: Coordinator = app.state.coordinator
        return running

    async def reached(position: int) -> bool:
        there = await parts().reached(position)
        return there and await parts().view.following.reach(position, _REACH_SECONDS)

    app = routes(lifespan)
    edge = Edge(
        Published(Door(MinPosition(app, reached), parts), document),
        body_limit=BODY_LIMIT,
        body_seconds=settings.request_timeout_ms / 1000,
    )
    recorded = Recorded(
        edge,
        lambda: parts().refused,
        concerns=lambda path: path.startswith(("/zones/", "/v1/")) and path != VERIFY,
        actor=_actor,
        zone=lambda scope: parts().view.known_zone(zone_of(scope)),
    )
    return Traced(health.around(recorded, lifespan=app))


def _actor(state: Mapping[str, Any]) -> Actor | None:
    caller = state.get("caller")
    return Actor(caller.client_id) if caller else None


def routes(lifespan: Lifespan | None = None) -> FastAPI:
    """Return the routes alone: what the OpenAPI is made of."""
    app = FastAPI(
        title="Caracal Coordinator",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=FASTAPI_OFF,
    )
    for router in ROUTERS:
        app.include_router(router)
    refusals.install(app, ROUTERS, issues_twice=True)
    return app


def document() -> Document:
    """Return the OpenAPI document: FastAPI's, with our error body."""
    made: Document = clean(routes().openapi())
    error = {"$ref": "#/components/schemas/Error"}
    refusal = {"description": "refused", "content": {"application/json": {"schema": error}}}
    for item in made["paths"].values():
        for operation in item.values():
            operation["responses"]["default"] = refusal
    made["components"]["schemas"]["Error"] = ERROR
    made["components"]["securitySchemes"] = {"mandate": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{"mandate": []}]
    return made


async def _start(settings: Settings, stack: AsyncExitStack) -> Coordinator:
    view = CoordinatorView(settings.max_staleness)
    redis = connect(settings.redis_url, timeout=_REDIS_SECONDS)
    stack.push_async_callback(redis.aclose)
    line = RedisLine(redis, timeout=_REDIS_SECONDS)
    stack.push_async_callback(line.close)
    parts = await opened(settings, stack)
    keys = await _keys(settings, stack)
    view.tail = await _follow(settings, view, keys, stack)
    _, refused = await recording(settings, stack)
    tokens = Tokens(keys, settings.issuer_url, view)
    senders = Senders(redis, "coordinator", settings.coordinator_url)
    return Coordinator(
        *parts,
        view=view,
        tokens=tokens,
        identities=Identities(tokens, view, senders, settings.agent_coordinator_scope),
        limits=Limits(line, settings),
        redis=redis,
        counters=Counters(),
        refused=refused,
    )


async def _keys(settings: Settings, stack: AsyncExitStack) -> JwksCache:
    sts = await stack.enter_async_context(
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
    )
    keys = JwksCache(
        jwks_fetcher(sts, settings.sts_url, _JWKS_SECONDS),
        stale_life=_STALE_KEYS_SECONDS,
        max_zones=settings.jwks_cache_max,
    )
    stack.push_async_callback(keys.close)
    return keys


async def _follow(
    settings: Settings, view: CoordinatorView, keys: JwksCache, stack: AsyncExitStack
) -> Tail:
    tail = Tail(
        view.all,
        also=("signing_keys",),
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        rings=rings(settings),
    )

    def heard(fact: Fact) -> None:
        if fact.name.startswith("signing_key.") and fact.zone_id is not None:
            keys.drop(fact.zone_id)

    tail.listeners.append(heard)
    await tail.start()
    stack.push_async_callback(tail.stop)
    return tail
