"""Admin audit over HTTP: one row for what changed something, one for what was refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from caracal import clock
from caracal.events.topics import AUDIT
from caracal.ids import new_id
from caracal.projections.admin_audit_event import admin_audit, entity_of
from caracal.projections.rebuild import rebuild
from caracal.services.api.app import routes
from tests.api.running import OPERATOR, Plane
from tests.backbone import eventually

MEMBERS = {
    *("id", "request_id", "actor_id", "actor_name", "actor_scope", "action", "method", "path"),
    *("zone_id", "entity_type", "entity_id", "status_code", "occurred_at"),
}
Rows = list[dict[str, Any]]


async def rows(api: Plane, path: str, **query: Any) -> Rows:
    answer = await api.call("GET", path, params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


async def of_request(api: Plane, request_id: str, number: int = 1) -> Rows:
    """Wait until so many rows are there for a request."""

    async def there() -> Rows | None:
        found = await rows(api, "/admin-audit", request_id=request_id)
        return found if len(found) >= number else None

    return await eventually(there, what=f"{number} rows of a request") or []


async def call(api: Plane, method: str, path: str, body: Any = None, **headers: str) -> str:
    """Call a route; return the request's id."""
    request_id = new_id()
    headers = {"X-Request-Id": request_id, **headers}
    await api.client.request(method, f"/v1{path}", json=body, headers=headers)
    return request_id


async def test_a_change_leaves_a_row_at_once(api: Plane) -> None:
    zone = await api.zone()
    application = await api.application(zone)
    before = clock.now()
    path = f"/zones/{zone}/applications/{application['id']}"
    request_id = await call(api, "PATCH", path, {"name": "other"})
    (row,) = await rows(api, f"/zones/{zone}/admin-audit", request_id=request_id)
    assert set(row) == MEMBERS
    assert abs(clock.parse(row.pop("occurred_at")) - before) < timedelta(seconds=60)
    (token,) = {r["actor_id"] for r in await rows(api, f"/zones/{zone}/admin-audit")}
    assert row == {
        "id": row["id"],
        "request_id": request_id,
        "actor_id": token,
        "actor_name": "bootstrap",
        "actor_scope": "global",
        "action": f"PATCH /v1{path}",
        "method": "PATCH",
        "path": f"/v1{path}",
        "zone_id": zone,
        "entity_type": "applications",
        "entity_id": application["id"],
        "status_code": 200,
    }


async def test_each_status_and_several_facts_in_one_row(api: Plane) -> None:
    zone = await api.zone()
    listed = await rows(api, f"/zones/{zone}/admin-audit")
    assert [(r["action"], r["status_code"]) for r in listed] == [("POST /v1/zones", 201)]
    policy_set = (await api.made(f"/zones/{zone}/policy-sets", {"name": "s"}))["id"]
    request_id = await call(api, "DELETE", f"/zones/{zone}/policy-sets/{policy_set}")
    (row,) = await rows(api, f"/zones/{zone}/admin-audit", request_id=request_id)
    assert (row["status_code"], row["entity_type"]) == (204, "policy-sets")


async def test_what_changed_nothing_leaves_no_row(api: Plane) -> None:
    zone = await api.zone()
    name = (await api.call("GET", f"/zones/{zone}")).json()["name"]
    same = await call(api, "PATCH", f"/zones/{zone}", {"name": name})
    seen = await call(api, "GET", f"/zones/{zone}")
    refused = await call(api, "GET", f"/zones/{zone}/applications/unknown")
    await of_request(api, refused)  # it came last
    assert await rows(api, "/admin-audit", request_id=same) == []
    assert await rows(api, "/admin-audit", request_id=seen) == []


async def test_two_requests_with_one_id_are_two_rows(api: Plane) -> None:
    zone, request_id = await api.zone(), new_id()
    for _ in range(2):
        await api.call(
            "POST",
            f"/zones/{zone}/applications",
            {"name": "a"},
            headers={"X-Request-Id": request_id},
        )
    assert len(await rows(api, f"/zones/{zone}/admin-audit", request_id=request_id)) == 2


REFUSED = [
    ("GET", "/zones/{zone}/applications/nope", None, 404, "applications", "nope"),
    ("POST", "/zones/{zone}/applications", {"name": 5}, 400, "zones", "{zone}"),
    ("DELETE", "/zones/{zone}", "as reader", 403, "zones", "{zone}"),
    ("PUT", "/zones/{zone}", None, 405, "zones", "{zone}"),
    ("GET", "/zones/{zone}/what/is/this", None, 404, "zones", "{zone}"),
    ("POST", "/zones/{zone}/applications", "x" * 2_000_000, 413, "zones", "{zone}"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "kind", "thing"), REFUSED)
async def test_a_refusal_leaves_a_row(
    api: Plane, method: str, path: str, body: Any, status: int, kind: str, thing: str
) -> None:
    zone = await api.zone()
    headers = await api.token("zone", zone, "read") if body == "as reader" else {}
    request_id = await call(api, method, path.format(zone=zone), body, **headers)
    (row,) = await of_request(api, request_id)
    assert (row["status_code"], row["zone_id"]) == (status, zone)
    assert row["action"] == f"{method} /v1{path.format(zone=zone)}"
    assert (row["entity_type"], row["entity_id"]) == (kind, thing.format(zone=zone))
    scope = "zone" if headers else "global"
    assert row["actor_scope"] == scope


