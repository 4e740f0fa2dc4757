"""The runner, rule by rule: every committed event applied once, in order, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from psycopg import AsyncConnection
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from caracal.events.base import Fact
from caracal.events.store import dead_letters
from caracal.events.store.entries import Rings
from caracal.events.store.log import Log
from caracal.events.store.relay import Relay
from caracal.events.topics import CONSUMER, Topic
from caracal.projections import runner as runner_module
from caracal.projections.runner import Runner, checkpoint
from caracal.stream_signature import Keyring
from tests.backbone import (
    ITEMS,
    RINGS,
    ZONES,
    Expected,
    archive_zone,
    change_zone,
    eventually,
    in_log,
    new_zone,
    on_topic,
    running,
    save_all,
)
from tests.journal import Journal

MakeRunner = Callable[..., Runner]


@pytest.fixture
async def journal(db: AsyncConnection[Any]) -> Journal:
    journal = Journal()
    await journal.prepare(db)
    return journal


@pytest.fixture
def make_runner(database_url: str, redis_url: str, journal: Journal) -> MakeRunner:
    def make(topic: Topic = ZONES, **options: Any) -> Runner:
        return Runner(
            journal, topic, database_url=database_url, redis_url=redis_url, rings=RINGS, **options
        )

    return make


@pytest.fixture
async def relay(database_url: str, redis_url: str) -> AsyncIterator[Relay]:
    """A relay at work."""
    relay = Relay(database_url, redis_url, RINGS, topics={ZONES.name: ZONES, ITEMS.name: ITEMS})
    async with running(relay):
        yield relay


class Model:
    """Compares what was applied with the log."""

    def __init__(self, db: AsyncConnection[Any], redis: Redis, journal: Journal) -> None:
        self.db, self.redis, self.journal = db, redis, journal

    async def is_complete(self, *topics: Topic) -> bool:
        for topic in topics or (ZONES,):
            expected = [entry_id for entry_id, _ in await in_log(self.db, topic)]
            if await self.journal.applied(self.db, topic) != expected:
                return False
            place = await checkpoint(self.db, self.journal.name, topic.name)
            if str(place) != (expected or ["0-0"])[-1]:
                return False
        return True

    async def becomes_complete(self, *topics: Topic) -> None:
        """Wait until every entry of the log was applied once, in order."""
        await eventually(lambda: self.is_complete(*topics), what="everything applied once")

    async def fill_topic(self, topic: Topic = ZONES) -> Expected:
        """Put on a topic what the log yields for it and it has not, as a relay would."""
        entries = await in_log(self.db, topic)
        there = len(await on_topic(self.redis, topic.name))
        for entry_id, fields in entries[there:]:
            await self.redis.xadd(topic.name, dict(fields), id=entry_id)
        return entries


@pytest.fixture
def model(db: AsyncConnection[Any], redis: Redis, journal: Journal) -> Model:
    return Model(db, redis, journal)


async def some_events(log: Log, count: int = 3) -> None:
    await save_all(log, (new_zone() for _ in range(count)))
    await log.save(archive_zone(change_zone(new_zone(), name="B"), "s0", "s1", "s2"))


@pytest.mark.usefixtures("relay")
async def test_what_is_published_is_applied(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    await some_events(log)
    runners = make_runner(ZONES), make_runner(ITEMS)
    async with running(*runners):
        await model.becomes_complete(ZONES, ITEMS)
        await some_events(log)
        await model.becomes_complete(ZONES, ITEMS)
        await eventually(lambda: nothing_pending(model))
    assert [runner.counters.gaps for runner in runners] == [0, 0]


@pytest.mark.usefixtures("relay")
async def test_waiting_is_told(make_runner: MakeRunner, log: Log, model: Model) -> None:
    await model.db.execute(f"LISTEN {runner_module.CHECKPOINT_CHANNEL}")
    async with running(make_runner()):
        saved = await log.save(new_zone())
        told = [note async for note in model.db.notifies(timeout=10, stop_after=1)]
        assert [note.payload for note in told] == [f"journal {ZONES.name} {saved.position}"]
        assert await model.is_complete()  # told after the rows can be seen


async def test_every_entry_twice(make_runner: MakeRunner, log: Log, model: Model) -> None:
    """The group hands out again what has been applied, as after lost acknowledgements."""
    await some_events(log)
    await model.fill_topic()
    async with running(make_runner()):
        await model.becomes_complete()
    await model.redis.xgroup_setid(ZONES.name, "worker.journal", "0")
    await log.save(new_zone())
    await model.fill_topic()
    async with running(make_runner()):
        await model.becomes_complete()
        await eventually(lambda: nothing_pending(model))


async def nothing_pending(model: Model) -> bool:
    return bool((await model.redis.xpending(ZONES.name, "worker.journal"))["pending"] == 0)


async def test_what_was_taken_and_not_acknowledged_comes_first(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    await some_events(log)
    await model.fill_topic()
    await model.redis.xgroup_create(ZONES.name, "worker.journal", id="0")
    await model.redis.xreadgroup("worker.journal", CONSUMER, {ZONES.name: ">"}, count=2)
    runner = make_runner()
    async with running(runner):
        await model.becomes_complete()
        await eventually(lambda: nothing_pending(model))
    assert runner.counters.gaps == 0


# --- gaps ----------------------------------------------------------------------------------


async def test_a_gap_is_filled_from_the_log(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    await some_events(log)
    entries = await model.fill_topic()
    for entry_id, _ in entries[1:3]:
        await model.redis.xdel(ZONES.name, entry_id)
    runner = make_runner()
    async with running(runner):
        await eventually(lambda: model.is_complete())
    assert (runner.counters.gaps, runner.counters.idle_fills) == (1, 0)


async def test_a_lost_part_of_one_event_is_a_gap(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    """``prev`` is the full id: with the position alone a lost ``-1`` could not be seen."""
    await some_events(log)
    (_, lost, _) = await model.fill_topic(ITEMS)
    await model.redis.xdel(ITEMS.name, lost[0])
    runner = make_runner(ITEMS)
    async with running(runner):
        await model.becomes_complete(ITEMS)
    assert (runner.counters.gaps, runner.counters.idle_fills) == (1, 0)


async def test_a_lost_last_entry_is_found_when_idle(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    await some_events(log)
    entries = await model.fill_topic()
    await model.redis.xdel(ZONES.name, entries[-1][0])
    runner = make_runner()
    async with running(runner):
        await model.becomes_complete()
    assert runner.counters.idle_fills == 1


async def test_a_trimmed_topic(make_runner: MakeRunner, log: Log, model: Model) -> None:
    await some_events(log, 20)
    await model.fill_topic()
    for left in (5, 1, 0):
        await model.redis.xtrim(ZONES.name, left, approximate=False)
        async with running(make_runner()):
            await model.becomes_complete()
        await model.journal.forget(model.db)


async def test_without_any_relay(make_runner: MakeRunner, log: Log, model: Model) -> None:
    async with running(make_runner(ZONES), make_runner(ITEMS)):
        await some_events(log)
        await model.becomes_complete(ZONES, ITEMS)


async def test_without_redis(log: Log, model: Model, database_url: str, journal: Journal) -> None:
    runner = Runner(
        journal,
        ZONES,
        database_url=database_url,
        redis_url="unix:///nowhere/redis.sock",
        rings=RINGS,
    )
    async with running(runner):
        for _ in range(3):
            await some_events(log)
            await model.becomes_complete()


# --- what is not ours ----------------------------------------------------------------------


async def letters(model: Model, topic: Topic = ZONES) -> list[dict[str, str]]:
    return [letter for _, letter in await dead_letters.newest(model.redis, topic, 100)]


JUNK: list[dict[str, Any]] = [
    {"position": "{position}", "prev": "0-0", "event": "zone.created"},
    {"junk": b"\xff\xfe"},
    {"_sig": "0" * 64, "position": "{position}", "prev": "0-0"},
]


@pytest.mark.parametrize("junk", JUNK)
async def test_a_foreign_entry_changes_no_row(
    make_runner: MakeRunner, log: Log, model: Model, junk: dict[str, Any]
) -> None:
    await some_events(log)
    entries = await in_log(model.db, ZONES)
    forged, position = entries[2][0], entries[2][0].partition("-")[0]
    for entry_id, fields in entries:
        given = {
            name: value.replace("{position}", position) if isinstance(value, str) else value
            for name, value in junk.items()
        }
        await model.redis.xadd(
            ZONES.name, dict(given if entry_id == forged else fields), id=entry_id
        )
    runner = make_runner()
    async with running(runner):
        await model.becomes_complete()
        await eventually(lambda: nothing_pending(model))
    (letter,) = await letters(model)
    assert (letter["original_id"], letter["group"]) == (forged, "worker.journal")
    assert letter["error"] == "bad_signature"
    assert RINGS.facts.verify(ZONES.dead, letter)
    assert not RINGS.facts.verify(ZONES.name, letter)
    if "event" in junk:
        assert orjson.loads(letter["values"])["event"] == "zone.created"
    assert runner.counters.foreign == 1
    assert await dead_letters.count(model.redis, ZONES) == 1


async def test_a_foreign_entry_never_moves_the_cursor(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    await some_events(log)
    await model.fill_topic()
    runner = make_runner()
    async with running(runner):
        await model.becomes_complete()
        await model.redis.xadd(ZONES.name, {"position": "9", "prev": "0-0"})  # far beyond the log
        await eventually(lambda: letters(model))
        await some_events(log)
        await model.becomes_complete()


async def test_a_genuine_entry_at_another_place_is_foreign(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    """Signed by us, but sent again under a later id."""
    await some_events(log)
    entries = await model.fill_topic()
    end = int(entries[-1][0].partition("-")[0])
    await model.redis.xadd(ZONES.name, dict(entries[0][1]), id=f"{end + 1}-0")
    async with running(make_runner()):
        await model.becomes_complete()
        await eventually(lambda: letters(model))
        await some_events(log)
        await model.becomes_complete()


@pytest.mark.parametrize("prev", ["x", "0-0"])
async def test_unsigned_junk_in_dev_mode(
    log: Log, model: Model, database_url: str, redis_url: str, journal: Journal, prev: str
) -> None:
    """Without keys everything verifies; what cannot be read is foreign all the same."""
    await some_events(log)
    await model.redis.xadd(ZONES.name, {"position": "1", "prev": prev, "event": "e"}, id="1-0")
    runner = Runner(
        journal,
        ZONES,
        database_url=database_url,
        redis_url=redis_url,
        rings=Rings(Keyring(), Keyring()),
    )
    async with running(runner):
        await model.becomes_complete()
    assert runner.counters.foreign == 1


# --- groups --------------------------------------------------------------------------------


async def flush(redis: Redis) -> None:
    await redis.flushdb()


async def rename(redis: Redis) -> None:
    await redis.rename(ZONES.name, f"{ZONES.name}.quarantine.1")


async def destroy(redis: Redis) -> None:
    await redis.xgroup_destroy(ZONES.name, "worker.journal")


@pytest.mark.parametrize("lose", [flush, rename, destroy])
async def test_a_vanished_group_is_made_again_at_the_checkpoint(
    make_runner: MakeRunner, log: Log, model: Model, lose: Callable[[Redis], Awaitable[None]]
) -> None:
    await some_events(log)
    await model.fill_topic()
    runner = make_runner()
    async with running(runner):
        await model.becomes_complete()
        place = await checkpoint(model.db, "journal", ZONES.name)
        await eventually(lambda: group_exists(model.redis))
        await lose(model.redis)
        await eventually(lambda: group_exists(model.redis))
        (group,) = await model.redis.xinfo_groups(ZONES.name)
        assert group["last-delivered-id"].decode() == str(place)
        await some_events(log)
        await model.becomes_complete()


async def group_exists(redis: Redis) -> bool:
    try:
        return bool(await redis.xinfo_groups(ZONES.name))
    except ResponseError:
        return False


# --- several runners -----------------------------------------------------------------------


@pytest.mark.usefixtures("relay")
async def test_two_runners_without_a_lock(make_runner: MakeRunner, log: Log, model: Model) -> None:
    runners = [make_runner(topic, locked=False) for topic in (ZONES, ITEMS) for _ in range(2)]
    async with running(*runners):
        for _ in range(30):
            await some_events(log)
        await model.becomes_complete(ZONES, ITEMS)


async def test_a_runner_that_was_overtaken_rolls_back(
    make_runner: MakeRunner, log: Log, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a batch when another applies the same: compare-and-set refuses it."""
    await some_events(log)
    await model.fill_topic()
    reached, released = asyncio.Event(), asyncio.Event()
    commit = runner_module._Applying._commit

    async def held(self: Any, *given: Any) -> None:
        if not reached.is_set():
            reached.set()
            await released.wait()
        await commit(self, *given)

    monkeypatch.setattr(runner_module._Applying, "_commit", held)
    slow, quick = make_runner(locked=False), make_runner(locked=False)
    async with running(slow):
        await reached.wait()
        async with running(quick):
            await model.becomes_complete()
        released.set()
        await eventually(lambda: fenced(slow))
        await some_events(log)
        await model.becomes_complete()


