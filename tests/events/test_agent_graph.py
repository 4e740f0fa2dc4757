"""What falls, against a slow model; and that each thing that falls carries a root's id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caracal.events.agent_graph import AgentGraph, Held
from caracal.events.base import Fall

Rows = dict[str, dict[str, Any]]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Rows, Rows]:
    agents: Rows = {}
    for number in range(draw(st.integers(1, 10))):
        parent = draw(st.none() | st.sampled_from(sorted(agents))) if agents else None
        above = [*agents[parent]["ancestors"], parent] if parent else []
        agents[f"a{number}"] = {
            "id": f"a{number}",
            "application_id": draw(st.sampled_from("xyz")),
            "subject_session_id": "s",
            "parent_id": parent,
            "ancestors": above,
            "status": draw(st.sampled_from(["active", "suspended"])),
            "idempotency_key": None,
        }
    edges: Rows = {}
    for number in range(draw(st.integers(0, 10))):
        source, target = (draw(st.sampled_from(sorted(agents))) for _ in range(2))
        inbound = [e for e, row in edges.items() if row["target_session_id"] == source]
        parent = draw(st.sampled_from(inbound)) if inbound else None
        edges[f"e{number}"] = {
            "id": f"e{number}",
            "source_session_id": source,
            "target_session_id": target,
            "issuer_application_id": agents[source]["application_id"],
            "receiver_application_id": agents[target]["application_id"],
            "parent_edge_id": parent,
            "path": [*(edges[parent]["path"] if parent else []), f"e{number}"],
        }
    return agents, edges


def ended_with(agents: Rows, edges: Rows, dead_agents: set[str], dead_edges: set[str]) -> Any:
    """The rules of the contract, applied until nothing changes."""
    while True:
        more_agents = {a for a, row in agents.items() if row["parent_id"] in dead_agents}
        more_edges = {
            e
            for e, row in edges.items()
            if {row["source_session_id"], row["target_session_id"]} & dead_agents
            or row["parent_edge_id"] in dead_edges
        }
        if more_agents <= dead_agents and more_edges <= dead_edges:
            return dead_agents, dead_edges
        dead_agents, dead_edges = dead_agents | more_agents, dead_edges | more_edges


def check_roots(agents: Rows, edges: Rows, fall: Fall) -> None:
    roots = {root["id"] for root in fall.roots}
    for agent in fall.agents:
        assert roots & {agent.id, *agents[agent.id]["ancestors"]}
    for edge in fall.edges:
        assert roots & anchors(agents, edges, edge)
    listed = {*fall.edges, *(agent.id for agent in fall.agents)}
    assert roots <= listed


def anchors(agents: Rows, edges: Rows, edge: str) -> set[str]:
    path = edges[edge]["path"]
    sessions = {edges[e][end] for e in path for end in ("source_session_id", "target_session_id")}
    return {*path, *sessions, *(up for one in sessions for up in agents[one]["ancestors"])}


def fallen(fall: Fall) -> tuple[set[str], set[str]]:
    return {agent.id for agent in fall.agents}, set(fall.edges)


@given(worlds(), st.data())
def test_the_end_of_agents(world: tuple[Rows, Rows], data: st.DataObject) -> None:
    agents, edges = world
    named = data.draw(st.sets(st.sampled_from(sorted(agents)), min_size=1))
    fall = AgentGraph("z", agents, edges).of_agents([*sorted(named), "unknown"])
    assert fallen(fall) == ended_with(agents, edges, named, set())
    check_roots(agents, edges, fall)


@given(worlds(), st.data())
def test_the_end_of_an_edge(world: tuple[Rows, Rows], data: st.DataObject) -> None:
    agents, edges = world
    if not edges:
        return
    named = data.draw(st.sampled_from(sorted(edges)))
    fall = AgentGraph("z", agents, edges).of_edge(named)
    walked = {named}
    while True:
        targets = {edges[e]["target_session_id"] for e in walked}
        more = {e for e, row in edges.items() if row["source_session_id"] in targets}
        if more <= walked:
            break
        walked |= more
    assert fallen(fall) == ended_with(agents, edges, targets, walked)
    check_roots(agents, edges, fall)
    assert named in {root["id"] for root in fall.roots}


@given(worlds(), st.data())
def test_what_ends_with_an_edge_late(world: tuple[Rows, Rows], data: st.DataObject) -> None:
    """Two listings, between which agents and edges begin, end what one at the end would have."""
    agents, edges = world
    if not edges:
        return
    old_edges = dict(list(edges.items())[: data.draw(st.integers(1, len(edges)))])
    ends = [
        row[end] for row in old_edges.values() for end in ("source_session_id", "target_session_id")
    ]
    fewest = max(int(agent[1:]) for agent in ends) + 1
    old_agents = dict(list(agents.items())[: data.draw(st.integers(fewest, len(agents)))])
    named = data.draw(st.sampled_from(sorted(old_edges)))
    before = AgentGraph("z", old_agents, old_edges)
    fall = before.of_edge(named)
    now = AgentGraph(
        "z",
        {one: row for one, row in agents.items() if one not in fall.ids},
        {one: row for one, row in edges.items() if one not in fall.ids},
    )
    gone = before.of_ids(fall.ids)
    late = now.with_fallen(gone).of_edge(named).without(fall.ids)
    all_of_it = AgentGraph("z", agents, edges).of_edge(named)
    assert {*gone.agents, *gone.edges} == fall.ids
    assert bool(now.left_by(fall)) == bool(late)  # where nothing hangs on it, nothing is reached
    assert late.ids.isdisjoint(fall.ids)
    assert late.ids | fall.ids == all_of_it.ids
    check_roots(agents, edges, fall | late)


class Large(Held):
    """Rows of a zone so large that nobody may walk through it."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all of the zone is walked through")


