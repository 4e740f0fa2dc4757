from __future__ import annotations

import pytest

from caracal.events.agent import Agent, fallen
from caracal.events.agent_graph import AgentGraph
from caracal.events.application import Application, ArchiveReason
from caracal.events.store.memory import MemoryLog
from caracal.projections.agent import agents
from caracal.projections.delegation import delegations
from caracal.projections.revocation import revocations
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_session,
    reduced,
    row_of,
    store_with,
)


async def test_rows_of_agents_and_edges_through_a_life() -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    a, b, c = (new_agent(session) for _ in range(3))
    below = new_agent(session, parent=b)
    first, second = new_edge(a, b), new_edge(a, c)
    nodes = [a, b, c, below]
    store = await store_with(app, session, *nodes, first, second)
    graph = AgentGraph(
        ZONE,
        {agent.aggregate_id: row_of(agent) for agent in nodes},
        {edge.aggregate_id: row_of(edge) for edge in (first, second)},
    )
    with in_zone():
        b.suspend(graph.suspending(b.aggregate_id))
    await store.save(b)
    rows = reduced(agents, store)["agents"]
    assert [rows[one.aggregate_id]["status"] for one in nodes] == [
        "active",
        "suspended",
        "active",
        "suspended",
    ]
    assert rows[below.aggregate_id]["status_reason"] == "requested"
    with in_zone():
        b.resume([fallen(ZONE, row_of(one)) for one in (b, below)])
    await store.save(b)
    assert "status_reason" not in reduced(agents, store)["agents"][b.aggregate_id]
    marks = reduced(revocations, store)["revocations"]
    assert marks[b.aggregate_id]["resumed"] > marks[b.aggregate_id]["stopped"]
    with in_zone():
        first.revoke(graph.of_edge(first.aggregate_id))
        second.expire()
    await store.save(first)
    await store.save(second)
    rows = reduced(agents, store)["agents"]
    assert [rows[one.aggregate_id]["status"] for one in nodes] == [
        "active",
        "terminated",
        "active",
        "terminated",
    ]
    assert rows[b.aggregate_id]["terminated_at"]
    reasons = [rows[one.aggregate_id].get("status_reason") for one in nodes]
    assert reasons == [None, "delegation_revoked", None, "delegation_revoked"]
    tables = reduced(delegations, store)
    edges = tables["delegations"]
    assert edges[first.aggregate_id]["status"] == "revoked"
    assert edges[first.aggregate_id]["edge_version"] == 1
    assert edges[second.aggregate_id]["status"] == "expired"
    assert edges[second.aggregate_id]["edge_version"] == 0
    assert tables["delegation_epochs"][ZONE]["epoch"] == store.records[-1].position
    marks = reduced(revocations, store)["revocations"]
    assert marks[first.aggregate_id]["final"]
    assert marks[b.aggregate_id]["final"]
    assert below.aggregate_id in marks  # its resumption was noted; its parent's end refuses it
    with in_zone():
        second.purge()
    await store.save(second)
    assert second.aggregate_id not in reduced(delegations, store)["delegations"]


async def alone() -> tuple[Application, Agent, MemoryLog]:
    """An application with one agent, and their log."""
    app = new_application()
    session = new_session(app.aggregate_id)
    agent = new_agent(session)
    return app, agent, await store_with(app, session, agent)


async def test_an_end_without_edges_changes_none() -> None:
    _, agent, store = await alone()
    graph = AgentGraph(ZONE, {agent.aggregate_id: row_of(agent)}, {})
    with in_zone():
        agent.terminate(graph.of_agents([agent.aggregate_id]))
    await store.save(agent)
    (*_, ended) = facts(store)
    assert delegations.reduce(ended) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [("requested", "application_archived"), ("dcr_shutdown", "dcr_shutdown")],
)
async def test_agents_of_an_archived_application(said: ArchiveReason, reason: str) -> None:
    app, agent, store = await alone()
    graph = AgentGraph(ZONE, {agent.aggregate_id: row_of(agent)}, {})
    with in_zone():
        app.archive(graph.of_agents([agent.aggregate_id]), said)
    await store.save(app)
    row = reduced(agents, store)["agents"][agent.aggregate_id]
    assert (row["status"], row["status_reason"]) == ("terminated", reason)
