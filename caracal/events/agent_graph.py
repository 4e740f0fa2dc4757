"""What falls with what, in the tree of agents and the graph of their delegations.

Pure: rows of the read models go in, a :class:`Fall` comes out. Agents form trees by ``parent_id``;
edges lead from agent to agent, and each knows the edges it was narrowed from (``path``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from caracal.events.agent import fallen
from caracal.events.base import Fall, FallenAgent

Row = Mapping[str, Any]
NOTHING = Fall()


class AgentGraph:
    """The live agents and active edges of one zone, each by id."""

    def __init__(self, zone_id: str, agents: Mapping[str, Row], edges: Mapping[str, Row]) -> None:
        self.zone_id, self.agents, self.edges = zone_id, agents, edges
        self._children = _index(agents, "parent_id")
        self._from = _index(edges, "source_session_id")
        self._to = _index(edges, "target_session_id")
        self._under = _index(edges, "parent_edge_id")

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
                for child in self._children[agent]
                if child not in listed
                and _is(self.agents[child], "active")
                and self.agents[child]["position"] < before
            ]

        return Fall(agents=tuple(self._fallen(_reached(missed(listed), lambda one: missed([one])))))

    def resuming(self, agent_id: str) -> list[FallenAgent]:
        """Return the agent and those below it that are reached through suspended ones."""
        return list(self._fallen(self._walk(agent_id, "suspended")))

    def adds_to(self, before: AgentGraph) -> bool:
        """Say whether there is an agent or an edge that an earlier graph had not.

        Neither ever gets other ends: where nothing is added, nothing more is reached.
        """
        agents, edges = before.agents.keys(), before.edges.keys()
        return not (self.agents.keys() <= agents and self.edges.keys() <= edges)

    def with_fallen(self, before: AgentGraph, fall: Fall) -> AgentGraph:
        """Return the graph as if what fell out of an earlier one were still there."""
        gone = fall.ids
        agents = {one: row for one, row in before.agents.items() if one in gone}
        edges = {one: row for one, row in before.edges.items() if one in gone}
        return AgentGraph(self.zone_id, {**agents, **self.agents}, {**edges, **self.edges})

    def led_by(self, edge_id: str) -> dict[str, None]:
        """Return an edge and all that are reached from its target; the walk has no bound."""
        return _reached([edge_id], lambda edge: self._from[self.edges[edge]["target_session_id"]])

    def targets(self, edges: Iterable[str]) -> list[str]:
        """Return the agents that edges lead to, each once, in their order."""
        return list(dict.fromkeys(self.edges[edge]["target_session_id"] for edge in edges))

    def leading_to(self, agent_id: str) -> list[str]:
        """Return the edges that end at an agent."""
        return self._to[agent_id]

    def leading_from(self, agent_id: str) -> list[str]:
        """Return the edges that begin at an agent."""
        return self._from[agent_id]

    def _subtrees(self, named: Iterable[str]) -> dict[str, None]:
        known = (agent for agent in named if agent in self.agents)
        return _reached(known, lambda agent: self._children[agent])

    def _below(self, after: Fall) -> list[str]:
        """Return the agents that have an ended one above them."""
        ended = {agent.id for agent in after.agents}
        return [one for one, row in self.agents.items() if not ended.isdisjoint(row["ancestors"])]

    def _on(self, after: Fall) -> list[str]:
        """Return the edges that touch an ended agent, or were narrowed from an ended edge."""
        agents, edges = {agent.id for agent in after.agents}, set(after.edges)
        return [
            edge
            for edge, row in self.edges.items()
            if not agents.isdisjoint((row["source_session_id"], row["target_session_id"]))
            or not edges.isdisjoint(row["path"])
        ]

    def _hanging(self, agents: Iterable[str], edges: Iterable[str]) -> dict[str, None]:
        """Return ``edges``, those that touch ``agents``, and all narrowed from one of them."""
        touching = [edge for agent in agents for edge in (*self._from[agent], *self._to[agent])]
        return _reached([*edges, *touching], lambda edge: self._under[edge])

    def _walk(self, agent_id: str, status: str) -> dict[str, None]:
        def having(ids: Iterable[str]) -> list[str]:
            return [one for one in ids if one in self.agents and _is(self.agents[one], status)]

        return _reached(having([agent_id]), lambda agent: having(self._children[agent]))

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


def _index(rows: Mapping[str, Row], column: str) -> defaultdict[str, list[str]]:
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
