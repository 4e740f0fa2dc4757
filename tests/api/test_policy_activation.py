"""How far an activation has come; what an STS reports is in tests/sts/test_policy_reports.py."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from caracal.events.topics import HEARTBEAT
from caracal.ids import new_id
from caracal.services import policy_report
from caracal.services.api.policy_activation import Replica, propagation
from caracal.services.policy_report import REPLICAS, Loaded, Report, key_of
from caracal.services.sts.app import create_app as sts_app
from tests.api.policies import manifest, rego, set_of, sets, version_of
from tests.api.running import Plane, plane, served, settings
from tests.backbone import eventually, opened_log


@pytest.fixture
async def redis(api: Plane) -> AsyncIterator[Redis]:
    """The Redis of the plane, without replicas."""
    async with Redis.from_url(api.redis_url) as client:
        await forget(client)
        yield client
        await forget(client)


async def forget(client: Redis) -> None:
    keys = [key async for key in client.scan_iter("caracal:sts:*")]
    if keys:
        await client.delete(*keys)


async def activated(api: Plane) -> tuple[str, str, dict[str, Any]]:
    """A zone, its set, and the answer to the activation of its version."""
    zone = await api.zone()
    set_id, (version,) = await set_of(api, zone, [await version_of(api, zone)])
    answer = await api.call("POST", sets(zone, set_id, "activate"), {"version_id": version})
    return zone, set_id, dict(answer.json())


def replica(name: str, version: str, state: str, position: int) -> dict[str, Any]:
    told = {"replica": name, "version_id": version, "state": state, "position": position}
    return told | {"apart": False}


async def status(api: Plane, url: str) -> dict[str, Any]:
    answer = await api.client.get(url)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def published(api: Plane, url: str) -> dict[str, Any]:
    async def told() -> dict[str, Any] | None:
        found = await status(api, url)
        return found if found["topic"]["published"] else None

    found = await eventually(told, what="the activation on its topic")
    assert found is not None
    return found


async def test_it_is_followed_from_the_answer_on(api: Plane, redis: Redis) -> None:
    zone, set_id, told = await activated(api)
    url, version, position = told["status_url"], told["version_id"], told["position"]
    path = f"/v1{sets(zone, set_id, 'activation-status')}"
    assert url == f"{path}?version_id={version}&position={position}"
    assert await published(api, url) == {
        "policy_set_id": set_id,
        "version_id": version,
        "active": True,
        "propagation_status": "waiting_for_sts",
        "topic": {"position": position, "published": True},
        "sts": [],
        "unknown": [],
    }
    await policy_report.tell(redis, "sts-1", position, {zone: Loaded(version)})
    await policy_report.tell(redis, "sts-2", position - 1, {zone: Loaded("before", apart=True)})
    found = await status(api, url)
    assert found["propagation_status"] == "waiting_for_sts"
    assert found["sts"] == [
        replica("sts-1", version, "loaded", position),
        replica("sts-2", "before", "other", position - 1) | {"apart": True},
    ]
    await policy_report.tell(redis, "sts-2", position, {zone: Loaded(version)})
    assert (await status(api, url))["propagation_status"] == "loaded"
    # Topics have no order: what it still lacks may only be late, as long as it is behind.
    await policy_report.tell(redis, "sts-2", position - 1, {zone: Loaded("before", version)})
    assert (await status(api, url))["propagation_status"] == "waiting_for_sts"
    await policy_report.tell(redis, "sts-2", position, {zone: Loaded("before", version)})
    found = await status(api, url)
    assert found["propagation_status"] == "failed"
    assert found["sts"][1]["state"] == "failed"
    # Without the query: of the active version.
    assert await status(api, path) == found


async def test_two_replicas_load_what_is_activated(api: Plane, redis: Redis) -> None:
    given = settings("sts", api.database_url, api.redis_url, ISSUER_URL="https://sts.example")
    async with served(sts_app(given)), served(sts_app(given)):
        zone, set_id, told = await activated(api)
        for _ in range(2):

            async def loaded(url: str = told["status_url"]) -> dict[str, Any] | None:
                found = await status(api, url)
                everywhere = [replica["state"] for replica in found["sts"]] == ["loaded"] * 2
                return found if everywhere and found["topic"]["published"] else None

            found = await eventually(loaded, what="two replicas that have loaded it")
            assert found is not None
            assert found["propagation_status"] == "loaded"
            told = await activated_again(api, zone, set_id)
    assert (await status(api, told["status_url"]))["sts"] == []


async def activated_again(api: Plane, zone: str, set_id: str) -> dict[str, Any]:
    """Activate another version of a set; return the answer."""
    made = await api.made(
        sets(zone, set_id, "versions"), manifest(await version_of(api, zone, rego(new_id())))
    )
    answer = await api.call("POST", sets(zone, set_id, "activate"), {"version_id": made["id"]})
    return dict(answer.json())


async def test_in_force_already_has_a_status_too(api: Plane, redis: Redis) -> None:
    zone, set_id, told = await activated(api)
    again = await api.call(
        "POST", sets(zone, set_id, "activate"), {"version_id": told["version_id"]}
    )
    assert again.json()["position"] is None
    found = await published(api, again.json()["status_url"])
    assert found["topic"]["position"] == told["position"]


async def test_what_is_not_active_waits_for_it(api: Plane, redis: Redis) -> None:
    zone = await api.zone()
    policy = await version_of(api, zone)
    set_id, versions = await set_of(api, zone, [policy], [policy])
    path = f"/v1{sets(zone, set_id, 'activation-status')}"
    for query, version in (("", None), (f"?version_id={versions[0]}", versions[0])):
        found = await status(api, path + query)
        assert found["propagation_status"] == "waiting_for_activation"
        assert (found["active"], found["version_id"]) == (False, version)
        assert found["topic"] == {"position": None, "published": None}
    await api.call("POST", sets(zone, set_id, "activate"), {"version_id": versions[1]})
    found = await status(api, f"{path}?version_id={versions[0]}")
    assert (found["active"], found["propagation_status"]) == (False, "waiting_for_activation")


async def test_what_the_relay_has_not_reached_waits_for_the_topic(api: Plane, redis: Redis) -> None:
    zone, set_id, told = await activated(api)
    far = f"/v1{sets(zone, set_id, 'activation-status')}?position={2**62}"
    found = await status(api, far)
    assert found["propagation_status"] == "waiting_for_topic"
    assert found["topic"] == {"position": 2**62, "published": False}
    # The log may have told the replicas before the topic does.
    await policy_report.tell(redis, "sts-1", 1, {zone: Loaded(told["version_id"])})
    assert (await status(api, far))["propagation_status"] == "loaded"


async def test_a_forged_heartbeat_tells_nothing(api: Plane, redis: Redis) -> None:
    zone, set_id, _ = await activated(api)
    url = f"/v1{sets(zone, set_id, 'activation-status')}?position={2**62}"
    await status(api, url)
    newest: Any = await redis.xrevrange(HEARTBEAT, count=1)
    forged = newest[0][1] | {b"position": str(2**62).encode()}
    for fields in (forged, {"junk": "1"}, {b"\xff": b"\xff"}):
        await redis.xadd(HEARTBEAT, fields)
    assert (await status(api, url))["topic"]["published"] is False


async def test_what_is_no_report_is_passed_over(api: Plane, redis: Redis) -> None:
    _, _, told = await activated(api)
    zone = told["status_url"].split("/")[3]
    for number, members in enumerate(
        (
            {"@": "x", zone: b'{"version_id": null, "failed_version_id": null}'},
            {"@": "1", zone: b"\xff"},
            {"@": "1", zone: b"[]"},
            {"@": "1", zone: b'{"version_id": 1}'},
            {"@": "1", zone: b'{"other": null}'},
            {"@": "1", zone: b'"' + b"x" * 2000 + b'"'},
            {zone: b"{}"},
        )
    ):
        await redis.zadd(REPLICAS, {f"bad-{number}": time.time()})
        await redis.hset(key_of(f"bad-{number}"), mapping=members)  # type: ignore[arg-type]
    await redis.zadd(REPLICAS, {"gone": time.time(), b"\xff": time.time()})
    await policy_report.tell(redis, "sts-1", told["position"], {zone: Loaded(told["version_id"])})
    found = await status(api, told["status_url"])
    assert [replica["replica"] for replica in found["sts"]] == ["sts-1"]
    assert found["propagation_status"] == "loaded"


async def test_a_report_lives_for_a_minute(api: Plane, redis: Redis) -> None:
    await policy_report.tell(redis, "sts-1", 1, {"zone": Loaded("a")})
    assert 0 < await redis.ttl(key_of("sts-1")) <= 60
    assert await policy_report.is_there(redis, "sts-1")
    assert not await policy_report.is_there(redis, "sts-2")
    assert await policy_report.reports(redis, "zone") == [Report("sts-1", 1, Loaded("a"))]
    assert await policy_report.reports(redis, "other") == [Report("sts-1", 1, None)]
    await policy_report.withdraw(redis, "sts-1")
    assert await policy_report.reports(redis, "zone") == []
    assert await redis.zcard(REPLICAS) == 0


async def test_without_redis_it_says_what_it_cannot_know(api: Plane, api_database: str) -> None:
    _, set_id, told = await activated(api)
    nowhere = "redis://127.0.0.1:1/0"
    async with opened_log(api_database) as log, plane(api_database, nowhere, log) as alone:
        found = await status(alone, told["status_url"])
    assert found == {
        "policy_set_id": set_id,
        "version_id": told["version_id"],
        "active": True,
        "propagation_status": "waiting_for_sts",
        "topic": {"position": told["position"], "published": None},
        "sts": [],
        "unknown": ["topic", "sts"],
    }


async def test_the_refusals(api: Plane) -> None:
    zone, set_id, told = await activated(api)
    other = await api.zone()
    for where, path, query, code in (
        (zone, set_id, "version_id=unknown", "version_not_found"),
        (zone, set_id, f"version_id={new_id()}", "version_not_found"),
        (zone, "unknown", "", "policy_set_binding_not_found"),
        (other, set_id, "", "policy_set_binding_not_found"),
        ("unknown", set_id, "", "zone_not_found"),
        (zone, set_id, "version_id=a%20b", "invalid_query"),
        (zone, set_id, "version_id=", "invalid_query"),
        (zone, set_id, "position=0", "invalid_query"),
        (zone, set_id, "position=a", "invalid_query"),
        (zone, set_id, f"position={2**63}", "invalid_query"),
        (zone, "a%20b", "", "invalid_params"),
    ):
        answer = await api.call("GET", f"{sets(where, path, 'activation-status')}?{query}")
        expected = (400 if code.startswith("invalid") else 404, code)
        assert (answer.status_code, answer.json()["error"]) == expected
    reading = await api.token("zone", zone, "read")
    answer = await api.client.get(told["status_url"], headers=reading)
    assert answer.status_code == 200
    elsewhere = await api.token("zone", other)
    answer = await api.client.get(told["status_url"], headers=elsewhere)
    assert answer.json()["error"] == "admin_token_zone_mismatch"


@pytest.mark.parametrize(
    ("active", "published", "states", "expected"),
    [
        (False, True, ["loaded"], "waiting_for_activation"),
        (True, True, [], "waiting_for_sts"),
        (True, False, [], "waiting_for_topic"),
        (True, None, [], "waiting_for_sts"),
        (True, True, ["loaded", "loaded"], "loaded"),
        (True, False, ["loaded"], "loaded"),
        (True, True, ["loaded", "other"], "waiting_for_sts"),
        (True, True, ["loaded", "other", "failed"], "failed"),
        (True, True, ["loaded", "on_first_use"], "loaded"),
        (True, True, ["loaded", "late"], "waiting_for_sts"),
        (True, True, ["on_first_use"], "waiting_for_sts"),
    ],
)
def test_the_one_word(
    active: bool, published: bool | None, states: list[Any], expected: str
) -> None:
    replicas = [
        Replica(
            replica="r",
            version_id=None,
            state="on_first_use" if state == "late" else state,
            position=6 if state == "late" else 7,
        )
        for state in states
    ]
    assert propagation(active, published, replicas, 7) == expected
