from __future__ import annotations

import pytest

from caracal import clock
from caracal.errors import CaracalError, TooMany
from caracal.events.agent import Agent, AgentGone, Replayed, SpawnLimits, fallen
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.store.memory import MemoryLog
from tests.making import (
    ZONE,
    in_zone,
    new_agent,
    new_application,
    new_session,
    row_of,
    signals,
    store_with,
    told,
)


def graph_of(*agents: Agent) -> AgentGraph:
    return AgentGraph(ZONE, {agent.aggregate_id: row_of(agent) for agent in agents}, {})


async def family(size: int = 3) -> tuple[MemoryLog, list[Agent]]:
    """A root, its child, that one's child, and so on, saved."""
    app = new_application()
    session = new_session(app.aggregate_id)
    agents = [new_agent(session)]
    while len(agents) < size:
        agents.append(new_agent(session, parent=agents[-1]))
    return await store_with(app, session, *agents), agents


async def refused(store: MemoryLog, code: str, thing: Agent) -> None:
    with pytest.raises(CaracalError, match=code):
        await store.save(thing)


async def test_spawned_below_a_parent() -> None:
    store, (root, child, grandchild) = await family()
    (*_, (name, data)) = told(store)
    assert name == "agent.spawned"
    assert data == {
        "application_id": root.application_id,
        "subject_session_id": root.subject_session_id,
        "parent_id": child.aggregate_id,
        "ancestors": [root.aggregate_id, child.aggregate_id],
        "depth": 2,
        "kind": "instance",
        "capabilities": [],
        "ttl_seconds": 3600,
        "metadata": {},
        "max_children": 10,
        "heartbeat_deadline_at": None,
        "idempotency_key": None,
        "idempotency_sha256": None,
    }
    (*_, signal) = signals(store, "caracal.agents.lifecycle")
    assert signal.pop("occurred_at")
    assert signal == {
        "event": "spawn",
        "agent_session_id": grandchild.aggregate_id,
        "session_id": grandchild.aggregate_id,
        "application_id": root.application_id,
        "parent_id": child.aggregate_id,
        "status": "active",
        "zone_id": ZONE,
        "fact": "agent.spawned",
    }


async def test_suspended_and_resumed_with_all_below() -> None:
    store, agents = await family()
    root, child, grandchild = agents
    ids = [agent.aggregate_id for agent in agents]
    with in_zone():
        root.suspend(graph_of(*agents).suspending(root.aggregate_id), "requested")
    await store.save(root)
    assert [entry["session_id"] for entry in signals(store, "caracal.sessions.revoke")] == ids[:1]
    sent = signals(store, "caracal.agents.lifecycle")[-3:]
    assert [(entry["event"], entry["agent_session_id"]) for entry in sent] == [
        ("suspend", agent_id) for agent_id in ids
    ]
    await refused(store, "parent_not_found", new_agent(session_of(grandchild), parent=grandchild))
    with in_zone():
        child.suspend(Fall(agents=(fallen(ZONE, row_of(child)),)))
    await refused(store, "agent_not_found_or_not_active", child)

    root.collect_events()
    with in_zone():
        root.resume([fallen(ZONE, row_of(agent)) for agent in agents], lease_until=clock.now())
    await store.save(root)
    assert told(store)[-1][1]["agents"] == [fallen(ZONE, row_of(agent)).item for agent in agents]
    await store.save(new_agent(session_of(grandchild), parent=grandchild))
    with in_zone():
        root.resume([])
    await refused(store, "agent_not_found_or_not_suspended", root)


def session_of(agent: Agent) -> object:
    class _Session:
        application_id = agent.application_id
        aggregate_id = agent.subject_session_id

    return _Session()


async def test_the_end_frees_slots_and_keys_once() -> None:
    narrow = SpawnLimits(depth=10, children=1, zone=2, application=2)
    app = new_application()
    session = new_session(app.aggregate_id)
    root = new_agent(session, limits=narrow)
    child = new_agent(session, parent=root, limits=narrow)
    store = await store_with(app, session, root, child)
    await refused(store, "agent_zone_limit_exceeded", new_agent(session, limits=narrow))
    only_children = SpawnLimits(depth=10, children=1, zone=50, application=50)
    second = new_agent(session, parent=root, limits=only_children)
    await refused(store, "agent_children_limit_exceeded", second)
    graph = graph_of(root, child)
    with in_zone():
        child.terminate(graph.of_agents([child.aggregate_id]))
    await store.save(child)
    with in_zone():
        root.terminate(graph.of_agents([root.aggregate_id]))  # lists the child once more
    await store.save(root)
    assert {key: n for key, n in store.held.counts.items() if n} == {}
    assert not [key for key in store.held.keys if "agent" in key]
    with in_zone():
        root.terminate(Fall())
    with pytest.raises(AgentGone):
        await store.save(root)
    with in_zone():
        child.resume([])
    await refused(store, "agent_not_found_or_not_suspended", child)


async def test_the_end_names_one_root_and_all_that_fall() -> None:
    store, agents = await family()
    root, late = agents[0], agents[2]
    with in_zone():
        root.terminate(graph_of(*agents[:2]).of_agents([root.aggregate_id]), "done")
        root.terminate_late(Fall())
        root.terminate_late(graph_of(late).of_agents([late.aggregate_id]))
    await store.save(root)
    ended = [data for name, data in told(store) if name == "agent.terminated"]
    assert [(data["part"], data["reason"], len(data["agents"])) for data in ended] == [
        (1, "done", 2),
        (2, "done", 1),
    ]
    revoked = signals(store, "caracal.sessions.revoke")
    assert [(entry["event"], entry["session_id"]) for entry in revoked] == [
        ("agent_terminate", root.aggregate_id),
        ("agent_terminate", late.aggregate_id),
    ]
    assert {entry["reason"] for entry in revoked} == {"done"}


async def test_a_replayed_spawn_is_one_agent_until_it_ends() -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    first = new_agent(session, idempotency=("key", "aa"))
    store = await store_with(app, session, first)
    with pytest.raises(Replayed):
        await store.save(new_agent(session, idempotency=("key", "aa")))
    await store.save(new_agent(session, idempotency=("key", "bb")))
    with in_zone():
        first.terminate(graph_of(first).of_agents([first.aggregate_id]))
    await store.save(first)
    await store.save(new_agent(session, idempotency=("key", "aa")))


async def test_a_dcr_application_has_one_live_agent() -> None:
    app = new_application(registration_method="dcr")
    session = new_session(app.aggregate_id)
    first = new_agent(session, dcr=True)
    store = await store_with(app, session, first)
    await refused(store, "dcr_application_already_bound", new_agent(session, dcr=True))
    with in_zone():
        first.terminate(graph_of(first).of_agents([first.aggregate_id]))
    await store.save(first)
    await store.save(new_agent(session, dcr=True))


async def test_nothing_is_spawned_on_what_is_dead() -> None:
    app = new_application()
    session = new_session(app.aggregate_id)
    store = await store_with(app, session)
    parent = new_agent(session)
    await refused(store, "parent_not_found", new_agent(session, parent=parent))
    await refused(store, "session_not_found", new_agent(new_session(app.aggregate_id)))
    await refused(store, "application_not_found", new_agent(session, application_id="none"))


async def test_agents_nest_only_so_deep() -> None:
    _, agents = await family(size=11)
    with pytest.raises(TooMany, match="agent_depth_limit_exceeded"):
        new_agent(new_session("a"), parent=agents[-1])
