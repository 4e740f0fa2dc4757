from __future__ import annotations

import pytest

from caracal.errors import Forbidden, NotFound
from caracal.events.base import Fall
from caracal.events.grant import Grant
from caracal.events.store.log import Saved
from tests.making import (
    ZONE,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    new_session,
    signals,
    store_with,
    told,
)


async def test_revoking_ends_sessions_once() -> None:
    app, resource = new_application(), new_resource()
    session = new_session(app.aggregate_id)
    grant = new_grant(app.aggregate_id, resource.aggregate_id, user_id="ada")
    store = await store_with(app, resource, session, grant)
    sid = session.aggregate_id
    with in_zone():
        grant.revoke_late(Fall.of_sessions([sid]))  # not revoked: nothing can be late
        assert await store.save(grant) == Saved()
        grant.revoke(Fall.of_sessions([sid]))
        grant.revoke(Fall.of_sessions([sid]))
        grant.revoke_late(Fall.of_sessions(["late"]))
    await store.save(grant)
    names = [name for name, _ in told(store)]
    assert names[-3:] == ["grant.created", "grant.revoked", "grant.revoked"]
    assert f"live:session:{sid}" not in store.held.keys
    sent = signals(store, "caracal.sessions.revoke")
    assert sent == [
        {
            "event": "session_revoke",
            "session_id": ended,
            "anchor": "session",
            "reason": "grant_revoked",
            "grant_id": grant.aggregate_id,
            "zone_id": ZONE,
            "fact": "grant.revoked",
        }
        for ended in (sid, "late")
    ]


async def test_expired_is_not_revoked() -> None:
    app, resource = new_application(), new_resource()
    grant = new_grant(app.aggregate_id, resource.aggregate_id)
    with in_zone():
        grant.expire()
        grant.expire()
        grant.revoke(Fall())
    assert grant.status == "expired"
    store = await store_with(app, resource, grant)
    assert told(store)[-1] == ("grant.expired", {})


def test_scopes_stay_within_the_resource() -> None:
    with in_zone(), pytest.raises(Forbidden, match="grant_scopes_exceed_resource"):
        Grant.create(
            "g",
            zone_id=ZONE,
            application_id="a",
            resource_id="r",
            scopes=["read", "admin"],
            of=["read"],
        )


async def test_nothing_is_granted_on_what_is_dead() -> None:
    app, resource = new_application(), new_resource()
    store = await store_with(app, resource)
    with pytest.raises(NotFound, match="application_not_found"):
        await store.save(new_grant("none", resource.aggregate_id))
    with pytest.raises(NotFound, match="resource_not_found"):
        await store.save(new_grant(app.aggregate_id, "none"))
    with in_zone():
        resource.archive()
    await store.save(resource)
    with pytest.raises(NotFound, match="resource_not_found"):
        await store.save(new_grant(app.aggregate_id, resource.aggregate_id))
