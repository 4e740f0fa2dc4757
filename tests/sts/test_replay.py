"""Decisions that the real STS made: explained, and decided again, through the real API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from caracal.client import types
from caracal.events.store.audit_entry import AuditEvent, encode
from caracal.events.topics import AUDIT
from caracal.ids import new_id
from caracal.policy.engine import ENGINE_VERSION
from caracal.policy.trial import evaluate
from caracal.services.api.audit_explanation import _CHECKS
from tests.api.running import Plane, plane
from tests.backbone import eventually
from tests.client.conforms import conforms
from tests.making import in_zone
from tests.policy.test_check import LONG_COMPREHENSION
from tests.sts.test_policies import DENY_ALL
from tests.sts.world import (
    AUDIT_KEY,
    KEK,
    POLICY,
    SCHEMA,
    Tenant,
    World,
    _policy,
    new_tenant,
    new_world,
)

KEYS = {
    "FACTS_HMAC_KEY": bytes(range(32)).hex(),
    "STREAMS_HMAC_KEY": (b"\x42" * 32).hex(),
    "AUDIT_HMAC_KEY": AUDIT_KEY.hex(),
    "ZONE_KEK": KEK.hex(),
}
TELLING = """package caracal.authz
import rego.v1
result := {
	"decision": "deny",
	"evaluation_status": "complete",
	"determining_policies": [{"policy": "é/default", "weight": 1.5, "n": 9007199254740993}],
	"diagnostics": [{"reason": "ask", "trace": input.context.trace_id, "step_up_required": "mfa"}],
} if not "read" in input.context.requested_scopes
result := {
	"decision": "allow",
	"evaluation_status": "complete",
	"determining_policies": ["telling/allow", {"scopes": input.context.requested_scopes}],
	"diagnostics": [{"zone": input.principal.zone_id, "x": 0.1, "y": [null, true, {}]}],
} if "read" in input.context.requested_scopes
"""
TYPES = {"explain": types.AuditExplanation, "replay": types.AuditReplay}
CASES = (
    {},
    {"scope": "read"},
    {"scope": "write"},
    {"scope": "odd"},
    {"scope": "read agent:lifecycle"},
    {"scope": "write odd"},
)


@dataclass
class Stage:
    world: World
    api: Plane

    async def recorded(self, answer: httpx.Response) -> list[dict[str, Any]]:
        """Wait until the ledger has what the STS wrote of a request; return what it wrote."""
        written = await eventually(lambda: self.world.audit(answer), what="the topic")
        ids = [event["id"] for event in written]

        async def there() -> bool:
            async with self.api.database() as db:
                statement = "SELECT count(*) FROM audit_events WHERE id = ANY(%s)"
                row = await (await db.execute(statement, (ids,))).fetchone()
            return bool(row and row[0] == len(ids))

        await eventually(there, what="the ledger")
        return written

    async def ask(
        self, what: str, tenant: Tenant, request_id: str, status: int = 200, **query: str
    ) -> Any:
        path = f"/zones/{tenant.id}/audit/by-request/{request_id}/{what}"
        answer = await self.api.call("GET", path, params=query)
        assert answer.status_code == status, answer.text
        if status != 200:
            return answer.json()["error"]
        conforms(answer.json(), TYPES[what], what)
        return answer.json()


@pytest.fixture(scope="module")
async def stage(module_database_url: str, module_redis_url: str) -> AsyncIterator[Stage]:
    """STS, API and worker on the same servers."""
    url, redis_url = module_database_url, module_redis_url
    async with (
        new_world(url, redis_url, worker=True) as world,
        plane(url, redis_url, world.log, **KEYS) as api,
    ):
        yield Stage(world, api)


@asynccontextmanager
async def spoilt(stage: Stage, statement: str, back: str, *arguments: Any) -> AsyncIterator[None]:
    """Change a row behind everyone's back, and put it right again."""
    async with stage.api.database() as db:
        assert (await db.execute(statement, arguments)).rowcount == 1
        try:
            yield
        finally:
            await db.execute(back, arguments)


async def exchanged(stage: Stage, tenant: Tenant, **members: Any) -> tuple[str, Any]:
    """Make an exchange; return its request's id and what was recorded."""
    form = tenant.form(subject_token=tenant.token(), **members)
    answer = await stage.world.post(form)
    return answer.headers["x-request-id"], await stage.recorded(answer)


