"""Inputs every policy is tried on when it is uploaded (shape: sts.md section 14)."""

from __future__ import annotations

from typing import Any

from caracal.policy.input_schema import INPUT_SCHEMA_VERSION

_ZONE = "018f3f54-7c1e-7000-8000-000000000001"
_APPLICATION = "018f3f54-7c1e-7000-8000-000000000002"
_RESOURCE = "018f3f54-7c1e-7000-8000-000000000003"
_SESSION = "018f3f54-7c1e-7000-8000-000000000004"
_AGENT = "018f3f54-7c1e-7000-8000-000000000005"
_EDGE = "018f3f54-7c1e-7000-8000-000000000006"

_CLAIMS = {
    "iss": "http://localhost:8080",
    "sub": "user-1",
    "sid": _SESSION,
    "zone_id": _ZONE,
    "client_id": _APPLICATION,
    "root_sid": _SESSION,
    "use": "ambient",
    "sub_type": "user",
    "iat": 1764100800,
    "exp": 1764101700,
    "scope": "read write",
}

_USER_CLAIMS = _CLAIMS | {
    "user": {
        "issuer": "https://login.example",
        "trusted_issuer_id": "018f3f54-7c1e-7000-8000-000000000007",
        "auth_time": 1764100790,
        "claims": {"groups": ["staff", "on call"], "email": "ada@example.com"},
    }
}

_EDGE_INPUT = {
    "id": _EDGE,
    "source_session_id": _SESSION,
    "target_session_id": _AGENT,
    "issuer_application_id": _APPLICATION,
    "receiver_application_id": _APPLICATION,
    "resource_id": _RESOURCE,
    "scopes": ["read"],
    "edge_version": 1,
    "path": [_EDGE],
    "graph_epoch": 1,
    "constraints_json": {"resources": ["resource://example"], "max_depth": 2},
}


def _sample(**context: Any) -> dict[str, Any]:
    return {
        "schema_version": INPUT_SCHEMA_VERSION,
        "principal": {
            "type": "Application",
            "id": _APPLICATION,
            "zone_id": _ZONE,
            "credential_type": "token",
            "registration_method": "managed",
            "agent_session_id": context.get("agent_session_id"),
            "agent_kind": "instance" if context.get("agent_session_id") else None,
            "capabilities": ["browse"] if context.get("agent_session_id") else [],
        },
        "resource": {
            "type": "Resource",
            "id": _RESOURCE,
            "identifier": "resource://example",
            "scopes": ["read", "write", "agent:lifecycle"],
        },
        "action": {"id": "TokenExchange"},
        "session": {"id": context["session_id"]} if context.get("session_id") else None,
        "delegation_edge": _EDGE_INPUT if context.get("delegation_edge_id") else None,
        "context": {
            "actor_claims": {},
            "subject_claims": {},
            "trace_id": "00000000000000000000000000000001",
            "session_id": None,
            "agent_session_id": None,
            "delegation_edge_id": None,
            "challenge_resolved": False,
            "requested_scopes": ["read"],
            "http": None,
            "mcp": None,
        }
        | context,
    }


_HTTP = {"method": "POST", "path": "/mcp"}
_MCP = {
    "method": "tools/call",
    "name": "search",
    "arguments_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "argument_keys": ["query"],
}

# As large as a request may be: what an upload's time limit sees is what a caller can do later.
_LARGEST = _sample(
    session_id=_SESSION,
    subject_claims=_CLAIMS,
    requested_scopes=[f"scope-{number:02}-".ljust(200, "x") for number in range(64)],
    http={"method": "POST", "path": "/".ljust(2048, "p")},
    mcp={
        **_MCP,
        "name": "n" * 256,
        "argument_keys": [f"key-{number:02}-".ljust(64, "k") for number in range(64)],
    },
)

SAMPLES: tuple[dict[str, Any], ...] = (
    {},
    _sample(),
    _sample(session_id=_SESSION, subject_claims=_USER_CLAIMS, requested_scopes=["read", "write"]),
    _sample(
        session_id=_SESSION,
        agent_session_id=_AGENT,
        delegation_edge_id=_EDGE,
        subject_claims=_CLAIMS,
        actor_claims=_CLAIMS,
    ),
    _sample(session_id=_SESSION, challenge_resolved=True, http=_HTTP, mcp=_MCP),
    _LARGEST,
)
"""Nothing, a bare application, a user, a delegated agent, a call after step-up, the largest."""
