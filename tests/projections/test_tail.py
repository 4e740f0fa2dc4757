"""Tails: equal to the log whatever the topics do, and honest about their age."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.embedded import EmbeddedServers
from caracal.events.store.log import Log
from caracal.events.store.relay import LOG_CHANNEL, Relay
from caracal.events.topics import HEARTBEAT, facts
from caracal.events.zone import Zone
from caracal.projections import PROJECTIONS
from caracal.projections.memory import MemoryTable
from caracal.projections.runner import Runner
from caracal.projections.tail import Tail
from caracal.projections.tail_following import GRACE_SECONDS, Following
from caracal.projections.zone import ZONES, zones
from tests.backbone import (
    RINGS,
    change_zone,
    eventually,
    new_zone,
    opened_log,
    running,
    save_all,
)

TOPIC = facts(Zone)
Opened = Callable[..., Any]


@asynccontextmanager
async def tailing(database_url: str, redis_url: str) -> AsyncIterator[tuple[Tail, MemoryTable]]:
    table = MemoryTable(ZONES)
    tail = Tail([table], database_url=database_url, redis_url=redis_url, rings=RINGS)
    await tail.start()
    try:
        yield tail, table
    finally:
        await tail.stop()


def relay(database_url: str, redis_url: str) -> Relay:
    return Relay(database_url, redis_url, RINGS)


def runner(database_url: str, redis_url: str) -> Runner:
    return Runner(zones, TOPIC, database_url=database_url, redis_url=redis_url, rings=RINGS)


async def one_zone(log: Log, name: str = "A") -> tuple[str, int]:
    zone = new_zone(name=name)
    done = await log.save(zone)
    return zone.aggregate_id, done.position or 0


async def test_the_snapshot_holds_what_the_runner_applied_and_what_it_did_not(
    log: Log, database_url: str, redis_url: str
) -> None:
    applied = await save_all(log, [new_zone() for _ in range(5)])
    both = relay(database_url, redis_url), runner(database_url, redis_url)
    async with running(*both):
        await eventually(_at(both[1], max(applied)))
    later = await save_all(log, [new_zone() for _ in range(3)])
    async with tailing(database_url, redis_url) as (tail, table):
        assert len(table.rows) == 8
        assert tail.position == max(later)
        assert tail.snapshots == 1


async def test_entries_come_by_the_topic_without_a_look_at_the_log(
    log: Log, database_url: str, redis_url: str
) -> None:
    async with (
        running(relay(database_url, redis_url)),
        tailing(database_url, redis_url) as (tail, table),
    ):
        zone_id, position = await one_zone(log)
        assert await tail.reach(position, 30)
        assert table.live(zone_id) is not None
        assert (tail.gaps, tail.foreign) == (0, 0)


async def test_without_relay_the_log_is_read_after_the_grace(
    log: Log, database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, table):
        for _ in range(3):
            zone_id, position = await one_zone(log)
            assert await tail.reach(position, 30)
            assert table.live(zone_id) is not None


async def test_a_gap_and_a_foreign_entry_are_filled_from_the_log(
    log: Log, redis: Redis, database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, table):
        ids = [(await one_zone(log))[0] for _ in range(2)]
        await eventually(_true(lambda: all(table.live(zone_id) for zone_id in ids)))
        await redis.xadd(TOPIC.name, {"event": "zone.archived", "aggregate_id": ids[0]}, id="999-0")
        await eventually(_true(lambda: tail.foreign > 0))
        zone_id, position = await one_zone(log)
        assert await tail.reach(position, 30)
        assert table.live(zone_id) is not None
        assert table.live(ids[0]) is not None, "a forged end changed the view"


async def test_a_lost_end_of_a_topic_is_found_by_the_heads_of_the_heartbeat(
    log: Log, redis: Redis, database_url: str, redis_url: str
) -> None:
    async with running(relay(database_url, redis_url)):
        await eventually(_exists(redis, HEARTBEAT))
        async with tailing(database_url, redis_url) as (tail, table):
            zone_id, position = await one_zone(log)
            await redis.xtrim(TOPIC.name, maxlen=0, approximate=False)
            assert await tail.reach(position, 30)
            assert table.live(zone_id) is not None


async def test_a_heartbeat_that_nobody_signed_proves_nothing(
    log: Log, redis: Redis, database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, _):
        await redis.xadd(HEARTBEAT, {"position": "999", "heads": "{}", "log_id": tail.log_id})
        _, position = await one_zone(log)
        assert await tail.reach(position, 30)
        assert tail.position == position


async def test_a_heartbeat_that_is_added_again_proves_nothing(own_servers: EmbeddedServers) -> None:
    database_url, redis_url = own_servers.database_url, own_servers.redis_url
    async with Redis.from_url(redis_url) as redis, tailing(database_url, redis_url) as (tail, _):
        async with running(relay(database_url, redis_url)):
            await eventually(_exists(redis, HEARTBEAT))
        os.kill(own_servers.postgres_pid, signal.SIGKILL)
        ((_, beat),) = await redis.xrevrange(HEARTBEAT, count=1)
        for _ in range(40):
            await redis.xadd(HEARTBEAT, beat)
            await asyncio.sleep(0.05)
        assert tail.age > 1.5


async def test_flushall_is_survived(
    log: Log, redis: Redis, database_url: str, redis_url: str
) -> None:
    async with (
        running(relay(database_url, redis_url)),
        tailing(database_url, redis_url) as (tail, table),
    ):
        await one_zone(log)
        await redis.flushdb()
        for _ in range(3):
            zone_id, position = await one_zone(log)
            assert await tail.reach(position, 30)
            assert table.live(zone_id) is not None


async def test_a_probe_brings_the_view_to_the_head(
    log: Log, database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, table):
        for _ in range(5):
            zone_id, _ = await one_zone(log)
            assert await tail.probe()
            assert table.live(zone_id) is not None


async def test_an_older_or_repeated_event_changes_nothing(
    log: Log, database_url: str, redis_url: str
) -> None:
    zone = new_zone(name="first")
    await log.save(zone)
    async with (
        running(relay(database_url, redis_url)),
        tailing(database_url, redis_url) as (tail, table),
    ):
        done = await log.save(change_zone(zone, name="second"))
        assert await tail.reach(done.position or 0, 30)
        place = tail.cursors[TOPIC.name]
        tail.cursors[TOPIC.name] = type(place)(0, 0)  # everything is read once more
        assert await tail.probe()
        row = table.live(zone.aggregate_id)
        assert row is not None
        assert row["name"] == "second"


async def test_another_log_makes_the_view_anew(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, table):
        await db.execute("TRUNCATE log, checkpoints")
        await db.execute("UPDATE log_identity SET log_id = gen_random_uuid()")
        async with running(relay(database_url, redis_url)):
            await eventually(_true(lambda: tail.snapshots == 2))
        assert not table.rows


async def test_parking_and_release_reach_every_view(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as (tail, _):
        await db.execute(
            "INSERT INTO parked"
            " (projection, aggregate_id, topic, position, n, ids, error, attempts)"
            " VALUES ('zones', 'z', 't', 1, 0, '{z, s}', 'broken', 5)"
        )
        await db.execute("SELECT pg_notify('caracal_parked', '')")
        await eventually(_true(lambda: tail.parked == {"z", "s"}))
        await db.execute("DELETE FROM parked")
        await db.execute("SELECT pg_notify('caracal_parked', '')")
        await eventually(_true(lambda: not tail.parked))


async def test_a_reducer_that_fails_denies_and_the_view_goes_on(
    log: Log, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Any:
        raise KeyError("bug")

    async with tailing(database_url, redis_url) as (tail, table):
        monkeypatch.setitem(zones.reducers, "zone.changed", broken)
        zone = new_zone()
        await log.save(zone)
        done = await log.save(change_zone(zone, name="B"))
        other, position = await one_zone(log)
        assert await tail.reach(max(position, done.position or 0), 5)
        assert zone.aggregate_id in tail.parked
        assert table.live(other) is not None


async def test_redis_gone_and_back(own_servers: EmbeddedServers) -> None:
    database_url, redis_url = own_servers.database_url, own_servers.redis_url
    async with (
        opened_log(database_url) as log,
        running(relay(database_url, redis_url)),
        tailing(database_url, redis_url) as (tail, table),
    ):
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        for _ in range(3):
            zone_id, position = await one_zone(log)
            assert await tail.reach(position, 30)
            assert table.live(zone_id) is not None
        await asyncio.to_thread(own_servers.restart_valkey)
        for _ in range(3):
            _, position = await one_zone(log)
            assert await tail.reach(position, 30)


async def test_postgres_gone_makes_the_view_old_and_back_makes_it_fresh(
    own_servers: EmbeddedServers,
) -> None:
    database_url, redis_url = own_servers.database_url, own_servers.redis_url
    async with (
        running(relay(database_url, redis_url)),
        tailing(database_url, redis_url) as (tail, table),
    ):
        await eventually(_true(lambda: tail.age < 0.4))
        os.kill(own_servers.postgres_pid, signal.SIGKILL)
        await eventually(_true(lambda: tail.age > 1.5))
        assert not await tail.probe(timeout=1)
        await asyncio.to_thread(own_servers.restart_postgres)
        await eventually(_true(lambda: tail.age < 0.4))
        async with opened_log(database_url) as log:
            zone_id, position = await one_zone(log)
            assert await tail.reach(position, 30)
            assert table.live(zone_id) is not None


async def test_tails_that_join_under_load_and_faults_are_complete(
    log: Log, redis: Redis, database_url: str, redis_url: str
) -> None:
    parts = relay(database_url, redis_url), runner(database_url, redis_url)
    stop = asyncio.Event()

    async def write() -> int:
        last = 0
        while not stop.is_set():
            last = max(await save_all(log, [new_zone() for _ in range(5)]))
            await asyncio.sleep(0.005)
        return last

    async with running(*parts):
        writing = asyncio.create_task(write())
        async with asyncio.timeout(60):
            joined = []
            for number in range(8):
                context = tailing(database_url, redis_url)
                joined.append((context, await context.__aenter__()))
                if number % 3 == 1:
                    await redis.flushdb()
                await asyncio.sleep(0.05)
        stop.set()
        last = await writing
        for context, (tail, table) in joined:
            assert await tail.reach(last, 30)
            ids = {row["id"] for row in await _rows(database_url)}
            assert set(table.rows) >= ids
            assert len(table.rows) == await _zones_in(log)
            await context.__aexit__(None, None, None)


async def _rows(database_url: str) -> list[dict[str, Any]]:
    async with await AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute("SELECT id FROM zones")
        return [{"id": row[0]} for row in await cursor.fetchall()]


async def _zones_in(log: Log) -> int:
    async with log._pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM log WHERE name = 'zone.created'")
        row = await cursor.fetchone()
        return int(row[0]) if row else 0


def _at(part: Runner, position: int) -> Callable[[], Any]:
    return _true(lambda: part.counters.position >= position)


def _true(condition: Callable[[], bool]) -> Callable[[], Any]:
    async def check() -> bool:
        return bool(condition())

    return check


def _exists(redis: Redis, name: str) -> Callable[[], Any]:
    async def check() -> bool:
        return bool(await redis.exists(name))

    return check


def test_every_projection_has_a_topic() -> None:
    assert all(projection.topics for projection in PROJECTIONS)


async def test_an_entry_is_given_time_only_while_there_is_a_relay(redis_url: str) -> None:
    tail = Tail([MemoryTable(ZONES)], database_url="", redis_url=redis_url, rings=RINGS)
    following = Following(tail)

    def given() -> float:
        following._notified = None
        before = time.monotonic()
        following._heard(LOG_CHANNEL, "7")
        assert following._notified is not None
        return following._notified[1] - before

    assert given() < GRACE_SECONDS / 2
    following._last_beat = time.monotonic()
    assert given() >= GRACE_SECONDS
    await following.close()
