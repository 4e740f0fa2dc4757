"""What a tail reads of Postgres: a snapshot as of one moment, and the log after its cursors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from caracal.events.record import Record
from caracal.events.store.entries import ZERO, EntryId
from caracal.events.topics import Topic
from caracal.projections.memory import KEPT_SECONDS, MemoryView, RecentTable, Row
from caracal.projections.projection import Projection

BATCH = 2_000
"""Events of one look at the log."""

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
    async with database.transaction():
        await database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        log_id = str(await _value(database, "SELECT log_id FROM log_identity"))
        places = await _checkpoints(database, projections)
        cursors = {name: places.get(name, ZERO) for name in topics}
        rows = {name: await _rows(database, view, cursors) for name, view in views.items()}
        parked = await _parked(database, projections)
        end, records = await after(database, topics, cursors, limit=None)
    return Snapshot(log_id, rows, cursors, parked, end, records)


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


async def _rows(database: Database, view: MemoryView, cursors: Mapping[str, EntryId]) -> list[Row]:
    async with database.cursor(row_factory=dict_row) as cursor:
        statement, arguments = f"SELECT * FROM {view.table.name}", []
        if isinstance(view, RecentTable):
            # What has begun after the cursor is going to be applied again: its end must be known.
            statement += (
                " WHERE ended_at IS NULL OR ended_at > %s"
                f" OR {view.ended_on} > now() - make_interval(secs => %s)"
            )
            arguments = [cursors[view.born_on].position, KEPT_SECONDS]
        await cursor.execute(statement, arguments)
        return await cursor.fetchall()


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


async def _parked(database: Database, projections: Sequence[Projection]) -> frozenset[str]:
    cursor = await database.execute(
        "SELECT DISTINCT unnest(ids) FROM parked WHERE projection = ANY(%s)",
        ([projection.name for projection in projections],),
    )
    return frozenset(row[0] for row in await cursor.fetchall())
