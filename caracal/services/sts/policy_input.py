"""What a policy sees of an exchange (contract, section 14)."""

from __future__ import annotations

from typing import Any

from caracal.policy.input_schema import INPUT_SCHEMA_VERSION
from caracal.projections.memory import Row
from caracal.services.sts.delegation import Exercised
from caracal.services.sts.exchange import Exchange


def policy_input(exchange: Exchange, resource: Row) -> dict[str, Any]:
    """Return the input for one resource; JSON and nothing else."""
    application, binding = exchange.application, exchange.binding
    agent = binding.agent.row if binding.agent else None
    return {
        "schema_version": INPUT_SCHEMA_VERSION,
        "principal": {
            "type": "Application",
            "id": application["id"],
            "zone_id": exchange.zone.id,
            "credential_type": application["credential_type"],
            "registration_method": application["registration_method"],
            "agent_session_id": binding.agent_session_id,
            "agent_kind": agent["kind"] if agent else None,
            "capabilities": agent["capabilities"] if agent else [],
        },
        "resource": {
            "type": "Resource",
            "id": resource["id"],
            "identifier": resource["identifier"],
            "scopes": resource["scopes"],
        },
        "action": {"id": "TokenExchange"},
        "session": {"id": binding.session_id} if binding.session_id else None,
        "delegation_edge": _edge(binding.delegation) if binding.delegation else None,
        "context": _context(exchange),
    }


def _edge(delegation: Exercised) -> dict[str, Any]:
    edge = delegation.edge
    return {
        **{name: edge[name] for name in _EDGE},
        "path": delegation.edge_ids,
        "graph_epoch": delegation.epoch,
        "constraints_json": edge["constraints"],
    }


_EDGE = (
    "id",
    "source_session_id",
    "target_session_id",
    "issuer_application_id",
    "receiver_application_id",
    "resource_id",
    "scopes",
    "edge_version",
)


def _context(exchange: Exchange) -> dict[str, Any]:
    binding, actor, call = exchange.binding, exchange.actor, exchange.call or {}
    return {
        "actor_claims": {
            **(actor.claims if actor else {}),
            "caracal_client_id": exchange.application["id"],
        },
        "subject_claims": exchange.subject_claims,
        "trace_id": exchange.request_id,
        "session_id": binding.session_id,
        "agent_session_id": binding.agent_session_id,
        "delegation_edge_id": binding.delegation_edge_id,
        "challenge_resolved": exchange.challenge_resolved,
        "requested_scopes": list(exchange.request.scopes),
        "http": call.get("http"),
        "mcp": call.get("mcp"),
    }
