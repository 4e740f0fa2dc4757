"""Policies that are kept apart: one that does not compile, and who is told of them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from caracal.policy import beat
from caracal.policy.beat import Board
from caracal.services import policy_report
from caracal.services.policy_report import Loaded
from caracal.services.sts import policy_reports
from tests.backbone import eventually
from tests.sts.test_policies import BROKEN, DENY_ALL, ask
from tests.sts.world import POLICY, Tenant, World, new_tenant, new_world


@pytest.fixture(scope="module")
def board() -> Board:
    """What the watchdog of the process would write."""
    return Board()


@pytest.fixture(scope="module")
async def world(
    module_database_url: str, module_redis_url: str, board: Board
) -> AsyncIterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beat, "_mine", [board.beat(0)])
        patch.setattr(policy_reports, "REFRESH_SECONDS", 0.05)
        async with new_world(module_database_url, module_redis_url) as made:
            yield made


@pytest.fixture
async def tenant(world: World, board: Board) -> AsyncIterator[Tenant]:
    """One whose policies are kept apart, whatever they are."""
    made = await new_tenant(world.log)
    assert (await ask(world, made))[0].status_code == 200
    board.publish([made.id], lost=0)
    yield made
    board.publish([], lost=0)


async def decides(world: World, tenant: Tenant) -> tuple[int, str | None, list[object]]:
    """Status, version that decided, diagnostics."""
    answer, event = await ask(world, tenant)
    return answer.status_code, event.get("policy_set_version_id"), event["diagnostics_json"]


async def told(world: World, tenant: Tenant, expected: Loaded) -> None:
    async def reported() -> bool:
        reports = await policy_report.reports(world.redis, tenant.id)
        return [report.loaded for report in reports] == [expected]

    await eventually(reported, what=str(expected))


def active(tenant: Tenant) -> str:
    return str(tenant.policy_set.active_version_id)


async def test_what_does_not_compile_leaves_the_version_before_in_force(
    world: World, tenant: Tenant
) -> None:
    good = active(tenant)
    for _ in range(2):  # the second one never comes after a good one
        await tenant.activate(BROKEN)
        assert await decides(world, tenant) == (200, good, [])
        await told(world, tenant, Loaded(good, active(tenant), apart=True))
    await tenant.activate(DENY_ALL)
    assert await decides(world, tenant) == (403, active(tenant), [])
    await told(world, tenant, Loaded(active(tenant), None, apart=True))


async def test_one_that_was_not_tried_is_not_what_is_gone_back_to(
    world: World, tenant: Tenant
) -> None:
    good = active(tenant)
    await tenant.activate(BROKEN)
    await tenant.activate(f"{BROKEN} # again")
    assert await decides(world, tenant) == (200, good, [])
    await tenant.activate(POLICY)
    newer = active(tenant)
    assert await decides(world, tenant) == (200, newer, [])
    await tenant.activate(BROKEN)
    assert await decides(world, tenant) == (200, newer, [])


async def test_with_nothing_before_it_all_is_denied(world: World, board: Board) -> None:
    made = await new_tenant(world.log, DENY_ALL)
    board.publish([beat.EVERYTHING], lost=0)
    broken = await new_tenant(world.log, BROKEN)
    failed = [{"reason": "policy_compile_failed"}]
    assert await decides(world, broken) == (403, None, failed)
    await told(world, broken, Loaded(None, active(broken)))
    assert await decides(world, made) == (403, active(made), [])
    await broken.activate(POLICY)
    assert await decides(world, broken) == (200, active(broken), [])
    board.publish([], lost=0)


async def test_who_is_kept_apart_is_told_without_any_exchange(world: World, board: Board) -> None:
    made = await new_tenant(world.log)
    await told(world, made, Loaded(active(made)))
    board.publish([made.id], lost=0)
    await told(world, made, Loaded(active(made), apart=True))
    board.publish([], lost=0)
    await told(world, made, Loaded(active(made)))
