"""Revocation over a graph of some thousand edges: complete in every read model, and walked fast."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from caracal.events.agent import Agent
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Aggregate
from caracal.events.delegation import Delegation
from tests.coordinator.running import Crew
from tests.making import LIMITS, new_agent, new_edge, row_of

AGENTS, EDGES, APART = 600, 2000, 60
CHUNK = 400


@dataclass
class Forest:
    agents: dict[str, Agent]
    edges: dict[str, Delegation]

    def graph(self, zone_id: str) -> AgentGraph:
        rows = ({one: row_of(thing) for one, thing in of.items()} for of in self._things())
        return AgentGraph(zone_id, *rows)

    def _things(self) -> Iterable[Mapping[str, Any]]:
        return self.agents, self.edges


async def grown(crew: Crew) -> Forest:
    """Many agents in trees, and edges among them, put straight into the log.

    Nearly all edges can be reached from the first; the last agents stand apart.
    """
    chance = random.Random(7)
    session = await crew.session()
    limits = type(LIMITS)(depth=50, children=AGENTS, zone=AGENTS, application=AGENTS)
    agents: list[Agent] = []
    for number in range(AGENTS):
        parent = chance.choice(agents[number - 20 :]) if number > 30 else None
        parent = parent if parent is not None and len(parent.ancestors) < 3 else None
        agents.append(new_agent(session, parent=parent, zone_id=crew.zone, limits=limits))
    await _put(crew, agents)
    edges: list[Delegation] = []
    last: dict[int, Delegation] = {}
    reached = [0]
    for number in range(EDGES):
        one, other = _pair(chance, reached) if number % 40 else _far_pair(chance)
        parent = last.get(one)
        parent = parent if parent is not None and len(parent.path) < 5 else None
        edge = new_edge(agents[one], agents[other], parent=parent, zone_id=crew.zone)
        last[other] = edge
        edges.append(edge)
    await _put(crew, edges)
    return Forest(
        {agent.aggregate_id: agent for agent in agents},
        {edge.aggregate_id: edge for edge in edges},
    )


def _pair(chance: random.Random, reached: list[int]) -> tuple[int, int]:
    one = chance.choice(reached)
    other = chance.randrange(one + 1, AGENTS - APART)
    if other < AGENTS - APART - 1:
        reached.append(other)
    return one, other


def _far_pair(chance: random.Random) -> tuple[int, int]:
    one, other = sorted(chance.sample(range(AGENTS - APART, AGENTS), 2))
    return one, other


async def _put(crew: Crew, things: list[Any]) -> None:
    for start in range(0, len(things), CHUNK):
        chunk: list[Aggregate] = things[start : start + CHUNK]
        saved = await crew.save(*chunk)
    assert await crew.waiter.applied(saved, timeout=60)


@pytest.fixture
async def forest(crew: Crew) -> Forest:
    return await grown(crew)


async def status_of(crew: Crew, table: str) -> dict[str, str]:
    async with crew.database() as db:
        cursor = await db.execute(
            f"SELECT id, status FROM {table} WHERE zone_id = %s AND NOT stub", [crew.zone]
        )
        return dict(await cursor.fetchall())


async def test_a_large_graph_is_walked_and_revoked(crew: Crew, forest: Forest) -> None:
    graph = forest.graph(crew.zone)
    edge_id = max(list(forest.edges)[:50], key=lambda edge: len(graph.led_by(edge)))
    fall = graph.of_edge(edge_id)
    assert len(fall.edges) > 1000, "the graph is too thin to show anything"

    nodes = (await crew.call("GET", f"/delegations/{edge_id}/traverse")).json()
    assert {node["id"] for node in nodes} <= set(graph.led_by(edge_id))
    assert max(node["depth"] for node in nodes) <= crew.settings.max_depth
    impact = (await crew.call("GET", f"/delegations/{edge_id}/impact")).json()
    assert impact["affected_edges"] == nodes
    assert set(impact["affected_agents"]) == {node["target_session_id"] for node in nodes}
    assert set(impact["affected_subject_sessions"]) == {
        forest.agents[agent].subject_session_id for agent in impact["affected_agents"]
    }

    answer = await crew.call("PATCH", f"/delegations/{edge_id}/revoke")
    assert answer.json() == {
        "revoked_edges": len(fall.edges),
        "affected_sessions": 1,
        "terminated_agents": len(fall.agents),
    }
    ended = {agent.id for agent in fall.agents}
    assert await status_of(crew, "agents") == {
        agent: "terminated" if agent in ended else "active" for agent in forest.agents
    }
    assert await status_of(crew, "delegations") == {
        edge: "revoked" if edge in fall.edges else "active" for edge in forest.edges
    }
    parts = await crew.facts("delegation.revoked")
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    roots = {root["id"] for part in parts for root in part.get("roots", [])}
    assert roots == {root["id"] for root in fall.roots}
    assert edge_id in roots
