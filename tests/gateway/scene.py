"""A Gateway as production serves it, between an STS that answers as told and an upstream."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from redis.asyncio import Redis

from caracal.events.base import Aggregate
from caracal.events.resource import Resource
from caracal.events.session import Session
from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services import run
from caracal.services.gateway.app import Gateway, create_app
from caracal.services.gateway.calls import Calls
from caracal.services.gateway.own_paths import OwnPaths
from caracal.services.gateway.proxy import Proxy
from caracal.services.http import App
from caracal.settings import Settings, load_settings
from tests.backbone import eventually, opened_log
from tests.gateway.doubles import StsDouble, Upstream, bearer
from tests.making import in_zone, new_resource, new_session
from tests.sts.world import GATEWAY_KEY, ISSUER, Tenant, new_tenant, serving
from tests.sts.world import settings as sts_settings

ADMIN = "admin-of-the-gateway"


def settings(database_url: str, redis_url: str, sts_url: str, **more: str) -> Settings:
    """Settings of a Gateway; ``more`` by variable name."""
    given = {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FACTS_HMAC_KEY": bytes(range(32)).hex(),
        "STREAMS_HMAC_KEY": (b"\x42" * 32).hex(),
        "AUDIT_HMAC_KEY": (b"\x77" * 32).hex(),
        "GATEWAY_STS_HMAC_KEY": GATEWAY_KEY.hex(),
        "ISSUER_URL": ISSUER,
        "STS_URL": sts_url,
        "ALLOW_PRIVATE_UPSTREAMS": "loopback",
        "READY_RATE_LIMIT_PER_MIN": "0",
        "GATEWAY_ADMIN_TOKEN": ADMIN,
    }
    return load_settings("gateway", given | more)


@asynccontextmanager
async def served(app: App, given: Settings) -> AsyncIterator[str]:
    """Serve an app with the very configuration of production; yield its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(run._config(app, given))
    task = asyncio.create_task(server._serve([listener]))

    async def started() -> bool:
        if task.done():
            raise AssertionError("the app did not start") from task.exception()
        return server.started

    await eventually(started)
    try:
        scheme = "https" if given.tls_cert_file else "http"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@dataclass
class Scene:
    """A running Gateway, its tenant, and what stands around it."""

    url: str
    gateway: Gateway
    settings: Settings
    sts: StsDouble
    upstream: Upstream
    tenant: Tenant
    http: httpx.AsyncClient
    real_sts: bool = False
    """It sees by itself what is saved: calls name the position that they want to see."""

    @property
    def calls(self) -> Calls:
        """What checks and exchanges."""
        routes = self.gateway.routes
        assert isinstance(routes, OwnPaths)
        assert isinstance(routes._proxy, Proxy)
        return routes._proxy._calls

    @property
    def resource(self) -> str:
        """The identifier of the tenant's resource."""
        return self.tenant.resource.identifier

    def headers(self, **claims: Any) -> dict[str, str]:
        """Return the headers of a call that is in order."""
        made: dict[str, str] = bearer(self.tenant, self.resource, **claims)
        return made

    async def call(
        self, path: str = "/things", method: str = "GET", *, claims: Any = None, **options: Any
    ) -> httpx.Response:
        """Make a call; headers given as None are left out."""
        headers = self.headers(**(claims or {})) | options.pop("headers", {})
        if self.real_sts:
            headers.setdefault("Caracal-Min-Position", str(self.tenant.saved))
        sent = {name: value for name, value in headers.items() if value is not None}
        return await self.http.request(method, self.url + path, headers=sent, **options)

    def of(self, tenant: Tenant) -> Scene:
        """Return the same Gateway as another tenant sees it."""
        self.sts.tenants[tenant.id] = tenant
        return replace(self, tenant=tenant)

    def put_out(self) -> None:
        """Let all zones go, as if others had been used."""
        zones = self.gateway.view.zones
        zones._kept.clear()
        assert zones.peek(self.tenant.id) is None

    async def save(self, *things: Aggregate) -> int:
        """Save; return the position once the Gateway has it."""
        position = await self.tenant.save(*things)
        assert await self.gateway.view.following.reach(position, 30)
        return position

    async def resource_with(self, **members: Any) -> Resource:
        """Add a resource of the tenant's; the Gateway knows it."""
        given = {"scopes": ["read"], "quota": 1000} | members
        made = new_resource(self.tenant.id, **given)
        await self.save(made)
        return made

    async def session(self) -> Session:
        """Start a session of the tenant's application."""
        return (await self.sessions(1))[0]

    async def sessions(self, number: int) -> list[Session]:
        """Start some."""
        made = [new_session(self.tenant.app_id, zone_id=self.tenant.id) for _ in range(number)]
        await self.save(*made)
        return made

    async def revoke(self, session: Session) -> int:
        """End a session; the Gateway knows it when this returns."""
        with in_zone(self.tenant.id):
            session.revoke("token_revoked")
        return await self.save(session)

    async def rotate(self) -> None:
        """Add a signing key to the tenant's zone; tokens go on to be signed by the first."""
        key = SigningKey.generate(new_id())
        position = await self.tenant.rotate(key.kid, key.public_jwk(), key.pem())
        assert await self.gateway.view.following.reach(position, 30)

    def redis(self) -> Redis:
        """Return a client, to be used as a context."""
        return Redis.from_url(self.settings.redis_url)

    async def counted(self) -> dict[str, int]:
        """Return the Gateway's counters."""
        answer = await self.http.get(f"{self.url}/metrics", headers={"Accept": "application/json"})
        found: dict[str, int] = answer.json()
        return found


@asynccontextmanager
async def new_scene(
    database_url: str, redis_url: str, *, sts_url: str | None = None, **more: str
) -> AsyncIterator[Scene]:
    """Start a Gateway on the servers given; ``sts_url`` of a real STS in place of the double."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened_log(database_url))
        tenant = await new_tenant(log)
        upstream = Upstream()
        upstream_url = await stack.enter_async_context(serving(upstream))
        sts = StsDouble(tenant, upstream_url)
        double_url = await stack.enter_async_context(serving(sts))
        given = settings(database_url, redis_url, sts_url or double_url, **more)
        gateway = Gateway(given)
        url = await stack.enter_async_context(served(create_app(given, gateway), given))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10, trust_env=False))
        yield Scene(url, gateway, given, sts, upstream, tenant, http, sts_url is not None)


__all__ = ["ADMIN", "Scene", "new_scene", "sts_settings"]
