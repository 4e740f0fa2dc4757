"""Zones in memory: loaded for who is authenticated, put out and loaded again, never half or old."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from psycopg import AsyncConnection

from caracal.embedded import EmbeddedServers
from caracal.errors import Unavailable
from caracal.events.base import Fall
from caracal.ids import new_id
from caracal.mandate import SigningKey
from caracal.services import zones
from caracal.services.sts.view import StsView, ZoneView
from tests.backbone import eventually
from tests.making import in_zone, new_grant
from tests.sts.test_outages import told
from tests.sts.test_policies import DENY_ALL
from tests.sts.world import Tenant, World, new_tenant, new_world

ROUNDS = int(os.environ.get("ZONES_ROUNDS", "1"))
"""More make the run with changes under way longer."""


@asynccontextmanager
async def narrow(database_url: str, redis_url: str, **more: str) -> AsyncIterator[World]:
    """An STS that can keep one zone only, that of its last request."""
    given = {"ZONE_VIEW_MAX_BYTES": "1"} | more
    async with new_world(database_url, redis_url, **given) as world:
        yield world


async def counted(world: World) -> dict[str, float]:
    """What the metrics tell of zones."""
    answer = await world.http.get(f"{world.url}/metrics", headers={"Accept": "application/json"})
    found: dict[str, float] = answer.json()["sts"]["zones"]
    return found


async def asked(world: World, tenant: Tenant, **members: Any) -> httpx.Response:
    return await world.post(tenant.form(**({"subject_token": tenant.token()} | members)))


@pytest.fixture(scope="module")
async def small(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    async with narrow(module_database_url, module_redis_url) as made:
        yield made


async def away(world: World) -> None:
    """Put every zone but one out of memory, one that no test uses."""
    assert (await asked(world, world.tenant)).status_code == 200


async def test_a_zone_that_is_put_out_and_loaded_again_answers_the_same(small: World) -> None:
    tenants = [await new_tenant(small.log) for _ in range(3)]
    tokens = [tenant.token() for tenant in tenants]
    before = await counted(small)
    for _ in range(3):
        for tenant, token in zip(tenants, tokens, strict=True):
            allowed = await asked(small, tenant, subject_token=token)
            denied = await asked(small, tenant, subject_token=token, scope="write")
            assert (allowed.status_code, denied.status_code) == (200, 403)
    after = await counted(small)
    # What was activated is loaded without any exchange, so the first of these may find it.
    assert after["loads_total"] - before["loads_total"] >= 6
    assert after["evictions_total"] > before["evictions_total"]
    assert after["loaded"] == 1
    assert after["bytes"] > 1
    assert after["load_seconds_total"] > before["load_seconds_total"]
    assert after["load_failures_total"] == before["load_failures_total"]
    text = (await small.http.get(f"{small.url}/metrics")).text
    assert "caracal_sts_sts_zones_evictions_total" in text


async def _revoke_grant(tenant: Tenant) -> int:
    grant = await tenant.add_grant(tenant.resource)
    with in_zone(tenant.id):
        grant.revoke(Fall())
    return await tenant.save(grant)


async def _archive_resource(tenant: Tenant) -> int:
    with in_zone(tenant.id):
        tenant.resource.archive()
    return await tenant.save(tenant.resource)


async def _archive_application(tenant: Tenant) -> int:
    with in_zone(tenant.id):
        tenant.application.archive(Fall())
    return await tenant.save(tenant.application)


async def _archive_zone(tenant: Tenant) -> int:
    with in_zone(tenant.id):
        tenant.zone.archive(Fall())
    return await tenant.save(tenant.zone)


async def _archive_policies(tenant: Tenant) -> int:
    with in_zone(tenant.id):
        tenant.policy_set.archive()
    return await tenant.save(tenant.policy_set)


async def _deny_all(tenant: Tenant) -> int:
    return await tenant.activate(DENY_ALL)


CHANGES: dict[str, Callable[[Tenant], Awaitable[int]]] = {
    "grant revoked": _revoke_grant,
    "resource archived": _archive_resource,
    "application archived": _archive_application,
    "zone archived": _archive_zone,
    "policies archived": _archive_policies,
    "another policy": _deny_all,
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_changed_while_a_zone_was_put_out_is_known(small: World, change: str) -> None:
    tenant = await new_tenant(small.log)
    token = tenant.token()
    assert (await asked(small, tenant, subject_token=token)).status_code == 200
    await away(small)
    await CHANGES[change](tenant)
    assert (await asked(small, tenant, subject_token=token)).status_code in (401, 403)


@pytest.mark.parametrize("change", CHANGES)
async def test_what_changes_while_a_zone_is_in_memory_is_known(small: World, change: str) -> None:
    tenant = await new_tenant(small.log)
    token = tenant.token()
    assert (await asked(small, tenant, subject_token=token)).status_code == 200
    await CHANGES[change](tenant)
    assert (await asked(small, tenant, subject_token=token)).status_code in (401, 403)


async def test_who_is_not_authenticated_loads_nothing_and_puts_out_nothing(
    database_url: str, redis_url: str
) -> None:
    """Wrong secrets, unknown applications and zones, forged tokens of signed Gateway calls."""
    async with new_world(database_url, redis_url) as world:
        tenants = [world.tenant, *[await new_tenant(world.log) for _ in range(4)]]

        async def settled() -> bool:
            return (await counted(world))["loads_total"] == 4  # by their activations

        await eventually(settled, what="what was activated")

    async with new_world(database_url, redis_url) as world:
        hot = world.tenant
        assert (await asked(world, hot)).status_code == 200
        before = await counted(world)
        assert before["loaded"] == 1
        forger = SigningKey.generate(tenants[0].key.kid)
        forms = [
            form
            for tenant in tenants
            for form in (
                tenant.form(client_secret="wrong"),
                tenant.form(application_id=new_id()),
                tenant.form(zone_id=new_id()),
                tenant.form(client_secret=None, client_assertion="a.b.c"),
                tenant.form(application_id=hot.app_id),
            )
        ]
        answers = await asyncio.gather(*(world.post(form) for form in forms * 4))
        assert {told(answer) for answer in answers} == {(401, "access_denied")}
        for tenant in tenants:
            forged = forger.sign(tenant.claims())
            form = tenant.form(subject_token=forged, client_secret=None)
            assert told(await world.by_gateway(form)) == (401, "invalid_token")
        after = await counted(world)
        assert after == before | {"bytes": after["bytes"]}
        for tenant in tenants:
            assert (await asked(world, tenant)).status_code == 200
        assert (await counted(world))["loads_total"] == before["loads_total"] + len(tenants)


async def test_a_right_secret_passes_while_the_application_of_a_zone_not_in_memory_is_blocked(
    database_url: str, redis_url: str
) -> None:
    more = {"CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "3"}
    async with narrow(database_url, redis_url, **more) as world:
        tenant = await new_tenant(world.log)
        assert (await asked(world, tenant)).status_code == 200
        await away(world)
        wrong = [await world.post(tenant.form(client_secret="wrong")) for _ in range(6)]
        assert [answer.status_code for answer in wrong] == [401] * 4 + [429] * 2
        assert (await asked(world, tenant)).status_code == 200


async def test_without_postgres_zones_in_memory_serve_and_others_are_refused(
    own_servers: EmbeddedServers,
) -> None:
    servers = own_servers.database_url, own_servers.redis_url
    async with new_world(*servers, MAX_STALENESS="60s") as world:
        cold = await new_tenant(world.log)
        token = cold.token()

    async with new_world(*servers, MAX_STALENESS="60s") as world:
        assert (await world.per_call()).status_code == 200
        os.kill(own_servers.postgres_pid, signal.SIGKILL)
        own_servers.postgres.process.wait()
        url = f"{world.url}/oauth/2/token"
        refused = await world.http.post(url, data=cold.form(subject_token=token))
        assert told(refused) == (503, "state_stale")
        form = world.tenant.form(subject_token=world.tenant.token())
        assert (await world.http.post(url, data=form)).status_code == 200
        own_servers.restart_postgres()

        async def allowed() -> bool:
            answer = await world.http.post(url, data=cold.form(subject_token=token))
            return answer.status_code == 200

        await eventually(allowed, what="loaded")


async def test_a_load_that_stalls_refuses_its_zone_and_no_other(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zones, "PATIENCE_SECONDS", 0.3)
    async with new_world(database_url, redis_url) as world:
        cold = await new_tenant(world.log)
        assert (await world.per_call()).status_code == 200

    async with new_world(database_url, redis_url) as world:
        cold.log = world.log
        assert (await world.per_call()).status_code == 200
        async with await AsyncConnection.connect(database_url) as holding:
            await holding.execute("LOCK TABLE grants IN ACCESS EXCLUSIVE MODE")
            stalled = await asyncio.gather(*(asked(world, cold) for _ in range(8)))
            assert {told(answer) for answer in stalled} == {(503, "state_stale")}
            assert (await world.per_call()).status_code == 200
            # What comes now waits with the load.
            await _archive_resource(cold)
        monkeypatch.undo()
        answer = await asked(world, cold)
        assert told(answer) == (403, "access_denied")
        assert (await counted(world))["loads_total"] == 2


async def test_a_release_of_what_was_parked_loads_the_zones_anew(
    database_url: str, redis_url: str
) -> None:
    async with (
        new_world(database_url, redis_url) as world,
        await AsyncConnection.connect(database_url, autocommit=True) as db,
    ):
        assert (await world.per_call()).status_code == 200
        before = await counted(world)
        resource_id = world.tenant.resource.aggregate_id
        await db.execute(
            "INSERT INTO parked"
            " (projection, aggregate_id, topic, position, n, ids, error, attempts)"
            " VALUES ('resources', %s, 't', 1, 0, %s, 'broken', 5)",
            (resource_id, [resource_id]),
        )
        await db.execute("SELECT pg_notify('caracal_parked', '')")
        await world.parked(1)
        assert (await world.per_call()).status_code == 403
        assert await counted(world) == before
        await db.execute("DELETE FROM parked")
        await db.execute("SELECT pg_notify('caracal_parked', '')")
        await world.parked(0)
        assert (await world.per_call()).status_code == 200
        assert (await counted(world))["loads_total"] == before["loads_total"] + 1


def test_what_was_decided_by_an_outdated_zone_is_not_issued() -> None:
    zone = ZoneView(StsView(15), "zone")
    zone.outdated = True
    with pytest.raises(Unavailable):
        zone.barred(["any"])


class Changing:
    """A zone whose resource is granted and not granted in turn; what holds, and since where."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant, self.token = tenant, tenant.token()
        self.grant: Any = None
        self.changes = self.position = 0
        self.allows = True

    async def change(self) -> None:
        """Grant what is not granted, revoke what is; odd while that is underway."""
        if self.changes % 2:
            return
        self.changes += 1
        grant = self.grant or new_grant(
            self.tenant.app_id, self.tenant.resource.aggregate_id, zone_id=self.tenant.id
        )
        self.allows = self.grant is None
        if not self.allows:
            with in_zone(self.tenant.id):
                grant.revoke(Fall())
        self.position = await self.tenant.save(grant)
        self.grant = grant if self.allows else None
        self.changes += 1

    async def ask(self, world: World) -> bool:
        """Ask; False when the answer cannot be judged, because something changed meanwhile."""
        before, allows = self.changes, self.allows
        answer = await world.http.post(
            f"{world.url}/oauth/2/token",
            data=self.tenant.form(subject_token=self.token),
            headers={"Caracal-Min-Position": str(self.position)},
        )
        if answer.status_code == 503 or before % 2 or before != self.changes:
            return False
        assert (answer.status_code == 200) == allows, answer.text
        return True


async def test_zones_that_come_and_go_under_load_never_allow_what_the_log_forbids(
    database_url: str, redis_url: str
) -> None:
    numbers = random.Random(7)
    more = {"ZONE_VIEW_MAX_BYTES": "60000"}  # a few of them
    async with new_world(database_url, redis_url, worker=True, **more) as world:
        changing = [Changing(await new_tenant(world.log)) for _ in range(50)]

        async def work() -> int:
            judged = 0
            for _ in range(16 * ROUNDS):
                zone = numbers.choice(changing)
                if numbers.random() < 0.5:
                    await zone.change()
                judged += await zone.ask(world)
            return judged

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(8)]
        found = await counted(world)
        judged = sum(worker.result() for worker in workers)
        assert judged > 60 * ROUNDS
        assert found["evictions_total"] > 50
        assert found["bytes"] <= 60_000
