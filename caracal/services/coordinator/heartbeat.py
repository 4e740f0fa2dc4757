"""Heartbeats: ``POST /zones/{zone_id}/agents/{id}/heartbeat``. Telemetry, but for a lost lease."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from caracal import clock
from caracal.errors import Conflict
from caracal.events.agent_service import AgentService, agent_service_not_found
from caracal.projections.heartbeat import agent_beats, beat_agent, beat_service, service_beats
from caracal.projections.memory import Row
from caracal.services.agent_subtree import Subtree
from caracal.services.coordinator.agent import known_agent
from caracal.services.coordinator.agent_service import Health, ServiceAnswer, answer_of
from caracal.services.coordinator.call import Call, CallDep
from caracal.services.fields import JsonObject, check_size
from caracal.services.models import Body, Name
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/zones/{zone_id}/agents/{agent_id}/heartbeat", tags=["agents"])

LOST = "service_heartbeat_lost"


class Heartbeat(Body):
    service_id: Name | None = None
    status: Health = "healthy"
    active_invocations: Annotated[int, Field(ge=0, le=2**53)] = 0
    metadata: JsonObject = Field(default_factory=dict)


class AgentBeat(BaseModel):
    id: str
    agent_session_id: str
    zone_id: str
    application_id: str
    last_active_at: datetime
    last_heartbeat_at: datetime
    heartbeat_deadline_at: datetime | None


class Beaten(BaseModel):
    agent: AgentBeat
    service: ServiceAnswer | None
    active_invocations: int


@router.post("")
async def beat(
    zone_id: ZoneId, agent_id: PathId, call: CallDep, body: Heartbeat | None = None
) -> Beaten:
    """Renew the lease of a service; any kind may beat."""
    told = body or Heartbeat()
    row = await known_agent(call, zone_id, agent_id)
    call.caller.check_controls(row["application_id"])
    if row["status"] not in ("active", "suspended"):
        raise Conflict("agent_not_live", f"the agent session {agent_id!r} has ended")
    await _check_lease(call, zone_id, row)
    service = await _service(call, row, told.service_id)
    now = clock.now()
    until = now + call.coordinator.lease if row["kind"] == "service" else None
    answer = await _beaten(call, row, service, told, now, until)
    return Beaten(
        agent=AgentBeat(
            **{**row, "agent_session_id": agent_id, "heartbeat_deadline_at": until},
            last_active_at=now,
            last_heartbeat_at=now,
        ),
        service=answer,
        active_invocations=told.active_invocations,
    )


async def _check_lease(call: Call, zone_id: str, row: Row) -> None:
    """Suspend the subtree of an active service that beats after its lease has run out.

    Raises:
        Conflict: 409 ``agent_lease_expired``.
    """
    if row["kind"] != "service" or row["status"] != "active":
        return
    async with call.database() as db:
        beats = await agent_beats(db, row["id"])
    ends = [row["heartbeat_deadline_at"], beats["heartbeat_deadline_at"] if beats else None]
    if max((at for at in ends if at is not None), default=clock.now()) >= clock.now():
        return
    subtree = Subtree(call.ground, zone_id, row["id"])
    await call.commit(lambda: subtree.suspend(LOST), zone_id)
    said = "the lease has run out and the agent session is suspended; resume it"
    raise Conflict("agent_lease_expired", said)


async def _service(call: Call, agent: Row, service_id: str | None) -> AgentService | None:
    """Return the service that beats with its agent.

    Raises:
        NotFound: 404 ``agent_service_not_found``, none of the agent's own application.
    """
    if service_id is None:
        return None
    service = await call.find(AgentService, service_id, agent["zone_id"])
    if service is None or service.application_id != agent["application_id"]:
        raise agent_service_not_found(service_id)
    return service


async def _beaten(
    call: Call,
    agent: Row,
    service: AgentService | None,
    told: Heartbeat,
    now: datetime,
    until: datetime | None,
) -> ServiceAnswer | None:
    async with call.database() as db, db.transaction():
        await beat_agent(db, agent["id"], now, until)
        if service is None:
            return None
        before = await service_beats(db, service.aggregate_id)
        check_size({**(before["metadata"] if before else {}), **told.metadata}, "metadata")
        beats = await beat_service(db, service.aggregate_id, now, told.status, told.metadata)
    return answer_of(service, beats)
