"""Read model of agent sessions; those that have ended stay to be seen."""

from __future__ import annotations

from typing import Any

from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.events.delegation import Delegation
from caracal.events.topics import FACT_TOPIC_OF, reason_of
from caracal.events.zone import Zone
from caracal.projections.memory import RecentTable
from caracal.projections.projection import Projection
from caracal.projections.query import Db, IdPage, ids_in_zones, page_by_id, select
from caracal.projections.table import Change, End, Put, Table, end, put, zone_of

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
        "status_reason": "text",
        "terminated_at": "timestamptz",
    },
    final=("status", "status_reason", "terminated_at"),
    indexes=(
        "(zone_id, id DESC)",
        "(zone_id, parent_id, id)",
        "(zone_id, ended_at)",
        "(spawned_at) WHERE ended_at IS NULL",
        "(heartbeat_deadline_at) WHERE ended_at IS NULL AND kind = 'service'",
    ),
)

agents = Projection("agents", AGENTS)


@agents.on(Agent.Spawned)
def spawned(fact: Fact) -> Put:
    return put(AGENTS, fact, spawned_at=fact.occurred_at, status="active")


@agents.on(Agent.Suspended)
def suspended(fact: Fact) -> list[Change]:
    columns = {"status": "suspended", "status_reason": reason_of(fact.name, fact.data)}
    return [Change(AGENTS, agent_id, columns) for agent_id in changed_ids(fact)]


@agents.on(Agent.Resumed)
def resumed(fact: Fact) -> list[Change]:
    deadline = fact.data["heartbeat_deadline_at"]
    columns = {"status": "active", "status_reason": None, "heartbeat_deadline_at": deadline}
    return [Change(AGENTS, agent_id, columns) for agent_id in changed_ids(fact)]


@agents.on(Agent.Terminated, Delegation.Revoked, Application.Archived, Zone.Archived)
def ended(fact: Fact) -> End:
    return end(
        AGENTS,
        changed_ids(fact),
        **zone_of(AGENTS, fact),  # an end may come first, and who reads one zone must find it
        status="terminated",
        status_reason=reason_of(fact.name, fact.data),
        terminated_at=fact.occurred_at,
    )


def changed_ids(fact: Fact) -> list[str]:
    """Return the agents that a cascade lists."""
    return [agent["id"] for agent in fact.data.get("agents", [])]


def recent_agents() -> RecentTable:
    """Return the table as a process holds it: without those that ended long ago."""
    born_on = FACT_TOPIC_OF[Agent.Spawned.TOPIC].name
    return RecentTable(AGENTS, born_on=born_on, ended_on="terminated_at")


_SEEN = (
    "SELECT a.*, h.last_heartbeat_at AS beat_at, h.heartbeat_deadline_at AS beat_until"
    " FROM agents a LEFT JOIN agent_heartbeats h ON h.agent_id = a.id WHERE NOT a.stub"
)


async def get_agent(db: Db, zone_id: str, agent_id: str) -> dict[str, Any] | None:
    """Return an agent of the zone, ended or not, with its last heartbeat."""
    rows = await select(db, f"{_SEEN} AND a.zone_id = %s AND a.id = %s", [zone_id, agent_id])
    return rows[0] if rows else None


async def list_agents(
    db: Db, zone_id: str, page: IdPage, *, status: str | None = None, root: str | None = None
) -> list[dict[str, Any]]:
    """Return agents, one more than the page holds.

    Args:
        status: of these only; None of any.
        root: only this one and those below it.
    """
    statement, arguments = f"{_SEEN} AND a.zone_id = %s", [zone_id]
    if status is not None:
        live = "" if status == "terminated" else " AND a.ended_at IS NULL"
        statement, arguments = f"{statement}{live} AND a.status = %s", [*arguments, status]
    if root is not None:
        statement += " AND (a.id = %s OR a.ancestors @> to_jsonb(%s::text))"
        arguments += [root, root]
    return await page_by_id(db, statement, arguments, page, "a.id")


async def list_children(db: Db, zone_id: str, parent_id: str, page: IdPage) -> list[dict[str, Any]]:
    """Return the direct children of an agent, of any status, one more than the page holds."""
    statement = f"{_SEEN} AND a.zone_id = %s AND a.parent_id = %s"
    return await page_by_id(db, statement, [zone_id, parent_id], page, "a.id")


async def overdue_agents(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return live agents whose time has run out, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM agents WHERE ended_at IS NULL AND NOT stub"
        " AND spawned_at + make_interval(secs => ttl_seconds) < now() ORDER BY spawned_at LIMIT %s",
        limit,
    )


async def orphaned_agents(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return live agents under an ancestor, an application or a zone that has ended: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT a.id, a.zone_id FROM agents a WHERE a.ended_at IS NULL AND NOT a.stub AND ("
        " EXISTS (SELECT FROM applications p WHERE p.id = a.application_id"
        " AND p.ended_at IS NOT NULL)"
        " OR EXISTS (SELECT FROM zones z WHERE z.id = a.zone_id AND z.ended_at IS NOT NULL)"
        " OR EXISTS (SELECT FROM jsonb_array_elements_text(a.ancestors) AS above (id)"
        " JOIN agents o ON o.id = above.id WHERE o.ended_at IS NOT NULL)"
        ") ORDER BY a.depth, a.id LIMIT %s",
        limit,
    )


async def lapsed_agents(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return active services whose lease is over by fact and by telemetry: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT a.id, a.zone_id FROM agents a LEFT JOIN agent_heartbeats h ON h.agent_id = a.id"
        " WHERE a.ended_at IS NULL AND NOT a.stub AND a.kind = 'service' AND a.status = 'active'"
        " AND greatest(a.heartbeat_deadline_at, h.heartbeat_deadline_at) < now()"
        " ORDER BY a.heartbeat_deadline_at LIMIT %s",
        limit,
    )
