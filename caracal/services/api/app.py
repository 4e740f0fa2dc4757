"""The control plane: all its wires meet here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from caracal import __version__
from caracal.events.store.redis import connect
from caracal.events.store.vault import Vault
from caracal.projections.tail import Tail
from caracal.services import refusals
from caracal.services.api import (
    admin_audit,
    admin_token,
    application,
    audit,
    audit_explanation,
    audit_replay,
    audit_retention,
    bootstrap,
    challenge,
    docs_page,
    grant,
    policy,
    policy_activation,
    policy_set,
    policy_simulation,
    policy_template,
    policy_validation,
    provider,
    provider_callback,
    provider_grant,
    resource,
    seed,
    session,
    signing_key,
    trusted_issuer,
    zone,
)
from caracal.services.api.call import Api
from caracal.services.api.door import Door, zone_of
from caracal.services.api.hashing import Hashing
from caracal.services.api.limits import Limits, Registrations
from caracal.services.api.openapi import describe
from caracal.services.api.uses import Uses
from caracal.services.api.view import ApiView
from caracal.services.call import opened
from caracal.services.connections import rings
from caracal.services.consistency import MinPosition
from caracal.services.documented import operation_id
from caracal.services.health import Health
from caracal.services.http import App, Body, Edge
from caracal.services.refused_requests import Actor, Recorded, recording
from caracal.services.token_endpoint import TokenEndpoint
from caracal.services.traced import FASTAPI_OFF, Traced, exporting
from caracal.settings import Settings

ROUTERS = (
    zone.router,
    signing_key.router,
    application.router,
    provider.router,
    trusted_issuer.router,
    resource.router,
    policy.router,
    policy_validation.router,
    policy_template.router,
    policy_set.router,
    policy_simulation.router,
    policy_activation.router,
    grant.router,
    provider_grant.router,
    provider_callback.router,
    session.router,
    challenge.router,
    audit.router,
    audit_explanation.router,
    audit_replay.router,
    audit_retention.router,
    admin_audit.of_zone,
    admin_audit.of_all,
    admin_token.router,
    bootstrap.router,
    docs_page.router,
)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the control plane."""
    view, uses = ApiView(settings.max_staleness), Uses()
    health = Health(settings)
    registrations = Registrations(settings.redis_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            stack.push_async_callback(registrations.close)
            app.state.api = await _start(settings, view, stack)
            health.watch(
                database=app.state.api.pool,
                tail=view.tail,
                counters=lambda: _counters(app.state.api),
            )
            await seed.bootstrap_token(app.state.api)
            uses.start(app.state.api.pool)
            stack.push_async_callback(uses.stop)
            yield

    app = routes(lifespan, local_bootstrap=settings.caracal_local_bootstrap_enabled)
    limits = Limits(
        requests_per_min=settings.api_v1_rate_limit_per_min,
        failures_per_min=settings.admin_auth_fail_limit_per_min,
        registrations=registrations,
    )

    async def reached(position: int) -> bool:
        api: Api = app.state.api
        return await api.reached(position)

    # Inside of the door: who is unknown makes nobody keep a body for him, nor the database work.
    routed = Body(
        MinPosition(app, reached, concerns=lambda scope: "token" in scope["state"]),
        body_limit=settings.api_body_limit_bytes,
        body_seconds=settings.request_timeout_ms / 1000,
    )
    edge = Edge(Door(routed, view, limits, uses), body_limit=None)
    recorded = Recorded(
        edge,
        lambda: app.state.api.refused,
        concerns=lambda path: path.startswith("/v1/"),
        actor=_actor,
        zone=lambda scope: view.known_zone(zone_of(scope)),
    )
    return Traced(health.around(recorded, lifespan=app))


def _actor(state: Mapping[str, Any]) -> Actor | None:
    token = state.get("token")
    return Actor(token["id"], token["name"], token["scope"]) if token else None


def routes(lifespan: Lifespan | None = None, *, local_bootstrap: bool = True) -> FastAPI:
    """Return the routes alone: what the OpenAPI is made of."""
    routers = [one for one in ROUTERS if local_bootstrap or one is not bootstrap.router]
    app = FastAPI(
        title="Caracal Control Plane",
        version=__version__,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=FASTAPI_OFF,
    )
    for router in routers:
        app.include_router(router)
    app.openapi = describe(app, routers)  # type: ignore[method-assign]
    refusals.install(app, routers)
    return app


async def _start(settings: Settings, view: ApiView, stack: AsyncExitStack) -> Api:
    parts = await opened(settings, stack)
    hashing = Hashing(settings.argon2_parallel, settings.argon2_queue_max)
    stack.callback(hashing.stop)
    view.tail = Tail(
        [view.tokens, view.zones],
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        rings=rings(settings),
    )
    redis = connect(settings.redis_url, timeout=1.0)
    stack.push_async_callback(redis.aclose)
    await view.tail.start()
    stack.push_async_callback(view.tail.stop)
    unproven = settings.admin_auth_fail_limit_per_min
    endpoint = TokenEndpoint.of(settings)
    stack.push_async_callback(endpoint.close)
    writer, refused = await recording(settings, stack, unproven_per_min=unproven)
    return Api(
        *parts,
        vault=Vault(settings.zone_kek),
        hashing=hashing,
        view=view,
        redis=redis,
        writer=writer,
        refused=refused,
        endpoint=endpoint,
    )


def _counters(api: Api) -> dict[str, Any]:
    counters = api.writer.counters
    return {
        "audit_added_total": counters.added,
        "audit_dropped": counters.dropped,
        "audit_sink_errors": counters.errors,
        "audit_unrecorded_total": api.refused.unrecorded,
    }
