"""The relay: log -> topics. The log is the outbox; a mutation is published by being committed.

The topic's own last id is the checkpoint, and a batch is appended only if the topic ends where
the batch begins. So two relays are harmless, a paused one is fenced, and a lock only saves work.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal import clock, telemetry
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
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, connect, entries_in
from caracal.events.store.redis_line import RedisLine, script
from caracal.events.store.waking import Waking
from caracal.events.topics import HEARTBEAT, HEARTBEAT_MAXLEN, RELAYED_MAXLEN, TOPICS, Topic
from caracal.stream_signature import FIELD
from caracal.telemetry import Cause, SpanKind

logger = logging.getLogger(__name__)

LOG_CHANNEL = "caracal_log"
REPUBLISH = 1_000
"""Newest positions published again after a loss; older gaps readers fill from the log."""

_BATCH = 500
_CHUNK = 200  # entries a Lua call; one call's arguments stay far below Lua's limits
_BEAT_SECONDS = 0.5
_YIELD_SECONDS = 0.01
_LOCK = 4846791580151137092
_RELAYING = {"messaging.system": "redis"}


def _script(name: str) -> str:
    folder = resources.files("caracal.events.store")
    return (folder / "topic.lua").read_text() + (folder / f"{name}.lua").read_text()


_APPEND, _BEAT = _script("append"), _script("beat")
_PUBLISH, _HEAD, _QUARANTINE = _script("publish"), _script("head"), _script("quarantine")


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
    """Publishes the log. ``run`` goes on until cancelled, whatever breaks.

    ``locked`` waits for leadership; without it several relays work at once, which is harmless.
    """

    def __init__(
        self,
        database_url: str,
        redis_url: str,
        rings: Rings,
        *,
        topics: Mapping[str, Topic] = TOPICS,
        maxlen: int = RELAYED_MAXLEN,
        poll_seconds: float = 0.25,
        locked: bool = True,
    ) -> None:
        self.database_url, self.redis_url = database_url, redis_url
        self.rings, self.topics = rings, topics
        self.maxlen, self.poll_seconds, self.locked = maxlen, poll_seconds, locked
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
        self,
        relay: Relay,
        connection: AsyncConnection[Any],
        line: RedisLine,
        waking: Waking,
        *,
        leads: bool,
    ) -> None:
        self._relay, self._line, self._waking, self._leads = relay, line, waking, leads
        self._log = LogReader(connection)
        self._heads: dict[str, EntryId] = {}
        self._done = 0
        self._log_id = ""
        self._next_beat = 0.0
        self._beat_at = 0  # Unix microseconds

    @classmethod
    async def open(cls, relay: Relay, stack: AsyncExitStack) -> _Publishing:
        url = relay.database_url
        connection = await stack.enter_async_context(await connected(url))
        listening = await stack.enter_async_context(await connected(url))
        redis = connect(relay.redis_url)
        stack.push_async_callback(redis.aclose)
        line = RedisLine(redis)
        stack.push_async_callback(line.close)
        leadership = Leadership(connection, _LOCK, _beats(redis))
        leads = await leadership.wait() if relay.locked else True
        waking = await Waking.open(listening, LOG_CHANNEL, stack)
        return cls(relay, connection, line, waking, leads=leads)

    async def run(self) -> None:
        """Publish until an error, or until we meet the one whose silence made us begin."""
        self._log_id = await self._log.log_id()
        await self._resync()
        while True:
            self._waking.clear()
            if not self._leads:  # should the silent one work again, it is first, and we find out
                await asyncio.sleep(_YIELD_SECONDS)
            records = await self._log.records(self._done, limit=_BATCH)
            in_step = True
            if records or time.monotonic() >= self._next_beat:
                with telemetry.batch("relay", SpanKind.PRODUCER, _RELAYING, map(_cause, records)):
                    in_step = await self._publish(records)
            if not in_step and not self._leads:
                return
            if not in_step:
                await self._resync()
            elif len(records) < _BATCH:
                until_beat = max(self._next_beat - time.monotonic(), 0)
                await self._waking.wait(min(self._relay.poll_seconds, until_beat))

    async def _publish(self, records: list[Record]) -> bool:
        """Append what the topics lack, and beat; False when one is not where we believed."""
        lacking = {
            topic: [entry for entry in entries if entry.id > self._heads[topic.name]]
            for topic, entries in self._relay.entries(records).items()
        }
        done = records[-1].position if records else self._done
        count = sum(map(len, lacking.values()))
        if 0 < count <= _CHUNK:
            return await self._append_and_beat(done, lacking, count)
        in_step = True
        for topic, entries in lacking.items():
            in_step = await self._append(topic, entries) and in_step
        return in_step and await self._beat(done)

    async def _append(self, topic: Topic, entries: list[Entry]) -> bool:
        """Append to a topic; False when it does not end where we believed."""
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            head = self._heads[topic.name]
            args: list[Any] = [str(head), self._relay.maxlen]
            for entry_id, strings in self._strings(topic, chunk):
                args += [entry_id, len(strings), *strings]
            if await script(self._line, _APPEND, [topic.name], args) is not None:
                self._relay.counters.refused += len(chunk)
                return False
            self._heads[topic.name] = chunk[-1].id
            self._relay.counters.published += len(chunk)
        return True

    def _strings(self, topic: Topic, entries: list[Entry]) -> Iterator[tuple[str, list[str]]]:
        """Yield id, and names and values in turn, of entries that follow a topic's head."""
        prev = self._heads[topic.name]
        for entry in entries:
            fields = placed(topic, entry, prev, self._relay.rings)
            yield str(entry.id), [text for pair in fields.items() for text in pair]
            prev = entry.id

    async def _append_and_beat(
        self, done: int, lacking: Mapping[Topic, list[Entry]], count: int
    ) -> bool:
        """Append a batch to all its topics and beat, in one step or not at all."""
        heads = self._heads | {topic.name: last[-1].id for topic, last in lacking.items() if last}
        beat = self._heartbeat(done, heads)
        args: list[Any] = [HEARTBEAT_MAXLEN, self._relay.maxlen, *map(str, self._heads.values())]
        args += [len(beat), *beat]
        numbers = {name: number for number, name in enumerate(self._heads, 1)}
        for topic, entries in lacking.items():
            for entry_id, strings in self._strings(topic, entries):
                args += [numbers[topic.name], entry_id, len(strings), *strings]
        if not await script(self._line, _PUBLISH, [HEARTBEAT, *self._heads], args):
            self._relay.counters.refused += count
            return False
        self._heads = heads
        self._relay.counters.published += count
        self._have_beaten(done)
        return True

    async def _beat(self, done: int) -> bool:
        """Say how far everything is published; False when a topic is not where it should be."""
        strings = self._heartbeat(done, self._heads)
        heads = map(str, self._heads.values())
        keys = [HEARTBEAT, *self._heads]
        if await script(self._line, _BEAT, keys, [HEARTBEAT_MAXLEN, *heads, *strings]):
            return False
        self._have_beaten(done)
        return True

    def _have_beaten(self, done: int) -> None:
        self._done = self._relay.counters.position = done
        self._next_beat = time.monotonic() + _BEAT_SECONDS

    def _heartbeat(self, done: int, heads: Mapping[str, EntryId]) -> list[str]:
        # Each beat says a later time, so nobody can pass an old one off as a new one.
        self._beat_at = max(self._beat_at + 1, int(clock.now().timestamp() * 1e6))
        fields = {
            "at": str(self._beat_at),
            "position": str(done),
            "heads": orjson.dumps({name: str(head) for name, head in heads.items()}).decode(),
            "log_id": self._log_id,
        }
        signed = self._relay.rings.facts.signed(HEARTBEAT, fields)
        return [text for pair in signed.items() for text in pair]

    async def _resync(self) -> None:
        """Make every topic end at the log's end, from where it really ends."""
        self._relay.counters.resyncs += 1
        end = await self._log.end()
        for topic in self._relay.topics.values():
            await self._resync_topic(topic, end)
        self._done = end

    async def _resync_topic(self, topic: Topic, end: int) -> None:
        """Until it is done: from here on we believe that the topic has all up to ``end``."""
        while not await self._catch_up(topic, end):
            continue  # someone wrote there meanwhile: look again where it ends

    async def _catch_up(self, topic: Topic, end: int) -> bool:
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
                return False
        return True

    async def _start_of_tail(self, topic: Topic, end: int) -> EntryId:
        """Return where an empty topic begins: the tail is enough, but its last entry is needed."""
        newest = await self._log.before(topic, EntryId(end + 1, 0))
        first = min(max(end - REPUBLISH, 0) + 1, newest.position)
        return await self._log.before(topic, EntryId(first, 0))

    async def _head(self, topic: Topic) -> EntryId:
        """Return where a topic ends; one whose last entry is not ours is moved aside."""
        while True:
            last, (newest, strings) = await script(self._line, _HEAD, [topic.name], [])
            head = EntryId.parse(last)
            entry = strings if newest == last else None  # else deleted; its id stays the last
            if head == ZERO or await self._is_ours(topic, head, entry):
                return head
            aside = f"{topic.name}.quarantine.{time.time_ns()}"
            found = [last, newest, *strings]
            if await script(self._line, _QUARANTINE, [topic.name, aside], found):
                self._relay.counters.quarantined += 1
                logger.error("topic %s ended with a foreign entry; moved to %s", topic.name, aside)

    async def _is_ours(self, topic: Topic, head: EntryId, strings: list[bytes] | None) -> bool:
        """Say whether the log yields this id for the topic, with the content that stands there."""
        if (entry := await self._log.at(topic, head)) is None:
            return False
        if strings is None:
            return True
        fields = text_fields(dict(zip(strings[::2], strings[1::2], strict=True)))
        if fields is None or not verified(topic, str(head), fields, self._relay.rings):
            return False
        fields.pop(FIELD, None)
        prev = await self._log.before(topic, head)
        return fields == {**entry.fields, "position": str(head.position), "prev": str(prev)}


def _cause(record: Record) -> Cause:
    meta = record.state["meta"]
    return Cause(meta.get("traceparent"), record.state["timestamp"], record.position)


def _beats(redis: Redis) -> Any:
    """Return what tells whether another relay is at work: the last heartbeat."""

    async def last_beat() -> object:
        newest = entries_in(await redis.xrevrange(HEARTBEAT, count=1))
        return newest[0][0] if newest else None

    return last_beat