async def add_version(stage: Stage, tenant: Tenant, content: str) -> str:
    """Add a version of the tenant's set that is not active."""
    with in_zone(tenant.id):
        policy = _policy(tenant.id, content)
        await stage.api.save(policy)
        manifest = [policy.versions[-1].id]
        version = tenant.policy_set.add_version(
            new_id(), manifest=manifest, schema_version=SCHEMA, policies=()
        )
        await stage.api.save(tenant.policy_set)
    return version.id


# --- replay ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [POLICY, TELLING], ids=["plain", "telling"])
async def test_decisions_are_decided_again_bit_for_bit(stage: Stage, policy: str) -> None:
    tenant = await new_tenant(stage.world.log)
    await tenant.activate(policy)
    seen = set()
    for case in CASES:
        request_id, recorded = await exchanged(stage, tenant, **case)
        found = await stage.ask("replay", tenant, request_id)
        assert found["identical"], found
        assert (found["request_id"], found["zone_id"]) == (request_id, tenant.id)
        asked = [event for event in recorded if "policy_input" in event["metadata_json"]]
        assert len(asked) == len(found["decisions"]) > 0
        for event, again in zip(asked, found["decisions"], strict=True):
            assert again["recorded"] == again["replayed"]
            assert (again["identical"], again["differences"]) == (True, [])
            assert again["event_id"] == event["id"]
            assert again["log_position"] == event["metadata_json"]["log_position"]
            assert again["replayed"] == {
                "decision": event["decision"],
                "evaluation_status": event["evaluation_status"],
                "determining_policies": event["determining_policies_json"],
                "diagnostics": event["diagnostics_json"],
                "policy_set_version_id": event["policy_set_version_id"],
                "manifest_sha": event["manifest_sha"],
                "engine_version": ENGINE_VERSION,
            }
            seen.add((event["decision"], event["evaluation_status"]))
    assert {("allow", "complete"), ("deny", "complete")} <= seen


