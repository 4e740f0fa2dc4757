"""Agent services: ``/zones/{zone_id}/agent-services``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from caracal.events.agent_service import AgentService, AlreadyRegistered, endpoint_key
from caracal.events.application import application_not_found
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.agent_service import AGENT_SERVICES, list_agent_services
from caracal.projections.heartbeat import forget_told, service_beats
from caracal.services.coordinator.call import Call, CallDep
from caracal.services.coordinator.paging import PageDep, listed
from caracal.services.fields import HttpUrl, JsonObject
from caracal.services.models import Body, Name
from caracal.services.path import ZoneId

router = APIRouter(prefix="/zones/{zone_id}/agent-services", tags=["agent services"])

Health = Literal["starting", "healthy", "degraded", "unhealthy"]
Word = Annotated[Name, Field(max_length=128)]
Words = Annotated[list[Word], Field(max_length=64)]
_ATTEMPTS = 5  # of one endpoint that two requests register at once


class Framework(Body):
    name: Word
    version: Word | None = None


class ServiceInput(Body):
    application_id: Name
    endpoint_url: HttpUrl
    protocol_versions: Words = Field(default_factory=list)
    framework: Framework | None = None
    capabilities: Words = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)

    @property
    def members(self) -> dict[str, Any]:
        """Return what the service says of itself."""
        framework = self.framework
        return {
            "protocol_versions": self.protocol_versions,
            "framework_name": framework.name if framework else None,
            "framework_version": framework.version if framework else None,
            "capabilities": self.capabilities,
            "metadata": self.metadata,
        }


class ServiceAnswer(BaseModel):
    id: str
    zone_id: str
    application_id: str
    endpoint_url: str
    protocol_versions: list[str]
    framework_name: str | None
    framework_version: str | None
    capabilities: list[str]
    health: Health
    metadata_json: dict[str, Any]
    last_heartbeat_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ServiceAnswer:
        """Return the answer for a row: fact and telemetry, and of both the later."""
        beat_at, lost_at = row.get("beat_at"), row.get("lost_at")
        lost = beat_at is not None and lost_at is not None and lost_at >= beat_at
        return cls(
            **{
                **row,
                "health": "unhealthy" if lost else row.get("beat_health") or "starting",
                "metadata_json": {**row["metadata"], **(row.get("told") or {})},
                "last_heartbeat_at": beat_at or row["created_at"],
            }
        )


@router.get("")
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ServiceAnswer]:
    """List the services of a zone, newest first."""
    rows = await listed(
        call, zone_id, AGENT_SERVICES, page, lambda db, at: list_agent_services(db, zone_id, at)
    )
    return [ServiceAnswer.of(row) for row in rows]


@router.post("", status_code=201)
async def register(zone_id: ZoneId, body: ServiceInput, call: CallDep) -> ServiceAnswer:
    """Register a service, or replace what the one at this endpoint says of itself."""
    call.caller.check_spawns_for(body.application_id)

    def check_known() -> None:
        if call.view.application(zone_id, body.application_id) is None:
            raise application_not_found(body.application_id)

    await call.decided(check_known)
    for _ in range(_ATTEMPTS):
        try:
            return await _answer(call, await _registered(call, zone_id, body))
        except AlreadyRegistered:
            continue  # another request was faster: now there is one to update
    raise AlreadyRegistered


async def _registered(call: Call, zone_id: str, body: ServiceInput) -> AgentService:
    log = call.parts.log
    key = endpoint_key(zone_id, body.application_id, body.endpoint_url)
    made: list[AgentService] = []

    async def command() -> Saved:
        owner = await log.owner(key)
        service = await log.find(AgentService, owner) if owner is not None else None
        if service is None:
            service = _new(zone_id, body)
        else:
            service.update(**body.members)
        made[:] = [service]
        return await log.save(service)

    await call.commit(command, zone_id)
    async with call.database() as db:
        await forget_told(db, made[0].aggregate_id)
    return made[0]


def _new(zone_id: str, body: ServiceInput) -> AgentService:
    return AgentService.register(
        new_id(),
        zone_id=zone_id,
        application_id=body.application_id,
        endpoint_url=body.endpoint_url,
        **body.members,
    )


async def _answer(call: Call, service: AgentService) -> ServiceAnswer:
    async with call.database() as db:
        beats = await service_beats(db, service.aggregate_id)
    return answer_of(service, beats)


def answer_of(service: AgentService, beats: Mapping[str, Any] | None) -> ServiceAnswer:
    """Return the answer for a service as the log has it, and what its heartbeats say."""
    beats = beats or {}
    return ServiceAnswer.of(
        {
            **vars(service),
            "id": service.aggregate_id,
            "created_at": service.created_on,
            "beat_at": beats.get("last_heartbeat_at"),
            "beat_health": beats.get("health"),
            "told": beats.get("metadata"),
        }
    )
