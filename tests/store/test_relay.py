"""The relay, rule by rule: what it must withstand, on real servers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.embedded import EmbeddedServers
from caracal.events.store import relay as relay_module
from caracal.events.store.entries import LogReader, Rings
from caracal.events.store.log import Log
from caracal.events.store.redis import entries_in
from caracal.events.store.redis_line import RedisLine
from caracal.events.store.relay import REPUBLISH, Relay
from caracal.events.topics import HEARTBEAT, Topic
from caracal.stream_signature import FIELD, Keyring
from tests.backbone import (
    ALL_TOPICS,
    FACTS_KEY,
    ITEMS,
    REVOKE,
    RINGS,
    SIGNALS_KEY,
    ZONES,
    Expected,
    archive_zone,
    eventually,
    in_log,
    new_zone,
    on_topic,
    running,
    save_all,
)

MakeRelay = Callable[..., Relay]


@pytest.fixture
def make_relay(database_url: str, redis_url: str) -> MakeRelay:
    def make(rings: Rings = RINGS, **options: Any) -> Relay:
        return Relay(database_url, redis_url, rings, topics=ALL_TOPICS, **options)

    return make


class Topics:
    """Compares the topics with the log."""

    def __init__(self, db: AsyncConnection[Any], redis: Redis) -> None:
        self.db, self.redis = db, redis

    async def complete(self) -> bool:
        """Say whether all topics have exactly what the log yields."""
        for topic in ALL_TOPICS.values():
            if await on_topic(self.redis, topic.name) != await in_log(self.db, topic):
                return False
        return True

    async def ends(self, topic: Topic) -> bool:
        """Say whether a topic ends with the log's last entry."""
        expected, there = await in_log(self.db, topic), await on_topic(self.redis, topic.name)
        return there[-1:] == expected[-1:]

    async def quarantined(self) -> list[str]:
        return sorted([key.decode() async for key in self.redis.scan_iter("*.quarantine.*")])

    async def become_complete(self) -> None:
        await eventually(self.complete, what="topics equal to the log")


@pytest.fixture
def topics(db: AsyncConnection[Any], redis: Redis) -> Topics:
    return Topics(db, redis)


async def some_events(log: Log) -> None:
    """Append events of all kinds: several entries on a topic, one, none."""
    await save_all(log, (new_zone() for _ in range(3)))
    for count in (3, 0, 1):
        await log.save(archive_zone(new_zone(), *(f"s{n}" for n in range(count))))


async def fill_topic(redis: Redis, topic: Topic, entries: Expected) -> None:
    """Put entries on a topic as an earlier relay did."""
    for entry_id, fields in entries:
        await redis.xadd(topic.name, dict(fields), id=entry_id)


# --- publishing ----------------------------------------------------------------------------


