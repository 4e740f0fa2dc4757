"""``client.delegations``: the Coordinator's delegation graph."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from caracal.client.call import Call, Listing, coordinator, listing, page
from caracal.client.method import D, Namespace, many, one


class DelegationEdge(TypedDict):
    """An edge: what the source session hands on to the target session."""

    id: str
    delegation_edge_id: str
    parent_edge_id: str | None
    zone_id: str
    source_session_id: str
    target_session_id: str
    issuer_application_id: str
    receiver_application_id: str
    resource_id: str | None
    scopes: list[str]
    constraints_json: dict[str, Any]
    status: Literal["active", "revoked", "expired"]
    expires_at: str
    edge_version: int
    revoked_at: str | None
    created_at: str


class ActiveDelegationEdge(DelegationEdge):
    """An active edge; a broad one says why it is."""

    broad_reason: NotRequired[str | None]


class TraverseNode(TypedDict):
    """An edge on a walk; the first has depth 1."""

    id: str
    source_session_id: str
    target_session_id: str
    depth: int


class RevokedDelegation(TypedDict):
    """How far a revocation reached."""

    revoked_edges: int
    affected_sessions: int
    terminated_agents: NotRequired[int]


class DelegationImpact(TypedDict):
    """How far a revocation would reach."""

    edge_id: str
    affected_edges: list[TraverseNode]
    affected_agents: list[str]
    affected_subject_sessions: list[str]


class Delegations(Namespace[D]):
    """Delegation edges, at the Coordinator.

    >>> client.delegations.impact(zone_id, edge_id)["affected_agents"]
    >>> client.delegations.revoke(zone_id, edge_id)
    """

    @many
    def list(
        self, zone_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[DelegationEdge]:
        """List the edges of every status, newest first: all of them, or a page of ``limit``."""
        query = page(limit, cursor)
        return listing(coordinator("GET", zone_id, "delegations", query=query), limit)

    list_page, iter = list.by_page(), list.each()

    @many
    def active(
        self, zone_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[ActiveDelegationEdge]:
        """List the edges that hold now: all of them, or a page of ``limit``."""
        query = page(limit, cursor)
        return listing(coordinator("GET", zone_id, "delegations", "active", query=query), limit)

    iter_active = active.each()

    @many
    def inbound(
        self, zone_id: str, session_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[DelegationEdge]:
        """List the edges to a session, of every status."""
        return _edges(zone_id, "inbound", session_id, limit, cursor)

    @many
    def outbound(
        self, zone_id: str, session_id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[DelegationEdge]:
        """List the edges from a session, of every status."""
        return _edges(zone_id, "outbound", session_id, limit, cursor)

    @many
    def traverse(self, zone_id: str, id: str) -> Listing[TraverseNode]:
        """List the active edges reachable from an edge, itself included, by depth."""
        return listing(coordinator("GET", zone_id, "delegations", id, "traverse"))

    @one
    def impact(self, zone_id: str, id: str) -> Call[DelegationImpact]:
        """Tell what revoking an edge would end."""
        return coordinator("GET", zone_id, "delegations", id, "impact")

    @one
    def revoke(self, zone_id: str, id: str) -> Call[RevokedDelegation]:
        """Revoke an edge and all that rests on it; the agents it leads to are terminated."""
        return coordinator("PATCH", zone_id, "delegations", id, "revoke")


def _edges(
    zone_id: str, direction: str, session_id: str, limit: int | None, cursor: str | None
) -> Listing[DelegationEdge]:
    query = page(limit, cursor)
    segments = (zone_id, "delegations", direction, session_id)
    return listing(coordinator("GET", *segments, query=query), limit)
