"""What a tail reads of Postgres: a snapshot as of one moment, and the log after its cursors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from caracal.events.record import Record
from caracal.events.store.entries import ZERO, EntryId
from caracal.events.topics import Topic
from caracal.projections.memory import KEPT_SECONDS, MemoryTable, MemoryView, RecentTable, Row
from caracal.projections.partition import Partition
from caracal.projections.projection import Projection
from caracal.projections.revocation import RevocationMap

if TYPE_CHECKING:
    from caracal.projections.tail import Tail

BATCH = 2_000
"""Events of one look at the log."""
_ROWS = 250
"""Rows that are read before others have their turn: a few ms."""

Database = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows, cursors, parked ids and the log after them, all of one moment."""

    log_id: str
    rows: Mapping[str, list[Row]]
    cursors: dict[str, EntryId]
    parked: frozenset[str]
    end: int
    records: list[Record]


async def take(
    database: Database,
    views: Mapping[str, MemoryView],
    topics: Mapping[str, Topic],
    projections: Sequence[Projection],
) -> Snapshot:
    """Take a snapshot; the log after it is read in the same transaction."""
    async with _moment(database) as log_id:
        cursors = await _cursors(database, topics, projections)
        rows = {name: await rows_of(database, view, cursors) for name, view in views.items()}
        parked = await parked_of(database, projections)
        end, records = await after(database, topics, cursors, limit=None)
    return Snapshot(log_id, rows, cursors, parked, end, records)


async def fill(database: Database, tail: Tail, partition: Partition) -> bool:
    """Load a zone's rows beside a tail, which keeps them up to date from now on.

    The tail's cursors stand where the log was committed before: what they have passed is in the
    snapshot, as rows or as log, and what they have not passed yet waits in the partition until
    the rows are there. What comes by both ways changes nothing the second time.

    Returns:
        False when the tail was taken anew meanwhile: begin again, with another partition.
    """
    tail.partitions[partition.id] = partition
    projections = [one for one in tail.projections if _is_about(one, partition)]
    topics = {topic.name: topic for one in projections for topic in one.topics}
    passed = {name: tail.cursors[name] for name in topics}
    async with _moment(database) as log_id:
        cursors = await _cursors(database, topics, projections)
        # The tail may apply once more what the read models have had long ago.
        lowest = {name: min(place, passed[name]) for name, place in cursors.items()}
        for table in partition.tables.values():
            await _load(database, table, *_wanted_of(table, lowest, partition.id))
        parked = await parked_of(database, tail.projections)
        async for records in _all_after(database, topics, cursors):
            tail.apply_late(partition, records)
            await asyncio.sleep(0)
    if partition.outdated or log_id != tail.log_id:
        return False
    partition.complete()
    tail.parked |= parked
    return True


def _is_about(projection: Projection, partition: Partition) -> bool:
    return any(table.name in partition.tables for table in projection.tables)


@asynccontextmanager
async def _moment(database: Database) -> AsyncIterator[str]:
    """Read as of one moment; yield the log's name."""
    async with database.transaction():
        await database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield str(await _value(database, "SELECT log_id FROM log_identity"))


async def _all_after(
    database: Database, topics: Mapping[str, Topic], cursors: dict[str, EntryId]
) -> AsyncIterator[list[Record]]:
    """Yield what the log has after the cursors, in order, as much as is read in one go."""
    cursors = dict(cursors)
    while True:
        _, records = await after(database, topics, cursors)
        if records:
            yield records
        if len(records) < BATCH:
            return
        place = EntryId(records[-1].position, 0)
        cursors = {name: max(cursor, place) for name, cursor in cursors.items()}


async def after(
    database: Database,
    topics: Mapping[str, Topic],
    cursors: Mapping[str, EntryId],
    *,
    limit: int | None = BATCH,
) -> tuple[int, list[Record]]:
    """Return the log's end, and the events after each topic's cursor in order (a batch)."""
    end = await _value(database, "SELECT coalesce(max(position), 0) FROM log")
    sources = [(name, topic.name) for topic in topics.values() for name in topic.sources]
    cursor = await database.execute(
        # Each name by the index, then merged (see LogReader: rows are compared, not columns).
        "SELECT found.* FROM unnest(%s::text[], %s::bigint[]) AS wanted (of, after)"
        " CROSS JOIN LATERAL (SELECT position, version, name, state FROM log"
        "  WHERE (name, position) > (of, after) AND (name, position) <= (of, 9223372036854775807)"
        "  ORDER BY name, position LIMIT %s) AS found"
        " ORDER BY found.position LIMIT %s",
        (
            [name for name, _ in sources],
            [cursors[topic].position for _, topic in sources],
            limit,
            limit,
        ),
        prepare=True,
    )
    return int(end), [Record.read(*row) for row in await cursor.fetchall()]


