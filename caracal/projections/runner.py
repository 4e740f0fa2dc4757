"""Runs one projection on one topic: entries -> rows, checkpoint and notification, all or nothing.

Rows and checkpoint commit in one transaction, and the checkpoint moves only from where we
believe it is. So nothing is applied twice or skipped, whoever else is at work. What the topic
does not have (a gap, a foreign entry, no Redis at all) is read from the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from caracal import telemetry
from caracal.events.base import Fact
from caracal.events.store import dead_letters
from caracal.events.store.entries import (
    LAST,
    EntryId,
    LogReader,
    Rings,
    text_fields,
    verified,
)
from caracal.events.store.leader import Leadership
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, RawEntry, connect, streams_of
from caracal.events.store.redis_line import RedisLine
from caracal.events.topics import CONSUMER, Topic, read_fact
from caracal.projections import parking, sql
from caracal.projections.projection import Projection
from caracal.telemetry import Cause, SpanKind

logger = logging.getLogger(__name__)

CHECKPOINT_CHANNEL = "caracal_checkpoints"
_COUNT = 500
_BLOCK_MS = 1000
_FENCED = "CA002"
_AWAY_SECONDS = 0.25
_ACK_SECONDS = 0.1
_STORE_SECONDS = 0.5  # that a checkpoint may lag while no row changes
_AWAITED_SECONDS = 0.001  # the same, when commands wait for it: at most so often it alone is stored

Batch = list[tuple[EntryId, Fact]]


class Fenced(psycopg.OperationalError):
    """Someone else moved the checkpoint: what we wanted to write is rolled back."""


@dataclass(slots=True)
class RunnerCounters:
    """What a runner met, for metrics."""

    position: int = 0
    applied: int = 0
    gaps: int = 0
    foreign: int = 0
    idle_fills: int = 0
    fenced: int = 0
    restarts: int = 0
    parked: set[str] = field(default_factory=set)


class Runner:
    """Keeps a projection up to date with one topic. ``run`` goes on until cancelled."""

    def __init__(
        self,
        projection: Projection,
        topic: Topic,
        *,
        database_url: str,
        redis_url: str,
        rings: Rings,
        locked: bool = True,
    ) -> None:
        self.projection, self.topic = projection, topic
        self.database_url, self.redis_url = database_url, redis_url
        self.rings, self.locked = rings, locked
        self.counters = RunnerCounters()

    async def run(self) -> None:
        """Apply for ever; on an error close everything and try again."""
        while True:
            try:
                await self._follow()
            except (psycopg.Error, *GONE) as error:
                self.counters.fenced += isinstance(error, Fenced)
                logger.info("%s on %s starts again: %s", *self._names(), error)
                await asyncio.sleep(0.05)
            self.counters.restarts += 1

    async def _follow(self) -> None:
        async with AsyncExitStack() as stack:
            applying = await _Applying.open(self, stack)
            try:
                await applying.follow_topic()
            except GONE as error:
                logger.info("%s on %s without Redis: %s", *self._names(), error)
                await applying.fill()  # the log has everything
                await asyncio.sleep(_AWAY_SECONDS)

    def _names(self) -> tuple[str, str]:
        return self.projection.name, self.topic.name


class _Applying:
    """One stretch of applying, on connections of its own; it ends with the first error."""

    def __init__(
        self,
        runner: Runner,
        connection: AsyncConnection[Any],
        redis: Redis,
        line: RedisLine,
        cursor: EntryId,
    ) -> None:
        self._projection, self._topic = runner.projection, runner.topic
        self._rings, self._counters = runner.rings, runner.counters
        self._connection, self._redis, self._line = connection, redis, line
        self._log = LogReader(connection)
        self._cursor = self._stored = cursor
        self._stored_at = self._next_ack = 0.0
        self._awaited = False  # a command may wait for what is not stored yet
        told = {"messaging.system": "redis", "messaging.destination.name": self._topic.name}
        self._work = f"apply {self._projection.name}", SpanKind.CONSUMER, told
        self._handled: list[str] = []  # done, but pending in the group

    @classmethod
    async def open(cls, runner: Runner, stack: AsyncExitStack) -> _Applying:
        connection = await stack.enter_async_context(await connected(runner.database_url))
        redis = connect(runner.redis_url, connections=2)
        stack.push_async_callback(redis.aclose)
        line = RedisLine(redis)
        stack.push_async_callback(line.close)
        key = (runner.projection.name, runner.topic.name)
        await connection.execute(
            "INSERT INTO checkpoints (projection, topic) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            key,
        )
        if runner.locked:
            await Leadership(connection, " ".join(key), _Progress(connection, runner)).wait()
        cursor = await checkpoint(connection, *key)
        runner.counters.parked = await parking.parked_in(connection, *key)
        runner.counters.position = cursor.position
        return cls(runner, connection, redis, line, cursor)

    async def follow_topic(self) -> None:
        """Apply what comes; entries that another consumer of our name left come first."""
        start = "0"
        while True:
            entries = await self._read(start)
            if entries:
                await self._handle(entries)
                self._handled += [entry_id for entry_id, _ in entries]
            if start == "0" or not entries or time.monotonic() >= self._next_ack:
                await self._acknowledge()
            if not entries and start == "0":
                start = ">"
            elif self._awaited:
                await self._store(self._cursor)
            elif not entries:  # silence: has the end of the topic been lost?
                await self.fill(idle=True)
                await self._store(self._cursor)

    async def _acknowledge(self) -> None:
        """Let the group forget what is done; until then it would only be skipped again."""
        if self._handled:
            names = (self._topic.name, self._projection.group)
            await self._line.command("XACK", *names, *self._handled)
        self._handled.clear()
        self._next_ack = time.monotonic() + _ACK_SECONDS

    async def _read(self, start: str) -> list[RawEntry]:
        name, group, block = self._topic.name, self._projection.group, self._patience()
        try:
            answer = await self._line.command(
                *("XREADGROUP", "GROUP", group, CONSUMER, "COUNT", _COUNT, "BLOCK", block),
                *("STREAMS", name, start),
                blocks=block / 1000,
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "UNBLOCKED" not in str(error):
                raise
            await self._make_group()
            return []
        return [entry for _, entries in streams_of(answer) for entry in entries]

    def _patience(self) -> int:
        """Return how long nothing may come, ms: until a checkpoint is due that is waited for."""
        if not self._awaited:
            return _BLOCK_MS
        return min(max(ceil((self._due - time.monotonic()) * 1000), 1), _BLOCK_MS)

    async def _make_group(self) -> None:
        try:
            await self._redis.xgroup_create(
                self._topic.name, self._projection.group, id=str(self._cursor), mkstream=True
            )
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def _handle(self, entries: Sequence[RawEntry]) -> None:
        batch: Batch = []
        cursor = self._cursor
        for entry_id, raw in entries:
            place = EntryId.parse(entry_id)
            ours = self._read_entry(entry_id, raw)
            if ours is not None and place <= cursor:
                continue
            if ours is not None and ours[0] == cursor:
                batch.append((place, ours[1]))
                cursor = place
                continue
            await self._apply(batch)
            if ours is None:
                await self._set_aside(entry_id, raw)
            self._counters.gaps += ours is not None
            await self.fill(place)
            batch, cursor = [], self._cursor
        await self._apply(batch)

    def _read_entry(self, entry_id: str, raw: Mapping[bytes, bytes]) -> tuple[EntryId, Fact] | None:
        """Return ``prev`` and the fact of an entry; None when it is not ours."""
        fields = text_fields(raw)
        if not fields or not verified(self._topic, entry_id, fields, self._rings):
            return None
        try:
            place = EntryId.parse(entry_id)
            return EntryId.parse(fields["prev"]), read_fact(place.position, fields)
        except (KeyError, ValueError):  # of the unsigned ones of dev mode; what we sign is whole
            return None

    async def _set_aside(self, entry_id: str, raw: Mapping[bytes, bytes]) -> None:
        if not raw:
            return  # deleted or trimmed before we read it; the log has it
        self._counters.foreign += 1
        logger.error("foreign entry %s on %s", entry_id, self._topic.name)
        letter = text_fields(raw) or {"undecodable": repr(raw)}
        await dead_letters.add(
            self._redis, self._topic, entry_id, self._projection.group, letter, self._rings
        )

    async def fill(self, upto: EntryId = LAST, *, idle: bool = False) -> None:
        """Apply from the log what follows the cursor."""
        more = True
        while more:
            entries, more = await self._log.entries(self._topic, self._cursor, upto, limit=_COUNT)
            self._counters.idle_fills += bool(idle and entries)
            await self._apply([(e.id, read_fact(e.id.position, e.fields)) for e in entries])

    async def _apply(self, batch: Batch) -> None:
        if not batch:
            return
        if self._counters.parked:
            for place, fact in batch:
                await self._apply_one(place, fact)
            return
        try:
            with telemetry.batch(*self._work, (_cause(fact) for _, fact in batch)):
                operations = [op for _, fact in batch for op in self._projection.reduce(fact)]
                self._awaited |= any(fact.name in self._projection.reducers for _, fact in batch)
                await self._store(batch[-1][0], operations)
        except (psycopg.OperationalError, psycopg.InterfaceError, RedisError, OSError):
            raise
        except Exception:  # noqa: BLE001 - a reducer's bug: find which event, park its aggregate
            for place, fact in batch:
                await self._apply_one(place, fact)
        else:
            self._counters.applied += len(batch)

    async def _store(self, place: EntryId, operations: Sequence[Any] = ()) -> None:
        """Commit rows and checkpoint; what changes no row may wait for what does.

        Alone it comes at once, and of many so far only the last. After a crash it is read again,
        from the log, and changes no row again.
        """
        if operations or (place > self._stored and time.monotonic() >= self._due):
            await self._commit(place, operations)
        self._cursor = place
        self._counters.position = place.position

    @property
    def _due(self) -> float:
        """Return when the checkpoint is stored though no row has changed (monotonic)."""
        return self._stored_at + (_AWAITED_SECONDS if self._awaited else _STORE_SECONDS)

    def _note_stored(self, place: EntryId) -> None:
        self._stored, self._stored_at, self._awaited = place, time.monotonic(), False

    async def _commit(self, place: EntryId, operations: Sequence[Any]) -> None:
        connection = self._connection
        try:
            # By hand: ``transaction()`` waits for the server twice more, at twice the cost.
            async with connection.pipeline(), connection.cursor() as cursor:
                await cursor.execute("BEGIN", prepare=True)
                await self._advance(cursor, place)
                await sql.apply(cursor, operations)
                await cursor.execute("COMMIT", prepare=True)
        except psycopg.DatabaseError as error:
            raise _fenced(error) from error
        finally:  # whatever broke, without its COMMIT nothing was done
            if connection.info.transaction_status is not TransactionStatus.IDLE:
                await connection.rollback()
        self._note_stored(place)

    async def _advance(
        self, database: AsyncConnection[Any] | AsyncCursor[Any], place: EntryId
    ) -> None:
        await database.execute(
            "SELECT advance_checkpoint(%s, %s, %s, %s, %s, %s)",
            (self._projection.name, self._topic.name, *self._stored, *place),
            prepare=True,
        )

    async def _apply_one(self, place: EntryId, fact: Fact) -> None:
        try:
            async with self._connection.transaction():
                await self._advance(self._connection, place)
                self._counters.parked = await parking.apply_or_park(
                    self._connection, self._projection, self._topic, place, fact
                )
        except psycopg.DatabaseError as error:
            raise _fenced(error) from error
        self._counters.applied += 1
        self._note_stored(place)
        self._cursor = place
        self._counters.position = place.position


async def checkpoint(connection: AsyncConnection[Any], projection: str, topic: str) -> EntryId:
    """Return where a projection stands on a topic."""
    cursor = await connection.execute(
        "SELECT position, n FROM checkpoints WHERE projection = %s AND topic = %s",
        (projection, topic),
    )
    row = await cursor.fetchone()
    return EntryId(*row) if row else EntryId(0, 0)


class _Progress:
    """Tells a standby whether the leader works: its checkpoint, or that nothing waits for it."""

    def __init__(self, connection: AsyncConnection[Any], runner: Runner) -> None:
        self._connection, self._runner = connection, runner

    async def __call__(self) -> object:
        names = (self._runner.projection.name, self._runner.topic.name)
        place = await checkpoint(self._connection, *names)
        waiting, _ = await LogReader(self._connection).entries(self._runner.topic, place, limit=2)
        return place if waiting else Leadership.IDLE


def _cause(fact: Fact) -> Cause:
    return Cause(fact.metadata.get("traceparent"), fact.occurred_at, fact.position)


def _fenced(error: psycopg.DatabaseError) -> psycopg.DatabaseError:
    return Fenced(str(error)) if error.sqlstate == _FENCED else error
