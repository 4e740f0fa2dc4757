"""Group commit: sharing, refusing, and what became of a call whose answer was lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection

from caracal.embedded import EmbeddedServers
from caracal.errors import CaracalError, Conflict, Unavailable
from caracal.events.guards import Take, live
from caracal.events.store.appender import MAX_BATCH, Appender, VersionConflict
from caracal.events.store.log import Events, Log
from caracal.ids import log_key, new_id
from tests.backbone import eventually, new_zone, opened_log


def event(version: int = 1, thing_id: str | None = None, state: bytes = b"{}") -> StoredEvent:
    return StoredEvent(log_key(thing_id or new_id()), version, "zone.created", state)


@pytest.fixture
async def appender(database_url: str) -> Any:
    appender = Appender(database_url)
    await appender.start()
    yield appender
    await appender.stop()


async def transactions(db: AsyncConnection[Any]) -> int:
    """Return in how many transactions the log was written."""
    cursor = await db.execute("SELECT count(DISTINCT xmin::text) FROM log")
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def test_waiting_requests_share_a_transaction(
    appender: Appender, db: AsyncConnection[Any]
) -> None:
    calls = [appender.append([event(), event()], []) for _ in range(MAX_BATCH)]
    positions = [position for both in await asyncio.gather(*calls) for position in both]
    assert positions == list(range(1, 2 * MAX_BATCH + 1))
    assert await transactions(db) <= 2  # the first, and the rest that gathered meanwhile


async def test_positions_are_in_the_order_of_the_events(appender: Appender) -> None:
    thing = new_id()
    positions = await appender.append([event(n, thing) for n in range(1, 500)], [])
    assert positions == sorted(positions)


async def test_a_version_conflict_in_a_batch_hurts_nobody_else(appender: Appender) -> None:
    thing = new_id()
    calls = [appender.append([event(1, thing if n % 10 == 0 else None)], []) for n in range(50)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    conflicts = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, VersionConflict)]
    assert conflicts == [10, 20, 30, 40]
    assert all(isinstance(outcome, list) for n, outcome in enumerate(outcomes) if n % 10)


async def test_only_the_version_key_is_a_version_conflict(
    appender: Appender, db: AsyncConnection[Any]
) -> None:
    await db.execute("CREATE UNIQUE INDEX one_name ON log (name)")
    await appender.append([event()], [])
    with pytest.raises(psycopg.errors.UniqueViolation):
        await appender.append([event()], [])


async def test_a_caller_that_has_gone_hurts_nobody(appender: Appender) -> None:
    gone = asyncio.create_task(appender.append([event()], []))
    others = [asyncio.create_task(appender.append([event()], [])) for _ in range(5)]
    await asyncio.sleep(0)
    gone.cancel()
    assert len(await asyncio.gather(*others)) == 5
    assert await appender.append([event()], [])


async def test_a_stopped_appender_refuses(database_url: str) -> None:
    appender = Appender(database_url)
    await appender.start()
    calls = [asyncio.create_task(appender.append([event()], [])) for _ in range(3)]
    await asyncio.sleep(0)
    await appender.stop()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable | list) for outcome in outcomes)


async def test_unavailable_without_a_database(own_servers: EmbeddedServers) -> None:
    async with opened_log(own_servers.database_url) as log:
        await log.save(new_zone())
        own_servers.postgres.stop()
        with pytest.raises(Unavailable):
            await log.save(new_zone())
        own_servers.restart_postgres()
        await log.save(new_zone())


# --- unknown outcomes ----------------------------------------------------------------------


async def backend_of(appender: Appender) -> int:
    assert appender._connection is not None
    return appender._connection.info.backend_pid


async def terminate(db: AsyncConnection[Any], pid: int) -> None:
    await db.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def test_a_commit_whose_answer_was_lost_is_found(
    appender: Appender, db: AsyncConnection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = appender._call

    async def lose_the_answer(batch: Any) -> list[int]:
        monkeypatch.undo()
        await call(batch)
        await terminate(db, await backend_of(appender))
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(appender, "_call", lose_the_answer)
    thing, taken = new_id(), Take("k", "a", Conflict("taken"))
    assert await appender.append([event(1, thing), event(2, thing)], [taken]) == [1, 2]
    assert await appender.append([event()], []) == [3]


async def test_a_call_that_never_committed_is_made_again(
    appender: Appender, db: AsyncConnection[Any]
) -> None:
    await terminate(db, await backend_of(appender))
    assert await appender.append([event()], [Take("k", "a", Conflict("taken"))]) == [1]


async def test_someone_elses_version_is_no_success(
    appender: Appender, db: AsyncConnection[Any]
) -> None:
    thing = new_id()
    await appender.append([event(1, thing, b"theirs")], [])
    await terminate(db, await backend_of(appender))
    with pytest.raises(VersionConflict):
        await appender.append([event(1, thing, b"ours")], [])


class Writer:
    """Saves zones until stopped, and knows what it was told about each."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.stopped = asyncio.Event()
        self.told: dict[str, str] = {}

    async def run(self) -> None:
        while not self.stopped.is_set():
            zone = new_zone()
            try:
                await self._log.save(zone)
                self.told[zone.aggregate_id] = "saved"
            except CaracalError as error:
                self.told[zone.aggregate_id] = error.code


