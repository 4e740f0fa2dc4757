"""What a sink gets: one OCSF 1.9 event for each decision, and for each fact. Pure.

- A decision is *API Activity* (class 6003), with the profile ``security_control``: whether it was
  allowed stands in ``action_id``, ``disposition_id`` and ``status_id``.
- A fact is *Entity Management* (class 3004).

Only listed members go out: of a decision those of :data:`METADATA`, of a fact those that its
event may export. ``metadata.uid`` is the event's own id, by which a sink knows what comes twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from caracal import __version__, clock
from caracal.events.base import Fact
from caracal.events.catalogue import export_of
from caracal.events.store.redaction import redacted
from caracal.events.topics import AUDIT, FACT_TOPIC_OF
from caracal.projections.audit_row import Row

VERSION = "1.9.0"
METADATA = frozenset(
    {
        "application_id",
        "client_id",
        "agent_session_id",
        "delegation_edge_id",
        "delegation_chain",
        "delegation_hop_count",
        "delegation_graph_epoch",
        "requested_scopes",
        "resource",
        "reason",
        "challenge_id",
        "challenge_resolved",
        "log_position",
        "engine_version",
        "shadow_evaluation_status",
        "subject_check",
        "active_decision",
        "active_policy_set_version_id",
        "jti",
        "subject_fp",
        "actor_id",
        "actor_name",
        "actor_scope",
        "address",
        "call_id",
        "error",
        "method",
        "path",
        "status_code",
        "unrecorded",
    }
)
"""Members of a decision's metadata that go out. No input of policy: it may hold anything."""

_SUCCESS, _FAILURE, _OTHER = 1, 2, 99
_ACTIONS = {"allow": (1, "Allowed"), "deny": (2, "Denied")}
_DISPOSITIONS = {"allow": (1, "Allowed"), "deny": (2, "Blocked")}
_STATUS = {"allow": (_SUCCESS, "Success"), "deny": (_FAILURE, "Failure")}
_SEVERITY = {False: (1, "Informational"), True: (2, "Low")}
_PARTIAL = (_OTHER, "Partial")
_OBSERVED, _LOGGED = (3, "Observed"), (17, "Logged")

