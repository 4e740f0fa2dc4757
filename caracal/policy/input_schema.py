"""The shape of a policy's input (sts.md section 14), and what a given input lacks of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

INPUT_SCHEMA_VERSION = "2026-03-16"
"""Of the members below and what they mean; new members alone are no new version."""

OUTPUT_CONTRACT: Mapping[str, Any] = {
    "query": "data.caracal.authz.result",
    "decision": ["allow", "deny"],
    "evaluation_status": ["complete"],
    "determining_policies": "array of strings or objects",
    "diagnostics": "array of objects",
    "step_up_required": ["mfa", "human_approval", "software_attestation"],
}
"""What ``result`` holds; ``step_up_required`` is a member of an object of ``diagnostics``."""

Kinds = type | tuple[type, ...]
_MAYBE_TEXT = (str, type(None))
_MAYBE_OBJECT = (dict, type(None))

_MEMBERS: Mapping[str, Kinds] = {
    "schema_version": str,
    "principal": dict,
    "principal.type": str,
    "principal.id": str,
    "principal.zone_id": str,
    "principal.credential_type": str,
    "principal.registration_method": str,
    "principal.agent_session_id": _MAYBE_TEXT,
    "principal.agent_kind": _MAYBE_TEXT,
    "principal.capabilities": list,
    "resource": dict,
    "resource.type": str,
    "resource.id": str,
    "resource.identifier": str,
    "resource.scopes": list,
    "action": dict,
    "action.id": str,
    "session": _MAYBE_OBJECT,
    "session.id": str,
    "delegation_edge": _MAYBE_OBJECT,
    "delegation_edge.id": str,
    "delegation_edge.source_session_id": str,
    "delegation_edge.target_session_id": str,
    "delegation_edge.issuer_application_id": str,
    "delegation_edge.receiver_application_id": str,
    "delegation_edge.resource_id": _MAYBE_TEXT,
    "delegation_edge.scopes": list,
    "delegation_edge.edge_version": int,
    "delegation_edge.path": list,
    "delegation_edge.graph_epoch": int,
    "delegation_edge.constraints_json": dict,
    "context": dict,
    "context.actor_claims": dict,
    "context.subject_claims": dict,
    "context.trace_id": str,
    "context.session_id": _MAYBE_TEXT,
    "context.agent_session_id": _MAYBE_TEXT,
    "context.delegation_edge_id": _MAYBE_TEXT,
    "context.challenge_resolved": bool,
    "context.requested_scopes": list,
    "context.http": _MAYBE_OBJECT,
    "context.http.method": str,
    "context.http.path": str,
    "context.mcp": _MAYBE_OBJECT,
    "context.mcp.method": str,
}
_LATER = (
    "schema_version",
    "principal.registration_method",
    "principal.agent_kind",
    "principal.capabilities",
)
"""Inputs that were recorded before these came are not wrong for it."""
_WORDS = {
    "schema_version": INPUT_SCHEMA_VERSION,
    "principal.type": "Application",
    "resource.type": "Resource",
    "action.id": "TokenExchange",
}
_SHOWN, _SHOWN_LENGTH = 8, 64
_NAMED = ("resource", "action", "context")
"""Their absence has a warning of its own."""


def input_warnings(policy_input: Mapping[str, Any], zone_id: str) -> list[str]:
    """Return what no exchange of the zone would give to a policy (control-plane.md section 7)."""
    missing = [f"missing_{name}" for name in _NAMED if name not in policy_input]
    principal = policy_input.get("principal")
    elsewhere = isinstance(principal, dict) and principal.get("zone_id", zone_id) != zone_id
    mismatches = [f"input_schema_mismatch:{path}" for path in _mismatches(policy_input)]
    return [*(["principal_zone_mismatch"] if elsewhere else []), *missing, *mismatches]


def _mismatches(policy_input: Mapping[str, Any]) -> Iterator[str]:
    for path, kinds in _MEMBERS.items():
        parent, _, name = path.rpartition(".")
        holder = _at(policy_input, parent)
        if not isinstance(holder, Mapping) or (path in _NAMED and path not in holder):
            continue  # said of the holder, or by a word of its own
        if name not in holder:
            if path not in _LATER:
                yield path
        elif not _fits(path, kinds, holder[name]):
            yield path
    unknown = sorted(set(policy_input) - {path for path in _MEMBERS if "." not in path})
    yield from (name[:_SHOWN_LENGTH] for name in unknown[:_SHOWN])


def _fits(path: str, kinds: Kinds, value: Any) -> bool:
    if isinstance(value, bool) and kinds is int:
        return False
    return isinstance(value, kinds) and _WORDS.get(path, value) == value


def _at(policy_input: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        policy_input = policy_input.get(name) if isinstance(policy_input, Mapping) else None
    return policy_input
