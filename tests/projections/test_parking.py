"""Parking: what a reducer cannot apply waits with its aggregate; everything else goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from caracal.events.base import Fact
from caracal.events.store.entries import LogReader
from caracal.events.store.log import Log
from caracal.events.zone import Zone
from caracal.projections import parking
from caracal.projections.memory import MemoryTable, apply
from caracal.projections.projection import Projection
from caracal.projections.runner import Runner
from caracal.projections.table import Change, Put, Table, change, put
from tests.backbone import (
    RINGS,
    ZONES,
    archive_zone,
    change_zone,
    eventually,
    new_zone,
    running,
)

TABLE = Table("fragile", {"name": "text"})
Reducer = Callable[[Fact], Put]


class Fragile(Projection):
    """Fails on names that say so, until mended."""

    def __init__(self) -> None:
        super().__init__("fragile", TABLE)
        self.mended = False
        self.tried: list[int] = []
        self.before: Callable[[], None] = lambda: None

        @self.on(Zone.Created)
        def created(fact: Fact) -> Put:
            self.before()
            return put(TABLE, fact)

        @self.on(Zone.Changed)
        def changed(fact: Fact) -> Change:
            if not self.mended and fact.data["name"] == "raise":
                self.tried.append(fact.position)
                raise ZeroDivisionError("a bug")
            if not self.mended and fact.data["name"] == "refused":
                return change(TABLE, fact, name="no\0text")  # the database refuses this
            return change(TABLE, fact)

        @self.on(Zone.Archived)
        def archived(fact: Fact) -> Change:
            return change(TABLE, fact, name="archived")


@pytest.fixture
async def fragile(db: AsyncConnection[Any]) -> Fragile:
    for statement in TABLE.ddl():
        await db.execute(statement)
    return Fragile()


@pytest.fixture
def make_runner(database_url: str, fragile: Fragile) -> Callable[[], Runner]:
    def make() -> Runner:
        return Runner(
            fragile, ZONES, database_url=database_url, redis_url="unix:///no/redis", rings=RINGS
        )

    return make


async def names(db: AsyncConnection[Any]) -> dict[str, str]:
    cursor = await db.execute("SELECT id, name FROM fragile")
    return dict(await cursor.fetchall())


async def parked(db: AsyncConnection[Any]) -> list[dict[str, Any]]:
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM parked ORDER BY aggregate_id")
        return await cursor.fetchall()


async def at(db: AsyncConnection[Any], position: int | None) -> bool:
    cursor = await db.execute("SELECT position FROM checkpoints WHERE projection = 'fragile'")
    return await cursor.fetchone() == (position,)


@pytest.mark.parametrize(
    ("failing", "error"),
    [("raise", "ZeroDivisionError: a bug"), ("refused", "CharacterNotInRepertoire")],
)
async def test_an_aggregate_is_parked_and_all_others_go_on(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner], failing: str, error: str
) -> None:
    bad, good = new_zone("bad"), new_zone("good")
    await log.save(bad, good)
    failed = await log.save(change_zone(bad, name=failing))
    await log.save(change_zone(bad, name="later"), change_zone(good, name="fine"))
    runner = make_runner()
    async with running(runner):
        last = await log.save(archive_zone(bad, "s1", "s2"), new_zone("third"))
        await eventually(lambda: at(db, last.position))
    assert await names(db) == {"bad": "A", "good": "fine", "third": "A"}
    (row,) = await parked(db)
    assert (row["projection"], row["topic"], row["aggregate_id"]) == ("fragile", ZONES.name, "bad")
    assert (row["position"], row["n"]) == (failed.position, 0)
    assert row["attempts"] == parking.ATTEMPTS
    assert row["error"].startswith(error)
    assert set(row["ids"]) == {"bad", "s1", "s2"}  # what decisions deny
    assert runner.counters.parked == {"bad"}


async def test_it_is_tried_five_times(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner], fragile: Fragile
) -> None:
    zone = new_zone("bad")
    await log.save(change_zone(zone, name="raise"))
    last = await log.save(change_zone(zone, name="fine"))
    async with running(make_runner()):
        await eventually(lambda: at(db, last.position))
    assert fragile.tried == [2] * (1 + parking.ATTEMPTS)  # once with its batch, then alone


async def test_it_stays_parked_when_another_runner_leads(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner]
) -> None:
    zone = new_zone("bad")
    failed = await log.save(change_zone(zone, name="raise"))
    async with running(make_runner()):
        await eventually(lambda: at(db, failed.position))
    last = await log.save(change_zone(zone, name="later"))
    async with running(make_runner()):
        await eventually(lambda: at(db, last.position))
    assert await names(db) == {"bad": "A"}


async def test_a_lost_database_counts_as_no_attempt(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner], fragile: Fragile
) -> None:
    """The runner's backend is killed in the middle of an attempt: nothing is parked for that."""
    failed = await log.save(change_zone(new_zone("bad"), name="raise"))
    runner = make_runner()
    async with running(runner):
        await eventually(lambda: at(db, failed.position))
        fragile.before = Kill(db.info.dsn, db.info.password)
        last = await log.save(new_zone("good"))
        await eventually(lambda: at(db, last.position))
    assert fragile.before.killed == 1
    assert [row["aggregate_id"] for row in await parked(db)] == ["bad"]
    assert (await names(db))["good"] == "A"


