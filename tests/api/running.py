"""The control plane as its callers meet it: API and worker over HTTP, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from unittest.mock import patch

import httpx
import uvicorn
from psycopg import AsyncConnection

from caracal.events.admin_token import AdminToken, Capability, Scope
from caracal.events.base import Aggregate, acting
from caracal.events.store.log import Log, Saved
from caracal.ids import new_id
from caracal.projections.waiter import Waiter
from caracal.services.api.app import create_app as api_app
from caracal.services.http import App
from caracal.services.worker.app import create_app as worker_app
from caracal.settings import Settings, load_settings
from tests.api.documented import check_documented

OPERATOR = "operator-token"


def settings(process: str, database_url: str, redis_url: str, **more: str) -> Settings:
    """Settings of a process, from an environment of its own."""
    environment = {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FACTS_HMAC_KEY": "ab" * 32,
        "STREAMS_HMAC_KEY": "cd" * 32,
        "AUDIT_HMAC_KEY": "ef" * 32,
        "ZONE_KEK": "12" * 32,
        "CARACAL_ADMIN_TOKEN": OPERATOR,
        "API_V1_RATE_LIMIT_PER_MIN": "0",
        "ADMIN_AUTH_FAIL_LIMIT_PER_MIN": "0",
        **more,
    }
    with patch.dict("os.environ", environment):
        return load_settings(process)


@asynccontextmanager
async def served(app: App) -> AsyncIterator[str]:
    """Serve an app on a free port of the loopback; gives its URL."""
    config = uvicorn.Config(
        app, port=0, log_level="warning", lifespan="on", timeout_keep_alive=60, proxy_headers=False
    )  # longer than the client's: it never meets a connection that is being closed
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not task.done(), "the app did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@dataclass(frozen=True)
class Plane:
    """A running control plane."""

    url: str
    database_url: str
    redis_url: str
    log: Log
    waiter: Waiter
    client: httpx.AsyncClient

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Call a route of ``/v1`` as the operator; a server error is never expected."""
        content = {} if body is None else {"json": body}
        answer = await self.client.request(method, f"/v1{path}", **content, **more)
        assert answer.status_code < 500, answer.text
        check_documented(answer)
        return answer

    async def made(self, path: str, body: Any) -> dict[str, Any]:
        """Create a thing, and return the answer."""
        answer = await self.call("POST", path, body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def zone(self, **members: Any) -> str:
        """Create a zone; return its id."""
        return str((await self.made("/zones", {"name": "zone", "slug": new_id(), **members}))["id"])

    async def application(self, zone: str, **members: Any) -> dict[str, Any]:
        return await self.made(f"/zones/{zone}/applications", {"name": "app", **members})

    async def resource(self, zone: str, **members: Any) -> dict[str, Any]:
        given = {"identifier": f"resource://{new_id()}", "scopes": ["read", "write"]}
        return await self.made(f"/zones/{zone}/resources", given | members)

    async def provider(self, zone: str, **members: Any) -> dict[str, Any]:
        given = {"identifier": f"provider://{new_id()}", "kind": "oauth2"}
        return await self.made(f"/zones/{zone}/providers", given | members)

    async def token(
        self, scope: Scope, zone_id: str | None = None, capability: Capability = "write"
    ) -> dict[str, str]:
        """Make an admin token; return the header of a request with it."""
        text = f"cat_{new_id()}"
        with acting(zone_id=zone_id, actor="operator"):
            token = AdminToken.create(
                new_id(),
                name="test",
                token_sha256=sha256(text.encode()).hexdigest(),
                scope=scope,
                zone_id=zone_id,
                capability=capability,
                created_by="test",
            )
            await self.save(token)
        return {"Authorization": f"Bearer {text}"}

    async def save(self, *things: Aggregate) -> Saved:
        """Save things as another service would, and wait for their read models."""
        saved = await self.log.save(*things)
        assert await self.waiter.applied(saved, timeout=10)
        return saved

    @asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncConnection[Any]]:
        async with await AsyncConnection.connect(self.database_url, autocommit=True) as connection:
            yield connection


@asynccontextmanager
async def plane(database_url: str, redis_url: str, log: Log, **more: str) -> AsyncIterator[Plane]:
    """Run the API alone; see :func:`worker` for the other half."""
    waiter = Waiter(database_url)
    await waiter.start()
    try:
        async with (
            served(api_app(settings("api", database_url, redis_url, **more))) as url,
            httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=30
            ) as client,
        ):
            yield Plane(url, database_url, redis_url, log, waiter, client)
    finally:
        await waiter.stop()


@asynccontextmanager
async def worker(database_url: str, redis_url: str) -> AsyncIterator[str]:
    """Run relay and projections."""
    async with served(worker_app(settings("worker", database_url, redis_url))) as url:
        yield url