async def fenced(runner: Runner) -> bool:
    return runner.counters.fenced > 0


@pytest.mark.usefixtures("relay")
async def test_a_standby_takes_over(make_runner: MakeRunner, log: Log, model: Model) -> None:
    leader, standby = make_runner(), make_runner()
    async with running(leader):
        await some_events(log)
        await model.becomes_complete()
        async with running(standby):
            await some_events(log)
            await model.becomes_complete()
            assert standby.counters.applied == 0
    async with running(standby):
        await some_events(log)
        await model.becomes_complete()


@pytest.mark.usefixtures("relay")
async def test_a_silent_leader_is_passed_by(
    make_runner: MakeRunner, log: Log, model: Model, database_url: str
) -> None:
    """Somebody holds the lock and does nothing, as a stopped process does."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as holder:
        await holder.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"journal {ZONES.name}",)
        )
        async with running(make_runner()):
            await some_events(log)
            await model.becomes_complete()


# --- the same from topic, log and replay ---------------------------------------------------


async def test_reducers_see_the_same_from_topic_and_log(
    make_runner: MakeRunner, log: Log, model: Model
) -> None:
    seen: dict[str, list[Fact]] = {"topic": [], "log": []}
    await some_events(log)
    await model.fill_topic()
    for source in ("topic", "log"):
        model.journal.watch = seen[source].append
        async with running(make_runner()):
            await model.becomes_complete()
        await model.journal.forget(model.db)
        await model.redis.flushdb()
    assert seen["topic"] == seen["log"]
    assert len(seen["log"]) == 6
    assert not await on_topic(model.redis, ZONES.dead)
