"""The sweepers of agents, leases, invocations and edges: what time ends becomes an event."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from caracal import clock
from caracal.events.agent_graph import AgentGraph
from caracal.events.agent_service import AgentService
from caracal.events.invocation import Invocation
from caracal.events.session import Session
from caracal.ids import new_id
from caracal.projections.heartbeat import beat_agent, beat_service
from tests.backbone import db, eventually, log
from tests.making import in_zone, new_agent, new_application, new_edge, new_session, row_of
from tests.worker.test_sweep import Swept, swept

__all__ = ["db", "log", "swept"]

NOW = clock.now


def at(monkeypatch: pytest.MonkeyPatch, ago: timedelta) -> None:
    """Let what is made from now on have been made some time ago."""
    monkeypatch.setattr(clock, "now", lambda: NOW() - ago)


async def begun(swept: Swept) -> Session:
    application = new_application(swept.zone)
    session = new_session(application.aggregate_id, zone_id=swept.zone)
    await swept.save(application, session)
    return session


async def is_column(swept: Swept, table: str, column: str, expected: dict[str, Any]) -> bool:
    return await swept.column(table, column) == expected


@pytest.mark.parametrize("swept", ["ttl_sweep"], indirect=True)
async def test_agents_end_with_their_time_and_take_their_subtree(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await begun(swept)
    at(monkeypatch, timedelta(seconds=30))
    over = new_agent(session, zone_id=swept.zone, ttl_seconds=20)
    also = [new_agent(session, zone_id=swept.zone, ttl_seconds=20) for _ in range(3)]
    below = new_agent(session, zone_id=swept.zone, parent=over, ttl_seconds=3600)
    lives = new_agent(session, zone_id=swept.zone, ttl_seconds=40)
    monkeypatch.undo()
    edge = new_edge(below, lives, zone_id=swept.zone)
    await swept.save(over, *also, below, lives, edge)
    ended = {one.aggregate_id: "terminated" for one in (over, *also, below)}

    async def done() -> bool:
        expected = ended | {lives.aggregate_id: "active"}
        agents = await is_column(swept, "agents", "status", expected)
        edges = await is_column(swept, "delegations", "status", {edge.aggregate_id: "revoked"})
        return agents and edges and swept.sweeper.ended == 4

    async with swept.running():
        await eventually(done, what="the end of the agents")
        await eventually(lambda: ticked(swept, "ttl_sweep"), what="a tick")
    facts = await swept.facts("agent.terminated")
    assert {fact["reason"] for fact in facts} == {"ttl"}
    assert {fact["meta"]["actor"] for fact in facts} == {"system"}
    assert len(facts) == 4
    assert swept.sweeper.counters["caracal_ttl_sweeper_runs_total"] >= 1


async def ticked(swept: Swept, job: str) -> bool:
    cursor = await swept.db.execute("SELECT finished_at FROM job_ticks WHERE job = %s", (job,))
    return await cursor.fetchone() is not None


@pytest.mark.parametrize("swept", ["ttl_sweep"], indirect=True)
async def test_agents_left_under_what_has_ended_end(swept: Swept) -> None:
    """Of an application, a zone, an ancestor that ended without listing them."""
    session, other = await begun(swept), await begun(swept)
    app_left = new_agent(session, zone_id=swept.zone)
    root = new_agent(other, zone_id=swept.zone)
    child = new_agent(other, zone_id=swept.zone, parent=root)
    await swept.save(app_left, root, child)
    await swept.archive(session.application_id)
    with in_zone(swept.zone):
        alone = AgentGraph(swept.zone, {root.aggregate_id: row_of(root)}, {})
        root.terminate(alone.of_agents([root.aggregate_id]), "lists nothing else")
    await swept.save(root)
    left = {app_left.aggregate_id, child.aggregate_id}

    async def done() -> bool:
        status = await swept.column("agents", "status")
        return {status.get(one) for one in left} == {"terminated"}

    async with swept.running():
        await eventually(done, what="the end of what was left")


@pytest.mark.parametrize("swept", ["service_lease_sweep"], indirect=True)
async def test_a_service_without_beats_is_suspended_with_its_subtree(
    swept: Swept,
) -> None:
    session = await begun(swept)
    lease = {"kind": "service", "lease_until": NOW() - timedelta(seconds=1)}
    silent, beating = (new_agent(session, zone_id=swept.zone, **lease) for _ in range(2))
    below = new_agent(session, zone_id=swept.zone, parent=silent)
    instance = new_agent(session, zone_id=swept.zone)
    await swept.save(silent, beating, below, instance)
    await beat_agent(swept.db, beating.aggregate_id, NOW(), NOW() + timedelta(minutes=1))

    async def done() -> bool:
        expected = {
            silent.aggregate_id: "suspended",
            below.aggregate_id: "suspended",
            beating.aggregate_id: "active",
            instance.aggregate_id: "active",
        }
        return await is_column(swept, "agents", "status", expected)

    async with swept.running():
        await eventually(done, what="the suspension")
    (fact,) = await swept.facts("agent.suspended")
    assert fact["reason"] == "service_heartbeat_lost"
    assert fact["roots"][0]["id"] == silent.aggregate_id


@pytest.mark.parametrize("swept", ["service_lease_sweep"], indirect=True)
async def test_services_that_fell_silent_are_lost_once(swept: Swept) -> None:
    session = await begun(swept)
    services = {name: service_of(swept, session, name) for name in ("well", "silent", "starting")}
    await swept.save(*services.values())
    long_ago = NOW() - timedelta(seconds=121)
    for name, health, moment in (
        ("well", "healthy", NOW()),
        ("silent", "degraded", long_ago),
        ("starting", "starting", long_ago),
    ):
        await beat_service(swept.db, services[name].aggregate_id, moment, health, {})

    async def done() -> bool:
        lost = await swept.column("agent_services", "lost_at IS NOT NULL")
        return {one for one, is_lost in lost.items() if is_lost} == {
            services["silent"].aggregate_id
        }

    async with swept.running():
        await eventually(done, what="the loss")
        before = swept.sweeper.runs
        await eventually(lambda: later(swept, before + 2), what="two more runs")
    assert len(await swept.facts("agent_service.lost")) == 1


async def later(swept: Swept, runs: int) -> bool:
    return swept.sweeper.runs >= runs


def service_of(swept: Swept, session: Session, name: str) -> AgentService:
    members = dict.fromkeys(("framework_name", "framework_version"))
    with in_zone(swept.zone):
        return AgentService.register(
            new_id(),
            zone_id=swept.zone,
            application_id=session.application_id,
            endpoint_url=f"https://a.example/{name}",
            protocol_versions=[],
            capabilities=[],
            metadata={},
            **members,
        )


@pytest.mark.parametrize("swept", ["invocation_deadline"], indirect=True)
async def test_attempts_that_take_too_long(swept: Swept) -> None:
    session = await begun(swept)
    service = service_of(swept, session, "planner")
    await swept.save(service)
    past = NOW() - timedelta(minutes=1)
    made = {name: invocation_of(swept, service, name) for name in ("again", "last", "asked", "on")}
    with in_zone(swept.zone):
        made["again"].start(past)
        made["last"].start(past)
        made["asked"].start(past)
        made["asked"].cancel("enough")
        made["on"].start(NOW())
    await swept.save(*made.values())

    async def done() -> bool:
        expected = {"again": "failed", "last": "timed_out", "asked": "canceled", "on": "running"}
        return await is_column(
            swept,
            "invocations",
            "status",
            {made[name].aggregate_id: status for name, status in expected.items()},
        )

    async with swept.running():
        await eventually(done, what="the end of the attempts")
    (failed,) = await swept.facts("invocation.failed")
    assert failed["error"] == {"reason": "deadline_exceeded"}


def invocation_of(swept: Swept, service: AgentService, name: str) -> Invocation:
    attempts = 1 if name == "last" else 2
    with in_zone(swept.zone):
        return Invocation.create(
            new_id(),
            zone_id=swept.zone,
            service_id=service.aggregate_id,
            idempotency_key=name,
            sessions=(),
            source_session_id=None,
            target_session_id=None,
            method="plan",
            params={},
            metadata={},
            timeout_ms=30_000,
            retry_policy={"max_attempts": attempts, "backoff_ms": 0},
        )


@pytest.mark.parametrize("swept", ["retention_cleanup"], indirect=True)
async def test_edges_expire_and_are_forgotten(
    swept: Swept, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await begun(swept)
    a, b, c = (new_agent(session, zone_id=swept.zone) for _ in range(3))
    await swept.save(a, b, c)
    at(monkeypatch, timedelta(hours=2))
    expired = new_edge(a, b, zone_id=swept.zone)
    at(monkeypatch, timedelta(days=91))
    old = new_edge(b, c, zone_id=swept.zone)
    monkeypatch.undo()
    lives = new_edge(a, c, zone_id=swept.zone)
    await swept.save(expired, old, lives)

    async def done() -> bool:
        expected = {expired.aggregate_id: "expired", lives.aggregate_id: "active"}
        return await is_column(swept, "delegations", "status", expected)

    async with swept.running():
        await eventually(done, what="the end of the edges")
    assert len(await swept.facts("delegation.expired")) == 2
    (purged,) = await swept.facts("delegation.purged")
    assert purged["aggregate_id"] == old.aggregate_id
