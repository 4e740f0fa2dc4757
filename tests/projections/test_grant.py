from __future__ import annotations

from datetime import timedelta

from caracal import clock
from caracal.events.base import Fall
from caracal.events.grant import Credential
from caracal.projections.grant import grants
from tests.making import (
    ZONE,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    reduced,
    sealed,
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


async def test_tokens() -> None:
    app, resource = new_application(), new_resource()
    kept, ended = (new_grant(app.aggregate_id, resource.aggregate_id) for _ in range(2))
    moment = clock.now() + timedelta(hours=1)
    with in_zone():
        for grant in (kept, ended):
            grant.store_credential(Credential(sealed("a"), sealed("r")))
            grant.refresh_credential(Credential(sealed("b"), None, moment), token_version=1)
        ended.revoke(Fall())
    rows = reduced(grants, await store_with(app, resource, kept, ended))["grants"]
    row = rows[kept.aggregate_id]
    expected = {"access_token_ref": "b", "refresh_token_ref": "r", "token_version": 2}
    assert row.items() >= expected.items()
    assert row["token_expires_at"] == clock.parse(clock.rfc3339(moment))
    assert "expires_at" not in row  # the grant itself has none
    assert rows[ended.aggregate_id]["status"] == "revoked"
    assert not {"access_token_ref", "refresh_token_ref"} & rows[ended.aggregate_id].keys()


async def test_tokens_that_the_provider_has_ended() -> None:
    app, resource = new_application(), new_resource()
    grant = new_grant(app.aggregate_id, resource.aggregate_id)
    with in_zone():
        grant.store_credential(Credential(sealed("a"), sealed("r"), clock.now()))
        grant.expire_credential(token_version=1)
    row = reduced(grants, await store_with(app, resource, grant))["grants"][grant.aggregate_id]
    gone = ("access_token_ref", "refresh_token_ref", "token_expires_at")
    assert not set(gone) & row.keys()
    assert (row["status"], row["token_version"]) == ("active", 1)
