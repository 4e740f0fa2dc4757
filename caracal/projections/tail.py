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
from contextlib import suppress
from functools import partial
from weakref import WeakValueDictionary

import psycopg

from caracal.events.base import Fact
from caracal.events.record import Record
from caracal.events.store.entries import EntryId, Rings
from caracal.events.topics import Topic
from caracal.projections import PROJECTIONS
from caracal.projections.memory import MemoryView, apply
from caracal.projections.parking import ids_of
from caracal.projections.partition import Partition
from caracal.projections.projection import Projection
from caracal.projections.table import Applied
from caracal.projections.tail_following import Following
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)
Holder = Callable[[Sequence[Applied]], None]


class Tail:
    """Keeps in-memory tables equal to the log.

    Attributes:
        position: everything up to it is applied.
        parked: ids that every decision denies.
        without_redis: Redis is gone; the view follows the log alone.
        listeners: called with each applied fact, after the tables changed.
        reloaded: called when the tables have been taken anew from a snapshot.
        partitions: of zones whose facts are wanted, for as long as somebody holds them.
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
        self.partitions: WeakValueDictionary[str, Partition] = WeakValueDictionary()
        self.foreign = self.gaps = self.snapshots = self.log_reads = 0
        self.cursors: dict[str, EntryId] = {}
        self.log_id = ""
        self.fresh_at = float("-inf")
        self.wake = asyncio.Event()
        self.wanted_probe: asyncio.Future[None] | None = None
        self._moved = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._following: Following | None = None

    # --- what a service asks ------------------------------------------------------------------

    async def start(self) -> None:
        """Take a snapshot and begin to follow.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        self._following = Following(self)
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
        concerned = (partition.apply for partition in self._partitions_of(fact))
        self._apply(fact, [partial(apply, self.views), *concerned])
        self.cursors[topic] = place
        for listener in self.listeners:
            listener(fact)

    def apply_late(self, partition: Partition, records: Iterable[Record]) -> None:
        """Apply what the log has after a partition's rows, and the cursors may have passed."""
        for fact in (record.fact() for record in records):
            if fact.zone_id in (None, partition.id):
                self._apply(fact, [partition.apply_now])

    def outdate(self) -> None:
        """Let all partitions go: what was missed is not known."""
        for partition in self.partitions.values():
            partition.outdated = True
        self.partitions.clear()

    def _apply(self, fact: Fact, holders: Sequence[Holder]) -> None:
        for projection in self.projections:
            try:
                operations = projection.reduce(fact)
                for holder in holders:
                    holder(operations)
            except Exception:
                logger.exception("tail cannot apply %s at %s", fact.name, fact.position)
                self.parked |= frozenset(ids_of(fact))

    def _partitions_of(self, fact: Fact) -> list[Partition]:
        """Return the partitions that a fact may concern: without a zone it may be any."""
        if fact.zone_id is None:
            return list(self.partitions.values())
        partition = self.partitions.get(fact.zone_id)
        return [] if partition is None else [partition]

    async def moved(self, position: int, seen_at: float) -> None:
        """Note that everything up to ``position`` was applied as of ``seen_at`` (monotonic)."""
        self.fresh_at = max(self.fresh_at, seen_at)
        if position > self.position:
            self.position = position
            async with self._moved:
                self._moved.notify_all()
