"""Agent sessions: ``/zones/{zone_id}/agents``."""

from __future__ import annotations

from fastapi import APIRouter

from caracal.events.agent import agent_not_found
from caracal.projections.agent import AGENTS, get_agent, list_agents, list_children
from caracal.services.coordinator.agent_answer import AgentAnswer
from caracal.services.coordinator.call import CallDep
from caracal.services.coordinator.paging import PageDep, listed
from caracal.services.coordinator.spawn import IdempotencyKey, SpawnInput, spawn
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/zones/{zone_id}/agents", tags=["agents"])


@router.get("")
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[AgentAnswer]:
    """List agent sessions of any status, newest first."""
    rows = await listed(call, zone_id, AGENTS, page, lambda db, at: list_agents(db, zone_id, at))
    return [AgentAnswer.of(row) for row in rows]


@router.get("/{agent_id}")
async def get(zone_id: ZoneId, agent_id: PathId, call: CallDep) -> AgentAnswer:
    """Show an agent session."""
    async with call.database() as db:
        row = await get_agent(db, zone_id, agent_id)
    if row is None:
        raise agent_not_found(agent_id)
    return AgentAnswer.of(row)


@router.get("/{agent_id}/children")
async def children(
    zone_id: ZoneId, agent_id: PathId, call: CallDep, page: PageDep
) -> list[AgentAnswer]:
    """List the direct children of an agent session, oldest spawn first."""
    rows = await listed(
        call,
        zone_id,
        AGENTS,
        page,
        lambda db, at: list_children(db, zone_id, agent_id, at),
        oldest_first=True,
    )
    return [AgentAnswer.of(row) for row in rows]


@router.post("", status_code=201)
async def create(
    zone_id: ZoneId, body: SpawnInput, call: CallDep, idempotency_key: IdempotencyKey = None
) -> AgentAnswer:
    """Spawn an agent session; 200 with the one that is there when it was made before."""
    return await spawn(call, zone_id, body, idempotency_key)
