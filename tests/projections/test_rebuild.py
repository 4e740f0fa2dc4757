"""Rebuild beside the live tables, swap, and the past."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import AsyncConnection

from caracal.events.store.log import Log
from caracal.events.store.relay import Relay
from caracal.events.topics import facts
from caracal.events.zone import Zone
from caracal.projections.query import select
from caracal.projections.rebuild import as_of, rebuild
from caracal.projections.runner import Runner
from caracal.projections.zone import zones
from tests.backbone import RINGS, archive_zone, change_zone, eventually, new_zone, running, save_all

TOPIC = facts(Zone)


async def _rows(db: AsyncConnection[Any]) -> list[tuple[Any, ...]]:
    return await (await db.execute("SELECT * FROM zones ORDER BY id")).fetchall()


async def _indexes(db: AsyncConnection[Any]) -> list[str]:
    """Return what the indexes of the table are over."""
    cursor = await db.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'zones'")
    return sorted(str(row[0]).partition(" USING ")[2] for row in await cursor.fetchall())


async def test_a_rebuild_gives_the_rows_that_were_there(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    made = [new_zone(name=f"zone {number}") for number in range(20)]
    positions = await save_all(log, made)
    positions += await save_all(log, [change_zone(zone, name="other") for zone in made[:5]])
    positions += await save_all(log, [archive_zone(zone) for zone in made[10:12]])
    runner = Runner(zones, TOPIC, database_url=database_url, redis_url=redis_url, rings=RINGS)
    async with running(Relay(database_url, redis_url, RINGS), runner):
        await eventually(_at(runner, max(positions)))
    before, indexes = await _rows(db), await _indexes(db)
    await db.execute("UPDATE zones SET name = 'spoilt'")
    seen: list[tuple[int, int]] = []
    at = await rebuild(database_url, zones, lambda now, end: seen.append((now, end)))
    assert at == max(positions)
    assert seen[-1] == (at, at)
    assert await _rows(db) == before
    assert await _indexes(db) == indexes


async def test_who_has_asked_an_earlier_version_s_table_asks_on(
    log: Log, db: AsyncConnection[Any], database_url: str
) -> None:
    zone = new_zone(name="zone")
    await save_all(log, [zone])
    await db.execute("ALTER TABLE zones DROP COLUMN gateway_only")
    every = "SELECT * FROM zones"
    assert await select(db, every, []) == []
    await rebuild(database_url, zones)
    assert [row["gateway_only"] for row in await select(db, every, [])] == [False]


async def test_a_rebuild_under_load_loses_and_doubles_nothing(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    runner = Runner(zones, TOPIC, database_url=database_url, redis_url=redis_url, rings=RINGS)
    stop = asyncio.Event()

    async def write() -> list[int]:
        positions = []
        while not stop.is_set():
            positions += await save_all(log, [new_zone() for _ in range(10)])
        return positions

    async with running(Relay(database_url, redis_url, RINGS), runner):
        writing = asyncio.create_task(write())
        await eventually(_at(runner, 50))
        for _ in range(3):
            await rebuild(database_url, zones)
        stop.set()
        positions = await writing
        await eventually(_at(runner, max(positions)))
    assert len(await _rows(db)) == len(positions)
    kept = await _rows(db)
    await rebuild(database_url, zones)
    assert await _rows(db) == kept


async def test_a_rebuild_that_was_cut_off_leaves_nothing_in_the_way(
    log: Log, db: AsyncConnection[Any], database_url: str
) -> None:
    await save_all(log, [new_zone()])
    await db.execute("CREATE TABLE zones__next (rest text)")
    await rebuild(database_url, zones)
    assert len(await _rows(db)) == 1


async def test_a_parked_aggregate_stays_parked(
    log: Log, db: AsyncConnection[Any], database_url: str
) -> None:
    zone, other = new_zone(name="A"), new_zone(name="A")
    await save_all(log, [zone, other])
    changed = await log.save(change_zone(zone, name="B"))
    await log.save(change_zone(other, name="B"))
    await db.execute(
        "INSERT INTO parked"
        " (projection, aggregate_id, topic, position, n, ids, error, attempts)"
        " VALUES ('zones', %s, %s, %s, 0, '{}', 'bug', 5)",
        (zone.aggregate_id, TOPIC.name, changed.position),
    )
    await rebuild(database_url, zones)
    names = dict(await (await db.execute("SELECT id, name FROM zones")).fetchall())
    assert names == {zone.aggregate_id: "A", other.aggregate_id: "B"}


async def test_the_past_can_be_seen(log: Log, database_url: str) -> None:
    zone = new_zone(name="first")
    created = (await log.save(zone)).position or 0
    changed = (await log.save(change_zone(zone, name="second"))).position or 0
    await log.save(archive_zone(zone))
    names = [
        [row["name"] for row in (await as_of(database_url, zones, position))["zones"]]
        for position in (created - 1, created, changed)
    ]
    assert names == [[], ["first"], ["second"]]
    (now,) = (await as_of(database_url, zones, changed + 1))["zones"]
    assert now["ended_at"] == changed + 1


def _at(part: Runner, position: int) -> Any:
    async def check() -> bool:
        return part.counters.position >= position

    return check
