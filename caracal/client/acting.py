"""What an application asks of the Coordinator for its agents, as calls."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from caracal.client.agent import AgentKind, AgentSession
from caracal.client.call import Call, nothing, target
from caracal.client.delegation import DelegationEdge, RevokedDelegation


class DelegationConstraints(TypedDict, total=False):
    """What an edge allows, beside its scopes (Coordinator contract, section 7.2)."""

    resources: list[str]
    actions: list[str]
    max_hops: int
    ttl_seconds: int
    budget: int
    policy_approved: bool
    expires_at: str
    broad_reason: str


class EffectiveDelegation(TypedDict):
    """What a new edge gives."""

    source_session_id: str
    target_session_id: str
    parent_edge_id: str | None
    resource_id: str | None
    resources: list[str]
    scopes: list[str]
    expires_at: str
    max_hops: int
    ttl_seconds: int | None
    broad: bool
    parent_edges_considered: list[str]


class CreatedDelegationEdge(DelegationEdge):
    """A new edge, why it was allowed, and what it gives."""

    warnings: list[str]
    allow_reason: list[str]
    effective_authority: EffectiveDelegation


def spawning(
    zone_id: str,
    application_id: str,
    *,
    kind: AgentKind,
    capabilities: Sequence[str],
    ttl_seconds: int | None,
    metadata: Mapping[str, Any] | None,
    parent_id: str | None,
    subject_session_id: str | None,
) -> Call[AgentSession]:
    """Spawn an agent.

    The key is the call's own: sent again it creates nothing, and two like children stay two.
    """
    body = {
        "application_id": application_id,
        "kind": kind,
        "capabilities": list(capabilities) or None,
        "ttl_seconds": ttl_seconds,
        "metadata": None if metadata is None else dict(metadata),
        "parent_id": parent_id,
        "subject_session_id": subject_session_id,
    }
    headers = {"idempotency-key": secrets.token_hex(16)}
    return _call("POST", zone_id, "agents", body=body, headers=headers)


def ending(zone_id: str, session_id: str) -> Call[None]:
    """End an agent and its subtree."""
    return nothing(_call("DELETE", zone_id, "agents", session_id))


def delegating(zone_id: str, **members: Any) -> Call[CreatedDelegationEdge]:
    """Create an edge; members that are None are left out."""
    return _call("POST", zone_id, "delegations", body=members)


def revoking(zone_id: str, edge_id: str) -> Call[RevokedDelegation]:
    """Revoke an edge and all that rests on it."""
    return _call("PATCH", zone_id, "delegations", edge_id, "revoke")


def _call(
    method: Literal["POST", "DELETE", "PATCH"],
    *segments: str,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[Any]:
    return Call("coordinator", method, target("zones", *segments), body, headers=headers or {})
