"""A zone with an application, resources and a policy, and a real STS in front of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import uvicorn
from redis.asyncio import Redis

from caracal import clock, secret_hash
from caracal.events.agent import Agent, SpawnLimits
from caracal.events.agent_graph import AgentGraph
from caracal.events.application import Application
from caracal.events.base import Aggregate
from caracal.events.delegation import Delegation
from caracal.events.grant import Grant
from caracal.events.policy import Policy
from caracal.events.policy_set import PolicySet
from caracal.events.resource import Resource
from caracal.events.session import Session
from caracal.events.signing_key import SigningKey as KeyFact
from caracal.events.store.log import Log, Saved
from caracal.events.store.vault import Vault
from caracal.events.topics import AUDIT
from caracal.events.zone import Zone
from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services import gateway_signature
from caracal.services.http import App
from caracal.services.protocol import protocol_class
from caracal.services.sts.app import create_app
from caracal.services.worker.app import create_app as create_worker
from caracal.settings import Settings, load_settings
from tests.backbone import eventually, new_zone, opened_log
from tests.making import (
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_grant,
    new_resource,
    new_session,
    row_of,
)

ISSUER = "https://sts.example"
KEK = bytes(range(1, 33))
AUDIT_KEY = b"\x77" * 32
GATEWAY_KEY = b"\x99" * 32
SCHEMA = "2026-03-16"
VAULT = Vault((KEK,))

POLICY = """package caracal.authz

import rego.v1

default result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": ["tests/default"],
	"diagnostics": [{"reason": "no_rule_applies"}],
}

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["tests/allow"],
	"diagnostics": [],
} if {
	every scope in input.context.requested_scopes { scope in {"read", "agent:lifecycle"} }
}

