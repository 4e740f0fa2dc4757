"""Pages of a long list: by keyset the last one costs what the first one costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from psycopg_pool import AsyncConnectionPool

from bench.report import Row, Value
from bench.rows.mutations import new_resource
from bench.setting import Measured, Setting
from bench.world import World, admin
from caracal.events.base import acting
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log
from caracal.projections.waiter import Waiter

_THINGS, _LIMIT = 10_000, 100
_AT_ONCE = 500


async def lists(setting: Setting) -> Row:
    """The first and the last page of a zone's ten thousand resources."""
    with admin(setting.world.urls) as api:
        made = api.post("/v1/zones", json={"name": "Long lists"}).raise_for_status()
    world = replace(setting.world, zone_id=str(made.json()["id"]))
    setting.say(f"making {_THINGS} resources")
    await _fill(world)
    first = f"/resources?limit={_LIMIT}"
    loads = [await _load(setting, world, path) for path in (first, _last_page(world))]
    at_first, at_last = (done.load for done in loads)
    return loads[1].row(
        f"Pages of {_LIMIT} of {_THINGS} resources, c=4",
        "load → API: GET resources by keyset; CPU time is that of the last page",
        Value("first page, p50", at_first.p50, "ms"),
        Value("first page, p99", at_first.p99, "ms"),
        Value("last page, p50", at_last.p50, "ms"),
        Value("last page, p99", at_last.p99, "ms"),
        Value("last to first, CPU", _cpu(loads[1]) / _cpu(loads[0]), "times"),
    )


def _cpu(done: Measured) -> float:
    return done.cpu_ms["api"] + done.cpu_ms["postgres"]


async def _load(setting: Setting, world: World, path: str) -> Measured:
    text = world.control("GET", path)
    return await setting.load("api", text, connections=4, seconds=setting.seconds(5))


async def _fill(world: World) -> None:
    """Make the resources by the log's own way, and wait for their read model."""
    database_url = world.urls["database_url"]
    pool = AsyncConnectionPool(database_url, open=False, kwargs={"autocommit": True})
    appender, waiter = Appender(database_url), Waiter(database_url)
    await appender.start()
    await waiter.start()
    try:
        log = Log(pool, appender)
        for start in range(0, _THINGS, _AT_ONCE):
            with acting(zone_id=world.zone_id, actor="bench"):
                numbers = range(start, start + _AT_ONCE)
                made = [new_resource(world.zone_id, number) for number in numbers]
            if not await waiter.applied(await log.save(*made), timeout=30):
                raise RuntimeError("the read model does not follow")
    finally:
        await waiter.stop()
        await appender.stop()


def _last_page(world: World) -> str:
    """Follow the links; return the path of the last full page, below the zone."""
    zone = f"/v1/zones/{world.zone_id}"
    path, page = "", f"/resources?limit={_LIMIT}"
    with admin(world.urls) as api:
        while page:
            answer = api.get(f"{zone}{page}").raise_for_status()
            items: Sequence[object] = answer.json()
            path = page if len(items) == _LIMIT else path
            page = answer.links.get("next", {}).get("url", "").removeprefix(zone)
    return path
