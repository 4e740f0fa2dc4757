"""The Coordinator as its callers meet it: with worker and STS over HTTP, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
from psycopg import AsyncConnection

from caracal import clock
from caracal.events.application import Application
from caracal.events.base import Aggregate
from caracal.events.session import Session
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log, Saved
from caracal.ids import new_id
from caracal.projections.waiter import Waiter
from caracal.services.coordinator.app import create_app
from caracal.services.sts.app import create_app as sts_app
from caracal.services.worker.app import create_app as worker_app
from caracal.settings import Settings, load_settings
from tests.backbone import opened_log
from tests.making import new_application, new_session
from tests.sts.world import ISSUER, Tenant, new_tenant, serving
from tests.sts.world import settings as sts_settings

OPERATOR = "the-operators-token"
BASE = "agent:lifecycle"


def settings(database_url: str, redis_url: str, sts_url: str, **more: str) -> Settings:
    """Settings of a Coordinator; ``more`` by variable name."""
    sts = sts_settings(database_url, redis_url)
    given = {
        "CARACAL_MODE": "dev",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "FACTS_HMAC_KEY": sts.facts_hmac_key[0].hex(),
        "AUDIT_HMAC_KEY": sts.audit_hmac_key[0].hex(),
        "ISSUER_URL": ISSUER,
        "STS_URL": sts_url,
        "CARACAL_COORDINATOR_TOKEN": OPERATOR,
        "MAX_PER_ZONE": "1000",
        "COORDINATOR_RATE_LIMIT_PER_MIN": "0",
        "V1_RATE_LIMIT_PER_MIN": "0",
        "VERIFY_RATE_LIMIT_PER_MIN": "0",
        "INVOCATION_RATE_LIMIT_PER_MIN": "0",
        "READY_RATE_LIMIT_PER_MIN": "0",
    }
    return load_settings("coordinator", given | more)


@asynccontextmanager
async def working(given: Settings) -> AsyncIterator[str]:
    """Run a worker on the same servers."""
    sts = sts_settings(given.database_url, given.redis_url)
    worker = Settings(
        service="worker",
        caracal_mode="dev",
        database_url=given.database_url,
        redis_url=given.redis_url,
        facts_hmac_key=sts.facts_hmac_key,
        streams_hmac_key=sts.streams_hmac_key,
        audit_hmac_key=sts.audit_hmac_key,
    )
    async with serving(worker_app(worker)) as url:
        yield url


@dataclass(frozen=True)
class Crew:
    """A tenant's zone at a running Coordinator, and who calls it."""

    url: str
    settings: Settings
    log: Log
    waiter: Waiter
    client: httpx.AsyncClient
    tenant: Tenant
    application_id: str
    sid: str

    @property
    def zone(self) -> str:
        return self.tenant.id

    def token(self, *scopes: str, **claims: Any) -> str:
        """An ambient mandate of the application, as the STS makes them."""
        scope = " ".join((BASE, *scopes))
        given = {"client_id": self.application_id, "sub": self.application_id, "sid": self.sid}
        return self.tenant.token(**{**given, "root_sid": self.sid, "scope": scope, **claims})

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        scopes: Iterable[str] = (),
        **more: Any,
    ) -> httpx.Response:
        """Call a route below the zone; a path with ``//`` is taken as it is, without one."""
        where = path[1:] if path.startswith("//") else f"/zones/{self.zone}{path}"
        headers = {"Authorization": f"Bearer {token or self.token(*scopes)}"}
        headers |= more.pop("headers", {})
        content = {} if body is None else {"json": body}
        return await self.client.request(method, where, headers=headers, **content, **more)

    async def spawn(self, *, scopes: Iterable[str] = (), **members: Any) -> dict[str, Any]:
        """Spawn an agent; return the answer."""
        body = {"application_id": self.application_id, **members}
        answer = await self.call("POST", "/agents", body, scopes=scopes)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def at(self, other: Ship) -> Crew:
        """The same crew, calling another Coordinator."""
        return replace(self, url=other.url, client=other.client, settings=other.settings)

    async def another(self, **members: Any) -> Crew:
        """The same zone, as another application sees it."""
        application = new_application(self.zone, **members)
        await self.save(application)
        return await self._as(application)

    async def _as(self, application: Application) -> Crew:
        session = new_session(application.aggregate_id, zone_id=self.zone)
        await self.save(session)
        return replace(self, application_id=application.aggregate_id, sid=session.aggregate_id)

    async def session(self, **members: Any) -> Session:
        """Begin a session of the application."""
        made = new_session(self.application_id, zone_id=self.zone, **members)
        await self.save(made)
        return made

    async def save(self, *things: Aggregate) -> Saved:
        """Save things as another service would."""
        return await self.log.save(*things)

    async def statuses(self, collection: str = "/agents") -> dict[str, str]:
        """The status of everything in a collection, by id."""
        answer = await self.call("GET", f"{collection}?limit=500")
        assert answer.status_code == 200, answer.text
        return {row["id"]: row["status"] for row in answer.json()}

    async def facts(self, *names: str) -> list[dict[str, Any]]:
        """The data of the zone's facts of these names, in order."""
        async with self.database() as db:
            records = await LogReader(db).records(0, limit=1_000_000)
        facts = [record.fact() for record in records if record.name in names]
        return [
            fact.data | {"_id": fact.aggregate_id} for fact in facts if fact.zone_id == self.zone
        ]

    @asynccontextmanager
    async def database(self) -> AsyncIterator[AsyncConnection[Any]]:
        url = self.settings.database_url
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            yield connection


@dataclass(frozen=True)
class Ship:
    """A running Coordinator; each crew has a zone of its own."""

    url: str
    settings: Settings
    log: Log
    waiter: Waiter
    client: httpx.AsyncClient

    async def crew(self) -> Crew:
        """A new zone with one application, and a session of it."""
        tenant = await new_tenant(self.log)
        session = new_session(
            tenant.app_id, zone_id=tenant.id, expires_at=clock.now() + timedelta(hours=6)
        )
        await self.log.save(session)
        parts = (self.url, self.settings, self.log, self.waiter, self.client)
        return Crew(*parts, tenant, tenant.app_id, session.aggregate_id)


@asynccontextmanager
async def ship(
    database_url: str, redis_url: str, *, worker: bool = True, sts: str = "", **more: str
) -> AsyncIterator[Ship]:
    """Run a Coordinator, with an STS (unless there is one) and perhaps a worker."""
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(opened_log(database_url))
        sts = sts or await stack.enter_async_context(
            serving(sts_app(sts_settings(database_url, redis_url)))
        )
        given = settings(database_url, redis_url, sts, **more)
        if worker:
            await stack.enter_async_context(working(given))
        waiter = Waiter(database_url)
        await waiter.start()
        stack.push_async_callback(waiter.stop)
        url = await stack.enter_async_context(serving(create_app(given)))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        yield Ship(url, given, log, waiter, client)


def ids(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The ids of an answer's rows."""
    return [row["id"] for row in rows]


def unknown() -> str:
    """An id that nothing has."""
    return new_id()