async def check(db: AsyncConnection[Any], writers: list[Writer]) -> Counter[str]:
    """Every event once, every acknowledged one there, no false conflict; count the outcomes."""
    told = {thing: outcome for writer in writers for thing, outcome in writer.told.items()}
    cursor = await db.execute("SELECT aggregate_key, count(*) FROM log GROUP BY aggregate_key")
    there = dict(await cursor.fetchall())
    assert set(there.values()) <= {1}
    saved = {log_key(thing) for thing, outcome in told.items() if outcome == "saved"}
    assert saved <= there.keys()
    assert set(told.values()) <= {"saved", "unavailable"}
    cursor = await db.execute("SELECT count(*) FROM guard_key WHERE key LIKE %s", (live("%", "%"),))
    row = await cursor.fetchone()
    assert row == (len(there),)  # events and what they hold came together
    return Counter(told.values())


async def test_backends_killed_under_writers(database_url: str, db: AsyncConnection[Any]) -> None:
    async with opened_log(database_url) as one, opened_log(database_url) as other:
        writers = [Writer(log) for log in (one, other) for _ in range(3)]
        tasks = [asyncio.create_task(writer.run()) for writer in writers]
        for log in (one, other) * 12:
            await more(writers, 10)
            await terminate(db, await backend_of(log._appender))
        for writer in writers:
            writer.stopped.set()
        await asyncio.gather(*tasks)
    outcomes = await check(db, writers)
    assert outcomes.keys() == {"saved"}


async def more(writers: list[Writer], count: int) -> None:
    """Wait until the writers were told ``count`` outcomes more."""
    goal = sum(len(writer.told) for writer in writers) + count

    async def reached() -> bool:
        return sum(len(writer.told) for writer in writers) >= goal

    await eventually(reached)


@pytest.mark.chaos
async def test_postmasters_killed_under_writers(own_servers: EmbeddedServers) -> None:
    async with opened_log(own_servers.database_url) as log:
        writers = [Writer(log) for _ in range(6)]
        tasks = [asyncio.create_task(writer.run()) for writer in writers]
        for _ in range(3):
            await more(writers, 30)
            os.kill(own_servers.postgres_pid, signal.SIGKILL)
            await asyncio.to_thread(own_servers.postgres.process.wait)
            own_servers.restart_postgres()
        await more(writers, 30)
        for writer in writers:
            writer.stopped.set()
        await asyncio.gather(*tasks)
        async with await AsyncConnection.connect(own_servers.database_url) as db:
            await check(db, writers)


def test_events_are_stored_under_explicit_names() -> None:
    stored = Events().collect([new_zone()])
    assert [event.topic for event in stored] == ["zone.created"]
    assert b"caracal.events" not in stored[0].state
