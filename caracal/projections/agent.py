"""Read model of agent sessions; those that have ended stay to be seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.events.delegation import Delegation
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.zone import Zone
from caracal.projections.memory import RecentTable
from caracal.projections.projection import Projection
from caracal.projections.query import Db, select
from caracal.projections.table import Change, End, Put, Table, end, put

AGENTS = Table(
    "agents",
    columns={
        "zone_id": "text",
        "application_id": "text",
        "subject_session_id": "text",
        "parent_id": "text",
        "ancestors": "jsonb",
        "depth": "int",
        "kind": "text",
        "capabilities": "jsonb",
        "ttl_seconds": "int",
        "metadata": "jsonb",
        "max_children": "int",
        "heartbeat_deadline_at": "timestamptz",
        "idempotency_key": "text",
        "idempotency_sha256": "text",
        "spawned_at": "timestamptz",
        "status": "text",
        "terminated_at": "timestamptz",
    },
    final=("status", "terminated_at"),
    indexes=(
        "(zone_id, id DESC)",
        "(zone_id, parent_id, id)",
        "(zone_id) WHERE ended_at IS NULL",
        "(spawned_at) WHERE ended_at IS NULL",
    ),
)

agents = Projection("agents", AGENTS)


@agents.on(Agent.Spawned)
def spawned(fact: Fact) -> Put:
    return put(AGENTS, fact, spawned_at=fact.occurred_at, status="active")


@agents.on(Agent.Suspended)
def suspended(fact: Fact) -> list[Change]:
    return [Change(AGENTS, agent_id, {"status": "suspended"}) for agent_id in changed_ids(fact)]


@agents.on(Agent.Resumed)
def resumed(fact: Fact) -> list[Change]:
    columns = {"status": "active", "heartbeat_deadline_at": fact.data["heartbeat_deadline_at"]}
    return [Change(AGENTS, agent_id, columns) for agent_id in changed_ids(fact)]


@agents.on(Agent.Terminated, Delegation.Revoked, Application.Archived, Zone.Archived)
def ended(fact: Fact) -> End:
    ids = changed_ids(fact)
    return end(AGENTS, ids, status="terminated", terminated_at=fact.occurred_at)


def changed_ids(fact: Fact) -> list[str]:
    """Return the agents that a cascade lists."""
    return [agent["id"] for agent in fact.data.get("agents", [])]


def recent_agents() -> RecentTable:
    """Return the table as a process holds it: without those that ended long ago."""
    born_on = FACT_TOPIC_OF[Agent.Spawned.TOPIC].name
    return RecentTable(AGENTS, born_on=born_on, ended_on="terminated_at")


async def get_agent(db: Db, zone_id: str, agent_id: str) -> dict[str, Any] | None:
    """Return an agent of the zone, ended or not."""
    statement = "SELECT * FROM agents WHERE zone_id = %s AND id = %s AND NOT stub"
    rows = await select(db, statement, [zone_id, agent_id])
    return rows[0] if rows else None


async def overdue_agents(db: Db, moment: datetime, limit: int) -> list[tuple[str, str]]:
    """Return live agents whose time has run out at ``moment``, oldest first: (id, zone)."""
    statement = (
        "SELECT id, zone_id FROM agents WHERE ended_at IS NULL AND NOT stub"
        " AND spawned_at + make_interval(secs => ttl_seconds) < %s ORDER BY spawned_at LIMIT %s"
    )
    rows = await select(db, statement, [moment, limit])
    return [(row["id"], row["zone_id"]) for row in rows]
