"""Read model of agent services; how they are is told by their heartbeats, beside it."""

from __future__ import annotations

from caracal.events.agent_service import AgentService
from caracal.events.base import Fact
from caracal.projections.projection import Projection
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
