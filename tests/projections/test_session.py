from __future__ import annotations

from collections.abc import Callable

import pytest

from caracal.events.base import Aggregate, Fall
from caracal.events.grant import Grant
from caracal.events.session import Session
from caracal.projections.memory import MemoryTable, apply
from caracal.projections.session import SESSIONS, sessions
from tests.backbone import archive_zone, new_zone
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    new_session,
    reduced,
    store_with,
)


async def test_rows() -> None:
    app = new_application()
    active, revoked, expired = (new_session(app.aggregate_id) for _ in range(3))
    with in_zone():
        revoked.revoke("token_revoked")
        expired.expire()
    rows = reduced(sessions, await store_with(app, active, revoked, expired))["sessions"]
    row = rows[active.aggregate_id]
    assert (
        row.items()
        >= {
            "zone_id": ZONE,
            "session_type": "user",
            "subject_id": "ada",
            "application_id": app.aggregate_id,
            "status": "active",
        }.items()
    )
    assert row["authenticated_at"] < row["expires_at"]
    assert rows[revoked.aggregate_id]["status"] == "revoked"
    assert "revoked_at" in rows[revoked.aggregate_id]
    assert rows[expired.aggregate_id]["status"] == "expired"
    assert "revoked_at" not in rows[expired.aggregate_id]


def _grant_revoked(sid: str) -> Aggregate:
    grant: Grant = new_grant("app", "resource")
    with in_zone():
        grant.revoke(Fall.of_sessions([sid]))
    return grant


def _application_archived(sid: str) -> Aggregate:
    app = new_application()
    with in_zone():
        app.archive(Fall.of_sessions([sid]))
    return app


def _zone_archived(sid: str) -> Aggregate:
    return archive_zone(new_zone(), sid)


@pytest.mark.parametrize("first", [True, False], ids=["its row first", "its end first"])
@pytest.mark.parametrize("cascade", [_grant_revoked, _application_archived, _zone_archived])
async def test_a_cascade_ends_its_sessions(
    cascade: Callable[[str], Aggregate], first: bool
) -> None:
    session: Session = new_session("app")
    keys = (f"live:zone:{ZONE}", "live:application:app", "live:resource:resource")
    store = await store_with(session, cascade(session.aggregate_id), keys=keys)
    table = MemoryTable(SESSIONS)
    in_order = facts(store)
    for fact in in_order if first else reversed(in_order):
        apply({"sessions": table}, sessions.reduce(fact))
    row = table.rows[session.aggregate_id]
    assert (row["status"], row["subject_id"], row["stub"]) == ("revoked", "ada", False)
    assert row["revoked_at"] is not None


async def test_cascades_without_sessions_touch_nothing() -> None:
    resource, app = new_resource(), new_application()
    with in_zone():
        app.archive(Fall())
    assert reduced(sessions, await store_with(resource, app)) == {"sessions": {}}
