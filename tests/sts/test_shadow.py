"""Shadow versions: on record, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from caracal.errors import Unavailable
from caracal.events.store.audit_entry import AuditEvent
from caracal.services.sts import shadow
from tests.backbone import eventually
from tests.making import in_zone
from tests.sts.stalling import ALLOWS, EATS, STALLS, variant
from tests.sts.test_policies import BROKEN, DENY_ALL
from tests.sts.world import POLICY, Tenant, World, new_tenant

Event = dict[str, Any]


async def ask(world: World, tenant: Tenant, scope: str = "read") -> httpx.Response:
    return await world.post(tenant.form(subject_token=tenant.token(), scope=scope))


async def recorded(world: World, answer: httpx.Response) -> tuple[Event, Event]:
    """What was decided, and what the shadow said."""

    async def both() -> list[Event] | None:
        events = await world.audit(answer)
        return events if len(events) == 2 else None

    events = await eventually(both, what="the entry of a shadow")
    assert events is not None
    return events[0], events[1]


async def counter(world: World, name: str) -> float:
    answer = await world.http.get(f"{world.url}/metrics", headers={"Accept": "application/json"})
    value: float = answer.json()["opa"][name]
    return value


async def rises(world: World, name: str, before: float) -> None:
    """Return once a counter is one higher."""

    async def higher() -> bool:
        return await counter(world, name) == before + 1

    await eventually(higher, what=name)


async def test_a_shadow_is_recorded_and_does_not_decide(world: World) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(POLICY, DENY_ALL)
    answer = await ask(world, tenant)
    assert answer.status_code == 200
    decided, tried = await recorded(world, answer)
    assert (decided["decision"], decided["evaluation_status"]) == ("allow", "complete")
    assert (tried["decision"], tried["evaluation_status"]) == ("deny", "shadow")
    policy_set = tenant.policy_set
    assert decided["policy_set_version_id"] == policy_set.active_version_id
    assert tried["policy_set_version_id"] == policy_set.shadow_version_id
    assert tried["manifest_sha"] != decided["manifest_sha"]
    assert tried["policy_set_id"] == policy_set.aggregate_id
    said, metadata = decided["metadata_json"], tried["metadata_json"]
    assert metadata["policy_input"] == said["policy_input"]
    assert {name: metadata[name] for name in said} == said
    assert metadata["shadow_evaluation_status"] == "complete"
    assert metadata["active_decision"] == "allow"
    assert metadata["active_policy_set_version_id"] == policy_set.active_version_id


async def test_what_only_the_shadow_allows_is_denied(world: World) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(DENY_ALL, POLICY)
    answer = await ask(world, tenant)
    assert answer.status_code == 403

    async def tried() -> Event | None:
        events = await world.audit(answer)
        return next((one for one in events if one["evaluation_status"] == "shadow"), None)

    event = await eventually(tried, what="the entry of a shadow")
    assert event is not None
    assert event["decision"] == "allow"
    assert event["determining_policies_json"] == ["tests/allow"]


async def test_a_shadow_may_change_while_the_active_version_stays(world: World) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(POLICY, POLICY)
    _, tried = await recorded(world, await ask(world, tenant))
    assert tried["decision"] == "allow"
    active = tenant.policy_set.active_version_id
    assert active is not None
    other = await tenant._add_version(DENY_ALL)
    with in_zone(tenant.id):
        tenant.policy_set.activate(active, other, policies=(), replacing=None)
    await tenant.save(tenant.policy_set)
    decided, tried = await recorded(world, await ask(world, tenant))
    assert (decided["policy_set_version_id"], tried["policy_set_version_id"]) == (active, other)
    assert tried["decision"] == "deny"
    with in_zone(tenant.id):
        tenant.policy_set.activate(active, None, policies=(), replacing=None)
    await tenant.save(tenant.policy_set)
    before = await counter(world, "shadow_total")
    assert len(await world.audit(await ask(world, tenant))) == 1
    await tenant.activate(POLICY, POLICY)
    await recorded(world, await ask(world, tenant))
    assert await counter(world, "shadow_total") == before + 1


@pytest.mark.parametrize("content", [STALLS, EATS])
async def test_a_shadow_that_takes_too_much_harms_nothing(world: World, content: str) -> None:
    tenant = await new_tenant(world.log)
    dropped = await counter(world, "shadow_dropped_total")
    await tenant.activate(ALLOWS, content)
    answers = [await ask(world, tenant, "odd") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        _, tried = await recorded(world, answer)
        assert (tried["decision"], tried["evaluation_status"]) == ("deny", "shadow")
        assert tried["diagnostics_json"] == [{"reason": "policy_eval_failed"}]
        assert tried["metadata_json"]["shadow_evaluation_status"] == "error"
    # Now it rests.
    assert (await ask(world, tenant, "odd")).status_code == 200
    await rises(world, "shadow_dropped_total", dropped)
    # Others do not wait for it.
    await tenant.activate(POLICY, variant(POLICY, 1))
    _, tried = await recorded(world, await ask(world, tenant))
    assert tried["decision"] == "allow"


async def test_a_shadow_that_does_not_compile_is_said(world: World) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(POLICY, BROKEN)
    answer = await ask(world, tenant)
    assert answer.status_code == 200
    _, tried = await recorded(world, answer)
    assert tried["diagnostics_json"] == [{"reason": "policy_compile_failed"}]


async def test_more_than_fits_is_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await new_tenant(world.log)
    await tenant.activate(POLICY, DENY_ALL)
    dropped = await counter(world, "shadow_dropped_total")
    monkeypatch.setattr(shadow, "MAX_WAITING", 0)
    answer = await ask(world, tenant)
    assert answer.status_code == 200
    await rises(world, "shadow_dropped_total", dropped)
    assert len(await world.audit(answer)) == 1


async def test_what_cannot_be_recorded_is_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is behind: shadows are the first to go, and harm no answer."""
    tenant = await new_tenant(world.log)
    await tenant.activate(POLICY, variant(POLICY, 2))
    dropped = await counter(world, "shadow_dropped_total")

    async def refuse(self: object, events: Sequence[AuditEvent]) -> None:
        raise Unavailable("audit_unavailable", "behind")

    monkeypatch.setattr("caracal.events.store.audit_writer.AuditWriter.add", refuse)
    answer = await ask(world, tenant)
    assert answer.status_code == 200
    await rises(world, "shadow_dropped_total", dropped)
    assert len(await world.audit(answer)) == 1
