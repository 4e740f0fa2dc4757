"""What a policy sees of an exchange (contract, section 14)."""

from __future__ import annotations

from typing import Any

from caracal.projections.memory import Row
from caracal.services.sts.exchange import Exchange


def policy_input(exchange: Exchange, resource: Row) -> dict[str, Any]:
    """Return the input for one resource; JSON and nothing else."""
    application, binding = exchange.application, exchange.binding
    return {
        "principal": {
            "type": "Application",
            "id": application["id"],
            "zone_id": exchange.zone.id,
            "credential_type": application["credential_type"],
            "agent_session_id": binding.agent_session_id,
        },
        "resource": {
            "type": "Resource",
            "id": resource["id"],
            "identifier": resource["identifier"],
            "scopes": resource["scopes"],
        },
        "action": {"id": "TokenExchange"},
        "session": {"id": binding.session_id} if binding.session_id else None,
        "delegation_edge": None,
        "context": _context(exchange),
    }


def _context(exchange: Exchange) -> dict[str, Any]:
    binding, actor, subject = exchange.binding, exchange.actor, exchange.subject
    return {
        "actor_claims": {
            **(actor.claims if actor else {}),
            "caracal_client_id": exchange.application["id"],
        },
        "subject_claims": subject.claims if subject else {},
        "trace_id": exchange.request_id,
        "session_id": binding.session_id,
        "agent_session_id": binding.agent_session_id,
        "delegation_edge_id": binding.delegation_edge_id,
        "challenge_resolved": False,
        "requested_scopes": list(exchange.request.scopes),
        "http": exchange.call.get("http"),
        "mcp": exchange.call.get("mcp"),
    }
