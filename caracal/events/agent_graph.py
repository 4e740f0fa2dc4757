"""What falls with what, in the tree of agents and the graph of their delegations.

Pure: rows of the read models go in, a :class:`Fall` comes out. Agents form trees by ``parent_id``;
edges lead from agent to agent, and each knows the edges it was narrowed from (``path``). What falls
is found by walks from what is named: they cost what they reach, however large the zone is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from caracal.events.agent import fallen
from caracal.events.base import Fall, FallenAgent

Row = Mapping[str, Any]
NOTHING = Fall()


class Rows(Mapping[str, Row]):
    """The rows of what lives in a zone, each by its id, and by what it hangs on."""

    @abstractmethod
    def having(self, column: str, value: str) -> Iterable[str]:
        """Return the ids of the rows that have ``value`` in one of the columns asked for."""


class Held(Rows):
    """Rows that somebody holds; an index is made of a column when it is first asked for."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self._rows = rows
        self._indexes: dict[str, dict[str, list[str]]] = {}

    def __getitem__(self, row_id: str) -> Row:
        return self._rows[row_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def having(self, column: str, value: str) -> Iterable[str]:
        if (index := self._indexes.get(column)) is None:
            index = self._indexes[column] = _index(self._rows, column)
        return index.get(value, ())


class _Both(Rows):
    """The rows of one and of another, which share no id."""

    def __init__(self, one: Rows, other: Rows) -> None:
        self._one, self._other = one, other

    def __getitem__(self, row_id: str) -> Row:
        return self._one[row_id] if row_id in self._one else self._other[row_id]

    def __iter__(self) -> Iterator[str]:
        yield from self._one
        yield from self._other

    def __len__(self) -> int:
        return len(self._one) + len(self._other)

    def having(self, column: str, value: str) -> Iterable[str]:
        return [*self._one.having(column, value), *self._other.having(column, value)]


class AgentGraph:
    """The live agents and active edges of one zone, each by id.

    Over rows that change (a view in memory) it is the graph of the moment when it is asked.
    """

    def __init__(self, zone_id: str, agents: Mapping[str, Row], edges: Mapping[str, Row]) -> None:
        self.zone_id, self.agents, self.edges = zone_id, _rows(agents), _rows(edges)
        self._children = partial(self.agents.having, "parent_id")
        self._from = partial(self.edges.having, "source_session_id")
        self._to = partial(self.edges.having, "target_session_id")
        self._under = partial(self.edges.having, "parent_edge_id")

    def of_agents(self, named: Iterable[str]) -> Fall:
        """Return what ends with agents: their subtrees, and the edges that hang on those."""
        agents = self._subtrees(named)
        return self._fall(agents, self._hanging(agents, ()))

    def of_edge(self, edge_id: str) -> Fall:
        """Return what ends with an edge: all it leads to, and the subtrees of those agents."""
        return self.of_walk(self.led_by(edge_id), edge_id)

    def of_walk(self, walked: Mapping[str, None], edge_id: str) -> Fall:
        """Return the same, of the walk :meth:`led_by` from that edge."""
        agents = self._subtrees(self.targets(walked))
        return self._fall(agents, self._hanging(agents, walked), edge_id)

    def of_application(self, application_id: str, after: Fall = NOTHING) -> Fall:
        """Return what ends with an application: its agents and edges, and all below them.

        ``after`` has ended with it before: what still hangs on that is among them.
        """
        own = [row["id"] for row in self.agents.values() if _of(row, application_id)]
        edges = [edge for edge, row in self.edges.items() if _concerns(row, application_id)]
        agents = self._subtrees([*own, *self._below(after)])
        return self._fall(agents, self._hanging(agents, [*edges, *self._on(after)]))

    def left_by(self, after: Fall) -> Fall:
        """Return what still hangs on things that have ended: it began while they were listed."""
        agents = self._subtrees(self._below(after))
        return self._fall(agents, self._hanging(agents, self._on(after)))

    def everything(self) -> Fall:
        """Return all of the zone."""
        return self._fall(dict.fromkeys(self.agents), dict.fromkeys(self.edges))

    def suspending(self, agent_id: str) -> Fall:
        """Return the agent and those below it that are reached through active ones."""
        changed = self._walk(agent_id, "active")
        root = [_agent_root(self.agents[agent_id])] if changed else []
        return Fall(agents=tuple(self._fallen(changed)), roots=tuple(root))

    def suspending_late(self, after: Fall, before: int) -> Fall:
        """Return what is active below agents that were suspended at position ``before``.

        It became so while they were listed; who was resumed since then is left alone.
        """
        listed = {agent.id for agent in after.agents}

        def missed(agents: Iterable[str]) -> list[str]:
            return [
                child
                for agent in agents
                for child in self._children(agent)
                if child not in listed
                and _is(self.agents[child], "active")
                and self.agents[child]["position"] < before
            ]

        return Fall(agents=tuple(self._fallen(_reached(missed(listed), lambda one: missed([one])))))

    def resuming(self, agent_id: str) -> list[FallenAgent]:
        """Return the agent and those below it that are reached through suspended ones."""
        return list(self._fallen(self._walk(agent_id, "suspended")))

    def of_ids(self, ids: Collection[str]) -> AgentGraph:
        """Return the graph of these agents and edges alone, as they are now."""
        return AgentGraph(
            self.zone_id,
            {one: self.agents[one] for one in ids if one in self.agents},
            {one: self.edges[one] for one in ids if one in self.edges},
        )

    def with_fallen(self, fallen: AgentGraph) -> AgentGraph:
        """Return the graph as if what fell out of it (:meth:`of_ids`) were still there."""
        return AgentGraph(
            self.zone_id, _Both(self.agents, fallen.agents), _Both(self.edges, fallen.edges)
        )

    def led_by(self, edge_id: str) -> dict[str, None]:
        """Return an edge and all that are reached from its target; the walk has no bound."""
        return _reached([edge_id], lambda edge: self._from(self.edges[edge]["target_session_id"]))

    def targets(self, edges: Iterable[str]) -> list[str]:
        """Return the agents that edges lead to, each once, in their order."""
        return list(dict.fromkeys(self.edges[edge]["target_session_id"] for edge in edges))

    def _subtrees(self, named: Iterable[str]) -> dict[str, None]:
        known = (agent for agent in named if agent in self.agents)
        return _reached(known, self._children)

    def _below(self, after: Fall) -> list[str]:
        """Return the agents that an ended one is the parent of."""
        return [child for agent in after.agents for child in self._children(agent.id)]

    def _on(self, after: Fall) -> list[str]:
        """Return the edges that touch an ended agent, or were narrowed from an ended edge."""
        touching = (edge for agent in after.agents for edge in self._touching(agent.id))
        return [*touching, *(edge for ended in after.edges for edge in self._under(ended))]

    def _hanging(self, agents: Iterable[str], edges: Iterable[str]) -> dict[str, None]:
        """Return ``edges``, those that touch ``agents``, and all narrowed from one of them."""
        touching = [edge for agent in agents for edge in self._touching(agent)]
        return _reached([*edges, *touching], self._under)

    def _touching(self, agent_id: str) -> Iterator[str]:
        yield from self._from(agent_id)
        yield from self._to(agent_id)

    def _walk(self, agent_id: str, status: str) -> dict[str, None]:
        def having(ids: Iterable[str]) -> list[str]:
            return [one for one in ids if one in self.agents and _is(self.agents[one], status)]

        return _reached(having([agent_id]), lambda agent: having(self._children(agent)))

    def _fallen(self, agents: Iterable[str]) -> Iterator[FallenAgent]:
        return (fallen(self.zone_id, self.agents[agent]) for agent in agents)

    def _fall(
        self, agents: Mapping[str, None], edges: Mapping[str, None], named: str | None = None
    ) -> Fall:
        roots = [
            *(_agent_root(self.agents[one]) for one in agents if self._is_top(one, agents)),
            *(
                self._edge_root(one)
                for one in edges
                if one == named or self._is_bare(one, agents, edges)
            ),
        ]
        return Fall(agents=tuple(self._fallen(agents)), edges=tuple(edges), roots=tuple(roots))

    def _is_top(self, agent_id: str, agents: Mapping[str, None]) -> bool:
        return agents.keys().isdisjoint(self.agents[agent_id]["ancestors"])

    def _is_bare(self, edge_id: str, agents: Mapping[str, None], edges: Mapping[str, None]) -> bool:
        """Say whether no other listed id is among the anchors that the edge brings along."""
        path = self.edges[edge_id]["path"]
        return edges.keys().isdisjoint(path[:-1]) and agents.keys().isdisjoint(self._chain(path))

    def _chain(self, path: Iterable[str]) -> Iterator[str]:
        """Yield the agents of a path, with their ancestors."""
        for row in (self.edges[edge] for edge in path if edge in self.edges):
            for agent in (row["source_session_id"], row["target_session_id"]):
                yield agent
                if agent in self.agents:
                    yield from self.agents[agent]["ancestors"]

    def _edge_root(self, edge_id: str) -> dict[str, Any]:
        target = self.agents.get(self.edges[edge_id]["target_session_id"])
        return {
            "anchor": "delegation_edge",
            "id": edge_id,
            "subject_session_id": target["subject_session_id"] if target else None,
        }


def _agent_root(row: Row) -> dict[str, Any]:
    return {
        "anchor": "agent_session",
        "id": row["id"],
        "subject_session_id": row["subject_session_id"],
    }


def _rows(rows: Mapping[str, Row]) -> Rows:
    return rows if isinstance(rows, Rows) else Held(rows)


def _index(rows: Mapping[str, Row], column: str) -> dict[str, list[str]]:
    index: defaultdict[str, list[str]] = defaultdict(list)
    for row_id, row in rows.items():
        if row[column] is not None:
            index[row[column]].append(row_id)
    return index


def _reached(first: Iterable[str], after: Callable[[str], Iterable[str]]) -> dict[str, None]:
    """Return all that a walk reaches, in order, each once."""
    reached = dict.fromkeys(first)
    frontier = list(reached)
    while frontier:
        frontier = [one for node in frontier for one in after(node) if one not in reached]
        reached |= dict.fromkeys(frontier)
        frontier = list(dict.fromkeys(frontier))
    return reached


def _is(row: Row, status: str) -> bool:
    return bool(row["status"] == status)


def _of(row: Row, application_id: str) -> bool:
    return bool(row["application_id"] == application_id)


def _concerns(row: Row, application_id: str) -> bool:
    return application_id in (row["issuer_application_id"], row["receiver_application_id"])
