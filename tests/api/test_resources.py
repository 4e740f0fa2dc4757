from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.running import Plane, plane


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    zone = await api.zone()
    made = await api.resource(zone, identifier="resource://a", scopes=["read"])
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "identifier": "resource://a",
        "name": "resource://a",
        "upstream_url": None,
        "scopes": ["read"],
        "prefix_match": False,
        "provider_id": None,
        "gateway_application_id": None,
        "protocol": "http",
        "rate_limit": None,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    path = f"/zones/{zone}/resources"
    assert (await api.call("GET", f"{path}/{made['id']}")).json() == made
    assert (await api.call("GET", path)).json() == [made]


async def test_patch_answers_the_whole_and_clears_by_null(api: Plane) -> None:
    zone = await api.zone()
    app, provider = await api.application(zone), await api.provider(zone)
    optional = {
        "upstream_url": "https://a.example:8443/base?x=1",
        "provider_id": provider["id"],
        "gateway_application_id": app["id"],
        "rate_limit": {"window_seconds": 1, "max_requests": 5},
    }
    made = await api.resource(zone, **optional)
    assert made.items() >= optional.items()
    path = f"/zones/{zone}/resources/{made['id']}"
    changed = (await api.call("PATCH", path, {"protocol": "mcp", "scopes": ["a"]})).json()
    assert changed == made | {
        "protocol": "mcp",
        "scopes": ["a"],
        "updated_at": changed["updated_at"],
    }
    nulls: dict[str, Any] = dict.fromkeys(optional)
    assert (await api.call("PATCH", path, nulls)).json().items() >= nulls.items()
    assert (await api.call("GET", path)).json().items() >= nulls.items()


@pytest.mark.parametrize(("name", "value"), [("prefix", True), ("credential_provider_id", None)])
async def test_other_names(api: Plane, name: str, value: Any) -> None:
    zone = await api.zone()
    own = {"prefix": "prefix_match", "credential_provider_id": "provider_id"}[name]
    made = await api.resource(zone, **{name: value})
    assert made[own] is value
    assert (await api.resource(zone, **{name: value, own: value}))[own] is value
    path = f"/zones/{zone}/resources"
    body = {"identifier": "x", "scopes": ["a"], name: value, own: "another"}
    answer = await api.call("POST", path, body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_body")
    patched = await api.call("PATCH", f"{path}/{made['id']}", {name: value})
    assert (patched.status_code, patched.json()[own]) == (200, value)


async def test_references_must_be_there(api: Plane) -> None:
    zone = await api.zone()
    made = await api.resource(zone)
    foreign = await api.application(await api.zone())
    archived = await api.application(zone)
    await api.call("DELETE", f"/zones/{zone}/applications/{archived['id']}")
    path = f"/zones/{zone}/resources"
    gateway = "gateway_application_id", "gateway_application_not_found"
    provider = "provider_id", "provider_not_found"
    foreign_provider = await api.provider(await api.zone())
    archived_provider = await api.provider(zone)
    await api.call("DELETE", f"/zones/{zone}/providers/{archived_provider['id']}")
    bad = [(*provider, "unknown"), (*provider, foreign_provider["id"]), (*provider, made["id"])]
    bad += [(*provider, archived_provider["id"]), ("credential_" + provider[0], provider[1], "x")]
    bad += [(*gateway, app) for app in ("unknown", foreign["id"], archived["id"], made["id"])]
    for field, code, value in bad:
        body = {"identifier": "x", "scopes": ["a"], field: value}
        for method, where in (("POST", path), ("PATCH", f"{path}/{made['id']}")):
            answer = await api.call(method, where, body)
            assert (answer.status_code, answer.json()["error"]) == (404, code)


async def test_a_resource_keeps_the_id_of_a_provider_that_is_gone(api: Plane) -> None:
    zone = await api.zone()
    provider = (await api.provider(zone))["id"]
    made = await api.resource(zone, credential_provider_id=provider)
    await api.call("DELETE", f"/zones/{zone}/providers/{provider}")
    path = f"/zones/{zone}/resources/{made['id']}"
    changed = await api.call("PATCH", path, {"name": "still changed"})
    assert (changed.status_code, changed.json()["provider_id"]) == (200, provider)
    again = await api.call("PATCH", path, {"provider_id": provider})
    assert (again.status_code, again.json()["error"]) == (404, "provider_not_found")
    cleared = await api.call("PATCH", path, {"credential_provider_id": None})
    assert (cleared.status_code, cleared.json()["provider_id"]) == (200, None)


async def test_many_resources_and_the_end_of_their_provider(api: Plane) -> None:
    zone = await api.zone()
    provider = (await api.provider(zone))["id"]
    path = f"/zones/{zone}/resources"
    bodies = [{"identifier": f"{n}", "scopes": ["a"], "provider_id": provider} for n in range(32)]
    calls = [api.call("POST", path, body) for body in bodies]
    calls.insert(8, api.call("DELETE", f"/zones/{zone}/providers/{provider}"))
    answers = await asyncio.gather(*calls)
    ended = int(answers.pop(8).headers["caracal-position"])
    for answer in answers:
        if answer.status_code == 201:
            assert int(answer.headers["caracal-position"]) < ended
        else:
            assert (answer.status_code, answer.json()["error"]) == (404, "provider_not_found")


async def test_identifiers_are_unique_among_what_is_not_archived(api: Plane) -> None:
    zone = await api.zone()
    one = await api.resource(zone, identifier="a")
    other = await api.resource(zone, identifier="b")
    path = f"/zones/{zone}/resources"
    await api.resource(await api.zone(), identifier="a")  # another zone is another matter
    for method, where in (("POST", path), ("PATCH", f"{path}/{other['id']}")):
        answer = await api.call(method, where, {"identifier": "a", "scopes": ["x"]})
        assert (answer.status_code, answer.json()["error"]) == (409, "resource_identifier_conflict")
    assert (await api.call("DELETE", f"{path}/{one['id']}")).status_code == 204
    changed = await api.call("PATCH", f"{path}/{other['id']}", {"identifier": "a"})
    assert changed.status_code == 200
    await api.resource(zone, identifier="b")


async def test_a_zone_has_so_many_resources(api: Plane) -> None:
    more = {"API_MAX_RESOURCES_PER_ZONE": "2"}
    async with plane(api.database_url, api.redis_url, api.log, **more) as small:
        zone = await small.zone()
        first = await small.resource(zone)
        await small.resource(zone)
        path = f"/zones/{zone}/resources"
        answer = await small.call("POST", path, {"identifier": "c", "scopes": ["x"]})
        assert (answer.status_code, answer.json()["error"]) == (409, "resource_quota_exceeded")
        await small.call("DELETE", f"{path}/{first['id']}")
        await small.resource(zone)
