"""A flood of applications that there are not, and who calls for the first time meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from caracal.errors import TooMany, Unavailable
from caracal.events.application import Application
from caracal.ids import new_id
from caracal.services import look_ups
from caracal.services.look_ups import PARALLEL
from caracal.services.sts.lone_applications import LoneApplications
from tests.backbone import new_zone, opened_log
from tests.making import new_application
from tests.sts.world import World

FLOOD = 300


@pytest.fixture(scope="module")
async def application(module_database_url: str) -> Application:
    """One whose zone is in nobody's memory."""
    zone = new_zone()
    made = new_application(zone.aggregate_id)
    async with opened_log(module_database_url) as log:
        await log.save(zone, made)
    return made


@pytest.fixture
async def pool(module_database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Connections of the look-ups alone; nobody loses patience, however busy the machine."""
    monkeypatch.setattr(look_ups, "PATIENCE_SECONDS", 60.0)
    async with AsyncConnectionPool(
        module_database_url,
        min_size=PARALLEL,
        max_size=PARALLEL,
        open=False,
        kwargs={"autocommit": True},
    ) as made:
        yield made


class Noted(LoneApplications):
    """Notes in which order turns come; how fast each look-up then is says nothing."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self.began: list[str] = []

    async def _read(self, connection: Any, application_id: str) -> Any:
        self.began.append(application_id)
        return await super()._read(connection, application_id)


class Callers:
    """Look-ups that all wait at the same moment, and go on when the database is free again."""

    def __init__(self, pool: Any) -> None:
        self._alone, self._pool = Noted(pool), pool
        self.found: dict[str, Any] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def ask(self, name: str, zone_id: str, application_id: str, address: str) -> None:
        self._tasks.append(asyncio.create_task(self._ask(name, zone_id, application_id, address)))

    async def _ask(self, name: str, *asked: str) -> None:
        try:
            self.found[name] = await self._alone.find(*asked)
        except TooMany as refused:
            self.found[name] = refused

    async def go(self) -> None:
        """Let all that were asked for wait for the same moment, then go on."""
        held = [await self._pool.getconn() for _ in range(PARALLEL)]
        for _ in range(5):
            await asyncio.sleep(0)
        for connection in held:
            await self._pool.putconn(connection)
        await asyncio.gather(*self._tasks)

    def before(self, application: Application) -> int:
        """How many had their turn before an application's."""
        return self._alone.began.index(application.aggregate_id)


async def test_a_flood_of_one_zone_does_not_hold_up_the_first_caller_of_another(
    pool: Any, application: Application
) -> None:
    callers = Callers(pool)
    for number in range(FLOOD):
        callers.ask(f"flood {number}", "flooded", new_id(), f"10.0.{number // 256}.{number % 256}")
    zone_id = str(application.zone_id)
    callers.ask("first", zone_id, application.aggregate_id, "192.0.2.1")
    await callers.go()
    assert callers.found["first"]["id"] == application.aggregate_id
    assert len(callers.found) == FLOOD + 1
    assert callers.before(application) <= PARALLEL + 1  # those that had a turn when it came


async def test_in_its_own_zone_the_flood_is_as_long_as_it_has_addresses(
    pool: Any, application: Application
) -> None:
    callers, addresses = Callers(pool), 8
    zone_id = str(application.zone_id)
    for number in range(FLOOD):
        callers.ask(f"flood {number}", zone_id, new_id(), f"10.0.0.{number % addresses}")
    callers.ask("first", zone_id, application.aggregate_id, "192.0.2.1")
    await callers.go()
    assert callers.found["first"]["id"] == application.aggregate_id
    assert callers.before(application) <= PARALLEL + addresses


async def test_so_many_zones_are_so_many_turns(pool: Any, application: Application) -> None:
    callers, zones = Callers(pool), 8
    for number in range(FLOOD):
        callers.ask(f"flood {number}", f"zone {number % zones}", new_id(), f"10.0.0.{number % 256}")
    callers.ask("first", str(application.zone_id), application.aggregate_id, "192.0.2.1")
    await callers.go()
    assert callers.before(application) <= PARALLEL + zones


async def test_when_too_many_wait_the_flood_is_sent_away(
    pool: Any, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_ups, "QUEUE_MAX", 20)
    callers = Callers(pool)
    for number in range(100):
        callers.ask(f"flood {number}", "flooded", new_id(), f"10.0.0.{number}")
    callers.ask("first", str(application.zone_id), application.aggregate_id, "192.0.2.1")
    await callers.go()
    assert callers.found["first"]["id"] == application.aggregate_id
    sent_away = [name for name, found in callers.found.items() if isinstance(found, TooMany)]
    assert len(sent_away) == 101 - PARALLEL - 20
    assert all(name.startswith("flood") for name in sent_away)


async def test_who_waits_too_long_is_told_so_and_takes_no_turn(
    pool: Any, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_ups, "PATIENCE_SECONDS", 0.05)
    alone, zone_id = LoneApplications(pool), str(application.zone_id)
    held = [await pool.getconn() for _ in range(PARALLEL)]
    asked = (alone.find(zone_id, application.aggregate_id, "192.0.2.1") for _ in range(10))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    for connection in held:
        await pool.putconn(connection)
    monkeypatch.setattr(look_ups, "PATIENCE_SECONDS", 60.0)
    found = await alone.find(zone_id, application.aggregate_id, "192.0.2.1")
    assert found is not None


async def test_lanes_are_the_callers_addresses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    find = LoneApplications.find

    async def noted(self: LoneApplications, *given: str) -> Any:
        asked.append(given)
        return await find(self, *given)

    monkeypatch.setattr(LoneApplications, "find", noted)
    zone, unknown = new_zone(), new_id()
    await world.log.save(zone)
    form = world.tenant.form(zone_id=zone.aggregate_id, application_id=unknown)
    assert (await world.post(form)).status_code == 401
    assert asked == [(zone.aggregate_id, unknown, "127.0.0.1")]
