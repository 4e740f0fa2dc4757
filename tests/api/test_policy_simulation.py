from __future__ import annotations

from typing import Any

import pytest

from caracal.policy.samples import SAMPLES
from tests.api.policies import HEAD, policies, policy_of, rego, set_of, sets, version_of
from tests.api.running import Plane
from tests.api.test_policy_validation import log_end

READING = (
    HEAD
    + """
default result := {"decision": "deny", "evaluation_status": "complete",
	"determining_policies": ["reading/default"]}
result := {"decision": "allow", "evaluation_status": "complete",
	"determining_policies": ["reading/allow", {"rule": 1}]} if {
	every scope in input.context.requested_scopes { scope == "read" }
	is_array(input.context.requested_scopes)
}
result := {"decision": "deny", "evaluation_status": "complete",
	"determining_policies": ["reading/ask"],
	"diagnostics": [{"step_up_required": "mfa"}]} if "write" in input.context.requested_scopes
"""
)


@pytest.fixture(scope="module")
async def zone(api: Plane) -> str:
    return await api.zone()


@pytest.fixture(scope="module")
async def reading(api: Plane, zone: str) -> tuple[str, str, dict[str, Any]]:
    """A set with one version, and its policy."""
    policy = await policy_of(api, zone, READING)
    set_id, (version,) = await set_of(api, zone, [policy["version"]["id"]])
    return set_id, version, policy


def of_zone(zone: str, sample: dict[str, Any], **context: Any) -> dict[str, Any]:
    """An input as an exchange in this zone gives it."""
    principal = sample["principal"] | {"zone_id": zone}
    return sample | {"principal": principal, "context": sample["context"] | context}


async def simulate(api: Plane, zone: str, set_id: str, **body: Any) -> dict[str, Any]:
    answer = await api.call("POST", sets(zone, set_id, "simulate"), body)
    assert answer.status_code == 200, answer.text
    assert "caracal-position" not in answer.headers
    return dict(answer.json())


async def test_what_it_would_decide(
    api: Plane, zone: str, reading: tuple[str, str, dict[str, Any]]
) -> None:
    set_id, version, policy = reading
    before = await log_end(api)
    told = await simulate(api, zone, set_id, version_id=version, input=of_zone(zone, SAMPLES[1]))
    determining = ["reading/allow", {"rule": 1}]
    assert told == {
        "dry_run": True,
        "would_activate": True,
        "policies": [
            {
                "policy_id": policy["id"],
                "policy_version_id": policy["version"]["id"],
                "name": policy["name"],
                "version": 1,
                "content_sha256": policy["version"]["content_sha256"],
                "archived": False,
            }
        ],
        "warnings": [],
        "explanation": {
            "summary": "would activate; allows this input",
            "determining_policies": determining,
            "obstacles": [],
        },
        "result": {
            "allowed": True,
            "decision": "allow",
            "evaluation_status": "complete",
            "determining_policies": determining,
            "diagnostics": [],
            "step_up": None,
        },
    }
    assert await log_end(api) == before
    assert (await api.call("GET", sets(zone, set_id))).json()["active_version_id"] is None


@pytest.mark.parametrize(
    ("scopes", "summary", "step_up"),
    [
        (["read", "list"], "would activate; denies this input", None),
        (["write"], "would activate; denies this input until mfa", "mfa"),
    ],
)
async def test_a_deny_says_how(
    api: Plane,
    zone: str,
    reading: tuple[str, str, dict[str, Any]],
    scopes: list[str],
    summary: str,
    step_up: str | None,
) -> None:
    given = of_zone(zone, SAMPLES[1], requested_scopes=scopes)
    told = await simulate(api, zone, reading[0], version_id=reading[1], input=given)
    assert told["explanation"]["summary"] == summary
    assert told["result"]["step_up"] == step_up


async def test_without_an_input_nothing_is_decided(
    api: Plane, zone: str, reading: tuple[str, str, dict[str, Any]]
) -> None:
    for body in ({}, {"input": None}):
        told = await simulate(api, zone, reading[0], version_id=reading[1], **body)
        assert (told["result"], told["warnings"]) == (None, [])
        assert told["explanation"]["summary"] == "would activate; nothing was decided"
        assert told["would_activate"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"principal": SAMPLES[1]["principal"]}, ["principal_zone_mismatch"]),
        ({"resource": None}, ["missing_resource"]),
        ({"action": None}, ["missing_action"]),
        ({"context": None}, ["missing_context"]),
        ({"session": 1}, ["input_schema_mismatch:session"]),
        ({"mystery": 1}, ["input_schema_mismatch:mystery"]),
    ],
)
async def test_what_no_exchange_would_give_is_warned_of(
    api: Plane,
    zone: str,
    reading: tuple[str, str, dict[str, Any]],
    changes: dict[str, Any],
    expected: list[str],
) -> None:
    given = of_zone(zone, SAMPLES[1]) | changes
    given = {
        name: value for name, value in given.items() if value is not None or name not in changes
    }
    given = {"session": None, "delegation_edge": None} | given
    told = await simulate(api, zone, reading[0], version_id=reading[1], input=given)
    assert told["warnings"] == expected


async def test_a_policy_archived_since_stands_in_the_way(api: Plane, zone: str) -> None:
    gone, kept = (
        await policy_of(api, zone, READING),
        await version_of(api, zone, HEAD + "result := 1 if false"),
    )
    set_id, (version,) = await set_of(api, zone, [gone["version"]["id"], kept])
    await api.call("DELETE", policies(zone, gone["id"]))
    told = await simulate(api, zone, set_id, version_id=version, input=of_zone(zone, SAMPLES[1]))
    assert not told["would_activate"]
    assert told["explanation"] == {
        "summary": "would not activate: a policy was archived since; allows this input",
        "determining_policies": ["reading/allow", {"rule": 1}],
        "obstacles": [
            {
                "error": "referenced_policy_version_missing",
                "detail": gone["version"]["id"],
                "reason": "a policy was archived since",
            }
        ],
    }
    assert [policy["archived"] for policy in told["policies"]] == [True, False]
    refused = await api.call("POST", sets(zone, set_id, "activate"), {"version_id": version})
    assert refused.json()["error"] == "referenced_policy_version_missing"