_ACTIVITIES = {
    "created": (1, "Create"),
    "spawned": (1, "Create"),
    "registered": (1, "Create"),
    "started": (1, "Create"),
    "changed": (3, "Update"),
    "updated": (3, "Update"),
    "archived": (4, "Delete"),
    "revoked": (4, "Delete"),
    "terminated": (4, "Delete"),
    "expired": (4, "Delete"),
    "retired": (4, "Delete"),
    "activated": (10, "Activate"),
    "suspended": (12, "Suspend"),
    "resumed": (13, "Resume"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """One event as it goes out.

    Attributes:
        id: of the event.
        moment: when it occurred.
        kind: type of the decision, or the fact's stored name.
        denied: whether it is a refusal.
        body: JSON, on one line.
    """

    id: str
    moment: datetime
    kind: str
    denied: bool
    body: bytes


def of_decision(row: Row) -> Record:
    """Return what goes out of a decision."""
    told = redacted(_listed(orjson.loads(row.metadata_json)))
    shadow = row.evaluation_status == "shadow"
    decided = row.decision
    denied = decided == "deny" and not shadow
    event = {
        **_classified((6, "Application Activity"), (6003, "API Activity"), _AUTHORIZE),
        "metadata": _metadata(row.id, row.event_type, row.request_id, row.zone_id, AUDIT),
        "time": _milliseconds(row.occurred_at),
        **_pair("severity", _SEVERITY[denied]),
        **_pair("action", _OBSERVED if shadow else _ACTIONS.get(decided, _PARTIAL)),
        **_pair("disposition", _LOGGED if shadow else _DISPOSITIONS.get(decided, _PARTIAL)),
        **_pair("status", _STATUS.get(decided, _PARTIAL)),
        "status_code": row.evaluation_status,
        "status_detail": told.pop("reason", ""),
        "actor": _actor(told),
        "src_endpoint": _source(told),
        "api": {
            "operation": row.event_type,
            "service": {"name": "caracal"},
            "request": {"uid": row.request_id},
        },
        "resources": [{"uid": told["resource"]}] if told.get("resource") else [],
        "policy": _filled({"uid": row.policy_set_id, "version": row.policy_set_version_id}),
        "http_request": _request(told),
        "unmapped": _filled(
            {
                "decision": decided,
                "manifest_sha": row.manifest_sha,
                "determining_policies": redacted(orjson.loads(row.determining_policies_json)),
                "diagnostics": redacted(orjson.loads(row.diagnostics_json)),
                **told,
            }
        ),
    }
    event["metadata"]["profiles"] = ["security_control"]
    return Record(row.id, row.occurred_at, row.event_type, denied, _json(event))


def of_fact(fact: Fact) -> Record:
    """Return what goes out of a fact."""
    thing, _, verb = fact.name.partition(".")
    activity = _ACTIVITIES.get(verb, (_OTHER, verb.replace("_", " ").capitalize()))
    about, event_id = fact.metadata, f"fact-{fact.position}"
    moment = clock.parse(fact.occurred_at)
    topic = FACT_TOPIC_OF[fact.name].name
    event = {
        **_classified((3, "Identity & Access Management"), (3004, "Entity Management"), activity),
        "metadata": _metadata(
            event_id, fact.name, about.get("request_id"), fact.zone_id or "", topic
        ),
        "time": _milliseconds(moment),
        **_pair("severity", _SEVERITY[False]),
        **_pair("status", _STATUS["allow"]),
        "actor": {"user": _filled({"uid": about["actor"], "name": about.get("actor_name")})},
        "entity": {
            "uid": fact.aggregate_id,
            "type": thing,
            "version": str(fact.version),
            "data": redacted(export_of(fact.name, fact.data)),
        },
        "unmapped": _filled(
            {
                "position": fact.position,
                "action": about.get("action"),
                "causation": about.get("causation"),
                "traceparent": about.get("traceparent"),
            }
        ),
    }
    return Record(event_id, moment, fact.name, False, _json(event))


_AUTHORIZE = (_OTHER, "Authorize")


def _classified(
    category: tuple[int, str], kind: tuple[int, str], activity: tuple[int, str]
) -> dict[str, Any]:
    named = activity[1] if activity[0] != _OTHER else "Other"
    return {
        "category_uid": category[0],
        "category_name": category[1],
        "class_uid": kind[0],
        "class_name": kind[1],
        "activity_id": activity[0],
        "activity_name": activity[1],
        "type_uid": kind[0] * 100 + activity[0],
        "type_name": f"{kind[1]}: {named}",
    }


def _metadata(
    event_id: str, name: str, request_id: str | None, zone_id: str, topic: str
) -> dict[str, Any]:
    return {
        "version": VERSION,
        "product": {"name": "caracal", "vendor_name": "Caracal", "version": __version__},
        "uid": event_id,
        "event_code": name,
        **_filled({"correlation_uid": request_id, "tenant_uid": zone_id}),
        "log_name": topic,
    }


def _listed(metadata: Any) -> dict[str, Any]:
    members = metadata if isinstance(metadata, dict) else {}
    return {name: value for name, value in members.items() if name in METADATA}


def _actor(told: Mapping[str, Any]) -> dict[str, Any]:
    if told.get("actor_id"):
        return {"user": _filled({"uid": told["actor_id"], "name": told.get("actor_name")})}
    application = told.get("application_id") or told.get("client_id")
    return {"application": {"uid": application} if application else {"name": "unknown"}}


def _source(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return where it came from: the address, or who asked, which is what the STS knows."""
    asked = told.get("agent_session_id") or told.get("application_id") or told.get("client_id")
    found = _filled({"ip": told.get("address"), "uid": asked})
    return found or {"name": "unknown"}


def _request(told: Mapping[str, Any]) -> dict[str, Any]:
    if "method" not in told:
        return {}
    return {"http_method": told["method"], "url": {"path": told.get("path", "")}}


def _pair(name: str, value: tuple[int, str]) -> dict[str, Any]:
    return {f"{name}_id": value[0], name: value[1]}


def _filled(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _json(event: Mapping[str, Any]) -> bytes:
    return orjson.dumps(_filled(event))
