from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from caracal import clock
from caracal.errors import Forbidden, NotFound
from caracal.events.base import Fall
from caracal.events.catalogue import export_of
from caracal.events.grant import Credential, Grant, RefreshedMeanwhile
from caracal.events.store.appender import VersionConflict
from caracal.events.store.log import Saved
from caracal.events.store.memory import MemoryLog
from tests.making import (
    ZONE,
    in_zone,
    new_application,
    new_grant,
    new_resource,
    new_session,
    sealed,
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


def credential(
    name: str, *, refresh: bool = True, expires_at: datetime | None = None
) -> Credential:
    refreshing = sealed(f"{name}/refresh") if refresh else None
    return Credential(sealed(f"{name}/access"), refreshing, expires_at)


async def granted() -> tuple[MemoryLog, Grant]:
    app, resource = new_application(), new_resource()
    grant = new_grant(app.aggregate_id, resource.aggregate_id, user_id="ada")
    return await store_with(app, resource, grant), grant


async def test_tokens_are_stored_and_refreshed() -> None:
    store, grant = await granted()
    moment = clock.now()
    with in_zone():
        grant.store_credential(credential("a", expires_at=moment))
    await store.save(grant)
    assert told(store)[-1] == (
        "grant.credential_stored",
        {
            "access_token_ref": "a/access",
            "refresh_token_ref": "a/refresh",
            "expires_at": clock.rfc3339(moment),
            "token_version": 1,
            "provider_id": None,
        },
    )
    with in_zone():
        grant.refresh_credential(credential("b", refresh=False), token_version=1)
    await store.save(grant)
    assert told(store)[-1] == (
        "grant.credential_refreshed",
        {
            "access_token_ref": "b/access",
            "refresh_token_ref": "a/refresh",
            "expires_at": None,
            "token_version": 2,
            "provider_id": None,
        },
    )
    assert set(store.held.vault) == {"b/access", "a/refresh"}
    with in_zone():
        grant.refresh_credential(credential("c"), token_version=2)
        grant.store_credential(credential("d", refresh=False))
    await store.save(grant)
    assert told(store)[-1][1]["token_version"] == 4
    assert set(store.held.vault) == {"d/access"}
    exported = export_of("grant.credential_stored", told(store)[-1][1])
    assert exported == {"expires_at": None, "token_version": 4, "provider_id": None}


async def test_one_refresh_of_a_version_wins() -> None:
    store, grant = await granted()
    with in_zone():
        with pytest.raises(RefreshedMeanwhile):
            grant.refresh_credential(credential("a"), token_version=0)  # there is none
        grant.store_credential(credential("a"))
    await store.save(grant)
    mine, peers = [await store.find(Grant, grant.aggregate_id) for _ in range(2)]
    assert mine is not None
    assert peers is not None
    with in_zone():
        peers.refresh_credential(credential("peer"), token_version=1)
        await store.save(peers)
        mine.refresh_credential(credential("mine"), token_version=1)
        with pytest.raises(VersionConflict):
            await store.save(mine)
        again = await store.find(Grant, grant.aggregate_id)
        assert again is not None
        with pytest.raises(RefreshedMeanwhile):
            again.refresh_credential(credential("mine"), token_version=1)
    assert (again.access_token_ref, again.token_version) == ("peer/access", 2)
    assert set(store.held.vault) == {"peer/access", "peer/refresh"}


@pytest.mark.parametrize("end", [lambda grant: grant.revoke(Fall()), Grant.expire])
async def test_tokens_end_with_the_grant(end: Callable[[Grant], None]) -> None:
    store, grant = await granted()
    with in_zone():
        grant.store_credential(credential("a"))
        await store.save(grant)
        end(grant)
        await store.save(grant)
        assert store.held.vault == {}
        for command in (
            lambda: grant.store_credential(credential("b")),
            lambda: grant.refresh_credential(credential("b"), token_version=1),
        ):
            with pytest.raises(NotFound, match="grant_not_found"):
                command()
    assert await store.save(grant) == Saved()


@pytest.mark.parametrize(
    ("scopes", "named"), [("read admin", "admin"), ("g f read e d c b", "b, c, d, e, f, …")]
)
def test_scopes_stay_within_the_resource(scopes: str, named: str) -> None:
    with in_zone(), pytest.raises(Forbidden, match="grant_scopes_exceed_resource") as refused:
        Grant.create(
            "g",
            zone_id=ZONE,
            application_id="a",
            resource_id="r",
            scopes=scopes.split(),
            of=["read"],
        )
    assert refused.value.description == f"the resource does not have: {named}"


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
