"""Partitions: what a zone has, loaded beside a tail and as new as that, whatever comes between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.application import Application
from caracal.events.base import Fact, Fall
from caracal.events.record import Record
from caracal.events.store.entries import ZERO, EntryId
from caracal.events.store.log import Log
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections import PROJECTIONS, sql
from caracal.projections.agent import AGENTS, agents, recent_agents
from caracal.projections.application import APPLICATIONS, applications
from caracal.projections.memory import KEPT_SECONDS, MemoryTable, RecentTable
from caracal.projections.partition import Partition
from caracal.projections.runner import Runner
from caracal.projections.tail import Tail
from caracal.projections.tail_snapshot import fill
from caracal.projections.zone import ZONES
from tests.backbone import RINGS, eventually, new_zone, running
from tests.making import in_zone, new_agent, new_application, new_session
from tests.sts.world import graph_of

TOPIC = FACT_TOPIC_OF["application.created"]
ALSO = (APPLICATIONS.name, AGENTS.name)


def partition_of(zone_id: str) -> Partition:
    table = RecentTable(APPLICATIONS, born_on=TOPIC.name, ended_on="archived_at")
    return Partition(zone_id, (table, recent_agents()))


@asynccontextmanager
async def tailing(database_url: str, redis_url: str) -> AsyncIterator[Tail]:
    urls = {"database_url": database_url, "redis_url": redis_url}
    tail = Tail([MemoryTable(ZONES)], **urls, rings=RINGS, also=ALSO)
    await tail.start()
    try:
        yield tail
    finally:
        await tail.stop()


@asynccontextmanager
async def projected(database_url: str, redis_url: str) -> AsyncIterator[Runner]:
    urls = {"database_url": database_url, "redis_url": redis_url}
    runner = Runner(applications, TOPIC, **urls, rings=RINGS)
    async with running(runner):
        yield runner


async def at(runner: Runner, position: int) -> None:
    async def reached() -> bool:
        return runner.counters.position >= position

    await eventually(reached, what="the read model")


@pytest.fixture
async def zone_id(log: Log) -> str:
    zone = new_zone()
    await log.save(zone)
    return zone.aggregate_id


async def added(log: Log, zone_id: str, name: str = "app") -> tuple[str, int]:
    application = new_application(zone_id, name=name)
    saved = await log.save(application)
    return application.aggregate_id, saved.position or 0


async def changed(log: Log, application_id: str, zone_id: str, **changes: Any) -> int:
    application = await log.find(Application, application_id)
    assert application is not None
    with in_zone(zone_id):
        application.change(changes)
    return (await log.save(application)).position or 0


def row(partition: Partition, application_id: str) -> dict[str, Any]:
    found = partition.tables["applications"].live(application_id)
    assert found is not None
    return found


async def test_rows_what_the_log_has_after_them_and_what_comes_later(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    first, position = await added(log, zone_id)
    async with projected(database_url, redis_url) as runner:
        await at(runner, position)
    late = await changed(log, first, zone_id, name="late")
    second, _ = await added(log, zone_id)
    other = new_zone()
    await log.save(other)
    stranger, _ = await added(log, other.aggregate_id)
    async with tailing(database_url, redis_url) as tail:
        assert tail.position > late
        partition = partition_of(zone_id)
        assert await fill(db, tail, partition)
        assert partition.usable
        assert row(partition, first)["name"] == "late"
        third, position = await added(log, zone_id)
        position = max(position, await changed(log, second, zone_id, name="later"))
        foreign, last = await added(log, other.aggregate_id)
        assert await tail.reach(last, 30)
        known = partition.tables["applications"].rows
        assert set(known) == {first, second, third}
        assert row(partition, second)["name"] == "later"
        assert not {stranger, foreign} & set(known)


async def test_what_comes_while_rows_are_read_is_not_lost(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    """The read is held up behind its snapshot; the tail passes what the snapshot does not have."""
    known, position = await added(log, zone_id)
    async with projected(database_url, redis_url) as runner:
        await at(runner, position)
    async with (
        tailing(database_url, redis_url) as tail,
        await AsyncConnection.connect(database_url) as holding,
    ):
        await holding.execute("LOCK TABLE applications IN ACCESS EXCLUSIVE MODE")
        partition = partition_of(zone_id)
        loading = asyncio.create_task(fill(db, tail, partition))
        await eventually(lambda: _waits_for_lock(log), what="the read waits")
        await changed(log, known, zone_id, name="one")
        await changed(log, known, zone_id, traits=["two"])
        new, last = await added(log, zone_id)
        assert await tail.reach(last, 30)
        assert not partition.usable
        await holding.rollback()
        assert await loading
        assert (row(partition, known)["name"], row(partition, known)["traits"]) == ("one", ["two"])
        assert row(partition, new)


async def _waits_for_lock(log: Log) -> bool:
    async with log._pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        found = await cursor.fetchone()
    return bool(found and found[0])


async def test_an_end_that_the_read_model_has_before_its_row(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    application = new_application(zone_id)
    await log.save(application)
    session = new_session(application.aggregate_id, zone_id=zone_id)
    await log.save(session)
    agent = new_agent(session, zone_id=zone_id)
    await log.save(agent)
    with in_zone(zone_id):
        application.archive(graph_of(zone_id, agent).of_agents([agent.aggregate_id]))
    await log.save(application)
    # The end came by the topic of applications; the beginning is still underway on its own.
    end = (await _records(log, "application.archived"))[0]
    await sql.apply(db, agents.reduce(end.fact()))
    await _passed(db, TOPIC.name, end.position)
    async with tailing(database_url, redis_url) as tail:
        partition = partition_of(zone_id)
        assert await fill(db, tail, partition)
        found = partition.tables["agents"].rows[agent.aggregate_id]
        assert (found["ended_at"], found["stub"]) == (end.position, False)


async def _passed(db: AsyncConnection[Any], topic: str, position: int) -> None:
    """Let every read model be that far on a topic."""
    for projection in PROJECTIONS:
        if any(one.name == topic for one in projection.topics):
            await db.execute(
                "INSERT INTO checkpoints (projection, topic, position, n) VALUES (%s, %s, %s, 0)"
                " ON CONFLICT (projection, topic) DO UPDATE SET position = excluded.position",
                (projection.name, topic, position),
            )


async def _records(log: Log, name: str) -> list[Record]:
    async with log._pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT position, version, name, state FROM log WHERE name = %s ORDER BY position",
            (name,),
        )
        return [Record.read(*found) for found in await cursor.fetchall()]


async def test_what_ended_long_ago_stays_so_for_a_tail_that_is_behind(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    application = new_application(zone_id)
    created = await log.save(application)
    with in_zone(zone_id):
        application.archive(Fall())
    archived = await log.save(application)
    async with projected(database_url, redis_url) as runner:
        await at(runner, archived.position or 0)
    await _passed(db, TOPIC.name, archived.position or 0)
    await db.execute(
        "UPDATE applications SET archived_at = now() - make_interval(secs => %s)",
        (KEPT_SECONDS + 1,),
    )
    async with tailing(database_url, redis_url) as tail:
        tail.cursors[TOPIC.name] = ZERO
        partition = partition_of(zone_id)
        assert await fill(db, tail, partition)
        begin = (await _records(log, "application.created"))[0]
        assert begin.position == created.position
        partition.apply(applications.reduce(begin.fact()))
        assert partition.tables["applications"].live(application.aggregate_id) is None


async def test_a_tail_taken_anew_makes_partitions_useless(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    await added(log, zone_id)
    async with tailing(database_url, redis_url) as tail:
        partition, loading = partition_of(zone_id), partition_of("another")
        assert await fill(db, tail, partition)
        async with await AsyncConnection.connect(database_url) as holding:
            await holding.execute("LOCK TABLE applications IN ACCESS EXCLUSIVE MODE")
            task = asyncio.create_task(fill(db, tail, loading))
            await eventually(lambda: _waits_for_lock(log), what="the read waits")
            tail.retake()
            await eventually(lambda: _snapshots(tail, 2), what="another snapshot")
        assert not await task
        assert not partition.usable
        assert not loading.usable
        assert not tail.partitions


async def _snapshots(tail: Tail, number: int) -> bool:
    return tail.snapshots >= number


async def test_what_is_parked_is_known_before_the_rows_are_used(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    """Its rows lack what was parked, and the notice may come later than they do."""
    async with tailing(database_url, redis_url) as tail:
        await _park(db, "a")
        assert not tail.parked
        partition = partition_of(zone_id)
        assert await fill(db, tail, partition)
        assert tail.parked == {"a"}


async def test_more_that_is_parked_takes_nothing_anew_and_a_release_does(
    log: Log, zone_id: str, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    async with tailing(database_url, redis_url) as tail:
        partition = partition_of(zone_id)
        assert await fill(db, tail, partition)
        for number, parked in enumerate(("a", "b"), 1):
            await _park(db, parked)
            await db.execute("SELECT pg_notify('caracal_parked', '')")
            await eventually(lambda wanted=number: _parked(tail, wanted), what="parked")
        assert (tail.snapshots, partition.usable) == (1, True)
        await db.execute("DELETE FROM parked WHERE aggregate_id = 'a'")
        await db.execute("SELECT pg_notify('caracal_parked', '')")
        await eventually(lambda: _parked(tail, 1), what="released")
        assert (tail.snapshots, partition.usable) == (2, False)


async def _parked(tail: Tail, number: int) -> bool:
    return len(tail.parked) == number


async def _park(db: AsyncConnection[Any], thing: str) -> None:
    await db.execute(
        "INSERT INTO parked (projection, aggregate_id, topic, position, n, ids, error, attempts)"
        " VALUES ('applications', %s, 't', 1, 0, %s, 'broken', 5)",
        (thing, [thing]),
    )


def unstarted() -> Tail:
    return Tail([MemoryTable(ZONES)], database_url="", redis_url="", rings=RINGS, also=ALSO)


def created(position: int, zone_id: str | None) -> Fact:
    data: dict[str, Any] = {"name": "n"}
    meta = {"occurred_at": "2026-01-01T00:00:00Z"}
    return Fact(position, "application.created", zone_id, f"app-{position}", 1, data, meta)


def test_a_fact_goes_to_its_zone_and_without_one_to_all() -> None:
    tail = unstarted()
    one, other = partition_of("one"), partition_of("other")
    for partition in (one, other):
        tail.partitions[partition.id] = partition
        partition.complete()
    for position, zone_id in ((1, "one"), (2, "other"), (3, "not in memory"), (4, None)):
        tail.apply(TOPIC.name, EntryId(position, 0), created(position, zone_id))
    assert set(one.tables["applications"].rows) == {"app-1", "app-4"}
    assert set(other.tables["applications"].rows) == {"app-2", "app-4"}


def test_a_partition_lives_as_long_as_it_is_held() -> None:
    tail = unstarted()
    partition = partition_of("one")
    tail.partitions["one"] = partition
    tail.apply(TOPIC.name, EntryId(1, 0), created(1, "one"))
    assert tail.partitions
    del partition
    assert not tail.partitions
    tail.apply(TOPIC.name, EntryId(2, 0), created(2, "one"))


def test_the_weight_follows_what_is_there() -> None:
    partition = partition_of("one")
    partition.complete()
    assert partition.weight == 0
    put = applications.reduce(created(1, "one"))
    partition.apply(put)
    alone = partition.weight
    assert alone > 0
    partition.apply(put)
    assert partition.weight == alone
    partition.apply(applications.reduce(created(2, "one")))
    assert partition.weight == 2 * alone
    partition.tables["applications"].load([])
    assert partition.weight == 0
