"""What still works with a part gone (design, section 1.5); all paths: test_paths_without.py."""

from __future__ import annotations

import os
import signal

import httpx
from redis.asyncio import Redis

from caracal.embedded import EmbeddedServers
from caracal.events.topics import AUDIT
from tests.backbone import eventually
from tests.sts.world import World, new_world


def told(answer: httpx.Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json().get("error", "")


async def allowed_again(world: World) -> bool:
    answer = await world.at_once(subject_token=world.tenant.token())
    return answer.status_code == 200


async def test_without_redis_nothing_is_allowed_and_refusals_are_given(
    own_servers: EmbeddedServers,
) -> None:
    async with new_world(own_servers.database_url, own_servers.redis_url) as world:
        assert (await world.per_call()).status_code == 200
        os.kill(own_servers.valkey_pid, signal.SIGKILL)
        own_servers.valkey.process.wait()
        refused = await world.per_call()
        assert told(refused) == (503, "audit_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert told(await world.exchange()) == (503, "audit_unavailable")
        assert told(await world.exchange(client_secret="wrong")) == (401, "access_denied")
        assert told(await world.per_call(scope="write")) == (403, "access_denied")
        form = world.tenant.form(subject_token="x", client_secret=None)
        assert told(await world.by_gateway(form)) == (503, "audit_unavailable")
        metrics = await world.http.get(
            f"{world.url}/metrics", headers={"Accept": "application/json"}
        )
        assert metrics.json()["audit_dropped"] == 3
        own_servers.restart_valkey()
        await eventually(lambda: allowed_again(world), what="allowed again")


async def test_a_connection_that_redis_closed_costs_no_exchange(
    database_url: str, redis_url: str
) -> None:
    async with new_world(database_url, redis_url) as world:
        assert (await world.per_call()).status_code == 200
        await world.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert (await world.per_call()).status_code == 200


async def test_redis_that_hangs_is_redis_that_is_gone(own_servers: EmbeddedServers) -> None:
    async with new_world(own_servers.database_url, own_servers.redis_url) as world:
        assert (await world.per_call()).status_code == 200
        os.kill(own_servers.valkey_pid, signal.SIGSTOP)
        try:
            token = world.tenant.token()
            assert told(await world.at_once(subject_token=token)) == (503, "audit_unavailable")
        finally:
            os.kill(own_servers.valkey_pid, signal.SIGCONT)
        await eventually(lambda: allowed_again(world), what="allowed again")


async def test_a_full_backlog_refuses_allows_only(database_url: str, redis_url: str) -> None:
    async with new_world(database_url, redis_url, AUDIT_BACKLOG_MAX="1") as world:
        for _ in range(2):
            assert told(await world.exchange(client_secret="no")) == (401, "access_denied")

        async def full() -> bool:
            return told(await world.per_call()) == (503, "audit_unavailable")

        await eventually(full, what="backlog full")
        assert told(await world.per_call(scope="write")) == (403, "access_denied")


async def test_a_warm_exchange_is_one_call_of_redis(database_url: str, redis_url: str) -> None:
    async with (
        new_world(database_url, redis_url) as world,
        Redis.from_url(redis_url) as redis,
    ):
        form = world.tenant.form(subject_token=world.tenant.token(), client_secret=None)
        await world.by_gateway(form)
        await world.per_call()
        before = await redis.info("commandstats")
        count = await redis.xlen(AUDIT)
        for scope in ("read", "write"):
            await world.per_call(scope=scope)
            await world.by_gateway(form | {"scope": scope})
        after = await redis.info("commandstats")
        calls = {
            name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after
        }
        assert calls["cmdstat_evalsha"] == 4
        assert "cmdstat_eval" not in calls or calls["cmdstat_eval"] == 0
        # Inside of the script: each entry of the evidence, each nonce, each rate.
        assert calls["cmdstat_xadd"] == await redis.xlen(AUDIT) - count == 6
        assert (calls["cmdstat_set"], calls["cmdstat_incr"]) == (2, 4)


async def test_a_rate_over_its_limit_gives_nothing_without_evidence(
    database_url: str, redis_url: str
) -> None:
    """The entries of what is not usual come by a second call; it may fail by itself."""
    async with new_world(database_url, redis_url) as world:
        narrow = await world.tenant.add_resource(
            rate_limit={"window_seconds": 600, "max_requests": 1}
        )
        wanted = [narrow.identifier, "resource://one"]
        assert (await world.per_call(resource=wanted)).status_code == 200
        await world.redis.rename(AUDIT, "aside")
        await world.redis.set(AUDIT, "no stream")
        assert told(await world.per_call(resource=wanted)) == (503, "audit_unavailable")
        await world.redis.rename("aside", AUDIT)
        answer = await world.per_call(resource=wanted)
        assert answer.json()["target_resources"] == ["resource://one"]
        assert len(await world.audit(answer)) == 2
