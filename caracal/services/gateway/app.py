"""The Gateway: all its wires meet here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from starlette.applications import Starlette

from caracal.events.base import Fact
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.store.redis import connect
from caracal.key_sets import JwksCache
from caracal.projections.tail import Tail
from caracal.services.connections import pool, rings
from caracal.services.drain import draining
from caracal.services.gateway.bearer import Bearers
from caracal.services.gateway.calls import Calls
from caracal.services.gateway.checks import Checks
from caracal.services.gateway.counters import Counters
from caracal.services.gateway.dates import dated
from caracal.services.gateway.dpop import Senders
from caracal.services.gateway.exchange import Exchange
from caracal.services.gateway.forward import Forwarder, upstream_session
from caracal.services.gateway.own_paths import OwnPaths
from caracal.services.gateway.proxy import Proxy
from caracal.services.gateway.streams import STALE, STOPPED, Streams
from caracal.services.gateway.view import OF_ONE_ZONE, GatewayView
from caracal.services.gateway.websockets import Dial, WebSockets
from caracal.services.health import Check, Health
from caracal.services.http import App, Receive, Scope, Send
from caracal.services.jwks import jwks_fetcher
from caracal.services.traced import Traced, exporting
from caracal.services.upstream_guard import UpstreamGuard
from caracal.settings import Settings
from caracal.tasks import cancelled

_LOOK_SECONDS = 0.25
_ENDLESS_SECONDS = 0.75  # event streams go early when the process stops
_LAST_SECOND = 1.0  # of the grace period: to cut what is left


class Gateway:
    """The parts of a running Gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.view = GatewayView(settings.max_staleness)
        self.streams = Streams(self.view)
        self.counters = Counters()
        self.routes: App | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer any request but the operational ones."""
        assert self.routes is not None
        await self.routes(scope, receive, send)

    def heard(self, keys: JwksCache, fact: Fact) -> None:
        """Act on a fact that the view has applied."""
        self.streams.heard(fact)
        if fact.name.startswith("signing_key.") and fact.zone_id is not None:
            keys.drop(fact.zone_id)

    async def watch_age(self) -> None:
        """End open streams when the view is too old, and when the process stops."""
        while not draining.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            if self.view.stale:
                self.streams.end_all(STALE)
        await asyncio.sleep(_ENDLESS_SECONDS)
        self.streams.end_endless(STOPPED)
        grace = self._settings.shutdown_grace_ms / 1000
        await asyncio.sleep(max(0, grace - _ENDLESS_SECONDS - _LAST_SECOND))
        self.streams.end_all(STOPPED)

    def counted(self) -> dict[str, Any]:
        """Return the contract's counters."""
        zones = self.view.zones
        return {
            **self.counters,
            "bindings_loaded": sum(zone.routable for zone in zones.kept()),
            "revocations_active": len(self.view.revocations),
            **{f"zones_{name}": int(value) for name, value in zones.counters.items()},
        }


def create_app(settings: Settings, gateway: Gateway | None = None) -> App:
    """Return the ASGI app of the Gateway; ``gateway`` for a caller who wants to look inside."""
    gateway = gateway or Gateway(settings)
    health = Health(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            await _start(settings, gateway, health, stack)
            yield

    return Traced(dated(health.around(gateway, lifespan=Starlette(lifespan=lifespan))))


async def _start(
    settings: Settings, gateway: Gateway, health: Health, stack: AsyncExitStack
) -> None:
    redis = connect(settings.redis_url)
    stack.push_async_callback(redis.aclose)
    connections = await stack.enter_async_context(pool(settings))
    audit = _audit(settings)
    await audit.start()
    stack.push_async_callback(audit.stop)
    sts = await stack.enter_async_context(_sts_session())
    keys = JwksCache(jwks_fetcher(sts, settings.sts_url, settings.sts_timeout))
    stack.push_async_callback(keys.close)
    tail = await _follow(settings, gateway, keys, stack)
    zones = gateway.view.serve(connections, settings.zone_view_max_bytes)
    stack.push_async_callback(zones.close)
    bearers = Bearers(
        view=gateway.view,
        keys=keys,
        redis=redis,
        audit=audit,
        issuer=settings.issuer_url or None,
        fail_open=settings.jti_fail_open,
    )
    senders = Senders(redis, settings.gateway_url, fail_open=settings.jti_fail_open)
    guard = UpstreamGuard(settings.allow_private_upstreams, settings.upstream_host_allowlist)
    upstreams = await stack.enter_async_context(upstream_session(guard))
    calls = Calls(
        checks=Checks(gateway.view, bearers, senders),
        exchange=_exchange(settings, sts),
        counters=gateway.counters,
        gateway_url=settings.gateway_url,
    )
    proxy = Proxy(
        calls=calls,
        streams=gateway.streams,
        forward=Forwarder(upstreams, guard, settings.upstream_timeout),
        max_request_bytes=settings.max_request_bytes,
    )
    dial = Dial(upstreams, guard, settings.upstream_timeout)
    sockets = WebSockets(calls=calls, streams=gateway.streams, dial=dial)
    gateway.routes = OwnPaths(settings, gateway.view, proxy, sockets)
    health.watch(
        database=connections,
        redis=redis,
        tail=tail,
        serves_without_database=True,
        stale_reason="revocation_snapshot_stale",
        checks=(_view_check(tail), _sts_check(sts, settings.sts_url)),
        counters=gateway.counted,
    )


async def _follow(
    settings: Settings, gateway: Gateway, keys: JwksCache, stack: AsyncExitStack
) -> Tail:
    tail = gateway.view.tail = Tail(
        gateway.view.all,
        also=OF_ONE_ZONE,
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        rings=rings(settings),
    )
    tail.listeners.append(lambda fact: gateway.heard(keys, fact))
    tail.reloaded.append(gateway.streams.look_again)
    await tail.start()
    stack.push_async_callback(tail.stop)
    stack.push_async_callback(cancelled, asyncio.create_task(gateway.watch_age()))
    return tail


def _audit(settings: Settings) -> AuditWriter:
    return AuditWriter(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        keys=settings.audit_hmac_key,
        durability=settings.audit_durability,
        backlog_max=settings.audit_backlog_max,
    )


def _exchange(settings: Settings, sts: aiohttp.ClientSession) -> Exchange:
    ring = settings.gateway_sts_hmac_key
    return Exchange(sts, settings.sts_url, ring[0] if ring else b"", settings.sts_timeout)


def _sts_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=200, keepalive_timeout=90),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


def _view_check(tail: Tail) -> Check:
    async def check() -> str | None:
        return None if tail.running else "bindings_unavailable"

    return check


def _sts_check(session: aiohttp.ClientSession, sts_url: str) -> Check:
    async def check() -> str | None:
        try:
            async with session.get(f"{sts_url}/health", allow_redirects=False) as answer:
                return None if 200 <= answer.status < 300 else "sts_unreachable"
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "sts_unreachable"

    return check
