"""No evidence, no mandate: what the writer promises, and keeps when Redis forgets."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from caracal.embedded import EmbeddedServers
from caracal.errors import StartError, Unavailable
from caracal.events.store.audit_entry import Prebuilt
from caracal.events.store.audit_writer import AuditWriter
from caracal.events.topics import AUDIT
from caracal.projections.audit_ingest import Ingestor
from tests.audit.trail import KEYS, Trail, decided, writing
from tests.backbone import eventually, running

Urls = dict[str, str]
_GONE = {
    "database_url": "postgresql:///caracal?host=/nowhere",
    "redis_url": "unix:///nowhere/valkey.sock",
}


@pytest.fixture
def urls(database_url: str, redis_url: str) -> Urls:
    return {"database_url": database_url, "redis_url": redis_url}


async def kept(writer: AuditWriter, count: int) -> None:
    """Wait until so many entries are in memory."""

    async def so_many() -> bool:
        return writer.kept == count

    await eventually(so_many, what=f"{count} entries in memory, not {writer.kept}")


async def test_added_means_acknowledged(trail: Trail, urls: Urls) -> None:
    async with writing(**urls) as writer:
        await writer.add([decided(), decided(decision="deny")])
        assert len(await trail.on_topic()) == 2
        assert (writer.kept, writer.counters.added) == (2, 2)


@pytest.mark.parametrize("decision", ["allow", "partial"])
async def test_without_redis_nothing_is_allowed(decision: str) -> None:
    async with writing(**_GONE) as writer:
        with pytest.raises(Unavailable) as refused:
            await writer.add([decided(decision="deny"), decided(decision=decision)])
        assert refused.value.code == "audit_unavailable"
        assert (writer.counters.errors, writer.counters.dropped) == (1, 0)


async def test_without_redis_refusals_are_answered_and_counted() -> None:
    async with writing(**_GONE) as writer:
        await writer.add([decided(decision="deny")])
        assert (writer.counters.dropped, writer.kept) == (1, 0)


async def test_a_server_that_refuses_to_write_is_no_evidence(trail: Trail, urls: Urls) -> None:
    await trail.redis.set(AUDIT, "no stream")
    async with writing(**urls) as writer:
        with pytest.raises(Unavailable):
            await writer.add([decided()])


async def test_over_the_backlog_limit_only_refusals_are_written(trail: Trail, urls: Urls) -> None:
    await trail.put(*(decided() for _ in range(6)))
    async with writing(**urls, backlog_max=5) as writer:

        async def refused() -> bool:
            try:
                writer.check()
            except Unavailable as refusal:
                return refusal.code == "audit_unavailable"
            return False

        await eventually(refused)
        with pytest.raises(Unavailable):
            await writer.add([decided()])
        await writer.add([decided(decision="deny")])
        assert len(await trail.on_topic()) == 7
        await trail.redis.xtrim(AUDIT, maxlen=5, approximate=False)

        async def allowed() -> bool:
            return not await refused()

        await eventually(allowed)
        await writer.add([decided()])


async def test_entries_are_forgotten_when_the_ledger_has_them(
    trail: Trail, urls: Urls, ingestor: Ingestor
) -> None:
    events = [decided() for _ in range(3)]
    async with writing(**urls) as writer:
        await writer.add(events)
        async with running(ingestor):
            await kept(writer, 0)
        await trail.holds(events)
        assert writer.counters.added_again == 0


async def script_adds(redis: Redis, entry: Prebuilt) -> Any:
    """Add an entry as a service's own script does."""
    script = "return {redis.call('XADD', KEYS[1], '*', unpack(ARGV))}"
    return await redis.eval(script, 1, entry.topic, *entry.fields)


async def test_after_flushall_everything_is_added_again(
    trail: Trail, urls: Urls, ingestor: Ingestor
) -> None:
    own, embedded = decided(), decided()
    async with writing(**urls) as writer:
        await writer.add([own])
        entry = writer.prebuilt(embedded)
        writer.acknowledged([entry], await script_adds(trail.redis, entry))
        await trail.redis.flushdb()

        async def again() -> bool:
            return len(await trail.on_topic()) == 2

        await eventually(again)
        async with running(ingestor):
            await kept(writer, 0)
        await trail.holds([own, embedded])
        assert writer.counters.lost == 0


async def test_a_loss_hidden_by_newer_entries_is_found_in_the_ledger(
    trail: Trail, urls: Urls, ingestor: Ingestor
) -> None:
    lost, newer = decided(), decided()
    async with writing(**urls, beat_seconds=0.2) as writer:
        await writer.add([lost])
        await trail.redis.flushdb()
        await trail.put(newer)  # another writer, before ours has looked
        async with running(ingestor):
            await kept(writer, 0)
        await trail.holds([newer, lost])
        assert writer.counters.added_again == 1


async def test_what_the_ledger_refuses_is_given_up(
    trail: Trail, urls: Urls, ingestor: Ingestor
) -> None:
    async with writing(**urls) as writer, running(ingestor):
        await writer.add([decided(request_id="NUL \0")])
        await kept(writer, 0)
        assert writer.counters.lost == 1
    letters = await trail.dead()
    assert len(letters) == 1 + writer.counters.added_again
    assert {letter["reason"].partition(":")[0] for letter in letters} == {"pg_permanent_error"}


async def test_memory_is_bounded(redis_url: str) -> None:
    async with writing(**_GONE | {"redis_url": redis_url}, kept_max=10) as writer:
        await writer.add([decided() for _ in range(25)])
        assert (writer.kept, writer.counters.lost) == (10, 15)


async def test_fsync_is_checked_at_start(own_servers: EmbeddedServers) -> None:
    urls = {"database_url": own_servers.database_url, "redis_url": own_servers.redis_url}
    writer = AuditWriter(**urls, keys=KEYS, durability="fsync")
    with pytest.raises(StartError, match="appendfsync always"):
        await writer.start()
    await writer.stop()
    async with Redis.from_url(own_servers.redis_url) as redis:
        await redis.config_set("appendfsync", "always")
    async with writing(**urls, durability="fsync") as writer:
        await writer.add([decided()])
        assert writer.kept == 1


async def test_fsync_without_an_answer_is_no_start() -> None:
    writer = AuditWriter(**_GONE, keys=KEYS, durability="fsync")
    with pytest.raises(StartError, match="cannot be checked"):
        await writer.start()
    await writer.stop()
