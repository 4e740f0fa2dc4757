"""The flat façade ``/v1``: the zone's routes with ``zone_id`` in the body (contract, section 8)."""

from __future__ import annotations

from typing import Annotated, Self

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, model_validator

from caracal.services.call import no_content
from caracal.services.coordinator.agent import end
from caracal.services.coordinator.agent_answer import AgentAnswer
from caracal.services.coordinator.call import CallDep
from caracal.services.coordinator.delegate import EdgeInput, EdgeTerms, delegate
from caracal.services.coordinator.edge_answer import NewEdgeAnswer
from caracal.services.coordinator.revoke import Revoked, revoke
from caracal.services.coordinator.spawn import IdempotencyKey, SpawnInput, spawn
from caracal.services.models import Body, Name, printable

router = APIRouter(prefix="/v1", tags=["facade"])

Reason = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(printable)]


class BeginInput(SpawnInput):
    zone_id: Name


class SpawnChildInput(BeginInput):
    parent_agent_session_id: Name

    def spawn_input(self) -> SpawnInput:
        """Return what the zone's route would be asked for."""
        return SpawnInput(**{**self.given(), "parent_id": self.parent_agent_session_id})


class EndInput(Body):
    zone_id: Name
    agent_session_id: Name | None = None
    session_id: Name | None = Field(None, description="older name of agent_session_id")
    reason: Reason = "requested"

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.agent_id is None:
            raise ValueError("agent_session_id is needed")
        return self

    @property
    def agent_id(self) -> str | None:
        """Return the agent by either name."""
        return self.agent_session_id or self.session_id


class ExchangeInput(EdgeInput):
    zone_id: Name


class ExistingInput(EdgeTerms):
    zone_id: Name
    from_agent_session_id: Name
    to_agent_session_id: Name

    def edge_input(self) -> EdgeInput:
        """Return what the zone's route would be asked for."""
        ends = {
            "source_session_id": self.from_agent_session_id,
            "target_session_id": self.to_agent_session_id,
        }
        return EdgeInput(**{**self.given(), **ends})


class RevokeInput(Body):
    zone_id: Name
    delegation_edge_id: Name


@router.post("/begin", status_code=201)
async def begin(
    body: BeginInput, call: CallDep, idempotency_key: IdempotencyKey = None
) -> AgentAnswer:
    """Spawn an agent session."""
    call.caller.check_zone(body.zone_id)
    return await spawn(call, body.zone_id, body, idempotency_key)


@router.post("/spawn-child", status_code=201)
async def spawn_child(
    body: SpawnChildInput, call: CallDep, idempotency_key: IdempotencyKey = None
) -> AgentAnswer:
    """Spawn an agent session below another one."""
    call.caller.check_zone(body.zone_id)
    return await spawn(call, body.zone_id, body.spawn_input(), idempotency_key)


@router.post("/end", status_code=204)
async def end_(body: EndInput, call: CallDep) -> Response:
    """Terminate an agent session with its subtree; again changes nothing."""
    call.caller.check_zone(body.zone_id)
    await end(call, body.zone_id, str(body.agent_id), body.reason)
    return no_content(call)


@router.post("/exchange", status_code=201)
async def exchange(body: ExchangeInput, call: CallDep) -> NewEdgeAnswer:
    """Delegate from one agent session to another."""
    call.caller.check_zone(body.zone_id)
    return await delegate(call, body.zone_id, body)


@router.post("/delegate-to-existing-agent", status_code=201)
async def delegate_to_existing_agent(body: ExistingInput, call: CallDep) -> NewEdgeAnswer:
    """Delegate from one agent session to another, by the names ``from`` and ``to``."""
    call.caller.check_zone(body.zone_id)
    return await delegate(call, body.zone_id, body.edge_input())


@router.post("/revoke-delegation")
async def revoke_delegation(body: RevokeInput, call: CallDep) -> Revoked:
    """Revoke an edge with all that it leads to."""
    call.caller.check_zone(body.zone_id)
    return await revoke(call, body.zone_id, body.delegation_edge_id)
