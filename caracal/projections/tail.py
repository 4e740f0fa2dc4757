"""Tails: read models in memory, always as new as the log, for the hot path of a service.

A snapshot of rows and checkpoints from one transaction, then the fact topics without a group,
so every replica sees every entry. Hybrid: a tail also listens to the log, and reads it when an
entry has not come 20 ms after the NOTIFY, when Redis is gone, or when the relay is silent.
One task owns the cursors; nothing else moves them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from redis.asyncio import Redis

from caracal.events.base import Fact
from caracal.events.record import Record
from caracal.events.store.entries import ZERO, EntryId, Rings, text_fields, verified
from caracal.events.store.redis import GONE, RawEntry, connect, entries_in, streams_of
from caracal.events.store.relay import LOG_CHANNEL
from caracal.events.topics import FACT_TOPIC_OF, HEARTBEAT, Topic, read_fact
from caracal.projections import PROJECTIONS
from caracal.projections.memory import MemoryView, apply
from caracal.projections.parking import PARKED_CHANNEL, ids_of
from caracal.projections.projection import Projection
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

GRACE_SECONDS = 0.02
"""How long an entry may take after its NOTIFY before the log is read."""
SILENCE_SECONDS = 1.0
"""Without a heartbeat for so long the tail follows the log."""
_POLL_SECONDS = 0.25
_PROBE_SECONDS = 0.02  # at most 50 a second
_COUNT = 1000
_BATCH = 2000


class Tail:
    """Keeps in-memory tables equal to the log.

    Attributes:
        position: everything up to it is applied.
        parked: ids that every decision denies.
        without_redis: Redis is gone; the view follows the log alone.
        listeners: called with each applied fact, after the tables changed.
        reloaded: called when the tables have been taken anew from a snapshot.
    """

    def __init__(
        self,
        views: Iterable[MemoryView],
        *,
        database_url: str,
        redis_url: str,
        rings: Rings,
        also: Iterable[str] = (),
        projections: Sequence[Projection] = PROJECTIONS,
    ) -> None:
        """Make a tail of ``views``; ``also`` names read models whose facts only listeners want."""
        self.views = {view.table.name: view for view in views}
        wanted = {*self.views, *also}
        self.projections = [
            projection
            for projection in projections
            if any(table.name in wanted for table in projection.tables)
        ]
        self.topics: dict[str, Topic] = {
            topic.name: topic for projection in self.projections for topic in projection.topics
        }
        self.database_url, self.redis_url, self.rings = database_url, redis_url, rings
        self.position = 0
        self.parked: frozenset[str] = frozenset()
        self.without_redis = False
        self.listeners: list[Callable[[Fact], None]] = []
        self.reloaded: list[Callable[[], None]] = []
        self.foreign = self.gaps = self.snapshots = self.log_reads = 0
        self.cursors: dict[str, EntryId] = {}
        self.log_id = ""
        self.fresh_at = float("-inf")
        self.wake = asyncio.Event()
        self.wanted_probe: asyncio.Future[None] | None = None
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._following: _Following | None = None

    # --- what a service asks ------------------------------------------------------------------

    async def start(self) -> None:
        """Take a snapshot and begin to follow.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        self._following = _Following(self)
        try:
            await self._following.connect_database()
            await self._following.snapshot()
        except BaseException:
            await self._following.close()
            raise
        self._task = asyncio.create_task(self._following.run(), name="tail")

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            await cancelled(self._task)
        if self._following is not None:
            await self._following.close()

    @property
    def running(self) -> bool:
        """Say whether the task that follows is alive."""
        return self._task is not None and not self._task.done()

    @property
    def age(self) -> float:
        """Return the seconds since the view was last proven to be at the log's end."""
        return time.monotonic() - self.fresh_at

    async def reach(self, position: int, timeout: float) -> bool:
        """Wait until the view has ``position``; False when it has not within ``timeout`` s."""
        if self.position >= position:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._moved:
                await self._moved.wait_for(lambda: self.position >= position)
        return self.position >= position

    async def probe(self, timeout: float = 2.0) -> bool:
        """Bring the view to the log's head as of now; False when that cannot be done.

        All callers between two probes share one, and there are at most 50 a second.
        """
        if self.wanted_probe is None:
            self.wanted_probe = asyncio.get_running_loop().create_future()
            self.wake.set()
        with suppress(TimeoutError, psycopg.Error):
            await asyncio.wait_for(asyncio.shield(self.wanted_probe), timeout)
            return True
        return False

    def retake(self) -> None:
        """Take the view anew from a snapshot, as soon as may be."""
        if self._following is not None:
            self._following.retake()

    # --- what the following task does -----------------------------------------------------------

    def apply(self, topic: str, place: EntryId, fact: Fact) -> None:
        """Apply a fact that follows the topic's cursor, and move it."""
        for projection in self.projections:
            try:
                apply(self.views, projection.reduce(fact))
            except Exception:
                logger.exception("tail cannot apply %s at %s", fact.name, place)
                self.parked |= frozenset(ids_of(fact))
        self.cursors[topic] = place
        for listener in self.listeners:
            listener(fact)

    async def moved(self, position: int, seen_at: float) -> None:
        """Note that everything up to ``position`` was applied as of ``seen_at`` (monotonic)."""
        self.fresh_at = max(self.fresh_at, seen_at)
        if position > self.position:
            self.position = position
            async with self._moved:
                self._moved.notify_all()


