from __future__ import annotations

from typing import Any

import pytest

from tests.api.policies import HEAD, REGO, SCHEMA
from tests.api.running import Plane

PATH = "/policies/validate"


async def log_end(api: Plane) -> int:
    async with api.database() as db:
        row = await (await db.execute("SELECT coalesce(max(position), 0) FROM log")).fetchone()
        return int(row[0])


async def test_a_policy_that_may_be_stored_is_not(api: Plane) -> None:
    before = await log_end(api)
    answer = await api.call("POST", PATH, {"content": REGO})
    assert answer.status_code == 200
    assert "caracal-position" not in answer.headers
    assert answer.json() == {
        "valid": True,
        "schema_version": SCHEMA,
        "input_schema_version": SCHEMA,
        "output_contract": {
            "query": "data.caracal.authz.result",
            "decision": ["allow", "deny"],
            "evaluation_status": ["complete"],
            "determining_policies": "array of strings or objects",
            "diagnostics": "array of objects",
            "step_up_required": ["mfa", "human_approval", "software_attestation"],
        },
        "warnings": ["no_default_result", "decision_never_allow"],
    }
    assert await log_end(api) == before


WARNED = {
    'result := {"decision": "allow", "evaluation_status": "complete"}': [
        "no_default_result",
        "requested_scopes_not_checked",
        "allows_empty_input",
    ],
    'default result := {"decision": "deny", "diagnostics": [{"step_up_required": true}]}': [
        "decision_never_allow",
        "result_without_evaluation_status:3:21",
        "step_up_without_type:3:58",
    ],
}


@pytest.mark.parametrize("content", WARNED)
async def test_what_is_hardly_meant_is_warned_of(api: Plane, content: str) -> None:
    answer = await api.call("POST", PATH, {"content": HEAD + content, "schema_version": SCHEMA})
    assert (answer.status_code, answer.json()["warnings"]) == (200, WARNED[content])


@pytest.mark.parametrize(
    ("body", "status", "code", "detail"),
    [
        ({"content": HEAD + "allow := 1"}, 422, "invalid_rego", "must_define_result_rule"),
        ({"content": HEAD + "result := !"}, 422, "invalid_rego", "syntax_error:3:11"),
        (
            {"content": HEAD + 'result := http.send({"url": "a"})'},
            *(422, "invalid_rego", "forbidden_builtin:http.send"),
        ),
        ({"content": "x" * 65_537}, 422, "invalid_rego", "policy_too_large"),
        (
            {"content": REGO, "schema_version": "2026-03-17"},
            *(422, "invalid_schema_version", "2026-03-17"),
        ),
        ({}, 400, "invalid_body", None),
        ({"content": ""}, 400, "invalid_body", None),
        ({"content": 1}, 400, "invalid_body", None),
        ({"content": "a\x00"}, 400, "invalid_body", None),
        ({"content": REGO, "schema_version": None}, 400, "invalid_body", None),
        ([], 400, "invalid_body", None),
    ],
)
async def test_refusals(api: Plane, body: Any, status: int, code: str, detail: str | None) -> None:
    answer = await api.call("POST", PATH, body)
    told = answer.json()
    assert (answer.status_code, told["error"], told.get("detail")) == (status, code, detail)


async def test_a_token_of_a_zone_reaches_it_and_nothing_else_outside(api: Plane) -> None:
    zone = await api.zone()
    headers = await api.token("zone", zone)
    assert (await api.call("POST", PATH, {"content": REGO}, headers=headers)).status_code == 200
    for method, path in (
        ("GET", "/zones"),
        ("POST", "/policies"),
        ("POST", "/policies/validate/more"),
        ("POST", "/policies/validate/"),
        ("POST", "/policies/%76alidate"),
        ("POST", "/policies/x/../validate/x"),
    ):
        answer = await api.call(method, path, {"content": REGO}, headers=headers)
        told = (answer.status_code, answer.json()["error"])
        assert told == (403, "admin_token_zone_mismatch"), path


async def test_tokens_that_may_not(api: Plane) -> None:
    reading = await api.token("global", None, "read")
    for headers, status, code in (
        ({"Authorization": "Bearer wrong"}, 401, "invalid_admin_token"),
        (reading, 403, "admin_token_capability"),
    ):
        answer = await api.call("POST", PATH, {"content": REGO}, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