class Kill:
    """Kills, once, the backend that is in the middle of a transaction."""

    def __init__(self, dsn: str, password: str) -> None:
        self._dsn, self._password, self.killed = dsn, password, 0

    def __call__(self) -> None:
        if self.killed:
            return
        with psycopg.connect(self._dsn, password=self._password) as connection:
            killed = connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = 'idle in transaction'"
            ).fetchall()
            self.killed = len(killed)


async def test_replay_applies_and_releases(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner], fragile: Fragile
) -> None:
    bad, good = new_zone("bad"), new_zone("good")
    await log.save(change_zone(bad, name="raise"), good)
    last = await log.save(change_zone(bad, name="later"))
    async with running(make_runner()):
        await eventually(lambda: at(db, last.position))
        error = await parking.replay(db, fragile, ZONES, "bad")
        assert error == "ZeroDivisionError: a bug"
        assert [row["aggregate_id"] for row in await parked(db)] == ["bad"]
        assert (await names(db))["bad"] == "A"

        fragile.mended = True
        assert await parking.replay(db, fragile, ZONES, "bad") is None
        assert await parked(db) == []
        assert (await names(db))["bad"] == "later"
        assert await parking.replay(db, fragile, ZONES, "bad") is None  # nothing left to do

        last = await log.save(change_zone(bad, name="after"), change_zone(good, name="too"))
        await eventually(lambda: at(db, last.position))
    assert await names(db) == {"bad": "after", "good": "too"}


async def test_replay_makes_what_a_fold_of_the_log_makes(
    db: AsyncConnection[Any], log: Log, make_runner: Callable[[], Runner], fragile: Fragile
) -> None:
    zones = [new_zone(f"z{n}") for n in range(4)]
    for zone in zones[:3]:
        change_zone(zone, name="raise")
    await log.save(*zones)
    await log.save(*(change_zone(zone, name="B") for zone in zones[1:]))
    last = await log.save(archive_zone(zones[2]))
    async with running(make_runner()):
        await eventually(lambda: at(db, last.position))
    assert {row["aggregate_id"] for row in await parked(db)} == {"z0", "z1", "z2"}
    fragile.mended = True
    for zone in reversed(zones):
        assert await parking.replay(db, fragile, ZONES, zone.aggregate_id) is None
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SELECT * FROM fragile")
        rows = {row["id"]: row for row in await cursor.fetchall()}
    assert rows == await folded(db, fragile)


async def folded(db: AsyncConnection[Any], projection: Projection) -> dict[str, Any]:
    table = MemoryTable(TABLE)
    for record in await LogReader(db).records(0):
        apply({TABLE.name: table}, projection.reduce(record.fact()))
    return table.rows
