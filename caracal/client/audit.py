"""``client.audit``."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, Unpack

from caracal.client.call import Call, Listing, api, listing, merged, one_page
from caracal.client.method import D, many, one
from caracal.client.things import ZoneScoped


class AuditEvent(TypedDict):
    """A decision, or a fact."""

    id: str
    zone_id: str
    event_type: str
    request_id: str | None
    decision: Literal["allow", "deny", "partial"] | None
    evaluation_status: str | None
    metadata_json: dict[str, Any] | None
    occurred_at: str
    ingested_at: str


class AuditDetail(AuditEvent):
    """A decision with what determined it."""

    policy_set_id: str | None
    policy_set_version_id: str | None
    manifest_sha: str | None
    determining_policies_json: list[Any] | None
    diagnostics_json: list[Any] | None


class AuditQuery(TypedDict, total=False):
    """Which decisions to list; ``since`` (from) and ``until`` (before) are ISO 8601."""

    since: str | None
    until: str | None
    decision: Literal["allow", "deny", "partial"] | None
    event_type: str | None
    request_id: str | None
    limit: int | None
    cursor: str | None


class AuditExplanation(TypedDict):
    """Why a request ended as it did."""

    request_id: str
    zone_id: str
    final_decision: str
    denied: list[Any]
    events: list[Any]


class AuditReplay(TypedDict, total=False):
    """The recorded decisions evaluated again; members as the server sends them."""

    request_id: str
    zone_id: str
    identical: bool
    decisions: list[Any]


class AuditRetention(TypedDict):
    """How long the trail is kept, and how long it may be kept at most, in days."""

    retention_days: int
    limit_days: NotRequired[int]


class Audit(ZoneScoped[D]):
    """The audit trail of a zone, read only.

    >>> client.audit.list(zone_id, decision="deny", limit=20)
    >>> client.audit.explain(zone_id, error.request_id)
    """

    _plural = "audit"

    @many
    def list(
        self, zone_id: str, query: AuditQuery | None = None, **more: Unpack[AuditQuery]
    ) -> Listing[AuditEvent]:
        """List decisions, newest first: one page, at most ``limit`` (the server's default: 100)."""
        return one_page(self._call("GET", zone_id, query=merged(AuditQuery, query, more).items()))

    list_page, iter = list.by_page(), list.each()

    @many
    def by_request(self, zone_id: str, request_id: str) -> Listing[AuditDetail]:
        """List what a request led to, oldest first: decisions, and the facts that it caused."""
        return listing(self._call("GET", zone_id, "by-request", request_id))

    @one
    def explain(self, zone_id: str, request_id: str) -> Call[AuditExplanation]:
        """Say why a request ended as it did."""
        return self._call("GET", zone_id, "by-request", request_id, "explain")

    @one
    def replay(
        self, zone_id: str, request_id: str, policy_set_version: str | None = None
    ) -> Call[AuditReplay]:
        """Evaluate a request's decisions again, by their own policies or by another version."""
        query = (("policy_set_version", policy_set_version),)
        return self._call("GET", zone_id, "by-request", request_id, "replay", query=query)

    @one
    def retention(self) -> Call[AuditRetention]:
        """Show how long the trail is kept; of the whole deployment."""
        return api("GET", "audit-retention")

    @one
    def set_retention(self, retention_days: int) -> Call[AuditRetention]:
        """Change how long the trail is kept; a global token is needed."""
        return api("PUT", "audit-retention", body={"retention_days": retention_days})