@given(worlds(), st.data())
def test_an_end_costs_what_it_reaches(world: tuple[Rows, Rows], data: st.DataObject) -> None:
    agents, edges = world
    graph, large = (
        AgentGraph("z", kind(agents), kind(edges))  # type: ignore[operator]
        for kind in (Held, Large)
    )
    agent = data.draw(st.sampled_from(sorted(agents)))
    fall = graph.of_agents([agent])
    assert large.of_agents([agent]) == fall
    assert large.suspending(agent) == graph.suspending(agent)
    assert large.resuming(agent) == graph.resuming(agent)
    assert large.left_by(fall) == graph.left_by(fall)
    gone = large.of_ids(fall.ids)
    for edge in edges:
        assert large.of_edge(edge) == graph.of_edge(edge)
        assert large.with_fallen(gone).of_edge(edge).ids == graph.of_edge(edge).ids


@given(worlds(), st.sampled_from("xyz"))
def test_the_end_of_an_application(world: tuple[Rows, Rows], application: str) -> None:
    agents, edges = world
    fall = AgentGraph("z", agents, edges).of_application(application)
    own = {a for a, row in agents.items() if row["application_id"] == application}
    lent = {
        e
        for e, row in edges.items()
        if application in (row["issuer_application_id"], row["receiver_application_id"])
    }
    assert fallen(fall) == ended_with(agents, edges, own, lent)
    check_roots(agents, edges, fall)


@given(worlds())
def test_the_end_of_all(world: tuple[Rows, Rows]) -> None:
    agents, edges = world
    fall = AgentGraph("z", agents, edges).everything()
    assert fallen(fall) == (set(agents), set(edges))
    check_roots(agents, edges, fall)


@given(worlds(), st.data())
def test_suspension_stops_at_what_is_suspended(
    world: tuple[Rows, Rows], data: st.DataObject
) -> None:
    agents, edges = world
    graph = AgentGraph("z", agents, edges)
    named = data.draw(st.sampled_from(sorted(agents)))
    for status, found in (
        ("active", [agent.id for agent in graph.suspending(named).agents]),
        ("suspended", [agent.id for agent in graph.resuming(named)]),
    ):
        expected = {
            a
            for a, row in agents.items()
            if named in (a, *row["ancestors"])
            and all(
                agents[up]["status"] == status
                for up in (*row["ancestors"], a)
                if up == named or named in agents[up]["ancestors"]
            )
        }
        assert set(found) == expected
        assert len(found) == len(expected)