async def test_what_concerns_no_zone_is_of_the_system(api: Plane) -> None:
    for path in ("/zones/unknown/applications", "/nothing"):
        request_id = await call(api, "GET", path)
        (row,) = await of_request(api, request_id)
        assert (row["zone_id"], row["status_code"]) == ("system", 404)
    request_id = await call(api, "POST", "/zones", {"name": ""})
    (row,) = await of_request(api, request_id)
    assert (row["zone_id"], row["status_code"], row["entity_type"]) == ("system", 400, None)


async def test_a_stranger_leaves_a_row_without_actor_or_token(api: Plane) -> None:
    zone = await api.zone()
    stranger = {"Authorization": "Bearer nobody-knows-this"}
    request_id = await call(api, "GET", f"/zones/{zone}/audit?token=a-secret", **stranger)
    (row,) = await of_request(api, request_id)
    assert (row["actor_id"], row["status_code"], row["zone_id"]) == (None, 401, zone)
    async with Redis.from_url(api.redis_url) as redis:
        entries = await redis.xrange(AUDIT)
    text = b"".join(fields[b"data"] for _, fields in entries)
    assert b"nobody-knows-this" not in text
    assert b"a-secret" not in text
    assert OPERATOR.encode() not in text


async def test_the_entry_of_a_refusal(api: Plane) -> None:
    zone = await api.zone()
    request_id = await call(api, "GET", f"/zones/{zone}/grants/nope")
    (row,) = await of_request(api, request_id)
    (event,) = await rows(api, f"/zones/{zone}/audit", event_type="admin_request")
    assert (event["request_id"], event["decision"]) == (request_id, "deny")
    meta = event["metadata_json"]
    assert (meta["status_code"], meta["error"]) == (404, "grant_not_found")
    assert meta["call_id"] == row["id"]
    assert meta["path"] == f"/v1/zones/{zone}/grants/nope"


async def test_filters_and_pages(api: Plane) -> None:
    zone = await api.zone()
    made = [await api.application(zone) for _ in range(4)]
    path = f"/zones/{zone}/applications/{made[0]['id']}"
    await api.call("PATCH", path, {"name": "b"})
    await api.call("DELETE", path)
    mine = f"/zones/{zone}/admin-audit"
    everything = await rows(api, mine)
    assert len(everything) == 7
    newest_first = sorted(everything, key=lambda r: (r["occurred_at"], r["id"]), reverse=True)
    assert everything == newest_first
    middle = everything[3]["occurred_at"]
    for query, count in (
        ({"actor": everything[0]["actor_id"]}, 7),
        ({"actor": "nobody"}, 0),
        ({"action": f"DELETE /v1{path}"}, 1),
        ({"entity_type": "applications"}, 2),
        ({"entity_type": "applications", "entity_id": made[0]["id"]}, 2),
        ({"entity_id": zone}, 4),
        ({"status_code": 201}, 5),
        ({"since": middle}, 4),
        ({"until": middle}, 3),
    ):
        assert len(await rows(api, mine, **query)) == count, query
    assert len(await rows(api, "/admin-audit", zone_id=zone)) == 7
    seen: Rows = []
    link = f"/v1{mine}?limit=3"
    while link:
        answer = await api.client.get(link)
        seen += answer.json()
        link = answer.links.get("next", {}).get("url", "")
    assert seen == everything


@pytest.mark.parametrize(
    "query",
    ["since=yesterday", "actor=a%20b", "status_code=99", "limit=0", "limit=1001", "entity_id="],
)
async def test_bad_queries(api: Plane, query: str) -> None:
    answer = await api.call("GET", f"/admin-audit?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")


async def test_who_may_look(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    reader = await api.token("zone", zone, "read")
    for path, status in (
        (f"/zones/{zone}/admin-audit", 200),
        (f"/zones/{other}/admin-audit", 403),
        ("/admin-audit", 403),
    ):
        answer = await api.call("GET", path, headers=reader)
        assert answer.status_code == status, path
    shown = (await api.call("GET", f"/zones/{zone}/admin-audit", headers=reader)).json()
    assert {row["zone_id"] for row in shown} == {zone}


async def test_thirty_two_writers_leave_a_row_each(api: Plane) -> None:
    zone = await api.zone()
    calls = [call(api, "POST", f"/zones/{zone}/applications", {"name": "a"}) for _ in range(32)]
    refusals = [call(api, "GET", f"/zones/{zone}/resources/nope") for _ in range(32)]
    made, refused = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*refusals))
    for request_id in refused:
        assert len(await of_request(api, request_id)) == 1
    listed = await rows(api, f"/zones/{zone}/admin-audit", limit=1000)
    assert {row["request_id"] for row in listed} >= {*made, *refused}
    assert len(listed) == 65  # and the zone itself


async def test_a_rebuild_gives_the_same_rows(api: Plane) -> None:
    zone = await api.zone()
    await of_request(api, await call(api, "GET", f"/zones/{zone}/resources/nope"))
    before = await rows(api, "/admin-audit", limit=1000)
    assert await rebuild(api.database_url, admin_audit)
    after = await rows(api, "/admin-audit", limit=1000)
    assert after == before
    assert {row["status_code"] for row in after if row["zone_id"] == zone} == {201, 404}


def test_entities_are_those_of_the_routes() -> None:
    """What the path alone tells is what the template says: a new collection is to be listed."""
    for path in routes().openapi()["paths"]:
        segments = path.strip("/").split("/")
        pairs = [
            (before, f"id-of-{segment[1:-1]}")
            for before, segment in pairwise(segments)
            if segment.startswith("{") and before != "by-request"
        ]
        given = path.replace("{", "id-of-").replace("}", "")
        assert entity_of(given) == (pairs[-1] if pairs else (None, None)), path
