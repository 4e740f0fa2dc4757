"""``client.audit``."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, Unpack

from caracal.client.call import Call, Listing, api, listing, merged, one_page
from caracal.client.method import D, many, one
from caracal.client.things import ZoneScoped

Decision = Literal["allow", "deny", "partial"]


class AuditEvent(TypedDict):
    """A decision, or a fact."""

    id: str
    zone_id: str
    event_type: str
    request_id: str | None
    decision: Decision | None
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
    decision: Decision | None
    event_type: str | None
    request_id: str | None
    limit: int | None
    cursor: str | None


class AuditDenial(TypedDict):
    """One decision that denied, the check that failed, and a sentence on it.

    ``policy_input`` is what the policies had, None when none was asked; it can be tried again as
    it is unless ``policy_input_redacted``.
    """

    event_id: str
    event_type: str
    evaluation_status: str | None
    check: str
    explanation: str
    resource: str | None
    policy_set_id: str | None
    policy_set_version_id: str | None
    manifest_sha: str | None
    determining_policies: list[Any]
    diagnostics: list[Any]
    log_position: int | None
    engine_version: str | None
    policy_input: dict[str, Any] | None
    policy_input_redacted: bool


class AuditExplanation(TypedDict):
    """Why a request ended as it did; ``final_decision`` is None when nothing was decided."""

    request_id: str
    zone_id: str
    final_decision: Decision | None
    explanation: str
    denied: list[AuditDenial]
    events: list[AuditDetail]


class ReplayResult(TypedDict):
    """What policies said, which, and by which engine."""

    decision: str
    evaluation_status: str | None
    determining_policies: list[Any]
    diagnostics: list[Any]
    policy_set_version_id: str
    manifest_sha: str
    engine_version: str | None


class ReplayedDecision(TypedDict):
    """A decision made again; ``differences`` names the members of the results that differ."""

    event_id: str
    resource: str | None
    log_position: int | None
    identical: bool
    recorded: ReplayResult
    replayed: ReplayResult
    differences: list[str]


class NotReplayed(TypedDict):
    """A decision that no policy can make again, and why."""

    event_id: str
    event_type: str
    reason: str
    explanation: str


class AuditReplay(TypedDict):
    """The recorded decisions made again; ``identical``: some were, and all came out as then."""

    request_id: str
    zone_id: str
    policy_set_version_id: str | None
    engine_version: str
    identical: bool
    decisions: list[ReplayedDecision]
    not_replayed: list[NotReplayed]


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
