"""Delegation: an edge by which one agent lends another part of its authority."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from caracal import clock
from caracal.errors import CaracalError, Conflict, Forbidden, NotFound
from caracal.events import base
from caracal.events.agent import needs_active
from caracal.events.base import Aggregate, Fall
from caracal.events.guards import Edge, Free, FreeEdges, Guard, Inbound, Need, Take, live
from caracal.events.resource import needs_resource
from caracal.events.zone import needs_zone


class Delegation(Aggregate):
    """created -> revoked | expired -> purged, or ended by the cascade of another thing"""

    TOPIC = "delegation"
    PLURAL = "delegations"

    class Created(base.Created):
        TOPIC = "delegation.created"
        source_session_id: str
        target_session_id: str
        issuer_application_id: str
        receiver_application_id: str
        parent_edge_id: str | None
        resource_id: str | None
        scopes: list[str]
        constraints: dict[str, Any]
        expires_at: str
        path: list[str]

    class Revoked(base.Cascade):
        TOPIC = "delegation.revoked"
        reason: str

        def apply(self, aggregate: Delegation) -> None:
            aggregate.status, aggregate.parts = "revoked", self.part
            aggregate.reason = self.reason

    class Expired(Aggregate.Event):
        TOPIC = "delegation.expired"

        def apply(self, aggregate: Delegation) -> None:
            aggregate.status = "expired"

    class Purged(Aggregate.Event):
        TOPIC = "delegation.purged"

        def apply(self, aggregate: Delegation) -> None:
            aggregate.purged = True

    def __init__(
        self,
        source_session_id: str,
        target_session_id: str,
        issuer_application_id: str,
        receiver_application_id: str,
        parent_edge_id: str | None,
        resource_id: str | None,
        scopes: list[str],
        constraints: dict[str, Any],
        expires_at: str,
        path: list[str],
    ) -> None:
        self.source_session_id, self.target_session_id = source_session_id, target_session_id
        self.issuer_application_id = issuer_application_id
        self.receiver_application_id = receiver_application_id
        self.parent_edge_id, self.resource_id = parent_edge_id, resource_id
        self.scopes, self.constraints = scopes, constraints
        self.expires_at, self.path = expires_at, path
        self.status, self.reason, self.purged = "active", "", False

    @classmethod
    def create(
        cls,
        edge_id: str,
        *,
        zone_id: str,
        source: Mapping[str, Any],
        target: Mapping[str, Any],
        parent: Mapping[str, Any] | None,
        resource_id: str | None,
        resources: Iterable[str],
        scopes: Sequence[str],
        constraints: Mapping[str, Any],
        expires_at: datetime,
        seen: Iterable[str] | None = None,
    ) -> Self:
        """Begin an edge from ``source`` to ``target`` (rows of agents) under ``parent`` (an edge).

        What the read models said must hold when it is stored: guards see to both agents and all
        their ancestors, the parent's whole path, the ``resources`` named, and that no cycle closes.
        ``seen`` are the edges that lead to the source, if the choice of the parent hangs on all
        of them.
        """
        path = [] if parent is None else list(parent["path"])
        ends = {
            "source_session_id": source["id"],
            "target_session_id": target["id"],
            "issuer_application_id": source["application_id"],
            "receiver_application_id": target["application_id"],
            "parent_edge_id": None if parent is None else parent["id"],
        }
        return cls._begin(
            cls.Created,
            edge_id,
            needs_zone(zone_id),
            *needs_active([*source["ancestors"], source["id"]], endpoint_not_found()),
            *needs_active([*target["ancestors"], target["id"]], endpoint_not_found()),
            *(needs_resource(named) for named in resources),
            *(needs_edge(edge, parent_not_active()) for edge in path),
            *([] if seen is None else [Inbound(source["id"], tuple(seen))]),
            Take(live("edge", edge_id), zone_id, _known(edge_id)),
            Edge(source["id"], target["id"], edge_id, cycle_denied()),
            **ends,
            resource_id=resource_id,
            scopes=list(scopes),
            constraints=dict(constraints),
            expires_at=clock.rfc3339(expires_at),
            path=[*path, edge_id],
        )

    def revoke(self, fall: Fall, reason: str = "requested") -> None:
        """End the edge with what ``fall`` lists.

        Raises:
            NotFound: 404 ``delegation_not_found`` (by its guard).
        """
        error = delegation_not_found(self.aggregate_id)
        self.guards.append(needs_edge(self.aggregate_id, error))
        self._record_fall(self.Revoked, fall, reason=reason)

    def revoke_late(self, fall: Fall) -> None:
        """End what began while :meth:`revoke` was deciding what falls."""
        if self.status == "revoked" and fall:
            self._record_fall(self.Revoked, fall, reason=self.reason)

    def expire(self) -> None:
        """Note that its time has run out.

        Raises:
            NotFound: 404 ``delegation_not_found`` (by its guard), a cascade was faster.
        """
        error = delegation_not_found(self.aggregate_id)
        ending: list[Guard] = [
            needs_edge(self.aggregate_id, error),
            Free((live("edge", self.aggregate_id),), str(self.zone_id)),
            FreeEdges((self.aggregate_id,)),
        ]
        self._record(self.Expired, *ending)

    def purge(self) -> None:
        """Forget the row; again changes nothing."""
        if not self.purged:
            self._record(self.Purged)


def needs_edge(edge_id: str, error: CaracalError) -> Need:
    """Return the guard by which nothing hangs on a dead edge."""
    return Need(live("edge", edge_id), error)


def delegation_not_found(edge_id: str) -> NotFound:
    return NotFound("delegation_not_found", f"there is no active delegation {edge_id!r}")


def endpoint_not_found() -> NotFound:
    said = "both agent sessions must be active, of this zone, and within their time"
    return NotFound("delegation_endpoint_not_found", said)


def parent_not_active() -> Forbidden:
    said = "the source holds its authority by an edge, and this is none of its active ones"
    return Forbidden("parent_delegation_not_active", said)


def cycle_denied() -> Conflict:
    said = "the target already delegates, directly or not, to the source"
    return Conflict("delegation_cycle_denied", said)


def _known(edge_id: str) -> Conflict:
    return Conflict("concurrent_update", f"the delegation {edge_id!r} is there already")
