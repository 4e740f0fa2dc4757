"""Invocations: ``/zones/{zone_id}/invocations``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field

from caracal import clock
from caracal.errors import Forbidden
from caracal.events.agent_service import AgentService, agent_service_not_found
from caracal.events.invocation import (
    AlreadyInvoked,
    Completion,
    Invocation,
    agent_session_not_found,
    invocation_not_found,
    replay_key,
)
from caracal.events.store.log import Saved
from caracal.ids import new_id
from caracal.projections.memory import Row
from caracal.services.coordinator.agent import seen_agent
from caracal.services.coordinator.call import Call, CallDep
from caracal.services.fields import JsonObject, json_within
from caracal.services.models import Body, Name, Text
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/zones/{zone_id}/invocations", tags=["invocations"])

_ATTEMPTS = 5  # of one invocation that two requests make at once
_PARAMS_BYTES, _PARAMS_DEPTH = 1_048_576, 32
Params = Annotated[Any, BeforeValidator(json_within(_PARAMS_BYTES, _PARAMS_DEPTH))]


class RetryPolicy(Body):
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    backoff_ms: Annotated[int, Field(ge=0, le=300_000)] = 1000


class InvocationInput(Body):
    service_id: Name
    idempotency_key: Name
    method: Name
    source_session_id: Name | None = None
    target_session_id: Name | None = None
    params: Params = Field(default_factory=dict)
    metadata: JsonObject = Field(default_factory=dict)
    timeout_ms: Annotated[int, Field(ge=1, le=900_000)] = 30_000
    retry_policy: RetryPolicy = Field(default_factory=RetryPolicy)


class Cancel(Body):
    reason: Text | None = None


class Complete(Body):
    status: Completion
    error: JsonObject | None = None
    metadata: JsonObject = Field(default_factory=dict)


class InvocationAnswer(BaseModel):
    id: str
    zone_id: str
    service_id: str
    source_session_id: str | None
    target_session_id: str | None
    idempotency_key: str
    method: str
    params_json: Any
    metadata_json: dict[str, Any]
    status: str
    attempts: int
    max_attempts: int
    timeout_ms: int
    retry_policy_json: dict[str, int]
    error_json: dict[str, Any] | None
    deadline_at: datetime | None
    cancel_requested_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, invocation: Invocation) -> InvocationAnswer:
        """Return the answer for an invocation as the log has it."""
        return cls(
            **vars(invocation),
            id=invocation.aggregate_id,
            max_attempts=invocation.max_attempts,
            params_json=invocation.params,
            metadata_json=invocation.metadata,
            retry_policy_json=invocation.retry_policy,
            error_json=invocation.error,
            created_at=invocation.created_on,
        )


@router.post("", status_code=201)
async def create(zone_id: ZoneId, body: InvocationInput, call: CallDep) -> InvocationAnswer:
    """Record a call to a service; 200 with the one that was recorded under the same key."""
    service = await call.find(AgentService, body.service_id, zone_id)
    if service is None:
        raise agent_service_not_found(body.service_id)
    for _ in range(_ATTEMPTS):
        if (stored := await _stored(call, zone_id, body)) is not None:
            _check_invokes(call, await _acting(call, stored, service))
            call.response.status_code = 200
            return InvocationAnswer.of(stored)
        try:
            return InvocationAnswer.of(await _created(call, zone_id, body, service))
        except AlreadyInvoked:
            continue  # another request was faster: now its record is found
    raise AlreadyInvoked


async def _stored(call: Call, zone_id: str, body: InvocationInput) -> Invocation | None:
    log = call.parts.log
    owner = await log.owner(replay_key(zone_id, body.service_id, body.idempotency_key))
    return None if owner is None else await log.find(Invocation, owner)


async def _acting(call: Call, stored: Invocation, service: AgentService) -> str:
    """Return the application in whose name a stored invocation was made."""
    if stored.source_session_id is None:
        return service.application_id
    source = await seen_agent(call, str(stored.zone_id), stored.source_session_id)
    return str(source["application_id"]) if source else service.application_id


async def _created(
    call: Call, zone_id: str, body: InvocationInput, service: AgentService
) -> Invocation:
    def named() -> list[Row]:
        ids = [one for one in (body.source_session_id, body.target_session_id) if one is not None]
        rows = [call.view.active_agent(zone_id, one) for one in ids]
        if None in rows:
            raise agent_session_not_found()
        return [row for row in rows if row is not None]

    agents = await call.decided(named)
    source = agents[0]["application_id"] if body.source_session_id is not None else None
    _check_invokes(call, source or service.application_id)
    sessions = dict.fromkeys(one for row in agents for one in (*row["ancestors"], row["id"]))
    invocation_id, made = new_id(), list[Invocation]()
    members = body.model_dump(include=_MEMBERS)

    async def command() -> Saved:
        made[:] = [Invocation.create(invocation_id, zone_id=zone_id, sessions=sessions, **members)]
        return await call.parts.log.save(*made)

    await call.commit(command, zone_id)
    call.coordinator.counters.invocations["pending"] += 1
    return made[0]


_MEMBERS = set(InvocationInput.model_fields)


@router.get("/{invocation_id}")
async def get(zone_id: ZoneId, invocation_id: PathId, call: CallDep) -> InvocationAnswer:
    """Show an invocation."""
    return InvocationAnswer.of(await _found(call, zone_id, invocation_id))


@router.patch("/{invocation_id}/start")
async def start(zone_id: ZoneId, invocation_id: PathId, call: CallDep) -> InvocationAnswer:
    """Begin an attempt."""
    return await _moved(call, zone_id, invocation_id, lambda one: one.start(clock.now()))


@router.patch("/{invocation_id}/cancel")
async def cancel(
    zone_id: ZoneId, invocation_id: PathId, call: CallDep, body: Cancel | None = None
) -> InvocationAnswer:
    """Cancel what has not begun; ask what runs to stop."""
    reason = body.reason if body is not None else None
    return await _moved(call, zone_id, invocation_id, lambda one: one.cancel(reason))


@router.patch("/{invocation_id}/complete")
async def complete(
    zone_id: ZoneId, invocation_id: PathId, body: Complete, call: CallDep
) -> InvocationAnswer:
    """Note how the attempt ended."""
    return await _moved(
        call,
        zone_id,
        invocation_id,
        lambda one: one.complete(body.status, body.error, body.metadata),
    )


async def _found(call: Call, zone_id: str, invocation_id: str) -> Invocation:
    if (found := await call.find(Invocation, invocation_id, zone_id)) is None:
        raise invocation_not_found(invocation_id)
    return found


async def _moved(
    call: Call, zone_id: str, invocation_id: str, decide: Callable[[Invocation], None]
) -> InvocationAnswer:
    """Change an invocation in the name of its service's application."""
    found = await _found(call, zone_id, invocation_id)
    service = await call.find(AgentService, found.service_id, zone_id)
    _check_invokes(call, service.application_id if service else "")
    missing = invocation_not_found(invocation_id)
    changed = await call.change(Invocation, invocation_id, zone_id, decide, missing)
    call.coordinator.counters.invocations[changed.status] += 1
    return InvocationAnswer.of(changed)


def _check_invokes(call: Call, application_id: str) -> None:
    caller = call.caller
    if not (
        caller.is_admin or caller.owns(application_id) or caller.may("invoke_from", application_id)
    ):
        said = "the token is for another application, and lacks coordinator.invoke_from"
        raise Forbidden("invoker_ownership_required", said)
