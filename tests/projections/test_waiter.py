"""Who waits is told once all places are reached; a checkpoint follows though no row changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal.events.base import Fact
from caracal.events.store.log import Log, Saved
from caracal.events.store.relay import Relay
from caracal.events.zone import Zone
from caracal.projections import runner
from caracal.projections.projection import Projection
from caracal.projections.runner import CHECKPOINT_CHANNEL, Runner, checkpoint
from caracal.projections.table import End, Put, end, put
from caracal.projections.waiter import Waiter
from caracal.projections.zone import ZONES as ZONES_TABLE
from tests.backbone import RINGS, ZONES, change_zone, eventually, new_zone, running

FIRST, SECOND = Projection("first", ZONES_TABLE), Projection("second", ZONES_TABLE)


@FIRST.on(Zone.Created)
@SECOND.on(Zone.Created)
def created(fact: Fact) -> Put:
    return put(ZONES_TABLE, fact)


@SECOND.on(Zone.Archived)
def archived(fact: Fact) -> End:
    return end(ZONES_TABLE, [fact.aggregate_id])


class Told:
    """Checkpoints, told as projections tell them."""

    def __init__(self, waiter: Waiter, db: AsyncConnection[Any]) -> None:
        self.waiter, self.db = waiter, db

    async def move(self, projection: Projection, position: int) -> None:
        payload = f"{projection.name} {ZONES.name} {position}"
        await self.db.execute("SELECT pg_notify(%s, %s)", (CHECKPOINT_CHANNEL, payload))

    def wait(self, *events: tuple[int, str], timeout: float = 20) -> asyncio.Task[bool]:
        return asyncio.create_task(self.waiter.applied(Saved(events), timeout))

    async def arrives(self, projection: Projection, position: int) -> None:
        """Move a checkpoint and return when the waiter knows."""
        await self.move(projection, position)
        event = Zone.Archived if projection is SECOND else Zone.Created
        assert await self.wait((position, event.TOPIC))


@pytest.fixture
async def told(database_url: str, db: AsyncConnection[Any]) -> AsyncIterator[Told]:
    waiter = Waiter(database_url, (FIRST, SECOND))
    await waiter.start()
    told = Told(waiter, db)

    async def listens() -> bool:
        await told.move(SECOND, 1)
        return await waiter.applied(Saved(((1, Zone.Archived.TOPIC),)), 0.05)

    await eventually(listens, what="the waiter listens")
    yield told
    await waiter.stop()


async def test_all_read_models_of_an_event_are_awaited(told: Told) -> None:
    both = told.wait((7, Zone.Created.TOPIC))
    await told.arrives(SECOND, 9)
    assert not both.done()
    await told.move(FIRST, 6)
    await told.move(FIRST, 7)
    assert await both


async def test_each_waits_for_its_own_position(told: Told) -> None:
    near, far = (told.wait((at, Zone.Archived.TOPIC)) for at in (5, 50))
    await told.move(SECOND, 5)
    assert await near
    assert not far.done()
    await told.move(SECOND, 51)
    assert await far


async def test_what_does_not_come_in_time(told: Told) -> None:
    late = told.wait((5, Zone.Archived.TOPIC), timeout=0.05)
    assert not await late
    await told.arrives(SECOND, 5)


async def test_who_gives_up_disturbs_nobody(told: Told) -> None:
    gone, stays = (told.wait((5, Zone.Archived.TOPIC)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await told.move(SECOND, 5)
    assert await stays


async def test_a_checkpoint_follows_though_no_row_changes(
    log: Log, db: AsyncConnection[Any], database_url: str, redis_url: str
) -> None:
    relay = Relay(database_url, redis_url, RINGS, topics={ZONES.name: ZONES})
    only_ends = Projection("only_ends", ZONES_TABLE)
    only_ends.on(Zone.Archived)(archived)
    urls = {"database_url": database_url, "redis_url": redis_url}
    zone = new_zone()
    async with running(relay, Runner(only_ends, ZONES, rings=RINGS, **urls)):
        for number in range(3):
            saved = await log.save(change_zone(zone, name=f"name {number}"))

            async def follows(position: int | None = saved.position) -> bool:
                return (await checkpoint(db, "only_ends", ZONES.name)).position == position

            await eventually(follows, what="the checkpoint follows")


# --- events that change no row, though there is a reducer for them ------------------------------


@pytest.fixture
def unmoved(monkeypatch: pytest.MonkeyPatch) -> Projection:
    """A read model that a change of a zone does not concern; nothing else stores its checkpoint."""
    monkeypatch.setattr(runner, "_STORE_SECONDS", 3600)
    monkeypatch.setattr(runner, "_BLOCK_MS", 60_000)
    projection = Projection("unmoved", ZONES_TABLE)
    projection.on(Zone.Changed)(lambda fact: [])
    projection.on(Zone.Created)(created)
    return projection


async def test_who_waits_for_what_changes_no_row_is_told(
    unmoved: Projection, log: Log, database_url: str, redis_url: str
) -> None:
    """Alone, and in a row, where the last ones come before the checkpoint is due."""
    relay = Relay(database_url, redis_url, RINGS, topics={ZONES.name: ZONES})
    waiter = Waiter(database_url, (unmoved,))
    await waiter.start()
    zone = new_zone()
    await log.save(zone)
    following = Runner(unmoved, ZONES, database_url=database_url, redis_url=redis_url, rings=RINGS)
    async with running(relay, following):
        for number in range(3):
            saved = await log.save(change_zone(zone, name=f"alone {number}"))
            assert await waiter.applied(saved, timeout=20)
        for number in range(20):
            saved = await log.save(change_zone(zone, name=f"in a row {number}"))
        assert await waiter.applied(saved, timeout=20)
    await waiter.stop()


async def test_many_that_change_no_row_cost_no_commit_each(
    unmoved: Projection,
    log: Log,
    db: AsyncConnection[Any],
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They wait for the next checkpoint, and that of a row comes at once."""
    monkeypatch.setattr(runner, "_AWAITED_SECONDS", 3600)
    monkeypatch.setattr(runner, "_BLOCK_MS", 200)
    relay = Relay(database_url, redis_url, RINGS, topics={ZONES.name: ZONES})
    following = Runner(unmoved, ZONES, database_url=database_url, redis_url=redis_url, rings=RINGS)

    async def stored() -> int:
        return (await checkpoint(db, "unmoved", ZONES.name)).position

    async with running(relay, following):
        zone = new_zone()
        first = await log.save(zone)
        await eventually(lambda: _is(stored, first.position), what="the checkpoint of a row")
        for number in range(20):
            last = await log.save(change_zone(zone, name=f"name {number}"))

        async def come() -> bool:
            return following.counters.position == last.position

        await eventually(come, what="the changes")
        assert await stored() == first.position
        after = await log.save(new_zone())
        await eventually(lambda: _is(stored, after.position), what="the next row's checkpoint")


async def _is(stored: Callable[[], Awaitable[int]], position: int | None) -> bool:
    return await stored() == position