async def test_every_topic_becomes_what_the_log_yields(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await some_events(log)
    async with running(make_relay()):
        await topics.become_complete()
        await some_events(log)
        await topics.become_complete()
    assert len(await on_topic(topics.redis, ITEMS.name)) == 8
    assert len(await on_topic(topics.redis, REVOKE.name)) == 8


async def test_the_topics_own_end_is_the_checkpoint(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await some_events(log)
    first, second = make_relay(), make_relay()
    async with running(first):
        await topics.become_complete()
    before = first.counters.published
    await log.save(new_zone())
    async with running(second):
        await topics.become_complete()
    assert (before, second.counters.published) == (9 + 4 + 4, 1)


async def test_a_half_written_event_is_finished(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await some_events(log)
    for topic in (ITEMS, REVOKE):
        await fill_topic(topics.redis, topic, (await in_log(topics.db, topic))[:2])
    async with running(make_relay()):
        await topics.become_complete()


async def test_many_events_without_an_entry_do_not_stop_it(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await log.save(archive_zone(new_zone(), "s"))
    async with running(make_relay()):
        await topics.become_complete()
    await save_all(log, (archive_zone(new_zone()) for _ in range(600)))
    async with running(make_relay()):
        await topics.become_complete()


async def test_a_rotated_key_quarantines_nothing(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await some_events(log)
    old = Rings(Keyring((b"old" * 12,)), Keyring((b"aged" * 8,)))
    both = Rings(Keyring((FACTS_KEY, b"old" * 12)), Keyring((SIGNALS_KEY, b"aged" * 8)))
    first, second = make_relay(old), make_relay(both)
    async with running(first):
        await eventually(lambda: topics.redis.exists(ITEMS.name, ZONES.name, REVOKE.name))
        await eventually(lambda: beat_at(topics, 6))
    await log.save(archive_zone(new_zone(), "s"))
    async with running(second):
        for topic in (ITEMS, REVOKE, ZONES):
            await eventually(lambda topic=topic: topics.ends(topic))
    assert second.counters.quarantined == 0
    assert second.counters.published == 2 + 1 + 1


async def test_it_waits_out_a_full_redis(make_relay: MakeRelay, log: Log, topics: Topics) -> None:
    relay = make_relay()
    async with running(relay):
        await some_events(log)
        await topics.become_complete()
        await topics.redis.config_set("maxmemory", 1)
        try:
            await some_events(log)
            await eventually(restarted(relay))
        finally:
            await topics.redis.config_set("maxmemory", 0)
        await topics.become_complete()


def restarted(relay: Relay) -> Callable[[], Awaitable[bool]]:
    before = relay.counters.restarts

    async def more() -> bool:
        return relay.counters.restarts > before

    return more


async def test_a_lost_listening_connection_is_noticed(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    relay = make_relay(poll_seconds=60)
    async with running(relay):
        await topics.become_complete()
        await eventually(lambda: beat_at(topics, 0))
        noticed = restarted(relay)
        await topics.db.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        await eventually(noticed)
        await log.save(new_zone())
        await topics.become_complete()


# --- heartbeat -----------------------------------------------------------------------------


async def beats(topics: Topics) -> list[dict[str, str]]:
    return [fields for _, fields in await on_topic(topics.redis, HEARTBEAT)]


async def beat_at(topics: Topics, position: int) -> bool:
    found = await beats(topics)
    return bool(found) and int(found[-1]["position"]) >= position


async def test_the_heartbeat_says_what_is_on_the_topics(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    async with running(make_relay()):
        await some_events(log)
        end = await LogReader(topics.db).end()
        await eventually(lambda: beat_at(topics, end))
        assert await topics.complete()
    beat = (await beats(topics))[-1]
    heads = {
        topic.name: (await in_log(topics.db, topic) or [("0-0", {})])[-1][0]
        for topic in ALL_TOPICS.values()
    }
    assert orjson.loads(beat["heads"]) == heads
    assert beat["position"] == str(end)
    assert beat["log_id"] == await LogReader(topics.db).log_id()
    assert RINGS.facts.verify(HEARTBEAT, beat)
    assert not RINGS.signals.verify(HEARTBEAT, beat)


async def test_the_heart_beats_when_idle(make_relay: MakeRelay, topics: Topics) -> None:
    async with running(make_relay()):
        await eventually(lambda: some_beats(topics, 3))


async def some_beats(topics: Topics, count: int) -> bool:
    return len(await beats(topics)) >= count


async def test_no_heartbeat_without_the_log(own_servers: EmbeddedServers) -> None:
    relay = Relay(own_servers.database_url, own_servers.redis_url, RINGS)
    async with Redis.from_url(own_servers.redis_url) as redis, running(relay):
        await eventually(lambda: redis.exists(HEARTBEAT))
        own_servers.postgres.stop()
        await eventually(restarted(relay))
        last = await redis.xlen(HEARTBEAT)
        for _ in range(3):
            await eventually(restarted(relay))
        assert await redis.xlen(HEARTBEAT) == last


async def test_a_heartbeat_says_that_the_log_was_read(
    make_relay: MakeRelay, topics: Topics, database_url: str
) -> None:
    """While the log cannot be read, though the database is there, nothing is said."""
    async with (
        await AsyncConnection.connect(database_url) as blocking,
        running(make_relay()),
    ):
        await eventually(lambda: some_beats(topics, 1))
        await blocking.execute("LOCK TABLE log IN ACCESS EXCLUSIVE MODE")
        await eventually(lambda: waits_for_the_log(topics.db))
        before = len(await beats(topics))
        await blocking.rollback()
        await eventually(lambda: some_beats(topics, before + 1))


async def waits_for_the_log(db: AsyncConnection[Any]) -> bool:
    cursor = await db.execute(
        "SELECT count(*) FROM pg_locks WHERE relation = 'log'::regclass AND NOT granted"
    )
    return await cursor.fetchone() == (1,)


# --- what gets lost ------------------------------------------------------------------------


async def flush(redis: Redis) -> None:
    await redis.flushdb()


async def delete(redis: Redis) -> None:
    await redis.delete(ITEMS.name)


async def cut_back(redis: Redis) -> None:
    """Bring a topic back to an earlier state, as a restored Redis does."""
    entries = entries_in(await redis.xrange(ITEMS.name))[:2]
    await redis.delete(ITEMS.name)
    for entry_id, fields in entries:
        await redis.xadd(ITEMS.name, dict(fields), id=entry_id)


@pytest.mark.parametrize("lose", [flush, delete, cut_back])
async def test_a_loss_is_noticed_without_a_new_event(
    make_relay: MakeRelay, log: Log, topics: Topics, lose: Callable[[Redis], Awaitable[None]]
) -> None:
    await some_events(log)
    relay = make_relay()
    async with running(relay):
        await topics.become_complete()
        await lose(topics.redis)
        await topics.become_complete()
    assert (relay.counters.resyncs, relay.counters.quarantined) == (2, 0)


async def test_only_the_tail_is_published_again(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    async with running(make_relay()):
        await eventually(lambda: some_beats(topics, 1))  # else it begins with a tail already
        await log.save(archive_zone(new_zone(), "s0", "s1"))  # the only entries of its topics
        await save_all(log, (new_zone() for _ in range(REPUBLISH + 200)))
        await topics.become_complete()
        await topics.redis.flushdb()
        for topic in (ZONES, ITEMS, REVOKE):
            await eventually(lambda topic=topic: topics.ends(topic))
    zones = await in_log(topics.db, ZONES)
    assert await on_topic(topics.redis, ZONES.name) == zones[-REPUBLISH:]
    for topic in (ITEMS, REVOKE):  # a quiet topic gets its last event back, however old
        assert await on_topic(topics.redis, topic.name) == await in_log(topics.db, topic)


# --- what is not ours ----------------------------------------------------------------------

JUNK = {"position": "1", "event": "zone.created", "prev": "0-0", FIELD: "0" * 64}


async def stray(redis: Redis, topic: Topic = ITEMS) -> None:
    await redis.xadd(topic.name, {"junk": b"\xff", "more": "x"})


async def forged_in_range(redis: Redis) -> None:
    last = (await redis.xinfo_stream(ITEMS.name))["last-generated-id"].decode()
    await redis.xadd(ITEMS.name, JUNK, id=f"{last.partition('-')[0]}-77")


async def forged_next(redis: Redis) -> None:
    last = (await redis.xinfo_stream(ITEMS.name))["last-generated-id"].decode()
    await redis.xadd(ITEMS.name, JUNK, id=f"{int(last.partition('-')[0]) + 1}-0")


async def forged_twice_the_same_name(redis: Redis) -> None:
    await redis.execute_command("XADD", ITEMS.name, "*", "a", "1", "a", "2")


@pytest.mark.parametrize("forge", [stray, forged_in_range, forged_next, forged_twice_the_same_name])
async def test_a_foreign_end_is_moved_aside(
    make_relay: MakeRelay,
    log: Log,
    topics: Topics,
    forge: Callable[[Redis], Awaitable[None]],
) -> None:
    await some_events(log)
    relay = make_relay()
    async with running(relay):
        await topics.become_complete()
        expected = await in_log(topics.db, ITEMS)
        await forge(topics.redis)
        await topics.become_complete()
        await some_events(log)
        await topics.become_complete()
    (aside,) = await topics.quarantined()
    assert re.fullmatch(re.escape(ITEMS.name) + r"\.quarantine\.\d{19}", aside)
    assert await topics.redis.xlen(aside) == len(expected) + 1
    assert relay.counters.quarantined == 1


async def test_a_forged_id_that_the_log_yields_later(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    """The id is right, the content is not."""
    await some_events(log)
    expected = await in_log(topics.db, ZONES)
    await fill_topic(topics.redis, ZONES, expected[:-1])
    entry_id, fields = expected[-1]
    await topics.redis.xadd(ZONES.name, {**fields, "data": "{}"}, id=entry_id)
    relay = make_relay()
    async with running(relay):
        await topics.become_complete()
    assert relay.counters.quarantined == 1


async def test_a_deleted_last_entry_is_no_foreign_end(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    await some_events(log)
    relay = make_relay()
    async with running(relay):
        await topics.become_complete()
        last, _ = (await on_topic(topics.redis, ZONES.name))[-1]
        await topics.redis.xdel(ZONES.name, last)
        await topics.redis.xtrim(ITEMS.name, 0)
    async with running(relay):
        await log.save(archive_zone(new_zone(), "s"))
        await eventually(lambda: topics.ends(ITEMS))
        await eventually(lambda: topics.ends(ZONES))
    assert relay.counters.quarantined == 0
    assert len(await on_topic(topics.redis, ITEMS.name)) == 1


# --- several relays ------------------------------------------------------------------------


class Gate:
    """Holds one relay before a script, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def before(self, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
        script, text = relay_module.script, getattr(relay_module, name)

        async def gated(line: RedisLine, called: str, keys: list[str], args: list[Any]) -> Any:
            if called == text and not self.reached.is_set():
                self.reached.set()
                await self.opened.wait()
            return await script(line, called, keys, args)

        monkeypatch.setattr(relay_module, "script", gated)
        yield
        self.opened.set()


async def test_a_paused_relay_is_fenced(
    make_relay: MakeRelay, log: Log, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes with a batch whose predecessors the topic has lost: no hole may come of it."""
    await some_events(log)
    paused, gate = make_relay(locked=False), Gate()
    async with running(paused):
        await topics.become_complete()
        async with gate.before("_PUBLISH", monkeypatch):
            await log.save(archive_zone(new_zone(), "late"))
            await gate.reached.wait()
            await cut_back(topics.redis)
        await topics.become_complete()
    assert paused.counters.refused > 0


async def test_a_refused_resync_begins_again(
    make_relay: MakeRelay, log: Log, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty topic takes any start, so the relay must never go on from where it only believed."""
    await some_events(log)
    await fill_topic(topics.redis, ZONES, (await in_log(topics.db, ZONES))[:2])
    script, calls = relay_module.script, 0

    async def disturbed(line: RedisLine, called: str, keys: list[str], args: list[Any]) -> Any:
        nonlocal calls
        first = called == relay_module._APPEND and keys == [ZONES.name] and calls == 0
        calls += first
        if first:  # the topic is not as it was found, and the next moment it is gone
            await stray(topics.redis, ZONES)
        answer = await script(line, called, keys, args)
        if first:
            await topics.redis.delete(ZONES.name)
            await log.save(new_zone())
        return answer

    monkeypatch.setattr(relay_module, "script", disturbed)
    relay = make_relay()
    async with running(relay):
        await topics.become_complete()
    assert relay.counters.refused > 0


async def test_a_forger_before_a_paused_relay(
    make_relay: MakeRelay, log: Log, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic ends with the very id that the relay was about to write."""
    await some_events(log)
    paused, gate = make_relay(), Gate()
    async with running(paused):
        await topics.become_complete()
        async with gate.before("_PUBLISH", monkeypatch):
            await log.save(new_zone())
            await gate.reached.wait()
            end = await LogReader(topics.db).end()
            await topics.redis.xadd(ZONES.name, JUNK, id=f"{end}-0")
        await topics.become_complete()
    assert paused.counters.quarantined == 1


async def test_what_another_relay_repaired_is_not_moved_aside(
    make_relay: MakeRelay, log: Log, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_events(log)
    end = await LogReader(topics.db).end()
    await topics.redis.xadd(ZONES.name, JUNK, id=f"{end}-0")
    paused, other, gate = make_relay(locked=False), make_relay(locked=False), Gate()
    async with gate.before("_QUARANTINE", monkeypatch), running(paused):
        await gate.reached.wait()
        async with running(other):
            await topics.become_complete()
        gate.opened.set()
        await eventually(lambda: beat_at(topics, end))
        await log.save(new_zone())
        await topics.become_complete()
    assert len(await topics.quarantined()) == 1
    assert (paused.counters.quarantined, other.counters.quarantined) == (0, 1)


async def test_two_relays_without_a_lock(make_relay: MakeRelay, log: Log, topics: Topics) -> None:
    relays = [make_relay(locked=False) for _ in range(2)]
    async with running(*relays):
        for _ in range(20):
            await some_events(log)
        await topics.become_complete()
    assert await topics.quarantined() == []


async def test_a_second_relay_stands_by_and_takes_over(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    leader, standby = make_relay(), make_relay()
    async with running(leader):
        await eventually(lambda: some_beats(topics, 1))
        async with running(standby):
            await some_events(log)
            await topics.become_complete()
            await eventually(lambda: some_beats(topics, 4))
            assert standby.counters.resyncs == 0
    async with running(standby):
        await some_events(log)
        await topics.become_complete()


async def test_a_silent_leader_is_passed_by_and_met_again(
    make_relay: MakeRelay, log: Log, topics: Topics
) -> None:
    standby, leader = make_relay(), make_relay(locked=False)
    async with await silent_holder(topics.db), running(standby):
        await some_events(log)
        await topics.become_complete()  # after 2 s of silence, without the lock
        async with running(leader):  # the one that was silent works again
            await eventually(lambda: stepped_down(topics, log))
            await some_events(log)
            await topics.become_complete()


async def silent_holder(db: AsyncConnection[Any]) -> AsyncConnection[Any]:
    """Return a connection that holds the relay's lock and does nothing."""
    holder = await AsyncConnection.connect(db.info.dsn, autocommit=True, password=db.info.password)
    await holder.execute("SELECT pg_advisory_lock(%s)", (relay_module._LOCK,))
    return holder


async def stepped_down(topics: Topics, log: Log) -> bool:
    """Append something; say whether somebody waits for the lock again."""
    await log.save(new_zone())
    await topics.become_complete()
    cursor = await topics.db.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )
    return await cursor.fetchone() == (1,)


async def test_a_restart_hides_nothing(own_servers: EmbeddedServers) -> None:
    relay = Relay(own_servers.database_url, own_servers.redis_url, RINGS)
    async with running(relay):
        for _ in range(2):
            own_servers.restart_valkey()
            own_servers.restart_postgres()
        async with (
            await psycopg.AsyncConnection.connect(own_servers.database_url) as db,
            Redis.from_url(own_servers.redis_url) as redis,
        ):
            await eventually(lambda: beat_at(Topics(db, redis), 0))
