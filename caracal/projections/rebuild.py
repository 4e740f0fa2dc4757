"""Rebuild of a read model: beside the live tables, from the log, then a swap in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import args_row

from caracal import clock, garbage
from caracal.events.record import Record
from caracal.events.store.entries import EntryId, LogReader
from caracal.projections import sql
from caracal.projections.audit_ledger import LOCK
from caracal.projections.audit_row import COLUMNS
from caracal.projections.audit_row import Row as Decision
from caracal.projections.memory import MemoryMarks, MemoryTable, MemoryView, Row, apply
from caracal.projections.projection import Projection
from caracal.projections.runner import CHECKPOINT_CHANNEL
from caracal.projections.schema import shape
from caracal.projections.table import Applied, Merged
from caracal.tasks import cancelled

BATCH = 2_000
_SWAP_ATTEMPTS = 50
_LONGEST_BATCH = timedelta(hours=1)  # of the ledger: between its beginning and its commit
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_DECISIONS = (
    f"SELECT {', '.join(COLUMNS)} FROM audit_events"
    " WHERE event_type = ANY(%s) AND ingested_at >= %s"
)

Progress = Callable[[int, int], None]
"""Called with (position reached, end of the log)."""


async def rebuild(
    database_url: str, projection: Projection, progress: Progress = lambda at, end: None
) -> int:
    """Make a read model anew while the old one serves; return the position it stands at.

    A parked aggregate stays parked, at the same position.

    Raises:
        psycopg.Error: the database is gone, or readers never let the swap in.
    """
    connect = AsyncConnection.connect
    async with (
        await connect(database_url, autocommit=True) as connection,
        await connect(database_url, autocommit=True) as reading,
    ):
        # Until the swap nobody relies on it; the commit of that waits for all before it, too.
        await connection.execute("SET synchronous_commit = off")
        building = _Building(connection, reading, projection)
        await building.make_tables()
        with garbage.seldom_collected():
            await building.read_log(progress)
            await building.read_decisions()
        await building.make_indexes()
        for _ in range(_SWAP_ATTEMPTS - 1):
            with suppress(psycopg.errors.LockNotAvailable):
                return await building.swap()
            await building.read_log(progress)
        return await building.swap()


async def as_of(
    database_url: str, projection: Projection, position: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a read model as they were at a position of the log, by table.

    What it has of decisions is not shown: these have no place in the log.
    """
    views: dict[str, MemoryView] = {
        table.name: MemoryMarks(table) if isinstance(table, Merged) else MemoryTable(table)
        for table in projection.tables
    }
    async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
        log, at = LogReader(connection), 0
        while records := await log.named(projection.reducers, at, position, limit=BATCH):
            at = records[-1].position
            apply(views, (op for record in records for op in projection.reduce(record.fact())))
    return {name: _visible(view) for name, view in views.items()}


def _visible(view: MemoryView) -> list[Row]:
    assert isinstance(view, MemoryTable | MemoryMarks)
    return [row for row in view.rows.values() if not row.get("stub", False)]


