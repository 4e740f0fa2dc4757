from __future__ import annotations

from datetime import timedelta

import pytest

from caracal import clock
from caracal.events.session import Session
from tests.api.running import Plane
from tests.making import in_zone, new_session


async def test_sessions_are_listed(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone)
    path = f"/zones/{zone}/sessions"
    active = new_session(app["id"], zone_id=zone)
    revoked, expired = (new_session(app["id"], zone_id=zone, subject_id="bob") for _ in range(2))
    with in_zone(zone):
        revoked.revoke("token_revoked")
        expired.expire()
    await api.save(active, revoked, expired)
    listed = (await api.call("GET", path)).json()
    assert [(row["id"], row["status"]) for row in listed] == [
        (expired.aggregate_id, "expired"),
        (revoked.aggregate_id, "revoked"),
        (active.aggregate_id, "active"),
    ]
    row = listed[2]
    assert row == {
        "id": active.aggregate_id,
        "zone_id": zone,
        "session_type": "user",
        "subject_id": "ada",
        "parent_id": None,
        "trusted_issuer_id": None,
        "status": "active",
        "expires_at": active.expires_at,
        "authenticated_at": active.authenticated_at,
        "created_at": row["created_at"],
    }
    for query, ids in (
        ("status=active", [active]),
        ("subject=bob", [expired, revoked]),
        ("subject_id=bob&status=revoked", [revoked]),
        ("subject=ada&subject_id=ada", [active]),
    ):
        found = (await api.call("GET", f"{path}?{query}")).json()
        assert [row["id"] for row in found] == [session.aggregate_id for session in ids], query


@pytest.mark.parametrize(
    "query",
    ["status=gone", "subject=a&subject_id=b", "subject=", "subject=%00", "limit=0", "limit=1001"],
)
async def test_bad_queries(api: Plane, query: str) -> None:
    zone = await api.zone()
    answer = await api.call("GET", f"/zones/{zone}/sessions?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_query")


async def test_a_page_holds_100_unless_more_are_asked_for(api: Plane) -> None:
    zone = await api.zone()
    app = await api.application(zone)
    later = clock.now() + timedelta(hours=1)
    many: list[Session] = [
        new_session(app["id"], zone_id=zone, expires_at=later) for _ in range(101)
    ]
    await api.save(*many)
    answer = await api.call("GET", f"/zones/{zone}/sessions")
    assert (len(answer.json()), 'rel="next"' in answer.headers["link"]) == (100, True)
    answer = await api.call("GET", f"/zones/{zone}/sessions?limit=1000")
    assert (len(answer.json()), "link" in answer.headers) == (101, False)
