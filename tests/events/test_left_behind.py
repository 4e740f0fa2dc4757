"""What a cascade's second listing finds: what began while the first was made, and nothing else."""

from __future__ import annotations

from typing import Any

from caracal.events.agent import Agent
from caracal.events.agent_graph import AgentGraph
from caracal.events.delegation import Delegation
from tests.making import ZONE, new_agent, new_edge, new_session, row_of

SESSION = new_session("app")


def graph(agents: list[Agent], edges: list[Delegation], **positions: int) -> AgentGraph:
    """The graph of live agents; all stand at position 1 but for those named by their id."""
    rows: dict[str, dict[str, Any]] = {
        agent.aggregate_id: {**row_of(agent), "position": 1} for agent in agents
    }
    for agent_id, position in positions.items():
        rows[agent_id]["position"] = position
    return AgentGraph(ZONE, rows, {edge.aggregate_id: row_of(edge) for edge in edges})


def agents_in(fall: Any) -> set[str]:
    return {agent.id for agent in fall.agents}


def ids(*things: Any) -> set[str]:
    return {thing.aggregate_id for thing in things}


def test_below_and_on_what_has_ended() -> None:
    root = new_agent(SESSION)
    child, other, further = (
        new_agent(SESSION, parent=root),
        new_agent(SESSION),
        new_agent(SESSION),
    )
    first = new_edge(other, further)
    fall = graph([root, other, further], [first]).of_agents([root.aggregate_id])
    late = new_agent(SESSION, parent=child)
    onto, apart = new_edge(other, root), new_edge(other, further)
    after = graph([child, late, other, further], [onto, apart])
    left = after.left_by(fall)
    assert agents_in(left) == ids(child, late)
    assert set(left.edges) == ids(onto)
    assert [root["id"] for root in left.roots] == [child.aggregate_id, onto.aggregate_id]


def test_narrowed_from_an_edge_that_has_ended() -> None:
    a, b, c = (new_agent(SESSION) for _ in range(3))
    first = new_edge(a, b)
    fall = graph([a, b, c], [first]).of_agents([a.aggregate_id])
    narrowed = new_edge(b, c, parent=first)
    left = graph([b, c], [narrowed]).left_by(fall)
    assert (agents_in(left), set(left.edges)) == (set(), ids(narrowed))


def test_of_an_application_what_is_below_its_ended_agents_falls_too() -> None:
    own = new_agent(SESSION)
    fall = graph([own], []).of_application("app")
    foreign = new_agent(SESSION, parent=own, application_id="other")
    more, apart = new_agent(SESSION), new_agent(SESSION, application_id="other")
    left = graph([foreign, more, apart], []).of_application("app", fall)
    assert agents_in(left) == ids(foreign, more)
    assert not graph([apart], []).of_application("app", fall)


def test_suspended_late_is_what_was_active_before() -> None:
    root = new_agent(SESSION)
    fall = graph([root], []).suspending(root.aggregate_id)
    root.status = "suspended"
    late = new_agent(SESSION, parent=root)
    below = new_agent(SESSION, parent=late)
    resumed, suspended = new_agent(SESSION, parent=root), new_agent(SESSION, parent=root)
    suspended.status = "suspended"
    found = graph(
        [root, late, below, resumed, suspended], [], **{resumed.aggregate_id: 9}
    ).suspending_late(fall, 5)
    assert agents_in(found) == ids(late, below)
    assert found.roots == ()
