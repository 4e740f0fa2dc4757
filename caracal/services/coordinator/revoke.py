"""Revoking an edge of the delegation graph, with all that it leads to."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from caracal import clock
from caracal.events.agent_graph import AgentGraph
from caracal.events.base import Fall
from caracal.events.delegation import Delegation, delegation_not_found
from caracal.events.store.log import Saved, retrying
from caracal.projections.memory import Row
from caracal.services.coordinator.call import Call
from caracal.services.coordinator.delegating import check_issuer
from caracal.services.coordinator.walk import is_active


class Revoked(BaseModel):
    revoked_edges: int
    affected_sessions: int
    terminated_agents: int


async def revoke(call: Call, zone_id: str, edge_id: str) -> Revoked:
    """Revoke an edge; how far it reached.

    Raises:
        NotFound: 404 ``delegation_not_found``, unknown or not active.
        Forbidden: 403 ``issuer_ownership_required``.
    """
    row = await call.decided(lambda: _active(call, zone_id, edge_id))
    if not call.caller.is_admin:
        check_issuer(call.caller, row["issuer_application_id"])
    revocation = Revocation(call, zone_id, edge_id)
    await call.commit(revocation.command, zone_id)
    return revocation.answer()


def _active(call: Call, zone_id: str, edge_id: str) -> Row:
    row = call.view.edge(zone_id, edge_id)
    if row is None or not is_active(row, clock.now()):
        raise delegation_not_found(edge_id)
    return row


class Revocation:
    """The command, and what it has ended."""

    def __init__(self, call: Call, zone_id: str, edge_id: str) -> None:
        self._call, self._zone_id, self._edge_id = call, zone_id, edge_id
        self._falls: list[Fall] = []
        self._sessions: set[str] = set()

    def answer(self) -> Revoked:
        """Return how far it reached."""
        return Revoked(
            revoked_edges=sum(len(fall.edges) for fall in self._falls),
            affected_sessions=len(self._sessions),
            terminated_agents=sum(len(fall.agents) for fall in self._falls),
        )

    async def command(self) -> Saved:
        """End the edge with what falls, and what began while that was being listed."""
        graph = await self._graph()
        if self._edge_id not in graph.edges:
            raise delegation_not_found(self._edge_id)
        walked = graph.led_by(self._edge_id)
        fall = graph.of_walk(walked, self._edge_id)
        edge = await self._edge()
        edge.revoke(fall)
        saved = await self._call.parts.log.save(edge)
        self._note(graph, walked, fall)

        async def again() -> Saved:
            return await self._end_late(graph, fall)

        return Saved((*saved.events, *(await retrying(again)).events))

    async def _end_late(self, before: AgentGraph, fall: Fall) -> Saved:
        graph = await self._graph()
        if not graph.adds_to(before):  # nearly always; the fall may be large
            return Saved()
        graph = graph.with_fallen(before, fall)
        walked = graph.led_by(self._edge_id)
        late = graph.of_walk(walked, self._edge_id).without(fall.ids)
        if not late:
            return Saved()
        edge = await self._edge()
        edge.revoke_late(late)
        saved = await self._call.parts.log.save(edge)
        self._note(graph, walked, late)
        return saved

    def _note(self, graph: AgentGraph, walked: Iterable[str], fall: Fall) -> None:
        self._falls.append(fall)
        targets = graph.targets(walked)
        live = (graph.agents[agent] for agent in targets if agent in graph.agents)
        self._sessions.update(row["subject_session_id"] for row in live)

    async def _graph(self) -> AgentGraph:
        return await self._call.ground.graph(self._zone_id)

    async def _edge(self) -> Delegation:
        edge = await self._call.find(Delegation, self._edge_id, self._zone_id)
        if edge is None:
            raise delegation_not_found(self._edge_id)
        return edge
