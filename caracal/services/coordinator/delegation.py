"""The delegation graph: ``/zones/{zone_id}/delegations``."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Response
from pydantic import BaseModel

from caracal import clock
from caracal.events.delegation import delegation_not_found
from caracal.events.store.entries import LogReader
from caracal.projections.delegation import (
    DELEGATIONS,
    list_active,
    list_delegations,
    list_inbound,
    list_outbound,
)
from caracal.projections.memory import Row
from caracal.projections.query import IdPage
from caracal.services.consistency import lagging
from caracal.services.coordinator.authority import EffectiveAuthority, effective_authority
from caracal.services.coordinator.call import Call, CallDep
from caracal.services.coordinator.delegate import EdgeInput, delegate
from caracal.services.coordinator.edge_answer import ActiveEdgeAnswer, EdgeAnswer, NewEdgeAnswer
from caracal.services.coordinator.paging import Listing, PageDep, listed
from caracal.services.coordinator.revoke import Revoked, revoke
from caracal.services.coordinator.walk import walk
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/zones/{zone_id}", tags=["delegations"])

_REACH_SECONDS = 2.0


class TraverseNode(BaseModel):
    id: str
    source_session_id: str
    target_session_id: str
    depth: int


class Impact(BaseModel):
    edge_id: str
    affected_edges: list[TraverseNode]
    affected_agents: list[str]
    affected_subject_sessions: list[str]


@router.post("/delegations", status_code=201)
async def create(zone_id: ZoneId, body: EdgeInput, call: CallDep) -> NewEdgeAnswer:
    """Delegate from one agent session to another: at most what the source holds itself."""
    return await delegate(call, zone_id, body)


@router.get("/delegations")
async def list_(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[EdgeAnswer]:
    """List the edges of the zone, of any status, newest first."""
    return await _edges(call, zone_id, page, lambda db, at: list_delegations(db, zone_id, at))


@router.get("/delegations/active")
async def active(zone_id: ZoneId, call: CallDep, page: PageDep) -> list[ActiveEdgeAnswer]:
    """List the edges that hold now, newest first."""
    now = clock.now()
    rows = await listed(
        call, zone_id, DELEGATIONS, page, lambda db, at: list_active(db, zone_id, now, at)
    )
    return [
        ActiveEdgeAnswer.of(row, now, broad_reason=row["constraints"].get("broad_reason"))
        for row in rows
    ]


@router.get("/delegations/inbound/{agent_id}")
async def inbound(
    zone_id: ZoneId, agent_id: PathId, call: CallDep, page: PageDep
) -> list[EdgeAnswer]:
    """List the edges to an agent session, of any status, newest first."""
    return await _edges(call, zone_id, page, lambda db, at: list_inbound(db, zone_id, agent_id, at))


@router.get("/delegations/outbound/{agent_id}")
async def outbound(
    zone_id: ZoneId, agent_id: PathId, call: CallDep, page: PageDep
) -> list[EdgeAnswer]:
    """List the edges from an agent session, of any status, newest first."""
    return await _edges(
        call, zone_id, page, lambda db, at: list_outbound(db, zone_id, agent_id, at)
    )


@router.get("/delegations/{edge_id}/traverse", response_model=list[TraverseNode])
async def traverse(zone_id: ZoneId, edge_id: PathId, call: CallDep) -> Response:
    """Walk forward from an edge over those that hold now; each at its least depth."""
    return _json(_told(await _reached(call, zone_id, edge_id)))


@router.get("/delegations/{edge_id}/impact", response_model=Impact)
async def impact(zone_id: ZoneId, edge_id: PathId, call: CallDep) -> Response:
    """Tell what the revocation of an edge would reach."""
    depths = await _reached(call, zone_id, edge_id)
    if not depths:
        raise delegation_not_found(edge_id)
    agents = list(dict.fromkeys(row["target_session_id"] for rows in depths for row in rows))
    return _json(
        {
            "edge_id": edge_id,
            "affected_edges": _told(depths),
            "affected_agents": agents,
            "affected_subject_sessions": call.view.subject_sessions(zone_id, agents),
        }
    )


@router.get("/agents/{agent_id}/effective-authority")
async def authority(zone_id: ZoneId, agent_id: PathId, call: CallDep) -> EffectiveAuthority:
    """Tell what an agent session may do by all edges that lead to it, together."""
    await _catch_up(call)
    edges = call.view.edges_to(zone_id, agent_id)
    return effective_authority(agent_id, edges, call.view.identifier_of, clock.now())


@router.patch("/delegations/{edge_id}/revoke")
async def revoke_(zone_id: ZoneId, edge_id: PathId, call: CallDep) -> Revoked:
    """Revoke an edge with all that it leads to; the agents there are terminated."""
    return await revoke(call, zone_id, edge_id)


async def _edges(call: Call, zone_id: str, page: IdPage, rows_of: Listing) -> list[EdgeAnswer]:
    now = clock.now()
    rows = await listed(call, zone_id, DELEGATIONS, page, rows_of)
    return [EdgeAnswer.of(row, now) for row in rows]


async def _reached(call: Call, zone_id: str, edge_id: str) -> list[list[Row]]:
    await _catch_up(call)
    view, most = call.view, call.coordinator.settings.max_depth
    edges_from = partial(view.edges_from, zone_id)
    return walk(view.edge(zone_id, edge_id), edges_from, clock.now(), most)


async def _catch_up(call: Call) -> None:
    """Wait until the view has what was committed before the request.

    Raises:
        Unavailable: 503 ``projection_lagging``.
    """
    async with call.database() as db:
        position = await LogReader(db).end()
    if not await call.view.following.reach(position, _REACH_SECONDS):
        raise lagging()


def _told(depths: Iterable[Iterable[Row]]) -> list[Row]:
    return [
        {
            "id": row["id"],
            "source_session_id": row["source_session_id"],
            "target_session_id": row["target_session_id"],
            "depth": depth,
        }
        for depth, rows in enumerate(depths, 1)
        for row in rows
    ]


def _json(content: Any) -> Response:
    """Return an answer that may be large as it is: no model looks at each of its edges."""
    return Response(orjson.dumps(content), media_type="application/json")
