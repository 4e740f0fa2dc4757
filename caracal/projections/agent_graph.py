"""The live agents and active edges of a zone, as the log has them now.

For commands that end what hangs on a thing: the read models may lag (the worker may even be
down), so their rows are brought up to the log's end in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from caracal.events.agent_graph import AgentGraph, Rows
from caracal.events.store.entries import EntryId, LogReader
from caracal.events.topics import Topic
from caracal.projections.agent import AGENTS, agents
from caracal.projections.delegation import DELEGATIONS, delegations
from caracal.projections.memory import MemoryTable, Row, apply
from caracal.projections.query import Db, select
from caracal.projections.runner import checkpoint

LookUp = Callable[..., Sequence[str]]

_PROJECTIONS = (agents, delegations)
_TABLES = (AGENTS, DELEGATIONS)
_TOPICS: dict[str, Topic] = {topic.name: topic for one in _PROJECTIONS for topic in one.topics}


async def zone_graph(db: Db, zone_id: str) -> AgentGraph:
    """Return the graph of a zone: what has been committed before this was called is in it."""
    # Checkpoints first: rows are never behind them. Applying an event again changes nothing.
    places = [(topic, await _behind(db, topic)) for topic in _TOPICS.values()]
    tables = {table.name: MemoryTable(table) for table in _TABLES}
    for name, table in tables.items():
        statement = f"SELECT * FROM {name} WHERE zone_id = %s AND ended_at IS NULL"
        table.load(await select(db, statement, [zone_id]))
    for topic, place in places:
        await _catch_up(db, zone_id, tables, topic, place)
    return graph_of(zone_id, *[await _live(db, zone_id, table) for table in tables.values()])


def graph_of(zone_id: str, agents_: Iterable[Row], edges: Iterable[Row]) -> AgentGraph:
    """Return the graph of a zone from its live rows, as somebody has read them."""
    return AgentGraph(zone_id, *({row["id"]: row for row in rows} for rows in (agents_, edges)))


def growing_graph(agents_: MemoryTable, edges: MemoryTable) -> Callable[[str], AgentGraph]:
    """Return a look-up of a zone's graph over tables in memory: nothing is copied, so it costs
    nothing, and it changes with them. To be called before they are loaded."""
    live = _Live.of(agents_, "parent_id")
    lent = _Live.of(edges, "source_session_id", "target_session_id", "parent_edge_id")
    return lambda zone_id: AgentGraph(zone_id, live(zone_id), lent(zone_id))


@dataclass(frozen=True, eq=False)
class _Live(Rows):
    """The rows of a table in memory that live in a zone."""

    zone_id: str
    table: MemoryTable
    ids: LookUp
    having_value: Mapping[str, LookUp]

    @classmethod
    def of(cls, table: MemoryTable, *columns: str) -> Callable[[str], _Live]:
        """Keep the indexes of a table; return what gives the rows of a zone."""
        indexes = {column: table.ids("zone_id", column) for column in columns}
        every = table.ids("zone_id")
        return lambda zone_id: cls(zone_id, table, every, indexes)

    def __getitem__(self, row_id: str) -> Row:
        row = self.table.live(row_id)
        if row is None or row["zone_id"] != self.zone_id:
            raise KeyError(row_id)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids(self.zone_id))

    def __len__(self) -> int:
        return len(self.ids(self.zone_id))

    def having(self, column: str, value: str) -> Iterable[str]:
        return self.having_value[column](self.zone_id, value)


async def _behind(db: Db, topic: Topic) -> EntryId:
    """Return the place on a topic up to which both read models have applied it."""
    readers = [one.name for one in _PROJECTIONS if topic in one.topics]
    return min([await checkpoint(db, name, topic.name) for name in readers])


async def _catch_up(
    db: Db, zone_id: str, tables: dict[str, MemoryTable], topic: Topic, place: EntryId
) -> None:
    async for fact in LogReader(db).facts_after(topic, place):
        if fact.zone_id == zone_id:
            for one in _PROJECTIONS:
                apply(tables, one.reduce(fact))


async def _live(db: Db, zone_id: str, table: MemoryTable) -> list[Row]:
    """Return the rows that live, by the table in memory and by the read model.

    Topics have no order among each other: what the read model has ended already, and was not
    loaded for that, may have begun anew here from a topic that is behind.
    """
    rows = [row for row in table.rows.values() if _is_live(zone_id, row)]
    statement = f"SELECT id FROM {table.table.name} WHERE id = ANY(%s) AND ended_at IS NOT NULL"
    ended = {row["id"] for row in await select(db, statement, [[row["id"] for row in rows]])}
    return [row for row in rows if row["id"] not in ended]


def _is_live(zone_id: str, row: dict[str, object]) -> bool:
    return row["zone_id"] == zone_id and row["ended_at"] is None and not row["stub"]