result := {"decision": "allow", "evaluation_status": "partial"} if {
	"odd" in input.context.requested_scopes
}
"""


def variables(database_url: str, redis_url: str) -> dict[str, str]:
    """The environment of an STS."""
    return {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FACTS_HMAC_KEY": bytes(range(32)).hex(),
        "STREAMS_HMAC_KEY": (b"\x42" * 32).hex(),
        "AUDIT_HMAC_KEY": AUDIT_KEY.hex(),
        "GATEWAY_STS_HMAC_KEY": GATEWAY_KEY.hex(),
        "ZONE_KEK": KEK.hex(),
        "ISSUER_URL": ISSUER,
        "READY_RATE_LIMIT_PER_MIN": "0",
        "CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "0",
    }


def settings(database_url: str, redis_url: str, **more: str) -> Settings:
    """Settings of an STS; ``more`` by variable name."""
    return load_settings("sts", variables(database_url, redis_url) | more)


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[str]:
    """Serve an app as production does; yield its base URL."""
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        lifespan="on",
        ws="none",
        http=protocol_class(5, 60, 60),
        timeout_keep_alive=120,  # longer than any client of ours keeps a connection
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        if task.done():
            raise AssertionError("the app did not start") from task.exception()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def working(given: Settings) -> AsyncIterator[str]:
    """Run a worker on the same servers."""
    names = ("database_url", "redis_url", "facts_hmac_key", "streams_hmac_key", "audit_hmac_key")
    known = {name: getattr(given, name) for name in names}
    worker = Settings(service="worker", caracal_mode="dev", **known)
    async with serving(create_worker(worker)) as url:
        yield url


_MANY = SpawnLimits(depth=10, children=1000, zone=100_000, application=100_000)


@dataclass
class Tenant:
    """A zone as its owner made it."""

    log: Log
    zone: Zone
    key: SigningKey
    key_fact: KeyFact
    application: Application
    secret: str
    resource: Resource
    policy_set: PolicySet
    saved: int = 0
    """Position of the last thing saved."""

    @property
    def id(self) -> str:
        return self.zone.aggregate_id

    @property
    def app_id(self) -> str:
        return self.application.aggregate_id

    async def save(self, *things: Aggregate) -> int:
        """Save; return the position to wait for."""
        position = (await self.log.save(*things)).position or 0
        self.saved = max(self.saved, position)
        return position

    async def add_application(self, secret_form: str = "", **members: Any) -> Application:
        if secret_form:
            members["secret"] = VAULT.seal(secret_form.encode())
        made = new_application(self.id, **members)
        await self.save(made)
        return made

    async def add_resource(self, **members: Any) -> Resource:
        given = {"scopes": ["read", "write", "odd", "agent:lifecycle"], "quota": 1000} | members
        made = new_resource(self.id, **given)
        await self.save(made)
        return made

    async def add_grant(self, resource: Resource, user_id: str | None = None) -> Grant:
        made = new_grant(self.app_id, resource.aggregate_id, user_id=user_id, zone_id=self.id)
        await self.save(made)
        return made

    async def rotate(self, kid: str, public_jwk: dict[str, Any], pem: bytes) -> int:
        """Add a signing key that takes the place of the newest one."""
        with in_zone(self.id):
            self.key_fact = self.key_fact.successor(
                kid, public_jwk=public_jwk, private_key=VAULT.seal(pem)
            )
        return await self.save(self.key_fact)

    async def add_session(self, **members: Any) -> Session:
        """A session for agents to serve; its application is the tenant's unless named."""
        made = new_session(members.pop("application_id", self.app_id), zone_id=self.id, **members)
        await self.save(made)
        return made

    async def add_agent(
        self, parent: Agent | None = None, *, session: Session | None = None, **members: Any
    ) -> Agent:
        """An agent of the tenant's application unless another is named."""
        session = session or await self.add_session()
        made = new_agent(session, parent=parent, zone_id=self.id, limits=_MANY, **members)
        await self.save(made)
        return made

    async def add_edge(self, source: Agent, target: Agent, /, **members: Any) -> Delegation:
        made = new_edge(source, target, zone_id=self.id, **members)
        await self.save(made)
        return made

    async def end(self, thing: Agent | Delegation, *also: Agent | Delegation) -> int:
        """End a thing as the Coordinator does, with what hangs on it; ``also`` are the others."""
        with in_zone(self.id):
            if isinstance(thing, Agent):
                thing.terminate(graph_of(self.id, thing, *also).of_agents([thing.aggregate_id]))
            else:
                thing.revoke(graph_of(self.id, thing, *also).of_edge(thing.aggregate_id))
        return await self.save(thing)

    async def suspend(self, agent: Agent, *below: Agent) -> int:
        """Suspend an agent with those below it."""
        with in_zone(self.id):
            agent.suspend(graph_of(self.id, agent, *below).suspending(agent.aggregate_id))
        return await self.save(agent)

    async def resume(self, agent: Agent, *below: Agent) -> int:
        """Resume an agent with those below it."""
        rows = {one.aggregate_id: {**row_of(one), "status": "suspended"} for one in (agent, *below)}
        with in_zone(self.id):
            agent.resume(AgentGraph(self.id, rows, {}).resuming(agent.aggregate_id))
        return await self.save(agent)

    async def activate(self, content: str, shadow: str | None = None) -> int:
        """Add a policy with this text and make it the only one of a new version.

        ``shadow`` is the text of another one, for a version that is only tried.
        """
        active_id = await self._add_version(content)
        shadow_id = None if shadow is None else await self._add_version(shadow)
        with in_zone(self.id):
            self.policy_set.activate(active_id, shadow_id, policies=(), replacing=None)
            return await self.save(self.policy_set)

    async def _add_version(self, content: str) -> str:
        with in_zone(self.id):
            policy = _policy(self.id, content)
            await self.log.save(policy)
            version = self.policy_set.add_version(
                new_id(), manifest=[policy.versions[-1].id], schema_version=SCHEMA, policies=()
            )
            await self.log.save(self.policy_set)
            return version.id

    def claims(self, **members: Any) -> dict[str, Any]:
        """Claims of an ambient mandate; a member given as None is left out."""
        now, sid = int(clock.now().timestamp()), new_id()
        given = {
            "iss": ISSUER,
            "sub": self.app_id,
            "aud": [ISSUER],
            "iat": now,
            "exp": now + 600,
            "jti": new_id(),
            "zone_id": self.id,
            "client_id": self.app_id,
            "sid": sid,
            "root_sid": sid,
            "use": "ambient",
            "sub_type": "application",
            "target": ["resource://lifecycle"],
            "anchors": [],
        } | members
        return {name: value for name, value in given.items() if value is not None}

    def token(self, **members: Any) -> str:
        """An ambient mandate, as the STS makes them."""
        return self.key.sign(self.claims(**members))

    def form(self, **members: Any) -> dict[str, Any]:
        """The form of an ordinary exchange; a member given as None is left out."""
        given = {
            "zone_id": self.id,
            "application_id": self.app_id,
            "client_secret": self.secret,
            "resource": self.resource.identifier,
        } | members
        return {name: value for name, value in given.items() if value is not None}


def graph_of(zone_id: str, *things: Agent | Delegation) -> AgentGraph:
    """The graph of these things, all of them alive."""
    agents = {one.aggregate_id: row_of(one) for one in things if isinstance(one, Agent)}
    edges = {one.aggregate_id: row_of(one) for one in things if isinstance(one, Delegation)}
    return AgentGraph(zone_id, agents, edges)