class _Following:
    """The task that owns the cursors."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._rings = tail.rings
        self._database: AsyncConnection[Any] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._redis: Redis = connect(tail.redis_url, connections=2)
        self._read: asyncio.Task[Any] | None = None
        self._waking: asyncio.Task[Any] | None = None
        self._last_beat = 0.0
        self._beat_id = ""
        self._notified: tuple[int, float] | None = None  # position, when it must have come
        self._next_probe = 0.0
        self._resnapshot = False
        self._pause_until = 0.0

    async def run(self) -> None:
        while True:
            await self._step()

    async def close(self) -> None:
        """Close all connections; the task has ended, or never began."""
        for task in (self._read, self._waking):
            if task is not None:
                await cancelled(task)
        await self._redis.aclose()
        await self._close_database()

    async def _step(self) -> None:
        now = time.monotonic()
        if self._read is None and now >= self._pause_until:
            self._read = asyncio.create_task(self._xread())
        if self._waking is None or self._waking.done():
            self._tail.wake.clear()
            self._waking = asyncio.create_task(self._tail.wake.wait())
        waiting = {task for task in (self._waking, self._read) if task is not None}
        await asyncio.wait(waiting, timeout=self._patience(now), return_when="FIRST_COMPLETED")
        if self._read is not None and self._read.done():
            await self._take(self._read)
            self._read = None
        await self._follow_log()

    def _patience(self, now: float) -> float:
        """Return how long nothing may happen before the log is looked at."""
        if self._resnapshot:
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
            newest = entries_in(await self._redis.xrevrange(HEARTBEAT, count=1))
            self._beat_id = newest[0][0] if newest else "0-0"
        cursors = {name: str(self._tail.cursors[name]) for name in self._tail.topics}
        streams: dict[Any, Any] = {**cursors, HEARTBEAT: self._beat_id}
        return await self._redis.xread(streams, count=_COUNT, block=500)

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
                sound = self._take_entries(self._tail.topics[name], entries) and sound
        if beats:
            sound = await self._take_beat(beats, seen_at, answer) and sound
        if not sound:
            await self._catch_up()
            # A foreign entry at the end of a topic is returned again at once.
            self._pause_until = time.monotonic() + 0.05

    def _take_entries(self, topic: Topic, entries: list[RawEntry]) -> bool:
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
        return True

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
        if not genuine:
            return True
        beat = max(genuine, key=lambda fields: int(fields["position"]))
        if beat["log_id"] != self._tail.log_id:
            self._resnapshot = True
            return True
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
        if self._listening is None or self._listening.done():
            await self._close_database()  # and connect again with the next look
            await self._catch_up()
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
            end, records = await _after(self._database, self._tail.topics, self._tail.cursors)
            self._apply_records(records)
            if len(records) < _BATCH:
                await self._tail.moved(end, seen_at)
                return

    def _apply_records(self, records: Iterable[Record]) -> None:
        for record in records:
            topic = FACT_TOPIC_OF[record.name].name
            place = EntryId(record.position, 0)
            if place > self._tail.cursors[topic]:
                self._tail.apply(topic, place, record.fact())

    async def snapshot(self) -> None:
        """Load rows, checkpoints, parked ids and the log after them, as of one moment.

        The view changes in one step, so a new snapshot never shows less than the old one.
        """
        assert self._database is not None
        tail, database = self._tail, self._database
        seen_at = time.monotonic()
        async with database.transaction():
            await database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            log_id = str(await _value(database, "SELECT log_id FROM log_identity"))
            loaded = {name: await _rows(database, name) for name in tail.views}
            places = await _checkpoints(database, tail.projections)
            parked = await _parked(database, tail.projections)
            cursors = {name: places.get(name, ZERO) for name in tail.topics}
            end, records = await _after(database, tail.topics, cursors, limit=None)
        for name, rows in loaded.items():
            tail.views[name].load(rows)
        tail.log_id, tail.cursors, tail.parked = log_id, cursors, parked
        tail.snapshots += 1
        self._resnapshot = False
        self._apply_records(records)
        for reloaded in tail.reloaded:
            reloaded()
        await tail.moved(end, seen_at)

    # --- connections ---------------------------------------------------------------------------

    async def connect_database(self) -> None:
        """Connect for reading and for listening."""
        await self._close_database()
        url = self._tail.database_url
        connect_pg = AsyncConnection.connect
        self._database = await self._stack.enter_async_context(
            await connect_pg(url, autocommit=True, connect_timeout=2)
        )
        listening = await self._stack.enter_async_context(
            await connect_pg(url, autocommit=True, connect_timeout=2)
        )
        await listening.execute(f"LISTEN {LOG_CHANNEL}")
        await listening.execute(f"LISTEN {PARKED_CHANNEL}")
        self._listening = asyncio.create_task(self._listen(listening), name="tail-listen")
        self._stack.push_async_callback(cancelled, self._listening)

    async def _close_database(self) -> None:
        with suppress(psycopg.Error, OSError):
            await self._stack.aclose()
        self._stack = AsyncExitStack()
        self._database = None

    async def _listen(self, connection: AsyncConnection[Any]) -> None:
        with suppress(psycopg.Error):
            async for notify in connection.notifies():
                if notify.channel == PARKED_CHANNEL:
                    self.retake()
                elif self._notified is None:
                    self._notified = (int(notify.payload), time.monotonic() + GRACE_SECONDS)
                else:
                    self._notified = (int(notify.payload), self._notified[1])
                self._tail.wake.set()


async def _after(
    database: AsyncConnection[Any],
    topics: dict[str, Topic],
    cursors: dict[str, EntryId],
    *,
    limit: int | None = _BATCH,
) -> tuple[int, list[Record]]:
    """Return the log's end, and the events after each topic's cursor in order (a batch)."""
    end = await _value(database, "SELECT coalesce(max(position), 0) FROM log")
    sources = [(name, topic.name) for topic in topics.values() for name in topic.sources]
    cursor = await database.execute(
        "SELECT l.position, l.version, l.name, l.state"
        " FROM unnest(%s::text[], %s::bigint[]) AS wanted (name, after)"
        " JOIN log l ON l.name = wanted.name AND l.position > wanted.after"
        " ORDER BY l.position LIMIT %s",
        ([name for name, _ in sources], [cursors[topic].position for _, topic in sources], limit),
        prepare=True,
    )
    return int(end), [Record.read(*row) for row in await cursor.fetchall()]


async def _value(database: AsyncConnection[Any], statement: str) -> Any:
    row = await (await database.execute(statement)).fetchone()
    return row[0] if row else None


async def _rows(database: AsyncConnection[Any], table: str) -> list[dict[str, Any]]:
    async with database.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"SELECT * FROM {table}")
        return await cursor.fetchall()


async def _checkpoints(
    database: AsyncConnection[Any], projections: Sequence[Projection]
) -> dict[str, EntryId]:
    """Return, for each topic, the lowest checkpoint: what is applied twice changes nothing."""
    lowest: dict[str, EntryId] = {}
    cursor = await database.execute("SELECT projection, topic, position, n FROM checkpoints")
    found = {(row[0], row[1]): EntryId(row[2], row[3]) for row in await cursor.fetchall()}
    for projection in projections:
        for topic in projection.topics:
            place = found.get((projection.name, topic.name), ZERO)
            lowest[topic.name] = min(lowest.get(topic.name, place), place)
    return lowest


async def _parked(
    database: AsyncConnection[Any], projections: Sequence[Projection]
) -> frozenset[str]:
    cursor = await database.execute(
        "SELECT DISTINCT unnest(ids) FROM parked WHERE projection = ANY(%s)",
        ([projection.name for projection in projections],),
    )
    return frozenset(row[0] for row in await cursor.fetchall())
