from __future__ import annotations

from caracal.events.base import Fall
from caracal.projections.grant import grants
from tests.making import (
    ZONE,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    reduced,
    store_with,
)


async def test_rows() -> None:
    app, resource = new_application(), new_resource()
    ids = app.aggregate_id, resource.aggregate_id
    active, revoked, expired = (new_grant(*ids, user_id=user) for user in ("ada", None, None))
    with in_zone():
        revoked.revoke(Fall())
        expired.expire()
    rows = reduced(grants, await store_with(app, resource, active, revoked, expired))["grants"]
    assert (
        rows[active.aggregate_id].items()
        >= {
            "zone_id": ZONE,
            "application_id": ids[0],
            "resource_id": ids[1],
            "scopes": ["read"],
            "user_id": "ada",
            "status": "active",
        }.items()
    )
    assert "ended_on" not in rows[active.aggregate_id]
    for grant, status in ((revoked, "revoked"), (expired, "expired")):
        assert rows[grant.aggregate_id]["status"] == status
        assert "ended_on" in rows[grant.aggregate_id]
