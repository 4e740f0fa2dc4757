"""``/v1/audit-retention`` over HTTP. One for all: this module's tests know of each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.api.running import Plane

LIMIT = 365


async def put(api: Plane, days: Any, **headers: str) -> tuple[int, Any]:
    body = {"retention_days": days}
    answer = await api.call("PUT", "/audit-retention", body, headers=headers)
    return answer.status_code, answer.json()


async def shown(api: Plane) -> Any:
    return (await api.call("GET", "/audit-retention")).json()


async def test_what_is_said_is_shown(api: Plane) -> None:
    assert await shown(api) == {"retention_days": LIMIT, "limit_days": LIMIT}
    for days in (30, 1, LIMIT):
        assert await put(api, days) == (200, {"retention_days": days, "limit_days": LIMIT})
        assert await shown(api) == {"retention_days": days, "limit_days": LIMIT}


@pytest.mark.parametrize(
    ("days", "code"),
    [
        (LIMIT + 1, "retention_above_limit"),
        (10**30, "retention_above_limit"),
        *((days, "invalid_body") for days in (0, -1, "30", 30.5, True, None, [30])),
    ],
)
async def test_what_cannot_be(api: Plane, days: Any, code: str) -> None:
    before = await shown(api)
    status, answer = await put(api, days)
    assert (status, answer["error"]) == (400, code)
    assert await shown(api) == before


async def test_it_needs_a_global_token_that_writes(api: Plane) -> None:
    zone = await api.zone()
    for token, method, code in (
        (await api.token("zone", zone), "PUT", "admin_token_zone_mismatch"),
        (await api.token("zone", zone), "GET", "admin_token_zone_mismatch"),
        (await api.token("global", capability="read"), "PUT", "admin_token_capability"),
    ):
        body = {"retention_days": 30} if method == "PUT" else None
        answer = await api.call(method, "/audit-retention", body, headers=token)
        assert (answer.status_code, answer.json()["error"]) == (403, code)
    reader = await api.token("global", capability="read")
    assert (await api.call("GET", "/audit-retention", headers=reader)).status_code == 200


async def test_many_say_something_at_once(api: Plane) -> None:
    answers = await asyncio.gather(*(put(api, days) for days in range(1, 33)))
    assert {status for status, _ in answers} == {200}
    assert (await shown(api))["retention_days"] in range(1, 33)
    async with api.database() as db:
        cursor = await db.execute(
            "SELECT count(DISTINCT version), max(version) FROM log"
            " WHERE name = 'audit_retention.changed'"
        )
        count, last = await cursor.fetchone() or (0, 1)
    assert count == last  # no version twice, none left out
    (row,) = (await api.call("GET", "/admin-audit?action=PUT%20/v1/audit-retention&limit=1")).json()
    assert (row["zone_id"], row["status_code"], row["entity_type"]) == ("system", 200, None)
