"""How an edge of the delegation graph is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel

from caracal.services.coordinator.delegating import Decided


class EdgeAnswer(BaseModel):
    id: str
    delegation_edge_id: str
    zone_id: str
    source_session_id: str
    target_session_id: str
    issuer_application_id: str
    receiver_application_id: str
    parent_edge_id: str | None
    resource_id: str | None
    scopes: list[str]
    constraints_json: dict[str, Any]
    status: Literal["active", "revoked", "expired"]
    expires_at: datetime
    edge_version: int
    revoked_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, row: Mapping[str, Any], now: datetime, **more: Any) -> Self:
        """Return the answer for a row; whose time is over has expired, told by an event or not."""
        over = row["status"] == "active" and row["expires_at"] <= now
        own = {
            "delegation_edge_id": row["id"],
            "constraints_json": row["constraints"],
            "status": "expired" if over else row["status"],
        }
        return cls(**{**row, **own, **more})


class ActiveEdgeAnswer(EdgeAnswer):
    broad_reason: str | None


class LentAuthority(BaseModel):
    source_session_id: str
    target_session_id: str
    parent_edge_id: str | None
    resource_id: str | None
    resources: list[str]
    scopes: list[str]
    expires_at: datetime
    max_hops: int
    ttl_seconds: int | None
    broad: bool
    parent_edges_considered: list[str]

    @classmethod
    def of(cls, decided: Decided) -> LentAuthority:
        """Return what a new edge lends."""
        asked, limits, parent = decided.asked, decided.limits, decided.parent
        return cls(
            source_session_id=asked.source_session_id,
            target_session_id=asked.target_session_id,
            parent_edge_id=None if parent is None else parent["id"],
            resource_id=asked.resource_id,
            resources=sorted(row["identifier"] for row in decided.resources),
            scopes=list(asked.scopes),
            expires_at=decided.terms.expires_at,
            max_hops=limits.max_hops,
            ttl_seconds=limits.ttl_seconds,
            broad=decided.terms.broad,
            parent_edges_considered=list(decided.considered),
        )


class NewEdgeAnswer(EdgeAnswer):
    warnings: list[str]
    allow_reason: list[str]
    effective_authority: LentAuthority

    @classmethod
    def made(cls, row: Mapping[str, Any], decided: Decided, now: datetime) -> NewEdgeAnswer:
        """Return the answer for a new edge, with why it was allowed."""
        broad, root = decided.terms.broad, decided.parent is None
        return cls.of(
            row,
            now,
            warnings=["resource_null_delegation_broadens_resource_matching"] if broad else [],
            allow_reason=[
                "same_zone_endpoints_active",
                "broad_delegation_elevated" if broad else "resource_scope_checked",
                "source_authority_root" if root else "parent_authority_narrowed",
                "typed_constraints_validated",
            ],
            effective_authority=LentAuthority.of(decided),
        )