class _Building:
    """A read model under construction: its tables have another name, until the swap."""

    def __init__(
        self,
        connection: AsyncConnection[Any],
        reading: AsyncConnection[Any],
        projection: Projection,
    ) -> None:
        self._connection, self._reading, self._projection = connection, reading, projection
        self._names = {table.name: f"{table.name}__next" for table in projection.tables}
        self._position = 0
        self._began = clock.now()
        self._parked: dict[tuple[str, str], int] = {}

    async def make_tables(self) -> None:
        """Create the empty tables, by key alone; those of a rebuild that was cut off go first."""
        for table in self._projection.tables:
            name = self._names[table.name]
            await self._connection.execute(f"DROP TABLE IF EXISTS {name}")
            await self._connection.execute(table.ddl(name)[0])
        cursor = await self._connection.execute(
            "SELECT topic, aggregate_id, position FROM parked WHERE projection = %s",
            (self._projection.name,),
        )
        self._parked = {(row[0], row[1]): row[2] for row in await cursor.fetchall()}

    async def make_indexes(self) -> None:
        """Create the indexes: over rows that are there it costs a fraction of one row by one.

        The planner learns of the rows, too, before anyone asks for them.
        """
        for table in self._projection.tables:
            name = self._names[table.name]
            for statement in [*table.ddl(name)[1:], f"ANALYZE {name}"]:
                await self._connection.execute(statement)

    async def read_log(self, progress: Progress) -> None:
        """Apply the log from where we are to its end."""
        end = await LogReader(self._connection).end()
        coming = asyncio.create_task(self._prepare(self._position, end))
        try:
            while (batch := await coming)[1]:
                position, operations = batch
                # The next batch is read and reduced while Postgres writes this one.
                coming = asyncio.create_task(self._prepare(position, end))
                async with self._connection.transaction():
                    await sql.apply(self._connection, operations, self._names)
                self._position = position
                progress(self._position, end)
        finally:
            await cancelled(coming)
        self._position = max(self._position, end)
        progress(self._position, end)

    async def read_decisions(self, since: datetime = _EVER) -> None:
        """Apply what the ledger has of this read model's decisions; again, it changes nothing."""
        if not (types := list(self._projection.decided)):
            return
        cursor = self._reading.cursor("decisions", row_factory=args_row(Decision), withhold=True)
        async with cursor:
            await cursor.execute(_DECISIONS, (types, since))
            while rows := await cursor.fetchmany(BATCH):
                operations = [op for row in rows for op in self._projection.reduce_decision(row)]
                await sql.apply(self._connection, operations, self._names)

    async def _prepare(self, after: int, upto: int) -> tuple[int, list[Applied]]:
        """Return the next batch's last position and operations; none at the end."""
        log, names = LogReader(self._reading), self._projection.reducers
        while records := await log.named(names, after, upto, limit=BATCH):
            after = records[-1].position
            if operations := self._operations(records):
                return after, operations
        return after, []

    def _operations(self, records: Iterable[Record]) -> list[Applied]:
        topics = {
            source: topic.name for topic in self._projection.topics for source in topic.sources
        }
        operations = []
        for record in records:
            fact = record.fact()
            parked_at = self._parked.get((topics[fact.name], fact.aggregate_id))
            if parked_at is None or fact.position < parked_at:
                operations += self._projection.reduce(fact)
        return operations

    async def swap(self) -> int:
        """Let no projector write, apply the rest, and put the new tables in place."""
        before = self._position
        try:
            await self._swap()
        except psycopg.Error:
            self._position = before  # what was applied since is rolled back
            raise
        return self._position

    async def _swap(self) -> None:
        async with self._connection.transaction():
            await self._connection.execute("SET LOCAL lock_timeout = '200ms'")
            await self._connection.execute("SET LOCAL synchronous_commit TO DEFAULT")
            await self._connection.execute(
                "SELECT FROM checkpoints WHERE projection = %s FOR UPDATE", (self._projection.name,)
            )
            await self.read_log(lambda at, end: None)
            await self._last_decisions()
            for name, building in self._names.items():
                await self._connection.execute(f"DROP TABLE {name}")
                await self._connection.execute(f"ALTER TABLE {building} RENAME TO {name}")
            await self._move_checkpoints()
            await self._connection.execute(
                "UPDATE read_models SET shape = %s WHERE projection = %s",
                (shape(self._projection), self._projection.name),
            )

    async def _last_decisions(self) -> None:
        """Let the ledger not grow until the swap, and apply what has come since we read it."""
        if self._projection.decided:
            await self._connection.execute(f"SELECT {LOCK}")
            await self.read_decisions(self._began - _LONGEST_BATCH)

    async def _move_checkpoints(self) -> None:
        log = LogReader(self._connection)
        for topic in self._projection.topics:
            place = await log.before(topic, EntryId(self._position + 1, 0))
            await self._connection.execute(
                "INSERT INTO checkpoints AS c VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (projection, topic) DO UPDATE"
                " SET position = excluded.position, n = excluded.n",
                (self._projection.name, topic.name, *place),
            )
            payload = f"{self._projection.name} {topic.name} {place.position}"
            await self._connection.execute(
                "SELECT pg_notify(%s, %s)", (CHECKPOINT_CHANNEL, payload)
            )
