"""What an STS tells of its policies: at once, again and again, and of nothing it has not loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from caracal.services import policy_report
from caracal.services.policy_report import REPLICAS, Loaded, Report, key_of
from caracal.services.sts import policy_reports
from tests.backbone import eventually
from tests.making import in_zone
from tests.sts.test_policies import BROKEN, DENY_ALL, ask
from tests.sts.world import POLICY, Tenant, World, new_tenant, new_world


async def told(world: World, zone_id: str, wanted: Callable[[Report], bool]) -> Report:
    """The one report on a zone, once it is as wanted."""

    async def found() -> Report | None:
        reports = await policy_report.reports(world.redis, zone_id)
        return next(filter(wanted, reports), None)

    report = await eventually(found, what="a report")
    assert report is not None
    return report


def version_of(tenant: Tenant) -> str:
    return str(tenant.policy_set.active_version_id)


def loads(version: str | None, failed: str | None = None) -> Callable[[Report], bool]:
    return lambda report: report.loaded == Loaded(version, failed)


async def test_every_activation_is_told_without_any_exchange(world: World) -> None:
    tenant = await new_tenant(world.log)
    await told(world, tenant.id, loads(version_of(tenant)))
    position = await tenant.activate(DENY_ALL)
    report = await told(world, tenant.id, loads(version_of(tenant)))
    assert report.position >= position
    assert 0 < await world.redis.ttl(key_of(report.replica)) <= 60


async def test_a_version_that_does_not_compile_is_told(world: World) -> None:
    tenant = await new_tenant(world.log)
    good = version_of(tenant)
    await told(world, tenant.id, loads(good))
    position = await tenant.activate(BROKEN)
    bad = version_of(tenant)
    report = await told(world, tenant.id, loads(good, bad))
    assert report.position >= position
    answer, event = await ask(world, tenant)
    assert (answer.status_code, event["policy_set_version_id"]) == (200, good)
    await tenant.activate(POLICY)
    await told(world, tenant.id, loads(version_of(tenant)))


async def test_a_zone_that_is_left_without_policy_is_told(world: World) -> None:
    tenant = await new_tenant(world.log)
    await told(world, tenant.id, loads(version_of(tenant)))
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    await tenant.save(tenant.policy_set)
    await told(world, tenant.id, loads(None))


async def test_a_zone_that_was_not_met_is_not_told(world: World) -> None:
    report = await told(world, "unknown", lambda report: True)
    assert report.loaded is None


async def test_what_redis_lost_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_reports, "REFRESH_SECONDS", 0.05)
    tenant = await new_tenant(world.log)  # and so the next wait is short
    report = await told(world, tenant.id, loads(version_of(tenant)))
    await world.redis.delete(key_of(report.replica), REPLICAS)
    again = await told(world, tenant.id, loads(version_of(tenant)))
    assert again.replica == report.replica
    assert (await world.per_call()).status_code == 200  # and so its zone is in memory
    assert (await told(world, world.tenant.id, lambda report: report.loaded is not None)).loaded


async def test_a_refusal_of_redis_harms_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_reports, "_AGAIN_SECONDS", 0.05)
    assert (await world.per_call()).status_code == 200
    report = await told(world, world.tenant.id, lambda report: report.loaded is not None)
    await world.redis.set(key_of(report.replica), "of another kind")
    tenant = await new_tenant(world.log)
    answer, _ = await ask(world, tenant)
    assert answer.status_code == 200
    await world.redis.delete(key_of(report.replica))
    await told(world, tenant.id, loads(version_of(tenant)))


async def test_one_that_stops_takes_its_report_back(database_url: str, redis_url: str) -> None:
    async with new_world(database_url, redis_url) as one, new_world(database_url, redis_url):

        async def both() -> list[Report] | None:
            reports = await policy_report.reports(one.redis, one.tenant.id)
            return reports if len(reports) == 2 else None

        await eventually(both, what="two replicas")
        replica = (await policy_report.reports(one.redis, one.tenant.id))[0].replica
        assert replica.count("-") >= 2

        async def only(number: int) -> bool:
            return len(await policy_report.reports(one.redis, one.tenant.id)) == number

        async with new_world(database_url, redis_url):
            await eventually(lambda: only(3), what="three replicas")
        assert await only(2)
