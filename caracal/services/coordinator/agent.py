"""Agent sessions: ``/zones/{zone_id}/agents``."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator, BaseModel

from caracal import clock
from caracal.events.agent import agent_not_found
from caracal.ids import ID_PATTERN
from caracal.projections.agent import AGENTS, get_agent, list_agents, list_children
from caracal.projections.memory import Row
from caracal.services.agent_subtree import Subtree
from caracal.services.call import no_content
from caracal.services.coordinator.agent_answer import AgentAnswer
from caracal.services.coordinator.call import Call, CallDep
from caracal.services.coordinator.paging import PageDep, listed
from caracal.services.coordinator.spawn import IdempotencyKey, SpawnInput, spawn
from caracal.services.models import printable
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/zones/{zone_id}/agents", tags=["agents"])

Status = Literal["active", "suspended", "terminated"]


@router.get("")
async def list_(
    zone_id: ZoneId,
    call: CallDep,
    page: PageDep,
    status: Status | None = None,
    root: Annotated[
        str | None, Query(pattern=ID_PATTERN.pattern, description="this one and all below it")
    ] = None,
) -> list[AgentAnswer]:
    """List agent sessions, of any status unless one is named, newest first."""
    rows = await listed(
        call,
        zone_id,
        AGENTS,
        page,
        lambda db, at: list_agents(db, zone_id, at, status=status, root=root),
    )
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


class Suspended(BaseModel):
    suspended: Literal[True] = True
    affected: int


class Resumed(BaseModel):
    resumed: Literal[True] = True
    affected: int


Reason = Annotated[
    str, Query(min_length=1, max_length=256, description="why"), AfterValidator(printable)
]


@router.patch("/{agent_id}/suspend")
async def suspend(zone_id: ZoneId, agent_id: PathId, call: CallDep) -> Suspended:
    """Suspend an agent session, and those below it that are reached through active ones."""
    subtree = await controlled(call, zone_id, agent_id)
    await call.commit(subtree.suspend, zone_id)
    return Suspended(affected=subtree.affected)


@router.patch("/{agent_id}/resume")
async def resume(zone_id: ZoneId, agent_id: PathId, call: CallDep) -> Resumed:
    """Resume an agent session, and those below it that are reached through suspended ones."""
    subtree = await controlled(call, zone_id, agent_id)
    lease = call.coordinator.lease
    await call.commit(lambda: subtree.resume(clock.now() + lease), zone_id)
    return Resumed(affected=subtree.affected)


@router.delete("/{agent_id}", status_code=204)
async def delete(
    zone_id: ZoneId, agent_id: PathId, call: CallDep, reason: Reason = "requested"
) -> Response:
    """Terminate an agent session with its subtree and its edges; again changes nothing."""
    await end(call, zone_id, agent_id, reason)
    return no_content(call)


async def end(call: Call, zone_id: str, agent_id: str, reason: str = "requested") -> None:
    """Terminate an agent session.

    Raises:
        NotFound: 404 ``agent_not_found``.
        Forbidden: 403 ``application_ownership_required``.
    """
    subtree = await controlled(call, zone_id, agent_id)
    await call.commit(lambda: subtree.terminate(reason), zone_id)


async def controlled(call: Call, zone_id: str, agent_id: str) -> Subtree:
    """Return the subtree of an agent, ended or not, that the caller may control.

    Raises:
        NotFound: 404 ``agent_not_found``.
        Forbidden: 403 ``application_ownership_required``.
    """
    row = await known_agent(call, zone_id, agent_id)
    call.caller.check_controls(row["application_id"])
    return Subtree(call.ground, zone_id, agent_id)


async def known_agent(call: Call, zone_id: str, agent_id: str) -> Row:
    """Return an agent of the zone, ended or not.

    Raises:
        NotFound: 404 ``agent_not_found``.
    """
    if (row := await seen_agent(call, zone_id, agent_id)) is None:
        raise agent_not_found(agent_id)
    return row


async def seen_agent(call: Call, zone_id: str, agent_id: str) -> Row | None:
    """Return an agent of the zone, ended or not: by the view, by the read model, by the log."""
    if (row := call.view.agent(zone_id, agent_id)) is not None:
        return row
    async with call.database() as db:  # has those that ended long ago
        if (row := await get_agent(db, zone_id, agent_id)) is not None:
            return row
    await call.view.look_again()
    return call.view.agent(zone_id, agent_id)
