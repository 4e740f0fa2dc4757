"""All services in this process, two Coordinators and two STSs of them; time can be put forward."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import httpx
import pytest
from psycopg import AsyncConnection

from caracal import clock
from caracal.events.store.log import Log
from caracal.projections.query import Db
from caracal.services.cascade import Ground
from caracal.services.coordinator.app import create_app as coordinator_app
from caracal.services.gateway.app import create_app as gateway_app
from caracal.services.sts.app import create_app as sts_app
from caracal.services.worker.sweep import Sweeper, sweeps
from tests.backbone import opened_log
from tests.coordinator.running import settings as coordinator_settings
from tests.coordinator.running import working
from tests.gateway.doubles import Upstream
from tests.gateway.scene import settings as gateway_settings
from tests.model.scene import Ports, Scene, client, new_scene
from tests.model.zone import Limits
from tests.sts.world import serving
from tests.sts.world import settings as sts_settings

_SWEPT = ("ttl_sweep", "retention_cleanup")


class Forward:
    """The clock of all services, ``ahead`` of the real one by some seconds."""

    margin = 3.0
    lives = (120, 600, 3000)

    def __init__(self) -> None:
        self.ahead = 0.0
        self.sweep: Callable[[], Awaitable[None]] | None = None
        self._now, self._time = clock.now, time.time

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let the services go by it; Postgres and Redis do not."""
        patch.setattr(clock, "now", self._moment)
        patch.setattr(time, "time", self.now)

    def _moment(self) -> datetime:
        return self._now() + timedelta(seconds=self.ahead)

    def now(self) -> float:
        """Return the time, Unix seconds."""
        return self._time() + self.ahead

    async def forward(self, seconds: float) -> None:
        """Let time pass at once."""
        self.ahead += seconds

    async def swept(self, zone_id: str) -> None:
        """Sweep as the worker does, once."""
        assert self.sweep is not None
        await self.sweep()


@dataclass(frozen=True)
class Stage:
    """Where scenes are made."""

    log: Log
    http: httpx.AsyncClient
    ports: Ports
    clock: Forward
    upstream: str

    async def scene(self) -> Scene:
        """Return a new zone."""
        return await new_scene(self.log, self.http, self.ports, self.clock, self.upstream)


@asynccontextmanager
async def stage(
    database_url: str, redis_url: str, limits: Limits, patch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """Run everything."""
    forward, urls = Forward(), (database_url, redis_url)
    forward.install(patch)
    counted = {
        "MAX_DEPTH": str(limits.depth),
        "MAX_CHILDREN": str(limits.children),
        "MAX_PER_ZONE": str(limits.zone),
        "MAX_PER_APP": str(limits.application),
    }
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        log = await enter(opened_log(database_url))
        stss = [await enter(serving(sts_app(sts_settings(*urls)))) for _ in range(2)]
        given = coordinator_settings(*urls, stss[0], **counted)
        await enter(working(given))
        coordinators = [await enter(serving(coordinator_app(given))) for _ in range(2)]
        gateway = await enter(serving(gateway_app(gateway_settings(*urls, stss[1]))))
        upstream = await enter(serving(Upstream()))
        http = await enter(client())
        ports = Ports(tuple(coordinators), tuple(stss), gateway, database_url)
        made = Stage(log, http, ports, forward, upstream)
        ground = Ground(log, partial(_database, database_url))
        swept = [one for one in sweeps(given) if one.name in _SWEPT]
        forward.sweep = partial(_sweep, ground, [Sweeper(given, one) for one in swept], forward)
        yield made


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Db]:
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def _sweep(ground: Ground, sweepers: Sequence[Sweeper], forward: Forward) -> None:
    """Run the worker's own sweepers, whose queries ask Postgres what time it is."""
    async with ground.database() as db:
        await db.execute("CREATE SCHEMA IF NOT EXISTS later")
        await db.execute(
            "CREATE OR REPLACE FUNCTION later.now() RETURNS timestamptz LANGUAGE sql STABLE AS"
            f" $$ SELECT pg_catalog.now() + interval '{forward.ahead} seconds' $$".encode()
        )
        await db.execute("SET search_path = later, public, pg_catalog")
        for sweeper in sweepers:
            for step in sweeper.sweep.steps:
                await sweeper._sweep_step(ground, db, step)
