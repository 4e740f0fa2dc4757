"""The operator's routes: what one replica has in memory, and what it would decide by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal.ids import new_id
from tests.sts.stalling import STALLS
from tests.sts.world import World, new_tenant, new_world

TOKEN = "the operator's own"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
PATHS = (
    ("GET", "/internal/zones"),
    ("GET", "/internal/zones/z"),
    ("POST", "/internal/zones/z/simulate"),
)


@pytest.fixture(scope="module")
async def world(module_database_url: str, module_redis_url: str) -> AsyncIterator[World]:
    urls = module_database_url, module_redis_url
    limit = {"CLIENT_AUTH_FAIL_LIMIT_PER_MIN": "20"}
    async with new_world(*urls, STS_ADMIN_TOKEN=TOKEN, **limit) as made:
        assert (await made.exchange()).status_code == 200  # so its zone is in memory
        yield made


async def ask(world: World, method: str, path: str, **options: Any) -> httpx.Response:
    given = {"headers": ADMIN} | options
    return await world.http.request(method, world.url + path, **given)


async def simulated(world: World, zone_id: str, policy_input: Any) -> dict[str, Any]:
    path = f"/internal/zones/{zone_id}/simulate"
    answer = await ask(world, "POST", path, json={"input": policy_input})
    assert answer.status_code == 200
    return dict(answer.json())


async def input_of(world: World, answer: httpx.Response) -> dict[str, Any]:
    event = (await world.audit(answer))[0]
    return dict(event["metadata_json"]["policy_input"])


async def test_without_a_token_there_are_no_such_routes(database_url: str, redis_url: str) -> None:
    async with new_world(database_url, redis_url) as closed:
        for method, path in PATHS:
            for headers in ({}, {"Authorization": "Bearer"}, ADMIN):
                answer = await ask(closed, method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


async def test_who_has_not_the_token(world: World) -> None:
    """And who goes on guessing is not even compared any more; others are."""
    wrong = [{}, *({"Authorization": text} for text in ("Bearer x", TOKEN, f"Basic {TOKEN}"))]
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(transport=transport) as guesser:
        for headers in wrong:
            for method, path in PATHS:
                answer = await guesser.request(method, world.url + path, headers=headers)
                assert (answer.status_code, answer.json()["error"]) == (401, "access_denied")
                assert answer.headers["www-authenticate"] == "Bearer"
        more = [await guesser.get(f"{world.url}/internal/zones") for _ in range(9)]
        assert [answer.status_code for answer in more] == [401] * 9
        for headers in ({}, ADMIN):
            blocked = await guesser.get(f"{world.url}/internal/zones", headers=headers)
            assert (blocked.status_code, blocked.json()["error"]) == (429, "access_denied")
    assert (await ask(world, "GET", "/internal/zones")).status_code == 200


async def test_zones_that_are_in_memory(world: World) -> None:
    other = await new_tenant(world.log)
    assert (await world.post(other.form())).status_code == 200
    answer = await ask(world, "GET", "/internal/zones")
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert body["position"] >= 1
    assert body["zones"][0]["zone_id"] == other.id  # used last
    (zone,) = [zone for zone in body["zones"] if zone["zone_id"] == world.tenant.id]
    assert zone["bytes"] > 0
    assert zone == {
        "zone_id": world.tenant.id,
        "bytes": zone["bytes"],
        "policy_set_version_id": world.tenant.policy_set.active_version_id,
        "failed_version_id": None,
        "apart": False,
    }
    shown = (await ask(world, "GET", f"/internal/zones/{world.tenant.id}")).json()
    assert {name: shown[name] for name in zone} == zone
    assert (shown["rows"]["applications"], shown["rows"]["resources"]) == (1, 1)
    policy = shown["policy"]
    assert (policy["policy_set_id"], len(policy["policy_version_ids"])) == (
        world.tenant.policy_set.aggregate_id,
        1,
    )
    assert policy["loaded_seconds"] >= 0


async def test_a_zone_that_is_not_in_memory_is_not_loaded_for_it(world: World) -> None:
    other = await new_tenant(world.log)
    for method, rest in (("GET", ""), ("POST", "/simulate")):
        for zone_id in (other.id, new_id(), "no%20id"):
            path = f"/internal/zones/{zone_id}{rest}"
            answer = await ask(world, method, path, json={"input": {}})
            assert (answer.status_code, answer.json()["error"]) == (404, "resource_not_found")
    zones = (await ask(world, "GET", "/internal/zones")).json()["zones"]
    assert other.id not in {zone["zone_id"] for zone in zones}


async def test_what_the_loaded_policies_would_say(world: World) -> None:
    answer = await world.per_call(scope="read")
    seen = await input_of(world, answer)
    told = await simulated(world, world.tenant.id, seen)
    assert told["policy_set_version_id"] == world.tenant.policy_set.active_version_id
    assert len(told["manifest_sha256"]) == 64
    assert (told["result"]["decision"], told["warnings"]) == ("allow", [])
    refused = await simulated(world, world.tenant.id, {})
    assert refused["result"]["decision"] == "deny"
    assert "missing_context" in refused["warnings"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"input": []}', b"\xff"])
async def test_bad_bodies(world: World, body: bytes) -> None:
    path = f"/internal/zones/{world.tenant.id}/simulate"
    answer = await ask(world, "POST", path, content=body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body")
    assert (await ask(world, "POST", path, content=b"x" * 70_000)).status_code == 413
    assert (await ask(world, "GET", path)).status_code == 405


async def test_an_input_that_stalls_a_policy_costs_the_replica_nothing(world: World) -> None:
    other = await new_tenant(world.log, STALLS)
    answer = await world.post(other.form(scope="read"))
    assert answer.status_code == 200
    seen = await input_of(world, answer)
    seen["context"]["requested_scopes"] = ["odd"]
    told = await simulated(world, other.id, seen)
    assert (told["result"]["decision"], told["result"]["evaluation_status"]) == ("deny", "error")
    ready = await world.http.get(f"{world.url}/ready")
    assert ready.json()["policies_apart"] == 0
    assert (await world.exchange()).status_code == 200
    seen["context"]["requested_scopes"] = ["read"]
    assert (await simulated(world, other.id, seen))["result"]["decision"] == "allow"
