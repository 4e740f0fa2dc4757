"""The live agents and active edges of a zone, as the log has them now.

For commands that end what hangs on a thing: the read models may lag (the worker may even be
down), so their rows are brought up to the log's end in memory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from caracal.events.agent_graph import AgentGraph, Rows
from caracal.events.store.entries import EntryId, LogReader
from caracal.events.topics import Topic
from caracal.projections.agent import AGENTS, agents
from caracal.projections.delegation import DELEGATIONS, delegations
from caracal.projections.memory import MemoryTable, Row, apply
from caracal.projections.query import Db, select
from caracal.projections.runner import checkpoint
from caracal.projections.table import Applied

LookUp = Callable[..., Sequence[str]]
After = Callable[[Collection[str]], Awaitable[Iterable[str]]]

_PROJECTIONS = (agents, delegations)
_ENDS = ("source_session_id", "target_session_id")
_TOPICS: dict[str, Topic] = {topic.name: topic for one in _PROJECTIONS for topic in one.topics}


async def zone_graph(db: Db, zone_id: str, near: Collection[str] | None = None) -> AgentGraph:
    """Return the graph of a zone: what has been committed before this was called is in it.

    With ``near``, ids of agents and edges, it is the part that hangs on those, be they there or
    ended: whatever falls with them, or is left by them, falls in this part as it would in all.
    """
    part = _Part(db, zone_id, await _later(db, zone_id))
    await (part.load() if near is None else part.load_near(near))
    return await part.graph()


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


async def _later(db: Db, zone_id: str) -> list[Applied]:
    """Return what the log has of a zone that the read models may not have applied."""
    # Checkpoints first: rows are never behind them. Applying an event again changes nothing.
    places = [(topic, await _behind(db, topic)) for topic in _TOPICS.values()]
    return [
        operation
        for topic, place in places
        async for fact in LogReader(db).facts_after(topic, place)
        if fact.zone_id == zone_id
        for one in _PROJECTIONS
        for operation in one.reduce(fact)
    ]


class _Part:
    """Rows of a zone, as far as they are loaded, each brought up to the log's end."""

    def __init__(self, db: Db, zone_id: str, later: Sequence[Applied]) -> None:
        self._db, self._zone_id, self._later = db, zone_id, later
        self._agents, self._edges = MemoryTable(AGENTS), MemoryTable(DELEGATIONS)

    async def graph(self) -> AgentGraph:
        """Return the graph of what is loaded and lives."""
        return graph_of(self._zone_id, *[await self._live(t) for t in (self._agents, self._edges)])

    async def load(self) -> None:
        """Load all that lives."""
        for table in (self._agents, self._edges):
            await self._load(table, "ended_at IS NULL")

    async def load_near(self, ids: Collection[str]) -> None:
        """Load what hangs on agents and edges, and what their named roots are told by."""
        known = growing_graph(self._agents, self._edges)(self._zone_id)
        for table in (self._agents, self._edges):
            await self._load(table, "id = ANY(%s)", ids)
        agents = await self._reached(ids, partial(self._children, known.agents))
        touching = await self._touching(known.edges, agents)
        edges = await self._reached([*ids, *touching], partial(self._narrowed, known.edges))
        paths = {edge for row in self._rows(edges) for edge in row["path"]}
        await self._load(self._edges, "id = ANY(%s)", paths)
        ends = {row[end] for row in self._rows(edges | paths) for end in _ENDS}
        await self._load(self._agents, "id = ANY(%s)", ends)

    async def _load(self, table: MemoryTable, where: str, *values: Collection[str]) -> None:
        statement = f"SELECT * FROM {table.table.name} WHERE zone_id = %s AND {where}"
        table.extend(await select(self._db, statement, [self._zone_id, *map(list, values)]))
        apply({one.table.name: one for one in (self._agents, self._edges)}, self._later)

    async def _reached(self, first: Iterable[str], after: After) -> set[str]:
        reached = set(first)
        frontier = reached
        while frontier:
            frontier = set(await after(frontier)) - reached
            reached = reached | frontier
        return reached

    async def _children(self, known: Rows, of: Collection[str]) -> list[str]:
        await self._load(self._agents, "ended_at IS NULL AND parent_id = ANY(%s)", of)
        return [child for agent in of for child in known.having("parent_id", agent)]

    async def _touching(self, known: Rows, agents: Collection[str]) -> list[str]:
        for end in _ENDS:
            await self._load(self._edges, f"ended_at IS NULL AND {end} = ANY(%s)", agents)
        return [edge for end in _ENDS for agent in agents for edge in known.having(end, agent)]

    async def _narrowed(self, known: Rows, of: Collection[str]) -> list[str]:
        # An edge begins where the one ends that it is narrowed from: that has an index.
        targets = {row["target_session_id"] for row in self._rows(of)}
        await self._load(self._edges, "ended_at IS NULL AND source_session_id = ANY(%s)", targets)
        return [edge for one in of for edge in known.having("parent_edge_id", one)]

    def _rows(self, edges: Iterable[str]) -> list[Row]:
        rows = (self._edges.rows.get(edge) for edge in edges)
        return [row for row in rows if row is not None and not row["stub"]]

    async def _live(self, table: MemoryTable) -> list[Row]:
        """Return the rows that live, by the table in memory and by the read model, by id.

        Topics have no order among each other: what the read model has ended already, and was not
        loaded for that, may have begun anew here from a topic that is behind.
        """
        rows = [row for _, row in sorted(table.rows.items()) if _is_live(self._zone_id, row)]
        statement = f"SELECT id FROM {table.table.name} WHERE id = ANY(%s) AND ended_at IS NOT NULL"
        ids = [row["id"] for row in rows]
        ended = {row["id"] for row in await select(self._db, statement, [ids])}
        return [row for row in rows if row["id"] not in ended]


def _is_live(zone_id: str, row: Row) -> bool:
    return bool(row["zone_id"] == zone_id and row["ended_at"] is None and not row["stub"])