async def test_a_broken_contract_stands_in_the_way(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone, credential_type="token")
    set_id, (version,) = await set_of(api, zone, [await version_of(api, zone, rego(app["id"]))])
    patched = await api.call(
        "PATCH", f"/zones/{zone}/applications/{app['id']}", {"credential_type": "public"}
    )
    assert patched.status_code == 200, patched.text
    told = await simulate(api, zone, set_id, version_id=version)
    (obstacle,) = told["explanation"]["obstacles"]
    assert (obstacle["error"], obstacle["detail"]) == (
        "invalid_policy_contract",
        f"public_application:{app['id']}",
    )
    assert not told["would_activate"]
    assert told["explanation"]["summary"].startswith("would not activate: the manifest is refused")


async def test_results_that_contradict_are_no_decision(api: Plane, zone: str) -> None:
    one = await version_of(api, zone, HEAD + "result := 1 if input.x")
    two = await version_of(api, zone, HEAD + "result := 2 if input.y")
    set_id, (version,) = await set_of(api, zone, [one, two])
    told = await simulate(api, zone, set_id, version_id=version, input={"x": 1, "y": 1})
    assert told["result"]["diagnostics"] == [{"reason": "policy_eval_failed"}]
    assert told["explanation"]["summary"].endswith("which denies (status error)")


async def test_an_input_that_takes_too_long_denies_and_harms_nobody(api: Plane, zone: str) -> None:
    slow = HEAD + "xs := input.xs\nresult := count([1 | xs[_]; xs[_]; xs[_]; xs[_]])\n"
    set_id, (version,) = await set_of(api, zone, [await version_of(api, zone, slow)])
    told = await simulate(api, zone, set_id, version_id=version, input={"xs": list(range(200))})
    assert told["result"]["evaluation_status"] == "error"
    assert told["result"]["diagnostics"] == [{"reason": "evaluation_timeout"}]
    assert (await api.call("GET", sets(zone, set_id))).status_code == 200


async def test_an_active_set_can_be_tried_too(api: Plane) -> None:
    zone = await api.zone()
    set_id, (version,) = await set_of(api, zone, [await version_of(api, zone, READING)])
    await api.call("POST", sets(zone, set_id, "activate"), {"version_id": version})
    assert (await simulate(api, zone, set_id, version_id=version))["would_activate"]


async def test_the_refusals(
    api: Plane, zone: str, reading: tuple[str, str, dict[str, Any]]
) -> None:
    set_id, version, _ = reading
    other_set, (other_version,) = await set_of(api, zone, [await version_of(api, zone, READING)])
    other_zone = await api.zone()
    for where, path, body, status, code in (
        (zone, set_id, {"version_id": "unknown"}, 404, "version_not_found"),
        (zone, set_id, {"version_id": other_version}, 404, "version_not_found"),
        (zone, "unknown", {"version_id": version}, 404, "policy_set_binding_not_found"),
        (other_zone, set_id, {"version_id": version}, 404, "policy_set_binding_not_found"),
        ("unknown", set_id, {"version_id": version}, 404, "zone_not_found"),
        (zone, "a%20b", {"version_id": version}, 400, "invalid_params"),
        (zone, set_id, {}, 400, "invalid_body"),
        (zone, set_id, {"version_id": "a b"}, 400, "invalid_body"),
        (zone, set_id, {"version_id": 1}, 400, "invalid_body"),
        (zone, set_id, {"version_id": version, "input": []}, 400, "invalid_body"),
        (zone, set_id, {"version_id": version, "input": "a"}, 400, "invalid_body"),
        (zone, set_id, {"version_id": version, "input": {"a": 10**30}}, 400, "invalid_body"),
        (zone, set_id, {"version_id": version, "input": {"a": deep(300)}}, 400, "invalid_body"),
        (zone, set_id, {"version_id": version, "input": {"a": "x" * 262_144}}, 400, "invalid_body"),
    ):
        answer = await api.call("POST", sets(where, path, "simulate"), body)
        assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    await api.call("DELETE", sets(zone, other_set))
    gone = await api.call("POST", sets(zone, other_set, "simulate"), {"version_id": other_version})
    assert (gone.status_code, gone.json()["error"]) == (404, "policy_set_binding_not_found")


@pytest.mark.parametrize("raw", [b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b'{"a": NaN}'])
async def test_an_input_that_is_no_json(
    api: Plane, zone: str, reading: tuple[str, str, dict[str, Any]], raw: bytes
) -> None:
    content = b'{"version_id": "' + reading[1].encode() + b'", "input": ' + raw + b"}"
    answer = await api.client.post(
        f"/v1{sets(zone, reading[0], 'simulate')}",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in ((200,) if b"NaN" in raw else (400,)), answer.text


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


async def test_tokens_that_may_not(
    api: Plane, zone: str, reading: tuple[str, str, dict[str, Any]]
) -> None:
    path, body = sets(zone, reading[0], "simulate"), {"version_id": reading[1]}
    elsewhere = await api.token("zone", await api.zone())
    for headers, status in (
        (await api.token("zone", zone), 200),
        (elsewhere, 403),
        (await api.token("zone", zone, "read"), 403),
    ):
        assert (await api.call("POST", path, body, headers=headers)).status_code == status
