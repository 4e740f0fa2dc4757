"""The relay: log -> topics. The log is the outbox; a mutation is published by being committed.

The topic's own last id is the checkpoint, and a batch is appended only if the topic ends where
the batch begins. So two relays are harmless, a paused one is fenced, and a lock only saves work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.record import Record
from caracal.events.store.entries import (
    ZERO,
    Entry,
    EntryId,
    LogReader,
    Rings,
    entries_of,
    placed,
    text_fields,
    verified,
)
from caracal.events.store.leader import Leadership
from caracal.events.store.redis import GONE, connect, entries_in, script
from caracal.events.store.signature import FIELD
from caracal.events.topics import HEARTBEAT, HEARTBEAT_MAXLEN, RELAYED_MAXLEN, TOPICS, Topic
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

LOG_CHANNEL = "caracal_log"
REPUBLISH = 1_000
"""Newest positions published again after a loss; older gaps readers fill from the log."""

_BATCH = 500
_CHUNK = 200  # entries a Lua call; one call's arguments stay far below Lua's limits
_BEAT_SECONDS = 0.5
_LOCK = 4846791580151137092

_folder = resources.files("caracal.events.store")
_APPEND = (_folder / "append.lua").read_text()
_BEAT = (_folder / "beat.lua").read_text()
_QUARANTINE = (_folder / "quarantine.lua").read_text()


@dataclass(slots=True)
class RelayCounters:
    """What the relay did, for metrics."""

    position: int = 0
    published: int = 0
    resyncs: int = 0
    refused: int = 0
    quarantined: int = 0
    restarts: int = 0


class Relay:
    """Publishes the log. ``run`` goes on until cancelled, whatever breaks."""

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        rings: Rings,
        *,
        topics: Mapping[str, Topic] = TOPICS,
        maxlen: int = RELAYED_MAXLEN,
        poll_seconds: float = 0.25,
    ) -> None:
        self.database_url, self.redis_url = database_url, redis_url
        self.rings, self.topics = rings, topics
        self.maxlen, self.poll_seconds = maxlen, poll_seconds
        self._readers = _topics_by_source(topics.values())
        self.counters = RelayCounters()

    async def run(self) -> None:
        """Publish for ever; on an error close everything, wait a little, catch up again."""
        while True:
            try:
                async with AsyncExitStack() as stack:
                    publishing = await _Publishing.open(self, stack)
                    await publishing.run()
            except (*GONE, psycopg.Error) as error:
                self.counters.restarts += 1
                logger.warning("relay starts again: %s", type(error).__name__)
                await asyncio.sleep(0.05)

    def entries(self, records: Iterable[Record]) -> dict[Topic, list[Entry]]:
        """Return the entries of events by topic, in order."""
        found: dict[Topic, list[Entry]] = {}
        for record in records:
            for topic in self._readers.get(record.name, ()):
                found.setdefault(topic, []).extend(entries_of(topic, record))
        return {topic: entries for topic, entries in found.items() if entries}


def _topics_by_source(topics: Iterable[Topic]) -> dict[str, list[Topic]]:
    by_source: dict[str, list[Topic]] = {}
    for topic in topics:
        for source in topic.sources:
            by_source.setdefault(source, []).append(topic)
    return by_source


class _Publishing:
    """One stretch of publishing, on connections of its own; it ends with the first error."""

    def __init__(
        self, relay: Relay, connection: AsyncConnection[Any], redis: Redis, wake: asyncio.Event
    ) -> None:
        self._relay, self._redis, self._wake = relay, redis, wake
        self._connection = connection
        self._log = LogReader(connection)
        self._heads: dict[str, EntryId] = {}
        self._done = 0
        self._log_id = ""
        self._next_beat = 0.0

    @classmethod
    async def open(cls, relay: Relay, stack: AsyncExitStack) -> _Publishing:
        connect_pg = AsyncConnection.connect
        url = relay.database_url
        connection = await stack.enter_async_context(await connect_pg(url, autocommit=True))
        listening = await stack.enter_async_context(await connect_pg(url, autocommit=True))
        redis = connect(relay.redis_url)
        stack.push_async_callback(redis.aclose)
        await Leadership(connection, _LOCK, _beats(redis)).wait()
        await listening.execute(f"LISTEN {LOG_CHANNEL}")
        wake = asyncio.Event()
        waking = asyncio.create_task(_wake_on_notify(listening, wake), name="relay-listen")
        stack.push_async_callback(cancelled, waking)
        return cls(relay, connection, redis, wake)

    async def run(self) -> None:
        self._log_id = await self._log.log_id()
        await self._resync()
        while True:
            self._wake.clear()
            records = await self._log.records(self._done, limit=_BATCH)
            in_step = True
            for topic, entries in self._relay.entries(records).items():
                in_step = await self._append(topic, entries) and in_step
            if in_step:
                self._done = records[-1].position if records else self._done
                if records or time.monotonic() >= self._next_beat:
                    in_step = await self._beat()
            if not in_step:
                await self._resync()
            elif len(records) < _BATCH:
                await self._wait()

    async def _wait(self) -> None:
        seconds = min(self._relay.poll_seconds, max(self._next_beat - time.monotonic(), 0))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _append(self, topic: Topic, entries: list[Entry]) -> bool:
        """Append to a topic; False when it does not end where we believed."""
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            head = self._heads[topic.name]
            args: list[Any] = [str(head), self._relay.maxlen]
            prev = head
            for entry in chunk:
                fields = placed(topic, entry, prev, self._relay.rings)
                args += [str(entry.id), 2 * len(fields)]
                args += [text for pair in fields.items() for text in pair]
                prev = entry.id
            last = EntryId.parse(await script(self._redis, _APPEND, [topic.name], args))
            if last != prev:
                self._relay.counters.refused += len(chunk)
                return False
            self._heads[topic.name] = last
            self._relay.counters.published += len(chunk)
        return True

    async def _beat(self) -> bool:
        """Say how far everything is published; False when a topic is not where it should be."""
        fields = {
            "position": str(self._done),
            "heads": orjson.dumps({name: str(head) for name, head in self._heads.items()}).decode(),
            "log_id": self._log_id,
        }
        signed = self._relay.rings.facts.signed(HEARTBEAT, fields)
        strings = [text for pair in signed.items() for text in pair]
        heads = [str(head) for head in self._heads.values()]
        keys = [HEARTBEAT, *self._heads]
        if await script(self._redis, _BEAT, keys, [HEARTBEAT_MAXLEN, *heads, *strings]):
            return False
        self._next_beat = time.monotonic() + _BEAT_SECONDS
        self._relay.counters.position = self._done
        return True

    async def _resync(self) -> None:
        """Make every topic end at the log's end, from where it really ends."""
        self._relay.counters.resyncs += 1
        end = await self._log.end()
        for topic in self._relay.topics.values():
            await self._resync_topic(topic, end)
        self._done = end

    async def _resync_topic(self, topic: Topic, end: int) -> None:
        head = await self._head(topic)
        if head == ZERO:
            head = await self._start_of_tail(topic, end)
        self._heads[topic.name] = head
        more = True
        while more:
            entries, more = await self._log.entries(
                topic, self._heads[topic.name], EntryId(end, 2**31 - 1), limit=_BATCH
            )
            if not await self._append(topic, entries):
                return  # another relay went on meanwhile; the next heartbeat compares again

    async def _start_of_tail(self, topic: Topic, end: int) -> EntryId:
        """Return where an empty topic begins: the tail is enough, but its last entry is needed."""
        newest = await self._log.before(topic, EntryId(end + 1, 0))
        first = min(max(end - REPUBLISH, 0) + 1, newest.position)
        return await self._log.before(topic, EntryId(first, 0))

    async def _head(self, topic: Topic) -> EntryId:
        """Return where a topic ends; one whose last entry is not ours is moved aside."""
        last = await self._last_id(topic)
        if last == ZERO or await self._is_ours(topic, last):
            return last
        aside = f"{topic.name}.quarantine.{time.time_ns()}"
        if await script(self._redis, _QUARANTINE, [topic.name, aside], [str(last)]):
            self._relay.counters.quarantined += 1
            logger.error("topic %s ended with a foreign entry; moved to %s", topic.name, aside)
        return await self._last_id(topic)

    async def _last_id(self, topic: Topic) -> EntryId:
        if not await self._redis.exists(topic.name):
            return ZERO
        info = await self._redis.xinfo_stream(topic.name)
        return EntryId.parse(info["last-generated-id"])

    async def _is_ours(self, topic: Topic, last: EntryId) -> bool:
        """Say whether the log yields this id for the topic, with the content that stands there."""
        if (entry := await self._log.at(topic, last)) is None:
            return False
        newest = entries_in(await self._redis.xrevrange(topic.name, count=1))
        if not newest or EntryId.parse(newest[0][0]) != last:
            return True  # the entry itself was deleted or trimmed; its id is ours
        fields = text_fields(newest[0][1])
        if fields is None or not verified(topic, str(last), fields, self._relay.rings):
            return False
        prev = await self._log.before(topic, last)
        fields.pop(FIELD, None)
        return fields == {**entry.fields, "position": str(last.position), "prev": str(prev)}


async def _wake_on_notify(listening: AsyncConnection[Any], wake: asyncio.Event) -> None:
    try:
        async for _ in listening.notifies():
            wake.set()
    except psycopg.Error:
        wake.set()  # the reading connection finds out by itself


def _beats(redis: Redis) -> Any:
    """Return what tells whether another relay is at work: the last heartbeat."""

    async def last_beat() -> object:
        newest = entries_in(await redis.xrevrange(HEARTBEAT, count=1))
        return newest[0][0] if newest else None

    return last_beat
