"""Why a request was refused, in words: ``/v1/zones/{zone_id}/audit/by-request/{id}/explain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from caracal.events.store.audit_entry import ADMIN_REQUEST
from caracal.events.store.redaction import CREDENTIALS, redacted
from caracal.services.api.audit import AuditDetail, trail_of
from caracal.services.api.call import CallDep
from caracal.services.api.codes import refuses
from caracal.services.path import PathId, ZoneId

router = APIRouter(prefix="/v1/zones/{zone_id}/audit", tags=["audit"])

_SHADOW = "shadow"
_POLICY = ("complete", "partial", "error")
_CHECKS: Mapping[str, tuple[str, str]] = {
    "client_auth_failed": (
        "client authentication",
        "the application did not prove who it is: unknown, archived or expired, or a wrong secret"
        " or assertion",
    ),
    "subject_token_invalid": (
        "subject token",
        "the subject token was not signed by this zone, has expired, or lacks a claim",
    ),
    "actor_token_invalid": (
        "actor token",
        "the actor token was not signed by this zone, has expired, or does not fit the subject",
    ),
    "session_invalid": (
        "session",
        "the session, or something that it hangs on, has ended or was revoked",
    ),
    "gateway_only": ("gateway", "the zone issues mandates for resources to the Gateway only"),
    "delegation_invalid": ("delegation", "the delegation is unknown, has ended or does not fit"),
    "challenge_invalid": (
        "step-up",
        "the step-up challenge was not satisfied, has expired, was used before, or is to another"
        " call, agent or session",
    ),
    "challenge_cooldown": ("step-up", "too many failed step-ups; there is a pause before another"),
    "resource_not_found": ("resource", "the zone has no such resource"),
    "scope_mismatch": ("scopes", "scopes were asked for that the resource does not have"),
    "resource_outside_delegation": (
        "delegation",
        "the delegation does not reach this resource or these scopes",
    ),
    "rate_limited": ("rate limit", "more exchanges for this resource than its limit allows"),
    "grant_required": (
        "grant",
        "the resource is given by grants, and none covers this application, user and scopes",
    ),
    "credential_not_provisioned": ("credential", "the provider's credential is not there as yet"),
    "credential_refresh_failed": ("credential", "the provider gave no new credential"),
    "policy_eval_failed": ("policy", "the policies could not be evaluated, which denies"),
    "exchange_denied": ("exchange", "the request as a whole was denied"),
    "anomaly": ("replay", "a token or signature came a second time"),
}
_REASONS: Mapping[str, str] = {
    "no_active_policy_set": "the zone has no active policy set, so all is denied",
    "policy_compile_failed": "the zone's policies do not compile, so all is denied",
    "policy_parked": "what the zone activated last could not be applied, so all is denied",
    "policy_eval_failed": "the policies failed on this input, which denies",
}


class Denial(BaseModel):
    """One decision that denied.

    ``policy_input`` is as the policies had it, to be tried again; null when none was asked.
    Members named as credentials are hidden, and then ``policy_input_redacted`` is true.
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


class Explanation(BaseModel):
    """``final_decision`` is ``deny`` if any decision denied; null when there was none."""

    request_id: str
    zone_id: str
    final_decision: Literal["allow", "deny", "partial"] | None
    explanation: str
    denied: list[Denial]
    events: list[AuditDetail]


@router.get("/by-request/{request_id}/explain")
@refuses("request_not_found")
async def explain(zone_id: ZoneId, request_id: PathId, call: CallDep) -> Explanation:
    """Say what became of a request, which check refused it, and by which policies."""
    trail = await trail_of(call, zone_id, request_id)
    enforced = _of_the_request(
        [one for one in trail if one.get("decision") and not _is_shadow(one)]
    )
    denied = [_denial(one) for one in enforced if one["decision"] == "deny"]
    return Explanation(
        request_id=request_id,
        zone_id=zone_id,
        final_decision=_final([one["decision"] for one in enforced]),
        explanation=_summary(len(enforced), len(trail) - len(enforced), denied),
        denied=denied,
        events=[AuditDetail(**one) for one in trail],
    )


