"""What the tests of log, relay and projections share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from caracal.events.base import Fall, acting
from caracal.events.guards import Secret
from caracal.events.store.appender import Appender
from caracal.events.store.entries import EntryId, LogReader, Rings, placed, text_fields
from caracal.events.store.log import Log
from caracal.events.store.redis import entries_in
from caracal.events.topics import TOPICS, Topic
from caracal.events.zone import Zone
from caracal.ids import new_id
from caracal.stream_signature import Keyring
from caracal.tasks import cancelled
from tests.journal import ITEMS, REVOKE, ZONES

__all__ = ["ITEMS", "REVOKE", "ZONES"]

FACTS_KEY, SIGNALS_KEY = bytes(range(32)), b"\x42" * 32
RINGS = Rings(Keyring((FACTS_KEY,)), Keyring((SIGNALS_KEY,)))

Value = TypeVar("Value")


ALL_TOPICS = {**TOPICS, ITEMS.name: ITEMS}


def new_zone(
    zone_id: str | None = None,
    *,
    slug: str | None = None,
    name: str = "A",
    dcr_enabled: bool = False,
    data_key: Secret | None = None,
) -> Zone:
    """Begin a zone with a slug of its own."""
    zone_id = zone_id or new_id()
    with acting(zone_id=zone_id, actor="operator"):
        return Zone.create(
            zone_id,
            name=name,
            slug=slug or f"slug-{zone_id}",
            org_id="default",
            dcr_enabled=dcr_enabled,
            pkce_required=True,
            login_flow="default",
            data_key=data_key or Secret(f"zone/{zone_id}", "key-1", b"n" * 12, b"sealed"),
        )


def change_zone(zone: Zone, **changes: Any) -> Zone:
    """Change a zone, as a command of its own."""
    with acting(zone_id=zone.aggregate_id, actor="operator"):
        zone.change(changes)
    return zone


def archive_zone(zone: Zone, *sids: str) -> Zone:
    """Archive a zone with its sessions."""
    with acting(zone_id=zone.aggregate_id, actor="operator"):
        zone.archive(Fall.of_sessions(sids))
    return zone


@asynccontextmanager
async def opened_log(database_url: str) -> AsyncIterator[Log]:
    """A log on connections of its own."""
    pool = AsyncConnectionPool(
        database_url, min_size=1, max_size=4, open=False, kwargs={"autocommit": True}
    )
    appender = Appender(database_url)
    await appender.start()
    try:
        async with pool:
            yield Log(pool, appender)
    finally:
        await appender.stop()


class Running(Protocol):
    """A relay or a runner."""

    async def run(self) -> None: ...


@asynccontextmanager
async def running(*parts: Running) -> AsyncIterator[None]:
    """Run relays and runners inside; a part that ends by itself is an error."""
    tasks = [asyncio.create_task(part.run()) for part in parts]
    try:
        yield
        assert not [task for task in tasks if task.done()]
    finally:
        await cancelled(*tasks)


async def eventually(
    condition: Callable[[], Awaitable[Value]], *, seconds: float = 30, what: str = "condition"
) -> Value:
    """Wait until ``condition`` gives something true, and return that."""
    try:
        async with asyncio.timeout(seconds):
            while not (value := await condition()):
                await asyncio.sleep(0.01)
            return value
    except TimeoutError:
        raise AssertionError(f"{what} did not come true in {seconds} s") from None


Expected = list[tuple[str, dict[str, str]]]


async def in_log(connection: AsyncConnection[Any], topic: Topic) -> Expected:
    """Return the entries that the log yields for a topic, as they must stand there."""
    log, found, prev = LogReader(connection), [], EntryId(0, 0)
    more, after = True, prev
    while more:
        entries, more = await log.entries(topic, after)
        for entry in entries:
            found.append((str(entry.id), placed(topic, entry, prev, RINGS)))
            prev = after = entry.id
    return found


async def on_topic(redis: Redis, name: str) -> Expected:
    """Return what stands on a topic."""
    return [
        (entry_id, text_fields(fields) or {"no": "text"})
        for entry_id, fields in entries_in(await redis.xrange(name))
    ]


async def save_all(log: Log, zones: Iterable[Zone]) -> list[int]:
    """Save each zone in a command of its own, at once; return their last positions."""
    done = await asyncio.gather(*(log.save(zone) for zone in zones))
    return [one.position or 0 for one in done]


@pytest.fixture
async def log(database_url: str) -> AsyncIterator[Log]:
    """The log of a fresh database."""
    async with opened_log(database_url) as log:
        yield log


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[AsyncConnection[Any]]:
    """A connection to a fresh database."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of an empty Redis database."""
    async with Redis.from_url(redis_url) as client:
        yield client
