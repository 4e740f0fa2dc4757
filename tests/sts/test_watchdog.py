"""Policies that hold the process: it is replaced, they are kept apart, other zones are served."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

import httpx
import pytest
from redis.asyncio import Redis

from caracal.policy.check import check_manifest
from caracal.services.run import bind
from tests.backbone import eventually, opened_log
from tests.sts.stalling import EATS, STALLS, variant
from tests.sts.world import POLICY, Tenant, World, new_tenant, settings, variables

pytestmark = pytest.mark.flow

LOST = (httpx.RemoteProtocolError, httpx.ReadError)


@contextmanager
def served(folder: Path, *args: str, **given: str) -> Iterator[str]:
    """Run ``caracal serve sts`` as a user does; yield its URL."""
    with bind("127.0.0.1", 0) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", "from caracal.cli import main; main()", "serve", "sts"]
    with (folder / "log").open("wb") as log:
        process = Popen(
            [*command, "--port", port, *args], stdin=DEVNULL, stderr=log, env=os.environ | given
        )
    try:
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def new_served(
    database_url: str, redis_url: str, folder: Path, *args: str
) -> AsyncIterator[World]:
    given = variables(database_url, redis_url)
    async with (
        opened_log(database_url) as log,
        Redis.from_url(redis_url) as redis,
        httpx.AsyncClient(timeout=20) as http,
    ):
        tenant = await new_tenant(log)
        with served(folder, *args, **given) as url:
            world = World(url, settings(database_url, redis_url), http, redis, log, tenant)
            await eventually(lambda: is_up(world), what="the service")
            yield world


async def is_up(world: World) -> bool:
    try:
        return (await world.http.get(f"{world.url}/ready")).is_success
    except httpx.ConnectError:
        return False


async def ask(world: World, tenant: Tenant, scope: str = "read") -> httpx.Response:
    return await world.post(tenant.form(subject_token=tenant.token(), scope=scope))


async def lose(world: World, tenant: Tenant) -> None:
    """Ask what costs the process: no answer."""
    with pytest.raises(LOST):
        await ask(world, tenant, "odd")


async def engine(world: World) -> dict[str, float]:
    answer = await world.http.get(f"{world.url}/metrics", headers={"Accept": "application/json"})
    counters: dict[str, float] = answer.json()["opa"]
    return counters


async def apart(world: World) -> tuple[bool, int]:
    ready = (await world.http.get(f"{world.url}/ready")).json()
    return ready["degraded"], ready["policies_apart"]


@pytest.mark.parametrize("content", [STALLS, EATS])
async def test_these_policies_pass_the_check_at_upload(content: str) -> None:
    await check_manifest([content])


async def test_what_holds_the_process_is_kept_apart(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with new_served(database_url, redis_url, tmp_path) as world:
        stalling, other = await new_tenant(world.log, STALLS), world.tenant
        assert (await ask(world, stalling)).status_code == 200
        await lose(world, stalling)
        began = time.perf_counter()
        assert (await ask(world, other)).status_code == 200
        print(f"replaced after {(time.perf_counter() - began) * 1000:.0f} ms")

        denied = await ask(world, stalling, "odd")
        assert (denied.status_code, denied.json()["error"]) == (403, "policy_eval_failed")
        event = (await world.audit(denied))[0]
        assert (event["decision"], event["evaluation_status"]) == ("deny", "error")
        assert event["diagnostics_json"] == [{"reason": "policy_eval_failed"}]
        assert (await ask(world, stalling)).status_code == 200
        assert await apart(world) == (True, 1)
        counters = await engine(world)
        assert (counters["processes_lost_total"], counters["apart_stalled_total"]) == (1, 1)
        log = (tmp_path / "log").read_text()
        assert "caracal: sts 1 was lost (exit code -9) in an evaluation of policies" in log
        assert f"of zone {stalling.id}: they are kept apart now" in log

        await other_zones_go_on(world, stalling, other)

        await stalling.activate(POLICY)
        assert (await ask(world, stalling)).status_code == 200
        assert await apart(world) == (False, 0)
        assert (await engine(world))["processes_lost_total"] == 1


async def other_zones_go_on(world: World, stalling: Tenant, other: Tenant) -> None:
    """While one zone stalls without end; their times are printed, not judged."""
    storm = [asyncio.create_task(ask(world, stalling, "odd")) for _ in range(8)]
    took = []
    while not all(task.done() for task in storm):
        began = time.perf_counter()
        assert (await world.at_once(subject_token=other.token())).status_code == 200
        took.append(time.perf_counter() - began)
    assert {(await task).status_code for task in storm} == {403}
    print(f"other zones: {len(took)} calls, the longest {max(took) * 1000:.0f} ms")
    assert len(took) > 8


async def test_what_eats_memory_is_kept_apart_before_it_has_eaten_all(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with new_served(database_url, redis_url, tmp_path, "--workers", "2") as world:
        eating = await new_tenant(world.log, EATS)
        await lose(world, eating)
        for _ in range(4):  # whichever process answers
            denied = await ask(world, eating, "odd")
            assert (denied.status_code, denied.json()["error"]) == (403, "policy_eval_failed")
            assert (await ask(world, eating)).status_code == 200
            assert (await ask(world, world.tenant)).status_code == 200
        assert (await engine(world))["processes_lost_total"] == 1


async def test_a_zone_that_costs_one_process_after_the_other_is_kept_apart_as_a_whole(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with new_served(database_url, redis_url, tmp_path) as world:
        stalling = await new_tenant(world.log, STALLS)
        for number in range(3):
            await stalling.activate(variant(STALLS, number))
            await lose(world, stalling)
        await stalling.activate(variant(STALLS, 3))
        assert (await ask(world, stalling, "odd")).status_code == 403
        assert (await ask(world, stalling)).status_code == 200
        assert await apart(world) == (True, 1)
        assert (await engine(world))["processes_lost_total"] == 3
        assert (await ask(world, world.tenant)).status_code == 200