def _is_shadow(decision: Mapping[str, Any]) -> bool:
    return bool(decision["evaluation_status"] == _SHADOW)  # observed, never enforced


def _of_the_request(enforced: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out administrators' requests that were refused, where others were decided as well.

    Anyone may give his request the id of another one, proven or not: what he was refused says
    nothing of that one.
    """
    return [one for one in enforced if one["event_type"] != ADMIN_REQUEST] or enforced


def _final(decisions: Sequence[str]) -> Literal["allow", "deny", "partial"] | None:
    if "deny" in decisions:
        return "deny"
    if "partial" in decisions:
        return "partial"
    return "allow" if decisions else None


def _summary(decisions: int, others: int, denied: Sequence[Denial]) -> str:
    if not decisions:
        return f"nothing was to be decided; what it left stands in events: {others} on record"
    if not denied:
        return f"allowed: {decisions} of {decisions} decisions"
    reasons = "; ".join(dict.fromkeys(one.explanation for one in denied))
    return f"denied by {len(denied)} of {decisions} decisions: {reasons}"


def _denial(decision: Mapping[str, Any]) -> Denial:
    meta = decision["metadata_json"] or {}
    check, explanation = _explained(decision, meta)
    recorded = meta.get("policy_input")
    shown = redacted(recorded, CREDENTIALS)
    return Denial(
        **{name: decision[name] for name in _SAME},
        event_id=decision["id"],
        check=check,
        explanation=explanation,
        resource=meta.get("resource"),
        determining_policies=decision["determining_policies_json"] or [],
        diagnostics=decision["diagnostics_json"] or [],
        log_position=meta.get("log_position"),
        engine_version=meta.get("engine_version"),
        policy_input=shown,
        policy_input_redacted=shown != recorded,
    )


_SAME = (
    *("event_type", "evaluation_status"),
    *("policy_set_id", "policy_set_version_id", "manifest_sha"),
)


def _explained(decision: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[str, str]:
    """Return the check that failed, and a sentence on it."""
    status = decision["evaluation_status"]
    if decision["event_type"] == ADMIN_REQUEST:
        what = f"{meta.get('method')} {meta.get('path')}"
        return "admin request", f"{what} was refused: {meta.get('status_code')} {meta.get('error')}"
    if status in _POLICY:
        return "policy", _by_policy(decision, meta)
    check, sentence = _CHECKS.get(status, ("other", f"refused: {status or 'no status given'}"))
    told = (meta.get(name) for name in ("resource", "reason", "subject_check"))
    more = [text for text in told if text]
    return check, f"{sentence} ({', '.join(more)})" if more else sentence


def _by_policy(decision: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    diagnostics = [one for one in decision["diagnostics_json"] or [] if isinstance(one, dict)]
    reasons = [str(one["reason"]) for one in diagnostics if "reason" in one]
    for reason in reasons:
        if reason in _REASONS and decision["policy_set_version_id"] is None:
            return _REASONS[reason]
    version, resource = decision["policy_set_version_id"], meta.get("resource")
    told = f"policy set version {version} denied {resource}"
    if decision["evaluation_status"] != "complete":
        told += ": it gave no usable decision"
    step_ups = [str(one["step_up_required"]) for one in diagnostics if "step_up_required" in one]
    if step_ups:
        told += f" until {' and '.join(step_ups)}"
    if names := [_name(one) for one in decision["determining_policies_json"] or []]:
        told += f", by {', '.join(names)}"
    return told + (f" ({', '.join(reasons)})" if reasons else "")


def _name(determining: Any) -> str:
    if not isinstance(determining, dict):
        return str(determining)
    named = (determining[name] for name in ("policy", "id", "name") if name in determining)
    return str(next(named, determining))
