"""Revoking an edge of the delegation graph, with all that it leads to."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, slots=True)
class _Found:
    """What ends with an edge: what falls, its rows as they were, and whom its targets act for."""

    fall: Fall
    graph: AgentGraph
    sessions: frozenset[str]

    @classmethod
    def by_walk(cls, graph: AgentGraph, edge_id: str) -> _Found:
        """Walk from the edge; the graph may change as soon as something else is awaited."""
        walked = graph.led_by(edge_id)
        fall = graph.of_walk(walked, edge_id)
        rows = map(graph.agents.get, graph.targets(walked))
        sessions = frozenset(row["subject_session_id"] for row in rows if row is not None)
        return cls(fall, graph.of_ids(fall.ids), sessions)

    def after(self, fall: Fall) -> _Found:
        """Return the rest when ``fall`` has ended before."""
        return replace(self, fall=self.fall.without(fall.ids))


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
        found = _Found.by_walk(graph, self._edge_id)
        edge = await self._edge()
        edge.revoke(found.fall)
        saved = await self._call.parts.log.save(edge)
        self._note(found)
        if (position := saved.position) is None:
            return saved

        async def again() -> Saved:
            return await self._end_late(found, position)

        return Saved((*saved.events, *(await retrying(again)).events))

    async def _end_late(self, before: _Found, position: int) -> Saved:
        graph = await self._graph(position)
        if not graph.left_by(before.fall):  # nearly always; the fall may be large
            return Saved()
        late = _Found.by_walk(graph.with_fallen(before.graph), self._edge_id).after(before.fall)
        if not late.fall:
            return Saved()
        edge = await self._edge()
        edge.revoke_late(late.fall)
        saved = await self._call.parts.log.save(edge)
        self._note(late)
        return saved

    def _note(self, found: _Found) -> None:
        self._falls.append(found.fall)
        self._sessions |= found.sessions

    async def _graph(self, position: int | None = None) -> AgentGraph:
        return await self._call.ground.graph(self._zone_id, position=position)

    async def _edge(self) -> Delegation:
        edge = await self._call.find(Delegation, self._edge_id, self._zone_id)
        if edge is None:
            raise delegation_not_found(self._edge_id)
        return edge
