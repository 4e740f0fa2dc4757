from __future__ import annotations

import pytest

from caracal.errors import CaracalError
from caracal.events.agent import Agent
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.delegation import Delegation
from caracal.events.store.memory import MemoryLog
from tests.making import (
    ZONE,
    in_zone,
    new_agent,
    new_application,
    new_edge,
    new_session,
    row_of,
    signals,
    store_with,
    told,
)


async def agents(number: int) -> tuple[MemoryLog, list[Agent]]:
    app = new_application()
    session = new_session(app.aggregate_id)
    made = [new_agent(session) for _ in range(number)]
    return await store_with(app, session, *made), made


async def refused(store: MemoryLog, code: str, thing: Delegation) -> None:
    with pytest.raises(CaracalError, match=code):
        await store.save(thing)


def graph_of(nodes: list[Agent], *edges: Delegation) -> AgentGraph:
    return AgentGraph(
        ZONE,
        {agent.aggregate_id: row_of(agent) for agent in nodes},
        {edge.aggregate_id: row_of(edge) for edge in edges},
    )


async def test_created_along_a_path() -> None:
    store, (a, b, c) = await agents(3)
    first = new_edge(a, b)
    second = new_edge(b, c, parent=first)
    await store.save(first)
    await store.save(second)
    (*_, (name, data)) = told(store)
    assert name == "delegation.created"
    assert data["path"] == [first.aggregate_id, second.aggregate_id]
    assert data["parent_edge_id"] == first.aggregate_id
    (*_, signal) = signals(store, "caracal.delegations.invalidate")
    assert signal["event"] == "edge_create"
    assert signal["epoch"] == str(store.records[-1].position)


async def test_revoked_with_all_it_leads_to() -> None:
    store, nodes = await agents(3)
    a, b, c = nodes
    first = new_edge(a, b)
    second = new_edge(b, c, parent=first)
    await store.save(first, second)
    with in_zone():
        first.revoke(graph_of(nodes, first, second).of_edge(first.aggregate_id))
        first.revoke_late(Fall())
    await store.save(first)
    (*_, (_, data)) = told(store)
    assert data["edges"] == [first.aggregate_id, second.aggregate_id]
    assert [agent["id"] for agent in data["agents"]] == [b.aggregate_id, c.aggregate_id]
    revoked = signals(store, "caracal.sessions.revoke")
    assert [(entry["event"], entry["session_id"], entry["reason"]) for entry in revoked] == [
        ("agent_terminate", b.aggregate_id, "delegation_revoked"),
        ("agent_terminate", c.aggregate_id, "delegation_revoked"),
        ("delegation_revoke", first.aggregate_id, "delegation_revoked"),
    ]
    (*_, signal) = signals(store, "caracal.delegations.invalidate")
    assert (signal["event"], signal["edge_id"]) == ("edge_revoke", first.aggregate_id)
    await refused(store, "delegation_endpoint_not_found", new_edge(a, b))
    with in_zone():
        first.revoke(Fall())
    await refused(store, "delegation_not_found", first)


async def test_expired_once_and_purged_once() -> None:
    store, (a, b) = await agents(2)
    edge = new_edge(a, b)
    await store.save(edge)
    with in_zone():
        edge.expire()
    await store.save(edge)
    with in_zone():
        edge.expire()
    await refused(store, "delegation_not_found", edge)
    edge = (await store.find(Delegation, edge.aggregate_id)) or edge
    with in_zone():
        edge.purge()
        edge.purge()
    await store.save(edge)
    assert [name for name, _ in told(store)][-2:] == ["delegation.expired", "delegation.purged"]
    (*_, signal) = signals(store, "caracal.delegations.invalidate")
    assert signal["event"] == "edge_expire"
    await store.save(new_edge(b, a))  # its edge is free again: no cycle


async def test_no_cycle_at_any_length() -> None:
    store, (a, b, c) = await agents(3)
    await store.save(new_edge(a, b), new_edge(b, c))
    await refused(store, "delegation_cycle_denied", new_edge(c, a))


async def test_nothing_hangs_on_what_is_dead() -> None:
    store, nodes = await agents(3)
    a, b, c = nodes
    first = new_edge(a, b)
    await refused(store, "parent_delegation_not_active", new_edge(b, c, parent=first))
    await store.save(first)
    with in_zone():
        a.suspend(graph_of(nodes).suspending(a.aggregate_id))
    await store.save(a)
    await refused(store, "delegation_endpoint_not_found", new_edge(a, c))
    await refused(store, "delegation_endpoint_not_found", new_edge(c, a))
