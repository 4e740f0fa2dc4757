"""Which policies decide, from one activation to the next."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest

from caracal.policy.engine import Bundle, Decision, PolicyCompileError, PolicyEngines
from tests.backbone import eventually
from tests.making import in_zone
from tests.sts.world import POLICY, Tenant, World, new_tenant, new_world

DENY_ALL = """package caracal.authz
import rego.v1
default result := {"decision": "deny", "evaluation_status": "complete"}
"""
NO_RESULT = "package caracal.authz\nimport rego.v1\nresult := 1 if input.never\n"
BROKEN = "package caracal.authz\nresult := {"


async def ask(world: World, tenant: Tenant) -> tuple[httpx.Response, dict[str, Any]]:
    """Exchange; return the answer and the evidence of the decision."""
    answer = await world.post(tenant.form(subject_token=tenant.token()))
    return answer, (await world.audit(answer))[0]


async def test_what_is_activated_decides_from_then_on(world: World) -> None:
    tenant = await new_tenant(world.log)
    before, _ = await ask(world, tenant)
    await tenant.activate(DENY_ALL)
    denied, event = await ask(world, tenant)
    await tenant.activate(POLICY)
    after, _ = await ask(world, tenant)
    assert [before.status_code, denied.status_code, after.status_code] == [200, 403, 200]
    version = tenant.policy_set.versions[event["policy_set_version_id"]]
    assert version.version == 2


async def test_a_bundle_that_does_not_compile_leaves_the_old_one_in_force(world: World) -> None:
    tenant = await new_tenant(world.log)
    await ask(world, tenant)
    await tenant.activate(BROKEN)
    answer, event = await ask(world, tenant)
    assert answer.status_code == 200
    assert tenant.policy_set.versions[event["policy_set_version_id"]].version == 1
    await tenant.activate(DENY_ALL)
    answer, _ = await ask(world, tenant)
    assert answer.status_code == 403


async def test_with_nothing_but_a_broken_bundle_all_is_denied(world: World) -> None:
    tenant = await new_tenant(world.log, BROKEN)
    answer, event = await ask(world, tenant)
    assert answer.status_code == 403
    assert event["diagnostics_json"] == [{"reason": "policy_compile_failed"}]


async def test_without_an_active_set_all_is_denied(world: World) -> None:
    tenant = await new_tenant(world.log)
    await ask(world, tenant)
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await tenant.save(tenant.policy_set)
    answer, event = await ask(world, tenant)
    assert answer.status_code == 403
    assert event["diagnostics_json"] == [{"reason": "no_active_policy_set"}]
    assert "policy_set_id" not in event


async def test_an_undefined_result_denies(world: World) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(NO_RESULT)
    answer, event = await ask(world, tenant)
    assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")
    assert (event["decision"], event["evaluation_status"]) == ("deny", "complete")


async def test_an_engine_that_cannot_be_used_is_no_decision(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step F: the whole request ends, and the resource before it keeps its evidence."""
    tenant, used = await new_tenant(world.log), PolicyEngines.evaluate
    other = await tenant.add_resource()
    await ask(world, tenant)

    def gone(engines: PolicyEngines, bundle: Bundle, given: Any) -> Decision:
        if given["resource"]["identifier"] == other.identifier:
            raise PolicyCompileError("it was there a moment ago")
        return used(engines, bundle, given)

    monkeypatch.setattr(PolicyEngines, "evaluate", gone)
    wanted = [tenant.resource.identifier, other.identifier]
    answer = await world.post(tenant.form(subject_token=tenant.token(), resource=wanted))
    assert (answer.status_code, answer.json()["error"]) == (503, "policy_eval_failed")
    assert int(answer.headers["retry-after"]) >= 1
    told = [(e["decision"], e["evaluation_status"]) for e in await world.audit(answer)]
    assert told == [("allow", "complete"), ("deny", "policy_eval_failed")]
    monkeypatch.undo()
    assert (await ask(world, tenant))[0].status_code == 200


async def test_a_parked_policy_set_denies(world: World) -> None:
    """What its zone activated last may be what could not be applied."""
    tenant = await new_tenant(world.log)
    await ask(world, tenant)
    async with world.log._pool.connection() as db:
        await db.execute(
            "INSERT INTO parked (projection, aggregate_id, topic, position, n, ids, error,"
            " attempts) VALUES ('policy_sets', %s, 't', 1, 0, %s, 'e', 5)",
            (tenant.policy_set.aggregate_id, [tenant.policy_set.aggregate_id]),
        )
        await db.execute("SELECT pg_notify('caracal_parked', '')")
    await world.parked(1)
    answer, event = await ask(world, tenant)
    assert answer.status_code == 403
    assert event["diagnostics_json"] == [{"reason": "policy_parked"}]
    async with world.log._pool.connection() as db:
        await db.execute("DELETE FROM parked")
        await db.execute("SELECT pg_notify('caracal_parked', '')")
    await world.parked(0)


async def test_two_replicas_decide_by_what_is_activated_and_never_again_by_what_was(
    database_url: str, redis_url: str
) -> None:
    """Their times are measured by the bench; here it is the order that counts."""
    async with new_world(database_url, redis_url) as one, new_world(database_url, redis_url) as two:
        replicas = [one, replace(two, tenant=one.tenant)]
        for number in range(6):
            content, expected = (POLICY, 200) if number % 2 else (DENY_ALL, 403)
            await one.tenant.activate(content)
            for replica in replicas:
                await eventually(partial(decides, replica, expected), what="the new version")
                assert await decides(replica, expected)


async def decides(world: World, expected: int) -> bool:
    answer = await world.at_once(subject_token=world.tenant.token())
    assert answer.status_code in (200, 403)
    return answer.status_code == expected