async def _value(database: Database, statement: str) -> Any:
    row = await (await database.execute(statement)).fetchone()
    return row[0] if row else None


async def _load(
    database: Database, table: MemoryTable, statement: str, arguments: list[Any]
) -> None:
    async with database.cursor(row_factory=_alike) as cursor:
        set_json_loads(orjson.loads, cursor)
        await cursor.execute(statement, arguments, prepare=True)
        while rows := await cursor.fetchmany(_ROWS):
            table.extend(rows)
            await asyncio.sleep(0)


def _alike(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Row]:
    """Make rows that share equal texts: most ids of a zone stand in many rows."""
    names = [column.name for column in cursor.description or ()]
    known: dict[str, str] = {}

    def row(values: Sequence[Any]) -> Row:
        shared = [known.setdefault(one, one) if type(one) is str else one for one in values]
        return dict(zip(names, shared, strict=True))

    return row


async def rows_of(
    database: Database, view: MemoryView, cursors: Mapping[str, EntryId]
) -> list[Row]:
    """Return what a view needs of its table."""
    async with database.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(*_wanted(view, cursors))
        return await cursor.fetchall()


def _wanted(view: MemoryView, cursors: Mapping[str, EntryId]) -> tuple[str, list[Any]]:
    statement = f"SELECT * FROM {view.table.name}"
    if isinstance(view, RevocationMap):
        where, arguments = view.wanted
        return f"{statement} WHERE {where}", arguments
    if not isinstance(view, RecentTable):
        return statement, []
    # What has begun after the cursor is going to be applied again: its end must be known.
    recent = f"{view.ended_on} > now() - make_interval(secs => %s)"
    where = f" WHERE ended_at IS NULL OR ended_at > %s OR {recent}"
    return statement + where, [cursors[view.born_on].position, KEPT_SECONDS]


def _wanted_of(
    table: MemoryTable, cursors: Mapping[str, EntryId], zone_id: str
) -> tuple[str, list[Any]]:
    """Return the statement that reads what a zone has in a table; an index gives all of it.

    Of what has ended only what must be known is read: others are as good as unknown here.
    """
    statement = f"SELECT * FROM {table.table.name} WHERE zone_id = %s"
    if not isinstance(table, RecentTable):
        return statement, [zone_id]
    where = " AND (ended_at IS NULL OR ended_at > %s)"
    return statement + where, [zone_id, cursors[table.born_on].position]


async def _cursors(
    database: Database, topics: Mapping[str, Topic], projections: Sequence[Projection]
) -> dict[str, EntryId]:
    places = await _checkpoints(database, projections)
    return {name: places.get(name, ZERO) for name in topics}


async def _checkpoints(database: Database, projections: Sequence[Projection]) -> dict[str, EntryId]:
    """Return, for each topic, the lowest checkpoint: what is applied twice changes nothing."""
    lowest: dict[str, EntryId] = {}
    cursor = await database.execute("SELECT projection, topic, position, n FROM checkpoints")
    found = {(row[0], row[1]): EntryId(row[2], row[3]) for row in await cursor.fetchall()}
    for projection in projections:
        for topic in projection.topics:
            place = found.get((projection.name, topic.name), ZERO)
            lowest[topic.name] = min(lowest.get(topic.name, place), place)
    return lowest


async def parked_of(database: Database, projections: Sequence[Projection]) -> frozenset[str]:
    """Return the ids that every decision denies."""
    cursor = await database.execute(
        "SELECT DISTINCT unnest(ids) FROM parked WHERE projection = ANY(%s)",
        ([projection.name for projection in projections],),
    )
    return frozenset(row[0] for row in await cursor.fetchall())
