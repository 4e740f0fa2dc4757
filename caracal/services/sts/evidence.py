"""What the audit trail is told of an exchange (contract, section 17). Never tokens or secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caracal.events.store.audit_entry import AuditEvent
from caracal.policy.engine import ENGINE_VERSION, Decision
from caracal.services.sts.delegation import Exercised
from caracal.services.sts.exchange import Exchange, Verdict
from caracal.services.sts.policies import Version
from caracal.services.sts.refusals import EXCHANGE, Refused
from caracal.services.sts.token_request import TokenRequest

_LONGEST = 256  # of what an unknown caller wrote


def of_refusal(
    request: TokenRequest, request_id: str, zone_id: str, refused: Refused
) -> AuditEvent:
    """Return the deny of one of the rows 0c to 9; bounded, its members may be anybody's."""
    said = {
        "application_id": request.application_id,
        "session_id": request.session_id,
        "agent_session_id": request.agent_session_id,
        "delegation_edge_id": request.delegation_edge_id,
        **refused.about,
    }
    metadata = {
        **{name: text[:_LONGEST] for name, text in said.items()},
        "requested_scopes": [scope[:_LONGEST] for scope in request.scopes[:_LONGEST]],
        "reason": refused.error.description,
    }
    return AuditEvent(
        zone_id=zone_id,
        event_type=refused.event_type,
        request_id=request_id,
        decision="deny",
        evaluation_status=refused.status,
        metadata_json=_filled(metadata),
    )


def of_verdict(exchange: Exchange, verdict: Verdict) -> AuditEvent:
    """Return the decision on one resource, with all it depended on."""
    by = verdict.by
    return AuditEvent(
        zone_id=exchange.zone.id,
        event_type=EXCHANGE,
        occurred_at=exchange.occurred_at,
        request_id=exchange.request_id,
        decision=verdict.decision,
        evaluation_status=verdict.status,
        policy_set_id=by.policy_set_id if by else "",
        policy_set_version_id=by.policy_set_version_id if by else "",
        manifest_sha=by.bundle.manifest_sha256 if by else "",
        determining_policies_json=verdict.determining_policies,
        diagnostics_json=verdict.diagnostics,
        metadata_json=_of_decision(exchange, verdict),
    )


def of_shadow(
    exchange: Exchange, verdict: Verdict, shadow: Version, decision: Decision
) -> AuditEvent:
    """Return what a shadow version would have decided where ``verdict`` was given."""
    told = {
        "shadow_evaluation_status": decision.evaluation_status,
        "active_decision": verdict.decision,
        "active_policy_set_version_id": verdict.by.policy_set_version_id if verdict.by else "",
    }
    return AuditEvent(
        zone_id=exchange.zone.id,
        event_type=EXCHANGE,
        request_id=exchange.request_id,
        decision="allow" if decision.allowed else "deny",
        evaluation_status="shadow",
        policy_set_id=shadow.policy_set_id,
        policy_set_version_id=shadow.policy_set_version_id,
        manifest_sha=shadow.bundle.manifest_sha256,
        determining_policies_json=decision.determining_policies,
        diagnostics_json=decision.diagnostics,
        metadata_json={**_of_decision(exchange, verdict), **told},
    )


def of_limit(exchange: Exchange, verdict: Verdict) -> AuditEvent:
    """Return the deny that stands in place of a verdict when the rate limit refuses."""
    return _deny(exchange, "rate_limited", _of_exchange(exchange, resource=verdict.requested))


def of_outcome(exchange: Exchange, status: str, reason: str) -> AuditEvent:
    """Return the deny of the whole request: rows 12 to 14."""
    return _deny(exchange, status, _of_exchange(exchange, reason=reason))


def _deny(exchange: Exchange, status: str, metadata: Mapping[str, Any]) -> AuditEvent:
    return AuditEvent(
        zone_id=exchange.zone.id,
        event_type=EXCHANGE,
        occurred_at=exchange.occurred_at,
        request_id=exchange.request_id,
        decision="deny",
        evaluation_status=status,
        metadata_json=metadata,
    )


def _of_decision(exchange: Exchange, verdict: Verdict) -> Mapping[str, Any]:
    replay = {"log_position": exchange.position, "engine_version": ENGINE_VERSION}
    return _of_exchange(
        exchange,
        resource=verdict.requested,
        reason=verdict.reason,
        challenge_resolved=exchange.challenge_resolved,
        **({"policy_input": verdict.policy_input, **replay} if verdict.policy_input else {}),
    )


def _of_exchange(exchange: Exchange, **more: Any) -> Mapping[str, Any]:
    binding = exchange.binding
    return _filled(
        {
            "application_id": exchange.application["id"],
            "requested_scopes": list(exchange.request.scopes),
            "session_id": binding.session_id,
            "agent_session_id": binding.agent_session_id,
            **(_of_delegation(binding.delegation) if binding.delegation else {}),
            **more,
        }
    )


def _of_delegation(delegation: Exercised) -> Mapping[str, Any]:
    return {
        "delegation_edge_id": delegation.edge["id"],
        "delegation_chain": delegation.chain,
        "delegation_hop_count": len(delegation.path),
        "delegation_graph_epoch": delegation.epoch,
    }


def _filled(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, "")}
