"""The task behind a tail: it owns the cursors, and nothing else moves them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal.events.record import Record
from caracal.events.store.entries import EntryId, text_fields, verified
from caracal.events.store.listening import Listening
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, RawEntry, connect, entries_in, streams_of
from caracal.events.store.redis_line import RedisLine
from caracal.events.store.relay import LOG_CHANNEL
from caracal.events.topics import FACT_TOPIC_OF, HEARTBEAT, Topic, read_fact
from caracal.projections.parking import PARKED_CHANNEL
from caracal.projections.tail_snapshot import BATCH, after, parked_of, take
from caracal.tasks import cancelled

if TYPE_CHECKING:
    from caracal.projections.tail import Tail

logger = logging.getLogger(__name__)

GRACE_SECONDS = 0.02
"""How long an entry may take after its NOTIFY before the log is read."""
_SILENT_GRACE_SECONDS = 0.005
"""The same while there are no heartbeats: no entry will come; what is near goes in one look."""
SILENCE_SECONDS = 1.0
"""Without a heartbeat for so long the tail follows the log."""
_POLL_SECONDS = 0.25
_PROBE_SECONDS = 0.02  # at most 50 a second
_COUNT = 1000
_BLOCK_MS = 500
_BREATH_SECONDS = 0.002
"""How long facts are applied at a stretch: the end of thousands must not hold up the others."""


class Following:
    """The task that owns the cursors."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._rings = tail.rings
        self._database: AsyncConnection[Any] | None = None
        self._listening: Listening | None = None
        self._stack = AsyncExitStack()
        self._redis: Redis = connect(tail.redis_url, connections=1)
        self._line = RedisLine(self._redis)
        self._read: asyncio.Task[Any] | None = None
        self._last_beat = 0.0
        self._last_at = 0
        self._beat_id = ""
        self._notified: tuple[int, float] | None = None  # position, when it must have come
        self._timing = False
        self._next_probe = 0.0
        self._resnapshot = False
        self._parked_changed = False
        self._pause_until = 0.0
        self._breath_at = 0.0

    async def run(self) -> None:
        """Follow for ever; whatever breaks, the view is taken anew."""
        while True:
            try:
                await self._step()
            except Exception:
                logger.exception("tail takes its view anew")
                if self._read is not None:
                    await cancelled(self._read)
                    self._read = None
                self._resnapshot = True
                await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Close all connections; the task has ended, or never began."""
        if self._read is not None:
            await cancelled(self._read)
        await self._line.close()
        await self._redis.aclose()
        await self._close_database()

    async def _step(self) -> None:
        wake, now = self._tail.wake, time.monotonic()
        if self._read is None and now >= self._pause_until:
            self._read = asyncio.create_task(self._xread())
            self._read.add_done_callback(lambda _: wake.set())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience(now)):
                await wake.wait()
        wake.clear()
        if self._read is not None and self._read.done():
            await self._take(self._read)
            self._read = None
        await self._follow_log()

    def _patience(self, now: float) -> float:
        """Return how long nothing may happen before the log is looked at."""
        if self._resnapshot or self._parked_changed:
            return 0
        if self._tail.wanted_probe is not None:
            return max(self._next_probe - now, 0)
        if self._notified is not None:
            return max(self._notified[1] - now, 0)
        return _POLL_SECONDS

    def retake(self) -> None:
        """Take a snapshot at the next step."""
        self._resnapshot = True
        self._tail.wake.set()

    # --- from Redis -------------------------------------------------------------------------

    async def _xread(self) -> Any:
        if not self._beat_id:
            newest = entries_in(
                await self._line.command("XREVRANGE", HEARTBEAT, "+", "-", "COUNT", 1)
            )
            self._beat_id = newest[0][0] if newest else "0-0"
        cursors = self._tail.cursors
        places = [str(cursors[name]) for name in self._tail.topics]
        return await self._line.command(
            *("XREAD", "COUNT", _COUNT, "BLOCK", _BLOCK_MS, "STREAMS"),
            *(*self._tail.topics, HEARTBEAT, *places, self._beat_id),
            blocks=_BLOCK_MS / 1000,
        )

    async def _take(self, read: asyncio.Task[Any]) -> None:
        try:
            answer = streams_of(read.result())
        except GONE:
            self._tail.without_redis = True
            self._last_beat = 0.0  # follow the log at once
            self._pause_until = time.monotonic() + _POLL_SECONDS
            return
        self._tail.without_redis = False
        seen_at = time.monotonic()
        sound = True
        beats: list[RawEntry] = []
        for name, entries in answer:
            if name == HEARTBEAT:
                beats = entries
            else:
                sound = await self._take_entries(self._tail.topics[name], entries) and sound
        if beats:
            sound = await self._take_beat(beats, seen_at, answer) and sound
        if not sound:
            await self._catch_up()
            # A foreign entry at the end of a topic is returned again at once.
            self._pause_until = time.monotonic() + 0.05

    async def _take_entries(self, topic: Topic, entries: list[RawEntry]) -> bool:
        """Apply entries in order; False when something is foreign or missing."""
        tail = self._tail
        for entry_id, raw in entries:
            fields = text_fields(raw)
            if not fields or not verified(topic, entry_id, fields, self._rings):
                tail.foreign += 1
                return False
            place, cursor = EntryId.parse(entry_id), tail.cursors[topic.name]
            if place <= cursor:
                continue
            if EntryId.parse(fields["prev"]) != cursor:
                tail.gaps += 1
                return False
            tail.apply(topic.name, place, read_fact(place.position, fields))
            await self._breathe()
        return True

    async def _breathe(self) -> None:
        """Let the other tasks go on, if this one has had its time."""
        if time.monotonic() >= self._breath_at:
            await asyncio.sleep(0)
            self._breath_at = time.monotonic() + _BREATH_SECONDS

    async def _take_beat(
        self, beats: list[RawEntry], seen_at: float, answer: list[tuple[str, list[RawEntry]]]
    ) -> bool:
        """Learn how far the log is; False when a topic lacks what it should have."""
        self._beat_id = beats[-1][0]
        genuine = [
            fields
            for _, raw in beats
            if (fields := text_fields(raw)) and self._rings.facts.verify(HEARTBEAT, fields)
        ]
        # Each beat is later than the one before: an old one, added again, proves nothing.
        later = [fields for fields in genuine if int(fields["at"]) > self._last_at]
        if not later:
            return True
        beat = max(later, key=lambda fields: int(fields["at"]))
        if beat["log_id"] != self._tail.log_id:
            self._resnapshot = True
            return True
        self._last_at = int(beat["at"])
        if int(beat["position"]) < self._tail.position:
            return True
        self._last_beat = seen_at
        heads = orjson.loads(beat["heads"])
        cursors = self._tail.cursors
        behind = [
            name
            for name in self._tail.topics
            if EntryId.parse(heads.get(name, "0-0")) > cursors[name]
        ]
        if not behind:
            await self._tail.moved(int(beat["position"]), seen_at)
            return True
        lengths = {name: len(entries) for name, entries in answer}
        return all(lengths.get(name, 0) >= _COUNT for name in behind)  # the rest comes next

    # --- from the log ------------------------------------------------------------------------

    async def _follow_log(self) -> None:
        now = time.monotonic()
        if self._listening is None or self._listening.lost.done():
            await self._close_database()  # and connect again with the next look
            await self._catch_up()
        if self._parked_changed:
            await self._guarded(self._see_parked)
        if self._resnapshot:
            await self._guarded(self.snapshot)
        if self._notified is not None and self._notified[0] <= self._tail.position:
            self._notified = None
        late = self._notified is not None and now >= self._notified[1]
        if self._tail.wanted_probe is not None and now >= self._next_probe:
            await self._answer_probe()
        elif late or (self._silent(now) and now - self._tail.fresh_at >= _POLL_SECONDS):
            self._notified = None
            await self._catch_up()

    def _silent(self, now: float) -> bool:
        return now - self._last_beat >= SILENCE_SECONDS

    async def _answer_probe(self) -> None:
        probe = self._tail.wanted_probe
        self._tail.wanted_probe = None  # whoever asks from now on wants a later look
        self._next_probe = time.monotonic() + _PROBE_SECONDS
        done = await self._catch_up()
        if probe is not None and not probe.done():
            if done:
                probe.set_result(None)
            else:
                probe.set_exception(psycopg.OperationalError("the log cannot be read now"))
                probe.exception()  # nobody may be waiting any more

    async def _catch_up(self) -> bool:
        """Apply what the log has after the cursors; False when it cannot be read."""
        return await self._guarded(self._read_log)

    async def _guarded(self, action: Callable[[], Any]) -> bool:
        try:
            if self._database is None or self._database.closed:
                await self.connect_database()
            await action()
        except (psycopg.Error, OSError) as error:
            logger.info("tail cannot read the log: %s", type(error).__name__)
            await self._close_database()
            await asyncio.sleep(0.05)
            return False
        return True

    async def _read_log(self) -> None:
        assert self._database is not None
        self._tail.log_reads += 1
        while True:
            seen_at = time.monotonic()
            end, records = await after(self._database, self._tail.topics, self._tail.cursors)
            for record in records:
                self._apply_record(record)
                await self._breathe()
            if len(records) < BATCH:
                await self._tail.moved(end, seen_at)
                return

    def _apply_record(self, record: Record) -> None:
        topic = FACT_TOPIC_OF[record.name].name
        place = EntryId(record.position, 0)
        if place > self._tail.cursors[topic]:
            self._tail.apply(topic, place, record.fact())

    async def snapshot(self) -> None:
        """Take the view anew, in one step: a new snapshot never shows less than the old one."""
        assert self._database is not None
        tail, seen_at = self._tail, time.monotonic()
        taken = await take(self._database, tail.views, tail.topics, tail.projections)
        tail.outdate()
        for name, rows in taken.rows.items():
            tail.views[name].load(rows)
        tail.log_id, tail.cursors, tail.parked = taken.log_id, taken.cursors, taken.parked
        tail.snapshots += 1
        self._last_at = 0
        self._resnapshot = False
        for record in taken.records:  # at a stretch: half of it would be less than there was
            self._apply_record(record)
        for reloaded in tail.reloaded:
            reloaded()
        await tail.moved(taken.end, seen_at)

    async def _see_parked(self) -> None:
        """Learn what is parked; of what is not any more the rows have changed, and no fact told."""
        assert self._database is not None
        self._parked_changed = False  # what changes while this is being read is another change
        parked = await parked_of(self._database, self._tail.projections)
        if self._tail.parked <= parked:
            self._tail.parked = parked
        else:
            self._resnapshot = True

    # --- connections ---------------------------------------------------------------------------

    async def connect_database(self) -> None:
        """Connect for reading and for listening."""
        await self._close_database()
        url = self._tail.database_url
        self._database = await self._stack.enter_async_context(await connected(url))
        listening = await self._stack.enter_async_context(await connected(url))
        self._listening = await Listening.open(listening, self._heard, LOG_CHANNEL, PARKED_CHANNEL)
        self._stack.callback(self._listening.stop)
        self._parked_changed = True  # perhaps: nobody has listened

    async def _close_database(self) -> None:
        with suppress(psycopg.Error, OSError):
            await self._stack.aclose()
        self._stack = AsyncExitStack()
        self._database = None

    def _heard(self, channel: str, payload: str) -> None:
        if channel == PARKED_CHANNEL:
            self._parked_changed = True
            self._tail.wake.set()
            return
        # Nothing is to be done before the grace is over, and nearly never then: a timer for all
        # that comes meanwhile costs less than waking up each time.
        now = time.monotonic()
        grace = _SILENT_GRACE_SECONDS if self._silent(now) else GRACE_SECONDS
        if self._notified is None:
            self._notified = (int(payload), now + grace)
        else:
            self._notified = (int(payload), self._notified[1])
        if not self._timing:
            self._timing = True
            asyncio.get_running_loop().call_later(grace, self._look)

    def _look(self) -> None:
        self._timing = False
        if self._notified is None:
            return
        if (left := self._notified[1] - time.monotonic()) > 0:
            self._timing = True
            asyncio.get_running_loop().call_later(left, self._look)
        else:
            self._tail.wake.set()
