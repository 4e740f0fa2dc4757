"""``client.agents``: the Coordinator's agent sessions."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from caracal.client.call import Call, Listing, coordinator, listing, nothing, page
from caracal.client.method import D, Namespace, many, one

AgentKind = Literal["service", "instance", "ephemeral"]


class AgentSession(TypedDict):
    """An agent's session; several members exist under an older name too."""

    id: str
    agent_session_id: str
    zone_id: str
    application_id: str
    parent_id: str | None
    session_sid: str
    subject_session_id: str
    status: Literal["active", "suspended", "terminated", "expired"]
    status_reason: NotRequired[str | None]
    depth: int
    spawned_at: str
    terminated_at: str | None
    authority_root_session_id: NotRequired[str]
    kind: NotRequired[AgentKind]
    session_class: NotRequired[AgentKind]
    capabilities: NotRequired[list[str]]
    ttl_seconds: NotRequired[int]
    metadata: NotRequired[dict[str, Any]]
    last_heartbeat_at: NotRequired[str | None]
    heartbeat_deadline_at: NotRequired[str | None]


class Suspended(TypedDict):
    """That a subtree is suspended, and how many sessions it has."""

    suspended: bool
    affected: NotRequired[int]


class Resumed(TypedDict):
    """That a subtree is active again, and how many sessions it has."""

    resumed: bool
    affected: NotRequired[int]


class EffectiveAuthority(TypedDict):
    """What an agent may do by the edges that lead to it."""

    agent_session_id: str
    inbound_edges: list[str]
    effective_scopes: list[str]
    effective_resource_ids: list[str]
    effective_resources: list[str]
    effective_resource_constrained: bool
    effective_max_hops: int
    effective_ttl_seconds: int | None
    earliest_expires_at: str | None


class Agents(Namespace[D]):
    """Agent sessions, at the Coordinator.

    >>> for agent in client.agents.iter(zone_id): ...
    >>> client.agents.suspend(zone_id, agent_id)
    """

    @many
    def list(
        self,
        zone_id: str,
        *,
        status: Literal["active", "suspended", "terminated"] | None = None,
        root: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Listing[AgentSession]:
        """List sessions, newest first: all of them, or a page of ``limit``.

        Without ``status`` of every status; with ``root`` only that session and those below it.
        """
        query = (("status", status), ("root", root), *page(limit, cursor))
        return listing(coordinator("GET", zone_id, "agents", query=query), limit)

    list_page, iter = list.by_page(), list.each()

    @one
    def get(self, zone_id: str, id: str) -> Call[AgentSession]:
        """Show a session."""
        return coordinator("GET", zone_id, "agents", id)

    @many
    def children(
        self, zone_id: str, id: str, *, limit: int | None = None, cursor: str | None = None
    ) -> Listing[AgentSession]:
        """List the direct children, oldest first: all of them, or a page of ``limit``."""
        query = page(limit, cursor)
        return listing(coordinator("GET", zone_id, "agents", id, "children", query=query), limit)

    @one
    def suspend(self, zone_id: str, id: str) -> Call[Suspended]:
        """Suspend a session and its subtree."""
        return coordinator("PATCH", zone_id, "agents", id, "suspend")

    @one
    def resume(self, zone_id: str, id: str) -> Call[Resumed]:
        """Let a suspended subtree go on."""
        return coordinator("PATCH", zone_id, "agents", id, "resume")

    @one
    def terminate(self, zone_id: str, id: str, reason: str | None = None) -> Call[None]:
        """End a session and its subtree for good; ending it twice does no harm."""
        query = (("reason", reason),)
        return nothing(coordinator("DELETE", zone_id, "agents", id, query=query))

    @one
    def effective_authority(self, zone_id: str, id: str) -> Call[EffectiveAuthority]:
        """Tell what a session may do by the edges that lead to it."""
        return coordinator("GET", zone_id, "agents", id, "effective-authority")
