"""One tenant of the product: what its operator and its agent do, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from aiohttp import web

from caracal.demo.wire import Stream, read_stream
from caracal.ids import new_id
from tests.flow.product import OPERATOR, Product
from tests.sts.world import POLICY

RESOURCE = "resource://one"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_UNLIMITED = {"window_seconds": 60, "max_requests": 1_000_000_000}
_PATIENCE = 15.0  # s a client waits for an answer


class Upstream:
    """What stands behind the Gateway: counts its calls, and streams until it is told to end."""

    def __init__(self) -> None:
        self.calls = 0
        self.url = ""
        self.mandates: list[str] = []
        self.traceparents: list[str] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Upstream]:
        """Serve it in this process."""
        app = web.Application()
        app.router.add_route("*", "/stream", self._stream)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.calls += 1
        self.mandates.append(request.headers.get("Authorization", "").partition(" ")[2])
        self.traceparents.append(request.headers.get("traceparent", ""))
        return web.json_response({"answer": request.path})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b"data: tick\n\n")
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Answer:
    """What came of a request; status 0: no answer, so nobody knows."""

    status: int
    body: Any
    headers: httpx.Headers
    request_id: str

    @property
    def code(self) -> str:
        """The error code, or what kept the answer away; empty without one."""
        if self.status == 0:
            return str(self.body)
        return str(self.body.get("error", "")) if isinstance(self.body, dict) else ""

    @property
    def position(self) -> int | None:
        """``Caracal-Position``."""
        given = self.headers.get("Caracal-Position")
        return None if given is None else int(given)

    @property
    def unknown(self) -> bool:
        """Nobody knows whether it was done: no answer, or the service was not able to tell."""
        return self.status == 0 or self.status >= 500


class Caller:
    """Sends requests, each with an id of its own; a lost connection is an answer, too."""

    def __init__(self, product: Product, http: httpx.AsyncClient) -> None:
        self.product, self._http = product, http

    async def ask(self, method: str, url: str, **content: Any) -> Answer:
        """Send a request to a whole URL."""
        request_id = new_id()
        headers = {"X-Request-Id": request_id, **content.pop("headers", {})}
        try:
            answer = await self._http.request(method, url, headers=headers, **content)
        except httpx.TransportError as error:
            return Answer(0, type(error).__name__, httpx.Headers(), request_id)
        is_json = "json" in answer.headers.get("Content-Type", "")
        body = answer.json() if is_json and answer.content else answer.text
        return Answer(answer.status_code, body, answer.headers, request_id)

    async def operate(
        self, method: str, path: str, body: Any = None, *, api: str = "api", **headers: str
    ) -> Answer:
        """Call a route of the control plane as the operator."""
        content = {} if body is None else {"json": body}
        known = {"Authorization": f"Bearer {OPERATOR}", **headers}
        url = f"{self.product.url(api)}/v1{path}"
        return await self.ask(method, url, headers=known, **content)

    async def made(self, path: str, **body: Any) -> dict[str, Any]:
        """Create a thing, which must succeed; return it."""
        answer = await self.operate("POST", path, body)
        assert answer.status == 201, answer
        return dict(answer.body)


Seeing = Callable[[httpx.Response], Awaitable[None]]


@asynccontextmanager
async def calling(product: Product, *seeing: Seeing) -> AsyncIterator[Caller]:
    """A caller with connections of its own; ``seeing`` are shown each answer as it came."""
    # One that is kept may be closed as idle just when a request has been given it.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        verify=False, timeout=_PATIENCE, limits=limits, event_hooks={"response": list(seeing)}
    ) as http:
        yield Caller(product, http)


@dataclass
class Tenant:
    """A zone in which one application may call one resource through the Gateway."""

    caller: Caller
    zone: str
    policy: str
    application: dict[str, Any]
    resource: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/zones/{self.zone}"

    async def grant(self, user_id: str | None = None) -> str:
        """Grant the resource to the application, for a user or for all; return the grant's id."""
        body = {"application_id": self.application["id"], "resource_id": self.resource["id"]}
        body |= {} if user_id is None else {"user_id": user_id}
        return str((await self.caller.made(f"{self.path}/grants", **body, scopes=["read"]))["id"])

    async def revoke(self, grant: str) -> Answer:
        """Revoke a grant."""
        return await self.caller.operate("DELETE", f"{self.path}/grants/{grant}")

    async def exchange(self, *, position: int | None = None, **members: str) -> Answer:
        """Ask the STS: for an ambient token, or with ``subject_token`` for a mandate."""
        form = {
            "grant_type": _EXCHANGE,
            "zone_id": self.zone,
            "application_id": self.application["id"],
            "client_secret": self.application["client_secret"],
            "resource": RESOURCE,
            "scope": "read",
            **members,
        }
        url = f"{self.caller.product.url('sts')}/oauth/2/token"
        return await self.caller.ask("POST", url, data=form, headers=_at(position))

    async def ambient(self) -> str:
        """Return an ambient token, which must be had."""
        answer = await self.exchange()
        assert answer.status == 200, answer
        return str(answer.body["access_token"])

    async def mint(self, token: str, *, position: int | None = None, scope: str = "read") -> Answer:
        """Exchange an ambient token for a mandate of one call."""
        kind = {"subject_token": token, "subject_token_type": _ACCESS_TOKEN}
        return await self.exchange(position=position, scope=scope, **kind)

    async def call(self, token: str, *, position: int | None = None) -> Answer:
        """Call the resource through the Gateway."""
        url = f"{self.caller.product.url('gateway')}/answer"
        return await self.caller.ask("GET", url, headers=_of_agent(token) | _at(position))

    @asynccontextmanager
    async def streaming(self, token: str) -> AsyncIterator[tuple[Stream, asyncio.Task[None]]]:
        """Open a stream through the Gateway; give what comes of it, and what ends with it."""
        stream = Stream()
        url = f"{self.caller.product.url('gateway')}/stream"
        reading = asyncio.create_task(read_stream(stream, url, _of_agent(token), {}))
        try:
            async with asyncio.timeout(_PATIENCE):
                await stream.flowing.wait()
            yield stream, reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def new_tenant(product: Product, *seeing: Seeing) -> AsyncIterator[tuple[Tenant, Upstream]]:
    """Make a tenant, and serve its upstream."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream().serving())
        caller = await stack.enter_async_context(calling(product, *seeing))
        zone = (await caller.made("/zones", name="Tenant"))["id"]
        tenant = Tenant(
            caller,
            zone,
            await _put_policy_in_force(caller, f"/zones/{zone}"),
            await caller.made(f"/zones/{zone}/applications", name="app", credential_type="token"),
            await caller.made(
                f"/zones/{zone}/resources",
                identifier=RESOURCE,
                scopes=["read", "write"],
                upstream_url=upstream.url,
                rate_limit=_UNLIMITED,
            ),
        )
        yield tenant, upstream


async def _put_policy_in_force(caller: Caller, zone: str) -> str:
    policy = await caller.made(f"{zone}/policies", name="policy", content=POLICY)
    made = await caller.made(f"{zone}/policy-sets", name="set")
    manifest = [{"policy_version_id": policy["version"]["id"]}]
    version = await caller.made(f"{zone}/policy-sets/{made['id']}/versions", manifest=manifest)
    activate = f"{zone}/policy-sets/{made['id']}/activate"
    answer = await caller.operate("POST", activate, {"version_id": version["id"]})
    assert answer.status == 202, answer
    return str(policy["id"])


def _of_agent(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "X-Caracal-Resource": RESOURCE,
        "X-Caracal-Scope": "read",
    }


def _at(position: int | None) -> dict[str, str]:
    return {} if position is None else {"Caracal-Min-Position": str(position)}
