"""What goes out of decisions and facts, and what never does."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caracal.events.base import Fact
from caracal.events.catalogue import EVENTS, MEMBERS
from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.projections.audit_row import read_entry
from caracal.services.siem.record import METADATA, Record, of_decision, of_fact
from tests.audit.trail import KEYS, decided


def sent(event: AuditEvent) -> tuple[Record, dict[str, Any]]:
    record = of_decision(
        read_entry({k.encode(): v for k, v in encode(event, KEYS).items()}, KEYS).row
    )
    return record, orjson.loads(record.body)


def test_an_allow() -> None:
    event = decided(
        occurred_at="2026-05-11T20:00:01.123456Z",
        policy_set_id="ps-1",
        policy_set_version_id="psv-1",
        manifest_sha="ab",
        metadata_json={
            "resource": "https://api.example",
            "application_id": "app-1",
            "agent_session_id": "agent-1",
            "requested_scopes": ["read"],
            "reason": "",
        },
    )
    record, body = sent(event)
    assert (record.id, record.kind, record.denied) == (event.id, "token_exchange", False)
    assert body["metadata"] == {
        "version": "1.9.0",
        "product": body["metadata"]["product"],
        "uid": event.id,
        "event_code": "token_exchange",
        "correlation_uid": "req-1",
        "tenant_uid": "zone1",
        "log_name": "caracal.audit.events",
        "profiles": ["security_control"],
    }
    assert body["time"] == 1778529601123
    assert (body["category_uid"], body["class_uid"], body["type_uid"]) == (6, 6003, 600399)
    assert body["type_uid"] == body["class_uid"] * 100 + body["activity_id"]
    assert (body["action_id"], body["disposition_id"], body["status_id"]) == (1, 1, 1)
    assert body["severity_id"] == 1
    assert body["actor"] == {"application": {"uid": "app-1"}}
    assert body["src_endpoint"] == {"uid": "agent-1"}
    assert body["api"]["request"] == {"uid": "req-1"}
    assert body["resources"] == [{"uid": "https://api.example"}]
    assert body["policy"] == {"uid": "ps-1", "version": "psv-1"}
    assert body["unmapped"]["determining_policies"] == [{"policy": "p1"}]
    assert body["unmapped"]["requested_scopes"] == ["read"]


@pytest.mark.parametrize(
    ("members", "action", "disposition", "status", "denied"),
    [
        ({"decision": "allow"}, 1, 1, 1, False),
        ({"decision": "deny"}, 2, 2, 2, True),
        ({"decision": "partial"}, 99, 99, 99, False),
        ({"decision": "deny", "evaluation_status": "shadow"}, 3, 17, 2, False),
        ({"decision": "allow", "evaluation_status": "shadow"}, 3, 17, 1, False),
    ],
)
def test_what_was_decided(
    members: dict[str, str], action: int, disposition: int, status: int, denied: bool
) -> None:
    """What a shadow version would have decided has blocked nobody."""
    record, body = sent(decided(**members))
    found = (body["action_id"], body["disposition_id"], body["status_id"])
    assert (found, record.denied) == ((action, disposition, status), denied)


def test_a_refused_administrator() -> None:
    _, body = sent(
        decided(
            event_type="admin_request",
            decision="deny",
            metadata_json={
                "status_code": 403,
                "address": "192.0.2.7",
                "method": "POST",
                "path": "/v1/zones",
                "error": "forbidden",
                "actor_id": "token-1",
                "actor_name": "ops",
            },
        )
    )
    assert body["actor"] == {"user": {"uid": "token-1", "name": "ops"}}
    assert body["src_endpoint"] == {"ip": "192.0.2.7"}
    assert body["http_request"] == {"http_method": "POST", "url": {"path": "/v1/zones"}}
    assert body["unmapped"]["status_code"] == 403


MARK = "Hush7Qx"
_texts = st.text(max_size=8)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
_unlisted = _texts.filter(lambda name: name not in METADATA)


@given(
    metadata=st.dictionaries(st.sampled_from(sorted(METADATA)), _values, max_size=6),
    unlisted=st.dictionaries(_unlisted, st.just(MARK), max_size=3),
    hidden=st.sampled_from(["password", "Token", "client_secret", "session_id", "Authorization"]),
    diagnostics=st.lists(_values, max_size=3),
)
def test_only_listed_members_go_out_on_one_line(
    metadata: dict[str, Any], unlisted: dict[str, str], hidden: str, diagnostics: list[Any]
) -> None:
    event = decided(
        metadata_json={
            **metadata,
            **unlisted,
            "reason": "for\na reason",
            "policy_input": {"principal": MARK},
            "delegation_chain": [{hidden: MARK, "id": "edge-1"}],
        },
        diagnostics_json=[*diagnostics, {hidden: MARK}],
    )
    record, body = sent(event)
    assert MARK.encode() not in record.body
    assert b"\n" not in record.body
    assert body["metadata"]["uid"] == event.id
    assert body["status_detail"] == "for\na reason"


def a_fact(name: str, data: dict[str, Any], **metadata: Any) -> Fact:
    about = {"actor": "token-1", "occurred_at": "2026-05-11T20:00:01.123456Z", **metadata}
    return Fact(7, name, "zone1", "thing-1", 3, data, about)


def test_a_fact() -> None:
    data = {"subject": "user-1", "reason": "requested", "sids": ["s-1"]}
    record = of_fact(a_fact("grant.revoked", data, request_id="req-9", action="DELETE /v1/x"))
    body = orjson.loads(record.body)
    assert record.id == body["metadata"]["uid"] == "fact-7"
    assert (body["class_uid"], body["activity_id"], body["type_uid"]) == (3004, 4, 300404)
    assert body["metadata"]["log_name"] == "caracal.grants.events"
    assert body["entity"]["uid"] == "thing-1"
    assert body["entity"]["type"] == "grant"
    assert body["actor"] == {"user": {"uid": "token-1"}}
    assert body["unmapped"] == {"position": 7, "action": "DELETE /v1/x"}


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_no_fact_tells_what_may_not_leave(name: str) -> None:
    data = {member: f"{MARK}" for member, exported in MEMBERS[name].items() if not exported}
    record = of_fact(a_fact(name, {**data, "unlisted": MARK}))
    body = orjson.loads(record.body)
    assert MARK.encode() not in record.body
    assert body["type_uid"] == 300400 + body["activity_id"]
    assert body["metadata"]["event_code"] == name