async def test_many_resources_in_one_request(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    resources = [await tenant.add_resource() for _ in range(12)]
    names = [one.identifier for one in resources] + ["resource://unknown"]
    request_id, recorded = await exchanged(stage, tenant, resource=names)
    found = await stage.ask("replay", tenant, request_id)
    assert [one["resource"] for one in found["decisions"]] == names[:-1]
    assert found["identical"]
    assert [one["reason"] for one in found["not_replayed"]] == ["no_policy_asked"]
    assert len(recorded) == 13


async def test_what_has_changed_since_changes_nothing(stage: Stage) -> None:
    """Neither another active version, nor archived policies, nor an archived set."""
    tenant = await new_tenant(stage.world.log)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    await tenant.activate(DENY_ALL)
    assert (await stage.ask("replay", tenant, request_id))["identical"]
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await stage.api.save(tenant.policy_set)
    found = await stage.ask("replay", tenant, request_id)
    assert found["identical"]
    assert found["decisions"][0]["recorded"]["decision"] == "allow"


async def test_against_another_version(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id, recorded = await exchanged(stage, tenant, scope="read")
    other = await add_version(stage, tenant, DENY_ALL)
    found = await stage.ask("replay", tenant, request_id, policy_set_version=other)
    (again,) = found["decisions"]
    assert (found["identical"], found["policy_set_version_id"]) == (False, other)
    assert again["recorded"]["policy_set_version_id"] == recorded[0]["policy_set_version_id"]
    assert (again["recorded"]["decision"], again["replayed"]["decision"]) == ("allow", "deny")
    assert again["differences"] == ["decision", "determining_policies"]
    same = await add_version(stage, tenant, POLICY + "# the same")
    found = await stage.ask("replay", tenant, request_id, policy_set_version=same)
    assert (found["identical"], found["decisions"][0]["differences"]) == (True, [])


async def test_a_version_that_does_not_compile_denies(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    broken = await add_version(stage, tenant, "package caracal.authz\nresult := {")
    found = await stage.ask("replay", tenant, request_id, policy_set_version=broken)
    (again,) = found["decisions"]
    assert again["replayed"]["diagnostics"] == [{"reason": "policy_compile_failed"}]


async def test_a_version_that_never_ends_is_killed_and_hinders_nobody(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    content = f"package caracal.authz\nimport rego.v1\n{LONG_COMPREHENSION}"
    endless = await add_version(stage, tenant, content)
    asking = asyncio.create_task(
        stage.ask("replay", tenant, request_id, policy_set_version=endless)
    )
    slowest = 0.0
    while not asking.done():
        started = time.monotonic()
        assert (await stage.api.call("GET", f"/zones/{tenant.id}")).status_code == 200
        slowest = max(slowest, time.monotonic() - started)
        await asyncio.sleep(0.05)
    (again,) = (await asking)["decisions"]
    assert again["replayed"]["diagnostics"] == [{"reason": "evaluation_timeout"}]
    assert (again["replayed"]["decision"], again["replayed"]["evaluation_status"]) == (
        "deny",
        "error",
    )
    assert slowest < 1.5


async def test_without_a_policy_in_force(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    version = next(iter(tenant.policy_set.versions))
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await stage.api.save(tenant.policy_set)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    found = await stage.ask("replay", tenant, request_id)
    reasons = [one["reason"] for one in found["not_replayed"]]
    assert (found["identical"], found["decisions"]) == (False, [])
    assert reasons[0] == "no_policy_in_force"
    found = await stage.ask("replay", tenant, request_id, policy_set_version=version)
    assert found["decisions"][0]["replayed"]["decision"] == "allow"


async def test_what_was_tampered_with_is_told(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id, recorded = await exchanged(stage, tenant, scope="read")
    decision = "UPDATE audit_events SET decision = '{}' WHERE id = %s"
    async with spoilt(stage, decision.format("deny"), decision.format("allow"), recorded[0]["id"]):
        found = await stage.ask("replay", tenant, request_id)
        assert found["decisions"][0]["differences"] == ["decision"]
    version = tenant.policy_set.versions[recorded[0]["policy_set_version_id"]].manifest[0]
    await eventually(lambda: _has_policy(stage, version), what="the policy in its read model")
    text = "UPDATE policy_versions SET content = {} WHERE id = %s"
    async with spoilt(
        stage,
        text.format("content || '#'"),
        text.format("left(content, length(content) - 1)"),
        version,
    ):
        found = await stage.ask("replay", tenant, request_id)
        assert [one["reason"] for one in found["not_replayed"]] == ["policies_not_as_recorded"]
    assert (await stage.ask("replay", tenant, request_id))["identical"]


async def _has_policy(stage: Stage, version: str) -> bool:
    async with stage.api.database() as db:
        cursor = await db.execute("SELECT 1 FROM policy_versions WHERE id = %s", (version,))
        return await cursor.fetchone() is not None


async def test_what_there_is_not(stage: Stage) -> None:
    tenant, other = await new_tenant(stage.world.log), await new_tenant(stage.world.log)
    request_id, _ = await exchanged(stage, tenant)
    foreign = next(iter(other.policy_set.versions))
    for what in ("replay", "explain"):
        assert await stage.ask(what, tenant, new_id(), 404) == "request_not_found"
        assert await stage.ask(what, other, request_id, 404) == "request_not_found"
        assert await stage.ask(what, tenant, "a b", 400) == "invalid_params"
    for version in (foreign, new_id()):
        found = await stage.ask("replay", tenant, request_id, 404, policy_set_version=version)
        assert found == "policy_set_version_not_found"
    assert await stage.ask("replay", tenant, request_id, 400, policy_set_version="a b") == (
        "invalid_query"
    )


# --- explain --------------------------------------------------------------------------------


async def test_a_deny_by_policy_is_explained(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    await tenant.activate(TELLING)
    request_id, recorded = await exchanged(stage, tenant, scope="write")
    found = await stage.ask("explain", tenant, request_id)
    assert (found["request_id"], found["zone_id"]) == (request_id, tenant.id)
    assert found["final_decision"] == "deny"
    *decisions, fact = found["events"]
    assert [event["id"] for event in decisions] == [event["id"] for event in recorded]
    assert fact["event_type"] == "challenge.issued"
    denial, event = found["denied"][0], recorded[0]
    version = event["policy_set_version_id"]
    assert (denial["check"], denial["policy_set_version_id"]) == ("policy", version)
    assert denial["explanation"] == (
        f"policy set version {version} denied resource://one until mfa, by é/default (ask)"
    )
    assert denial["explanation"] in found["explanation"]
    assert denial["determining_policies"] == event["determining_policies_json"]
    assert denial["policy_input"] == event["metadata_json"]["policy_input"]
    assert denial["policy_input_redacted"] is False
    again = await evaluate([("p", TELLING)], denial["policy_input"])
    assert again.diagnostics == denial["diagnostics"]


async def test_one_deny_makes_it_a_deny(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    names = [tenant.resource.identifier, "resource://unknown"]
    request_id, _ = await exchanged(stage, tenant, resource=names, scope="read")
    found = await stage.ask("explain", tenant, request_id)
    assert found["final_decision"] == "deny"
    (denial,) = found["denied"]
    assert (denial["check"], denial["resource"]) == ("resource", "resource://unknown")
    assert denial["policy_input"] is None
    assert "denied by 1 of 2 decisions" in found["explanation"]


async def test_allowed_and_facts_alone(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    found = await stage.ask("explain", tenant, request_id)
    assert (found["final_decision"], found["denied"]) == ("allow", [])
    assert found["explanation"] == "allowed: 1 of 1 decisions"
    zone = await stage.api.call("PATCH", f"/zones/{tenant.id}", {"name": "other"})
    request_id = zone.headers["x-request-id"]
    found = await stage.ask("explain", tenant, request_id)
    assert (found["final_decision"], found["denied"]) == (None, [])
    assert [event["event_type"] for event in found["events"]] == ["zone.changed"]
    assert (await stage.ask("replay", tenant, request_id))["decisions"] == []


async def test_a_refusal_before_any_policy(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    answer = await stage.world.post(tenant.form(client_secret="wrong"))
    await stage.recorded(answer)
    found = await stage.ask("explain", tenant, answer.headers["x-request-id"])
    (denial,) = found["denied"]
    assert (denial["check"], denial["evaluation_status"]) == (
        "client authentication",
        "client_auth_failed",
    )
    assert "did not prove who it is" in found["explanation"]


async def test_no_policy_in_force_is_explained(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await stage.api.save(tenant.policy_set)
    request_id, _ = await exchanged(stage, tenant, scope="read")
    found = await stage.ask("explain", tenant, request_id)
    assert found["denied"][0]["explanation"].startswith("the zone has no active policy set")


async def test_a_refused_administrator(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    path = f"/zones/{tenant.id}/grants/nope"
    answer = await stage.api.call("GET", path)
    await stage.recorded(answer)
    found = await stage.ask("explain", tenant, answer.headers["x-request-id"])
    assert found["denied"][0]["check"] == "admin request"
    assert found["denied"][0]["explanation"] == f"GET /v1{path} was refused: 404 grant_not_found"


async def put(stage: Stage, tenant: Tenant, **members: Any) -> str:
    """Put an entry on the audit topic, and wait for the ledger; return its request's id."""
    given = {
        "event_type": "token_exchange",
        "request_id": new_id(),
        "decision": "deny",
        "evaluation_status": "complete",
    }
    event = AuditEvent(zone_id=tenant.id, **(given | members))
    fields: dict[Any, Any] = dict(encode(event, (AUDIT_KEY,)))
    await stage.world.redis.xadd(AUDIT, fields)
    answer = httpx.Response(200, headers={"x-request-id": event.request_id})
    await stage.recorded(answer)
    return event.request_id


async def test_what_is_called_a_credential_is_hidden(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    given = {"session": {"id": "s"}, "context": {"mcp": {"password": "hunter2"}}}
    request_id = await put(stage, tenant, metadata_json={"policy_input": given})
    (denial,) = (await stage.ask("explain", tenant, request_id))["denied"]
    assert denial["policy_input"] == {
        "session": {"id": "s"},
        "context": {"mcp": {"password": "[redacted]"}},
    }
    assert denial["policy_input_redacted"] is True


async def test_what_was_only_observed_denies_nothing(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    request_id = await put(stage, tenant, decision="allow")
    await put(stage, tenant, request_id=request_id, evaluation_status="shadow")
    found = await stage.ask("explain", tenant, request_id)
    assert (found["final_decision"], found["denied"]) == ("allow", [])
    assert len(found["events"]) == 2


STATUSES = (
    *("client_auth_failed", "subject_token_invalid", "actor_token_invalid", "session_invalid"),
    "gateway_only",
    *("delegation_invalid", "challenge_invalid", "challenge_cooldown", "resource_not_found"),
    *("scope_mismatch", "resource_outside_delegation", "rate_limited", "grant_required"),
    *("credential_not_provisioned", "credential_refresh_failed", "policy_eval_failed"),
    *("exchange_denied", "anomaly"),
)


async def test_a_refused_login_says_which_check_failed(stage: Stage) -> None:
    tenant = await new_tenant(stage.world.log)
    about = {"reason": "invalid subject_token", "subject_check": "required claim hd"}
    status = "subject_token_invalid"
    request_id = await put(stage, tenant, evaluation_status=status, metadata_json=about)
    found = await stage.ask("explain", tenant, request_id)
    assert "(invalid subject_token, required claim hd)" in found["explanation"]


def test_every_status_of_the_contract_has_words() -> None:
    assert set(_CHECKS) == set(STATUSES)
