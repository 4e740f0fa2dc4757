"""The audit topic is trimmed up to what is committed, never beyond."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from caracal.events.store import audit_topic
from caracal.events.store.audit_entry import encode
from caracal.events.store.audit_topic import LEDGER_GROUP, Trimmed, backlog, trim
from caracal.events.topics import AUDIT, SIEM_GROUP
from caracal.projections.audit_ingest import Ingestor
from tests.audit.trail import KEYS, Trail, decided, ingest


async def committed(trail: Trail, ingestor: Ingestor, count: int) -> list[str]:
    """Put entries and let them be ingested."""
    entry_ids = await trail.put(*(decided() for _ in range(count)))
    await ingest(ingestor, trail, entry_ids[-1])
    return entry_ids


async def test_what_is_committed_goes_and_what_is_not_stays(
    trail: Trail, ingestor: Ingestor
) -> None:
    await committed(trail, ingestor, 250)
    waiting = await trail.put(decided(), decided())
    assert await trim(trail.redis, trail.db) == Trimmed(250)
    assert await trail.on_topic() == waiting
    await ingest(ingestor, trail, waiting[-1])
    assert await trim(trail.redis, trail.db) == Trimmed(2)
    assert len(await trail.rows()) == 252


async def test_nothing_goes_without_a_topic_a_group_or_a_watermark(
    trail: Trail, ingestor: Ingestor
) -> None:
    assert await trim(trail.redis, trail.db) == Trimmed(0)
    await trail.put(decided())
    assert await trim(trail.redis, trail.db) == Trimmed(0)
    await trail.redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0")
    assert await trim(trail.redis, trail.db) == Trimmed(0)


async def test_pending_entries_stay_whatever_the_watermark_says(
    trail: Trail, ingestor: Ingestor
) -> None:
    await committed(trail, ingestor, 3)
    read = await trail.put(decided(), decided())
    await trail.redis.xreadgroup(LEDGER_GROUP, "worker-dead-1", {AUDIT: ">"}, count=1)
    await trail.db.execute("UPDATE audit_watermarks SET position = position + 1000000")
    assert await trim(trail.redis, trail.db) == Trimmed(3)
    assert await trail.on_topic() == read


async def test_a_watermark_of_another_incarnation_of_the_topic_trims_nothing(
    trail: Trail, ingestor: Ingestor
) -> None:
    await committed(trail, ingestor, 3)
    await trail.redis.flushdb()
    for number in range(3):  # a clock gone back: all below the watermark
        await trail.redis.xadd(AUDIT, encode(decided(), KEYS), id=f"5-{number + 1}")
    assert await trim(trail.redis, trail.db) == Trimmed(0)
    await trail.redis.xgroup_create(AUDIT, LEDGER_GROUP, id="0")
    await trail.redis.xreadgroup(LEDGER_GROUP, "worker-1", {AUDIT: ">"}, count=1)
    await trail.redis.xack(AUDIT, LEDGER_GROUP, "5-1")
    assert await trim(trail.redis, trail.db) == Trimmed(1)
    assert await trail.on_topic() == ["5-2", "5-3"]


@pytest.fixture
async def exporting(trail: Trail) -> None:
    """A second group is switched on, and has committed the first entry."""
    first = (await trail.put(decided()))[0]
    await trail.redis.xgroup_create(AUDIT, SIEM_GROUP, id=first)


@pytest.mark.usefixtures("exporting")
async def test_the_lowest_watermark_counts(trail: Trail, ingestor: Ingestor) -> None:
    await committed(trail, ingestor, 4)
    assert await trim(trail.redis, trail.db) == Trimmed(1)
    assert len(await trail.on_topic()) == 4


@pytest.mark.usefixtures("exporting")
async def test_a_group_idle_for_a_day_stops_counting(trail: Trail, ingestor: Ingestor) -> None:
    await committed(trail, ingestor, 4)
    await trim(trail.redis, trail.db)
    await trail.db.execute("UPDATE audit_watermarks SET moved_at = now() - interval '25 hours'")
    # … but the ledger's own always counts.
    await trail.put(decided())
    assert await trim(trail.redis, trail.db) == Trimmed(4, idle=(SIEM_GROUP,))
    assert len(await trail.on_topic()) == 1


@pytest.mark.usefixtures("exporting")
async def test_what_another_group_holds_back_is_bounded(
    trail: Trail, ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has them: they go, the oldest first, before nothing is allowed any more."""
    monkeypatch.setattr(audit_topic, "_TRIM_AT_ONCE", 20)
    entry_ids = await committed(trail, ingestor, 100)
    unknown = await trail.put(decided())
    assert await trim(trail.redis, trail.db, hold=70) == Trimmed(1, passed_over=31)
    assert await trail.on_topic() == [*entry_ids[31:], *unknown]
    assert await trim(trail.redis, trail.db, hold=20) == Trimmed(0, passed_over=50)
    # … and what the ledger has not stays, however little may be held.
    assert await trim(trail.redis, trail.db, hold=0) == Trimmed(0, passed_over=19)
    assert await trail.on_topic() == unknown


@pytest.mark.usefixtures("exporting")
async def test_a_topic_that_lost_its_groups_waits_for_both(
    trail: Trail, ingestor: Ingestor
) -> None:
    await committed(trail, ingestor, 1)
    await trim(trail.redis, trail.db)
    await trail.redis.flushdb()
    await committed(trail, ingestor, 3)
    assert await trim(trail.redis, trail.db) == Trimmed(0)
    await trail.redis.xgroup_create(AUDIT, SIEM_GROUP, id="$")
    assert await trim(trail.redis, trail.db) == Trimmed(3)


@pytest.mark.usefixtures("exporting")
async def test_a_group_that_stays_away_for_a_day_is_forgotten(
    trail: Trail, ingestor: Ingestor
) -> None:
    await committed(trail, ingestor, 1)
    await trim(trail.redis, trail.db)
    await trail.redis.xgroup_destroy(AUDIT, SIEM_GROUP)
    assert await trim(trail.redis, trail.db) == Trimmed(0)
    await trail.db.execute("UPDATE audit_watermarks SET moved_at = now() - interval '25 hours'")
    assert await trim(trail.redis, trail.db) == Trimmed(1)


@pytest.mark.usefixtures("exporting")
async def test_a_group_that_has_all_is_not_idle(trail: Trail, ingestor: Ingestor) -> None:
    await committed(trail, ingestor, 1)
    await trail.redis.xgroup_setid(AUDIT, SIEM_GROUP, "$")
    await trim(trail.redis, trail.db)
    await trail.db.execute("UPDATE audit_watermarks SET moved_at = now() - interval '25 hours'")
    assert (await trim(trail.redis, trail.db)).idle == ()


async def test_the_backlog_is_what_is_not_acknowledged(trail: Trail, ingestor: Ingestor) -> None:
    assert (await backlog(trail.redis)).length == 0
    await committed(trail, ingestor, 2)
    assert (await backlog(trail.redis)).length == 0
    await trail.put(decided(), decided(), decided())
    await read_one(trail.redis)
    waiting = await backlog(trail.redis)
    assert (waiting.length, waiting.dead_letters) == (3, 0)
    assert waiting.oldest_seconds >= 0


async def read_one(redis: Redis) -> None:
    await redis.xreadgroup(LEDGER_GROUP, "worker-dead-1", {AUDIT: ">"}, count=1)
