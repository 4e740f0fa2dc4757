"""The Gateway: all its wires meet here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import orjson
from starlette.applications import Starlette

from caracal.errors import CaracalError
from caracal.events.base import Fact
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import connect
from caracal.projections.tail import Tail
from caracal.services.connections import pool, rings
from caracal.services.drain import draining
from caracal.services.gateway.bearer import Bearers
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.exchange import Exchange
from caracal.services.gateway.forward import Forwarder, upstream_session
from caracal.services.gateway.metadata import WELL_KNOWN, base_url, document
from caracal.services.gateway.proxy import Proxy
from caracal.services.gateway.streams import STALE, STOPPED, Streams
from caracal.services.gateway.view import GatewayView
from caracal.services.health import Check, Health
from caracal.services.http import (
    App,
    Receive,
    Scope,
    Send,
    header,
    is_bearer,
    request_id_of,
    respond,
    respond_error,
)
from caracal.services.jwks import JwksCache, jwks_fetcher
from caracal.services.upstream_guard import UpstreamGuard
from caracal.settings import Settings
from caracal.tasks import cancelled

_RELOAD = "/.well-known/caracal/reload"
_LOOK_SECONDS = 0.25
_LAST_CALLS_SECONDS = 0.75  # calls under way may end by themselves when the process stops


class Gateway:
    """The parts of a running Gateway, and which of them answers a path."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.view = GatewayView(settings.max_staleness)
        self.streams = Streams(self.view)
        self.counters = Counters()
        self.proxy: Proxy | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the Gateway's own paths; proxy every other."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        if path.startswith(WELL_KNOWN) and header(scope, b"authorization") is None:
            await self._metadata(scope, send)
        elif self._is_reload(scope):
            self.view.following.retake()
            await respond(send, 204, b"", [(b"x-request-id", request_id_of(scope).encode())])
        else:
            assert self.proxy is not None
            await self.proxy(scope, receive, send)

    async def _metadata(self, scope: Scope, send: Send) -> None:
        request_id = request_id_of(scope)
        base = base_url(scope, self._settings.gateway_url)
        path = scope["raw_path"].decode("latin-1")
        try:
            found = document(self.view, path, base, self._settings.issuer_url)
        except CaracalError as error:
            await respond_error(send, error, request_id)
        else:
            headers = [(b"x-request-id", request_id.encode())]
            await respond(send, 200, orjson.dumps(found), headers)

    def _is_reload(self, scope: Scope) -> bool:
        token = self._settings.gateway_admin_token
        return scope["path"] == _RELOAD and scope["method"] == "POST" and is_bearer(scope, token)

    def heard(self, keys: JwksCache, fact: Fact) -> None:
        """Act on a fact that the view has applied."""
        self.streams.heard(fact)
        if fact.name.startswith("signing_key.") and fact.zone_id is not None:
            keys.drop(fact.zone_id)

    async def watch_age(self) -> None:
        """End open streams when the view is too old, or the process stops."""
        while not draining.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            if self.view.stale:
                self.streams.end_all(STALE)
        await asyncio.sleep(_LAST_CALLS_SECONDS)
        self.streams.end_all(STOPPED)


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the Gateway."""
    gateway = Gateway(settings)
    health = Health(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await _start(settings, gateway, health, stack)
            yield

    return health.around(gateway, lifespan=Starlette(lifespan=lifespan))


async def _start(
    settings: Settings, gateway: Gateway, health: Health, stack: AsyncExitStack
) -> None:
    redis = connect(settings.redis_url)
    stack.push_async_callback(redis.aclose)
    connections = await stack.enter_async_context(pool(settings))
    audit = _audit(settings)
    await audit.start()
    stack.push_async_callback(audit.stop)
    sts = await stack.enter_async_context(_sts_session(settings))
    keys = JwksCache(jwks_fetcher(sts, settings.sts_url, settings.sts_timeout))
    stack.push_async_callback(keys.close)
    await _follow(settings, gateway, keys, stack)
    guard = UpstreamGuard(settings.allow_private_upstreams, settings.upstream_host_allowlist)
    upstreams = await stack.enter_async_context(upstream_session(guard))
    gateway.proxy = Proxy(
        view=gateway.view,
        bearers=Bearers(
            view=gateway.view,
            keys=keys,
            redis=redis,
            audit=audit,
            issuer=settings.issuer_url or None,
            fail_open=settings.jti_fail_open,
        ),
        exchange=Exchange(
            sts,
            settings.sts_url,
            settings.gateway_sts_hmac_key[0] if settings.gateway_sts_hmac_key else b"",
            settings.sts_timeout,
        ),
        streams=gateway.streams,
        forward=Forwarder(upstreams, guard, gateway.counters, settings.upstream_timeout),
        counters=gateway.counters,
        gateway_url=settings.gateway_url,
        max_request_bytes=settings.max_request_bytes,
    )
    health.watch(
        database=connections,
        redis=redis,
        tail=gateway.view.following,
        stale_reason="revocation_snapshot_stale",
        checks=(_sts_check(sts, settings.sts_url),),
        counters=lambda: _counters(gateway),
    )


async def _follow(
    settings: Settings, gateway: Gateway, keys: JwksCache, stack: AsyncExitStack
) -> None:
    tail = gateway.view.tail = Tail(
        gateway.view.all,
        also=("signing_keys",),
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        rings=rings(settings),
    )
    tail.listeners.append(lambda fact: gateway.heard(keys, fact))
    tail.reloaded.append(gateway.streams.look_again)
    await tail.start()
    stack.push_async_callback(tail.stop)
    stack.push_async_callback(cancelled, asyncio.create_task(gateway.watch_age()))


def _audit(settings: Settings) -> AuditWriter:
    return AuditWriter(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        keys=settings.audit_hmac_key,
        durability=settings.audit_durability,
        backlog_max=settings.audit_backlog_max,
    )


def _sts_session(settings: Settings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=200, keepalive_timeout=90),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _sts_check(session: aiohttp.ClientSession, sts_url: str) -> Check:
    async def check() -> str | None:
        try:
            async with session.get(f"{sts_url}/health") as answer:
                return None if 200 <= answer.status < 300 else "sts_unreachable"
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "sts_unreachable"

    return check


def _counters(gateway: Gateway) -> dict[str, Any]:
    rows = gateway.view.resources.rows.values()
    routable = sum(1 for row in rows if row["upstream_url"] and row["ended_at"] is None)
    revoked = len(gateway.view.revocations)
    return {**gateway.counters, "bindings_loaded": routable, "revocations_active": revoked}
