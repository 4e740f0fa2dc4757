"""A zone with two applications, and the processes that serve it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from psycopg import AsyncConnection

from caracal.events.grant import Grant
from caracal.events.store.log import Log
from caracal.ids import new_id
from caracal.mandate import peek
from caracal.secret_hash import of_random
from tests.making import in_zone
from tests.sts.world import Tenant, new_tenant

SECRET = "the-secret-of-both"
GOVERNED, FREE = "resource://governed", "resource://free"
SCOPES = ("read", "write")
_BEHIND = ("projection_lagging", "state_stale")  # nothing was done
_PATIENCE = 15.0  # s
ADMIN = "agent:lifecycle coordinator.admin"
ALLOW = """package caracal.authz

import rego.v1

result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["tests/allow"],
	"diagnostics": [],
}
"""


def client() -> httpx.AsyncClient:
    """Return a client with a connection for each request, which waits for long.

    One that is kept may be closed as idle, by the server or by the client's own pool, just when a
    request has been given it. A command that goes on while its caller has given up would be
    another thing to try.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=60, trust_env=False, limits=limits)


class Clock(Protocol):
    """What time it is for the product, and what one does about it.

    Attributes:
        margin: seconds before a moment in which nothing is begun.
        lives: seconds that short, longer and longest things live.
    """

    @property
    def margin(self) -> float: ...

    @property
    def lives(self) -> tuple[int, int, int]: ...

    def now(self) -> float:
        """Return the time, Unix seconds."""
        ...

    async def forward(self, seconds: float) -> None:
        """Let time pass."""
        ...

    async def swept(self, zone_id: str) -> None:
        """Return when the worker has written down every end that has come."""
        ...


@dataclass(frozen=True)
class Ports:
    """Where the processes listen."""

    coordinators: tuple[str, ...]
    stss: tuple[str, ...]
    gateway: str
    database_url: str


@dataclass(frozen=True)
class Answer:
    """What came of a request; status 0: no answer, so nobody knows."""

    status: int
    body: Any
    position: int = 0
    pending: bool = False

    @property
    def code(self) -> str:
        """The error code, or what kept the answer away; empty without one."""
        if self.status == 0:
            return str(self.body)
        return str(self.body.get("error", "")) if isinstance(self.body, dict) else ""

    @property
    def unknown(self) -> bool:
        """Nobody knows whether it was done."""
        return self.status == 0 or self.status >= 500


@dataclass
class Member:
    """An application of the zone, its subject sessions and the token it calls with."""

    id: str
    token: str
    sessions: dict[str, str] = field(default_factory=dict)


@dataclass
class Scene:
    """The zone, as whoever plays in it needs it; not ``steady`` where things are killed."""

    http: httpx.AsyncClient
    ports: Ports
    clock: Clock
    zone: str
    members: list[Member]
    resources: dict[str, str]
    steady: bool = True

    async def ask(self, method: str, url: str, **content: Any) -> Answer:
        """Send a request; again, for some time, while the service says that it is behind."""
        ends = time.monotonic() + _PATIENCE
        while True:
            answer = await self._asked(method, url, **content)
            if answer.code not in _BEHIND or time.monotonic() > ends:
                return answer
            await asyncio.sleep(0.05)

    async def _asked(self, method: str, url: str, **content: Any) -> Answer:
        """Send a request; a lost connection is an answer, too."""
        try:
            answer = await self.http.request(method, url, **content)
        except httpx.TransportError as error:
            return Answer(0, type(error).__name__)
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(
            answer.status_code,
            answer.json() if is_json and answer.content else answer.text,
            int(answer.headers.get("Caracal-Position", 0)),
            answer.headers.get("Caracal-Consistency") == "pending",
        )

    async def coordinate(
        self, replica: int, method: str, path: str, member: Member, **content: Any
    ) -> Answer:
        """Call a route of the zone at one of the Coordinators."""
        url = f"{self._of(self.ports.coordinators, replica)}/zones/{self.zone}{path}"
        headers = {"Authorization": f"Bearer {member.token}", **content.pop("headers", {})}
        return await self.ask(method, url, headers=headers, **content)

    async def exchange(self, replica: int, member: Member, **form: Any) -> Answer:
        """Ask one of the STSs for a token."""
        return await self.ask_sts(replica, "token", member, **form)

    async def ask_sts(self, replica: int, what: str, member: Member, **form: Any) -> Answer:
        """Put a form to one of the STSs; ``position`` is to be seen there first."""
        url, position = self._of(self.ports.stss, replica), form.pop("position", 0)
        known = {"zone_id": self.zone, "application_id": member.id, "client_secret": SECRET}
        sent = {name: value for name, value in (known | form).items() if value is not None}
        return await self.ask("POST", f"{url}/oauth/2/{what}", data=sent, headers=_at(position))

    async def pass_gateway(self, token: str, resource: str, scopes: str, position: int) -> Answer:
        """Make a call through the Gateway."""
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Caracal-Resource": resource,
            "X-Caracal-Scope": scopes,
        }
        url = f"{self.ports.gateway}/things"
        return await self.ask("GET", url, headers=headers | _at(position))

    @asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncConnection[Any]]:
        url = self.ports.database_url
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            yield connection

    @staticmethod
    def _of(urls: tuple[str, ...], replica: int) -> str:
        return urls[replica % len(urls)]


def _at(position: int) -> dict[str, str]:
    return {"Caracal-Min-Position": str(position)} if position else {}


async def new_scene(
    log: Log, http: httpx.AsyncClient, ports: Ports, clock: Clock, upstream: str
) -> Scene:
    """Make a zone: both applications hold grants of one resource; the other one is for all."""
    tenant = await new_tenant(log, ALLOW)
    limit = {"window_seconds": 60, "max_requests": 1_000_000}
    common = {"upstream_url": upstream, "rate_limit": limit}
    scopes = [*SCOPES, *ADMIN.split()]
    governed = await tenant.add_resource(identifier=GOVERNED, scopes=list(SCOPES), **common)
    free = await tenant.add_resource(identifier=FREE, scopes=scopes, **common)
    applications = [await tenant.add_application(of_random(SECRET)) for _ in range(2)]
    position = 0
    for application in applications:
        position = await _grant_all(tenant, application.aggregate_id, governed.aggregate_id)
    ids = {GOVERNED: governed.aggregate_id, FREE: free.aggregate_id}
    scene = Scene(http, ports, clock, tenant.id, [], ids)
    for application in applications:
        scene.members.append(await _member(scene, application.aggregate_id, position))
    return scene


async def _grant_all(tenant: Tenant, application: str, resource: str) -> int:
    with in_zone(tenant.id):
        grant = Grant.create(
            new_id(),
            zone_id=tenant.id,
            application_id=application,
            resource_id=resource,
            scopes=list(SCOPES),
            of=SCOPES,
        )
    return await tenant.save(grant)


async def _member(scene: Scene, application: str, position: int) -> Member:
    member = Member(application, "")
    tokens = []
    for scope in (ADMIN, "read", "read"):
        answer = await scene.exchange(0, member, resource=FREE, scope=scope, position=position)
        assert answer.status == 200, answer
        tokens.append(answer.body["access_token"])
    member.token = tokens[0]
    member.sessions = {peek(token).claims["sid"]: token for token in tokens[1:]}
    return member
