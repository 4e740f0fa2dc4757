"""Read model of agent services; how they are is told by their heartbeats, beside it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from caracal.events.agent_service import AgentService
from caracal.events.base import Fact
from caracal.projections.projection import Projection
from caracal.projections.query import Db, IdPage, ids_in_zones, page_by_id
from caracal.projections.table import Change, Put, Table, change, put

AGENT_SERVICES = Table(
    "agent_services",
    columns={
        "zone_id": "text",
        "application_id": "text",
        "endpoint_url": "text",
        "protocol_versions": "jsonb",
        "framework_name": "text",
        "framework_version": "text",
        "capabilities": "jsonb",
        "metadata": "jsonb",
        "created_at": "timestamptz",
        "lost_at": "timestamptz",
    },
    indexes=("(zone_id, id DESC)",),
)

agent_services = Projection("agent_services", AGENT_SERVICES)


@agent_services.on(AgentService.Registered)
def registered(fact: Fact) -> Put:
    return put(AGENT_SERVICES, fact, created_at=fact.occurred_at)


@agent_services.on(AgentService.Updated)
def updated(fact: Fact) -> Change:
    return change(AGENT_SERVICES, fact)


@agent_services.on(AgentService.Lost)
def lost(fact: Fact) -> Change:
    return change(AGENT_SERVICES, fact, lost_at=fact.occurred_at)


_SEEN = (
    "SELECT s.*, h.health AS beat_health, h.last_heartbeat_at AS beat_at, h.metadata AS told"
    " FROM agent_services s LEFT JOIN agent_service_heartbeats h ON h.service_id = s.id"
    " WHERE NOT s.stub"
)


async def list_agent_services(db: Db, zone_id: str, page: IdPage) -> list[dict[str, Any]]:
    """Return services with their last heartbeat, one more than the page holds."""
    return await page_by_id(db, f"{_SEEN} AND s.zone_id = %s", [zone_id], page, "s.id")


async def silent_services(db: Db, lease: timedelta, limit: int) -> list[tuple[str, str]]:
    """Return services that were well when they last beat, more than ``lease`` ago: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT s.id, s.zone_id FROM agent_services s"
        " JOIN agent_service_heartbeats h ON h.service_id = s.id"
        " WHERE h.health IN ('healthy', 'degraded') AND h.last_heartbeat_at < now() - %s"
        " AND (s.lost_at IS NULL OR s.lost_at < h.last_heartbeat_at)"
        " ORDER BY h.last_heartbeat_at LIMIT %s",
        limit,
        lease,
    )