async def new_tenant(log: Log, policy: str = POLICY) -> Tenant:
    """Make a zone in which one application may exchange, as far as ``policy`` lets it."""
    zone = new_zone(data_key=VAULT.seal(secrets.token_bytes(32)))
    kid, secret = new_id(), secrets.token_urlsafe(24)
    key = SigningKey.generate(kid)
    with in_zone(zone.aggregate_id):
        key_fact = KeyFact.create(
            kid,
            zone_id=zone.aggregate_id,
            public_jwk=key.public_jwk(),
            private_key=VAULT.seal(key.pem()),
        )
        policy_set = PolicySet.create(
            new_id(), zone_id=zone.aggregate_id, name="set", description=None
        )
    application = new_application(
        zone.aggregate_id, secret=VAULT.seal(secret_hash.of_random(secret).encode())
    )
    resource = new_resource(
        zone.aggregate_id,
        identifier="resource://one",
        upstream_url="http://127.0.0.1:9",
        scopes=["read", "write", "odd", "agent:lifecycle"],
    )
    await log.save(zone)
    await log.save(key_fact, application, resource, policy_set)
    tenant = Tenant(log, zone, key, key_fact, application, secret, resource, policy_set)
    await tenant.activate(policy)
    return tenant


@dataclass
class World:
    """A running STS, its tenant, and what stands behind it."""

    url: str
    settings: Settings
    http: httpx.AsyncClient
    redis: Redis
    log: Log
    tenant: Tenant

    async def post(self, form: dict[str, Any], **headers: str) -> httpx.Response:
        """Send a form to the token endpoint, once the STS has seen all that is in the log."""
        return await self._send(self._request(form), headers)

    async def at_once(self, **members: Any) -> httpx.Response:
        """Make an ordinary exchange that waits for nothing."""
        return await self.http.post(f"{self.url}/oauth/2/token", data=self.tenant.form(**members))

    async def exchange(self, **members: Any) -> httpx.Response:
        """Make an ordinary exchange."""
        return await self.post(self.tenant.form(**members))

    async def per_call(self, **members: Any) -> httpx.Response:
        """Exchange an ambient token of the tenant."""
        return await self.exchange(**({"subject_token": self.tenant.token()} | members))

    async def by_gateway(
        self, form: dict[str, Any], *, replay: dict[str, str] | None = None, **headers: str
    ) -> httpx.Response:
        """Send a form as the Gateway does; ``replay`` are the signature headers to use again."""
        request = self._request(form)
        request_id = headers.get("X-Request-Id", new_id())
        signed = replay or gateway_signature.sign(
            GATEWAY_KEY,
            request_id=request_id,
            method="POST",
            path="/oauth/2/token",
            body=request.content,
            now=clock.now().timestamp(),
        )
        return await self._send(request, {"X-Request-Id": request_id, **signed, **headers})

    async def audit(self, answer: httpx.Response) -> list[dict[str, Any]]:
        """The audit events of a request, in order."""
        request_id = answer.headers["x-request-id"]
        entries = await self.redis.xrange(AUDIT)
        events = [orjson.loads(fields[b"data"]) for _, fields in entries]
        return [event for event in events if event["request_id"] == request_id]

    async def position(self) -> int:
        """The log's end."""
        async with self.log._pool.connection() as connection:
            cursor = await connection.execute("SELECT coalesce(max(position), 0) FROM log")
            row = await cursor.fetchone()
            return int(row[0])

    async def parked(self, number: int) -> None:
        """Wait until the STS knows of so many parked ids."""

        async def known() -> bool:
            ready = await self.http.get(f"{self.url}/ready")
            return bool(ready.json()["parked"] == number)

        await eventually(known, what=f"{number} parked")

    def _request(self, form: dict[str, Any]) -> httpx.Request:
        return self.http.build_request("POST", f"{self.url}/oauth/2/token", data=form)

    async def _send(self, request: httpx.Request, headers: dict[str, str]) -> httpx.Response:
        position = str(await self.position())
        request.headers.update({"Caracal-Min-Position": position, **headers})

        async def answer() -> httpx.Response | None:
            given = await self.http.send(request)
            lagging = given.status_code == 503 and "projection_lagging" in given.text
            return None if lagging else given

        found = await eventually(answer, what="an answer of a view that is there")
        assert found is not None
        return found


@asynccontextmanager
async def new_world(
    database_url: str, redis_url: str, *, worker: bool = False, **more: str
) -> AsyncIterator[World]:
    """Start an STS on fresh servers, and a worker if asked for."""
    given = settings(database_url, redis_url, **more)
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened_log(database_url))
        redis = await stack.enter_async_context(Redis.from_url(redis_url))
        if worker:
            await stack.enter_async_context(working(given))
        tenant = await new_tenant(log)
        url = await stack.enter_async_context(serving(create_app(given)))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
        yield World(url, given, http, redis, log, tenant)


def _policy(zone_id: str, content: str) -> Policy:
    made = Policy.create(
        new_id(),
        zone_id=zone_id,
        name=f"policy {new_id()}",
        description=None,
        owner_type="customer",
        created_by="operator",
    )
    made.add_version(new_id(), content=content, schema_version=SCHEMA)
    return made


__all__ = ["Saved", "Tenant", "World", "new_tenant", "new_world", "serving", "settings"]
