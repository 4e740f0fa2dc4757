from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from caracal import clock
from tests.api.running import Plane
from tests.making import new_application


async def world(api: Plane) -> tuple[str, dict[str, str]]:
    """A zone with an application and a resource; the body of a grant on them."""
    zone = await api.zone()
    app, resource = await api.application(zone), await api.resource(zone)
    return zone, {"application_id": app["id"], "resource_id": resource["id"]}


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    zone, on = await world(api)
    path = f"/zones/{zone}/grants"
    made = await api.made(path, {**on, "scopes": ["read"]})
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        **on,
        "user_id": None,
        "scopes": ["read"],
        "status": "active",
        "created_at": made["created_at"],
    }
    assert (await api.call("GET", f"{path}/{made['id']}")).json() == made
    assert (await api.call("GET", path)).json() == [made]
    assert (await api.call("PATCH", f"{path}/{made['id']}", {})).status_code == 405


async def test_revoking_is_idempotent_and_stays_to_be_seen(api: Plane) -> None:
    zone, on = await world(api)
    made = await api.made(f"/zones/{zone}/grants", {**on, "scopes": ["read"]})
    path = f"/zones/{zone}/grants/{made['id']}"
    first, second = await api.call("DELETE", path), await api.call("DELETE", path)
    assert (first.status_code, second.status_code) == (204, 204)
    assert "caracal-position" in first.headers
    assert "caracal-position" not in second.headers
    assert (await api.call("GET", path)).json() == made | {"status": "revoked"}


async def test_what_a_grant_names_must_be_there(api: Plane) -> None:
    zone, on = await world(api)
    _, foreign = await world(api)
    app, resource = on["application_id"], on["resource_id"]
    expired = new_application(zone, expires_at=clock.now() - timedelta(seconds=1))
    await api.save(expired)
    archived = await world_in(api, zone)
    for kind in ("application", "resource"):
        await api.call("DELETE", f"/zones/{zone}/{kind}s/{archived[f'{kind}_id']}")
    bad = {
        "application": [foreign["application_id"], resource, expired.aggregate_id, "unknown"],
        "resource": [foreign["resource_id"], app, "unknown"],
    }
    for kind, ids in bad.items():
        for thing_id in (*ids, archived[f"{kind}_id"]):
            body = {**on, "scopes": ["read"], f"{kind}_id": thing_id}
            answer = await api.call("POST", f"/zones/{zone}/grants", body)
            code = f"{kind}_not_found"
            assert (answer.status_code, answer.json()["error"]) == (404, code), thing_id


async def world_in(api: Plane, zone: str) -> dict[str, str]:
    app, resource = await api.application(zone), await api.resource(zone)
    return {"application_id": app["id"], "resource_id": resource["id"]}


async def test_scopes_stay_within_the_resource(api: Plane) -> None:
    zone, on = await world(api)
    answer = await api.call("POST", f"/zones/{zone}/grants", {**on, "scopes": ["read", "admin"]})
    assert (answer.status_code, answer.json()["error"]) == (403, "grant_scopes_exceed_resource")
    assert answer.json()["error_description"] == "the resource does not have: admin"


async def test_filters(api: Plane) -> None:
    zone, on = await world(api)
    path = f"/zones/{zone}/grants"
    other = await world_in(api, zone)
    provider = (await api.provider(zone))["id"]
    resource = f"/zones/{zone}/resources/{other['resource_id']}"
    await api.call("PATCH", resource, {"provider_id": provider})
    a = await api.made(path, {**on, "scopes": ["read"], "user_id": "ada"})
    b = await api.made(path, {**other, "scopes": ["read", "write"], "user_id": "bob"})
    c = await api.made(path, {**on, "scopes": ["write"]})
    await api.call("DELETE", f"{path}/{c['id']}")

    async def found(**query: str) -> list[str]:
        answer = await api.call("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return [grant["id"] for grant in answer.json()]

    expected: list[tuple[dict[str, str], list[dict[str, Any]]]] = [
        ({}, [c, b, a]),
        ({"application_id": on["application_id"]}, [c, a]),
        ({"resource_id": other["resource_id"]}, [b]),
        ({"user_id": "ada"}, [a]),
        ({"subject_id": "bob"}, [b]),
        ({"user_id": "ada", "subject_id": "ada"}, [a]),
        ({"status": "active"}, [b, a]),
        ({"status": "revoked"}, [c]),
        ({"status": "expired"}, []),
        ({"scopes": "read"}, [b, a]),
        ({"scopes": "write,read"}, [b]),
        ({"provider_id": "any"}, []),
        ({"provider_id": provider}, [b]),
        ({"provider_id": provider, "user_id": "ada"}, []),
        ({"application_id": on["application_id"], "status": "active"}, [a]),
    ]
    for query, grants in expected:
        assert await found(**query) == [grant["id"] for grant in grants], query


@pytest.mark.parametrize(
    "query",
    [
        "status=gone",
        "user_id=ada&subject_id=bob",
        "user_id=",
        "user_id=%00",
        "user_id=" + "a" * 257,
        "application_id=a%20b",
        "resource_id=" + "a" * 129,
        "provider_id=",
        "scopes=",
        "scopes=read,",
        "scopes=READ",
        "scopes=" + ",".join(["a"] * 65),
        "scopes=%00",
        "limit=501",
    ],
)
async def test_bad_queries(api: Plane, query: str) -> None:
    zone = await api.zone()
    answer = await api.call("GET", f"/zones/{zone}/grants?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")
