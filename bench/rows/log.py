"""The log alone: appends through the group-commit appender, and a rebuild from what they left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection

from bench.cpu import Meter
from bench.load import percentile
from bench.report import Row, Value, at_least
from bench.setting import Setting
from caracal.errors import Conflict
from caracal.events.base import acting
from caracal.events.guards import Count, Take
from caracal.events.resource import Resource
from caracal.events.store.appender import Appender
from caracal.events.store.log import Events
from caracal.ids import new_id
from caracal.projections.rebuild import rebuild
from caracal.projections.resource import resources

_TAKEN = Conflict("taken", "taken")
_BATCH = 5_000


async def appends(setting: Setting) -> Row:
    """Fifty callers, each event with a unique key and a counted place."""
    database, seconds = setting.database, setting.seconds(6)
    prepared = [_created() for _ in range(int(seconds * 12_000))]
    appender = Appender(database.database_url)
    await appender.start()
    meter, cpu = Meter({"postgres": database.postgres_pid}), time.process_time()
    began, millis = time.perf_counter(), []

    async def caller() -> None:
        while prepared and time.perf_counter() - began < seconds:
            event = prepared.pop()
            guards = [
                Take(f"bench:{event.originator_id}", "bench", _TAKEN),
                Count("bench", 1, 10**9, _TAKEN),
            ]
            sent = time.perf_counter()
            await appender.append([event], guards)
            millis.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(caller() for _ in range(50)))
    took = time.perf_counter() - began
    own = time.process_time() - cpu
    used, (busy, total) = meter.used(), meter.machine()
    await appender.stop()
    millis.sort()
    return Row(
        "Log appends, c=50",
        "bench process: Appender, one event, unique and count guard; PostgreSQL alone",
        [
            at_least("rate", len(millis) / took, "/s", 4_000),
            Value("p50", percentile(millis, 0.5), "ms"),
            Value("p99", percentile(millis, 0.99), "ms"),
        ],
        {
            "postgres": used["postgres"] / len(millis) * 1000,
            "bench": own / len(millis) * 1000,
        },
        max(busy - used["postgres"] - own, 0) / total,
    )


async def rebuilding(setting: Setting) -> Row:
    """The read model of resources, made anew from the log while it stands."""
    database = setting.database
    things = 4_000 if setting.quick else 40_000
    setting.say(f"appending {things * 3 // 2} events")
    await _fill(database.database_url, things)
    async with await AsyncConnection.connect(database.database_url) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM log WHERE name = ANY(%s)", (list(resources.reducers),)
        )
        (events,) = await cursor.fetchone() or (0,)
    meter, cpu = Meter({"postgres": database.postgres_pid}), time.process_time()
    began = time.perf_counter()
    await rebuild(database.database_url, resources)
    took, own = time.perf_counter() - began, time.process_time() - cpu
    await asyncio.sleep(0.3)  # what its connection used counts when that has gone
    used, (busy, total) = meter.used(), meter.machine()
    return Row(
        "Rebuild from the log",
        f"bench process: rebuild() of resources from {events} events; PostgreSQL alone",
        [at_least("rate", events / took, "events/s", 25_000), Value("took", took, "s")],
        {"bench": own / events * 1000, "postgres": used["postgres"] / events * 1000},
        max(busy - used["postgres"] - own, 0) / total,
    )


def _created() -> StoredEvent:
    return next(_events(1))


def _events(things: int) -> Iterator[StoredEvent]:
    """Yield the events of resources: each is created, every other one changed."""
    log = Events()
    with acting(zone_id=new_id(), actor="bench", request_id=new_id(), action="POST /bench"):
        for number in range(things):
            resource = _resource(number)
            if number % 2:
                resource.change({"name": f"changed {number}"})
            yield from log.collect([resource])


def _resource(number: int) -> Resource:
    return Resource.create(
        new_id(),
        zone_id="bench",
        identifier=f"resource://bench/{number}",
        quota=10**9,
        name=f"resource {number}",
        upstream_url="https://upstream.example/api",
        scopes=["read", "write"],
        prefix_match=False,
        provider_id=None,
        gateway_application_id=None,
        protocol="http",
        rate_limit=None,
    )


async def _fill(database_url: str, things: int) -> None:
    """Append by the log's own function, many events a call."""
    events = list(_events(things))
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        for start in range(0, len(events), _BATCH):
            await _append(connection, events[start : start + _BATCH])


async def _append(connection: AsyncConnection[Any], events: list[StoredEvent]) -> None:
    await connection.execute(
        "SELECT count(*) FROM"
        " append_events(%b::uuid[], %b::int[], %b::text[], %b::bytea[], '[]'::jsonb)",
        (
            [event.originator_id for event in events],
            [event.originator_version for event in events],
            [event.topic for event in events],
            [event.state for event in events],
        ),
    )
