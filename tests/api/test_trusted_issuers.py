"""Trusted issuers over HTTP: their rules, the ids of their users, and what ends with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from caracal.events.session import Session
from caracal.events.store.vault import Vault
from caracal.events.zone import Zone
from caracal.ids import new_id
from caracal.user_id import user_id_of
from tests.api.running import Plane
from tests.making import in_zone, new_session

VAULT = Vault((bytes.fromhex("12" * 32),))


def given(**members: Any) -> dict[str, Any]:
    return {"issuer": f"https://login.example/{new_id()}", "audiences": ["client"], **members}


async def trusted(api: Plane, zone: str, **members: Any) -> dict[str, Any]:
    return await api.made(f"/zones/{zone}/trusted-issuers", given(**members))


async def begun(api: Plane, zone: str, app: str, issuer: str | None) -> Session:
    session = new_session(app, zone_id=zone, trusted_issuer_id=issuer)
    await api.save(session)
    return session


async def refused(api: Plane, method: str, path: str, body: Any = None) -> tuple[int, str]:
    answer = await api.call(method, path, body)
    return answer.status_code, answer.json()["error"]


async def test_the_answer_has_all_rules(api: Plane) -> None:
    zone = await api.zone()
    path = f"/zones/{zone}/trusted-issuers"
    made = await api.made(path, {"issuer": "https://a.example/x", "audiences": ["client"]})
    assert made == {
        "id": made["id"],
        "zone_id": zone,
        "name": "https://a.example/x",
        "issuer": "https://a.example/x",
        "audiences": ["client"],
        "algorithms": ["RS256", "PS256", "ES256"],
        "jwks_uri": None,
        "subject_claim": "sub",
        "required_claims": {},
        "mapped_claims": [],
        "application_ids": [],
        "max_age_seconds": 3600,
        "session_seconds": 3600,
        "single_use": True,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    one = f"{path}/{made['id']}"
    assert (await api.call("GET", one)).json() == made
    app = await api.application(zone)
    changes = {
        "name": "Staff",
        "audiences": ["client", "other"],
        "algorithms": ["ES256"],
        "jwks_uri": "https://keys.example/jwks",
        "required_claims": {"hd": "corp.example", "admin": True, "level": 1},
        "mapped_claims": ["groups", "email"],
        "application_ids": [app["id"]],
        "max_age_seconds": 60,
        "session_seconds": 60,
        "single_use": False,
    }
    changed = (await api.call("PATCH", one, changes)).json()
    assert changed == made | changes | {"updated_at": changed["updated_at"]}
    assert (await api.call("GET", path)).json() == [changed]
    cleared = (await api.call("PATCH", one, {"jwks_uri": None})).json()
    assert cleared["jwks_uri"] is None


async def test_who_its_users_are_never_changes(api: Plane) -> None:
    zone = await api.zone()
    made = await trusted(api, zone)
    path = f"/zones/{zone}/trusted-issuers/{made['id']}"
    body = {"issuer": "https://evil.example", "subject_claim": "email", "name": "n"}
    changed = (await api.call("PATCH", path, body)).json()
    assert (changed["issuer"], changed["subject_claim"]) == (made["issuer"], "sub")
    assert await refused(api, "PATCH", path, {"issuer": "https://evil.example"}) == (
        400,
        "no_fields",
    )


async def test_refusals(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    path = f"/zones/{zone}/trusted-issuers"
    made = await trusted(api, zone)
    again = given(issuer=made["issuer"])
    assert await refused(api, "POST", path, again) == (409, "trusted_issuer_conflict")
    await trusted(api, other, issuer=made["issuer"])  # each zone trusts for itself
    elsewhere = (await api.application(other))["id"]
    for app in (elsewhere, "unknown"):
        body = given(application_ids=[app])
        assert await refused(api, "POST", path, body) == (404, "application_not_found")
        one = f"{path}/{made['id']}"
        changes = {"application_ids": [app]}
        assert await refused(api, "PATCH", one, changes) == (404, "application_not_found")
    missing = (404, "trusted_issuer_not_found")
    for thing in ("unknown", made["id"].upper(), zone):
        for method, body in (("GET", None), ("PATCH", {"name": "n"}), ("DELETE", None)):
            assert await refused(api, method, f"{path}/{thing}", body) == missing
        assert await refused(api, "POST", f"{path}/{thing}/user-id", {"subject": "a"}) == missing
    in_other = f"/zones/{other}/trusted-issuers/{made['id']}"
    assert await refused(api, "GET", in_other) == missing
    assert await refused(api, "DELETE", in_other) == missing


@pytest.mark.parametrize("value", [["b"], 1.5, "", None])
async def test_one_sentence_says_what_a_required_claim_may_be(api: Plane, value: Any) -> None:
    path = f"/zones/{await api.zone()}/trusted-issuers"
    answer = await api.call("POST", path, given(required_claims={"hd": value}))
    said = "required_claims.hd: must be a text, a whole number or a boolean"
    assert (answer.status_code, answer.json()["error_description"]) == (400, said)
    assert len(answer.json()["issues"]) == 1


async def test_of_many_at_once_one_is_trusted(api: Plane) -> None:
    zone = await api.zone()
    body = given()
    path = f"/zones/{zone}/trusted-issuers"
    answers = await asyncio.gather(*(api.call("POST", path, body) for _ in range(32)))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 31]


@pytest.mark.parametrize("subject", ["", "a" * 256, 7, None, "a\x00"])
async def test_subjects_that_are_none(api: Plane, subject: Any) -> None:
    zone = await api.zone()
    made = await trusted(api, zone)
    path = f"/zones/{zone}/trusted-issuers/{made['id']}/user-id"
    assert await refused(api, "POST", path, {"subject": subject}) == (400, "invalid_body")


async def test_a_users_id_is_made_by_the_zones_own_key(api: Plane) -> None:
    zone, other = await api.zone(), await api.zone()
    url = f"https://login.example/{new_id()}"
    ids = []
    for place in (zone, other, zone):
        rows = (await api.call("GET", f"/zones/{place}/trusted-issuers")).json()
        made = rows[0] if rows else await trusted(api, place, issuer=url)
        path = f"/zones/{place}/trusted-issuers/{made['id']}/user-id"
        answer = await api.call("POST", path, {"subject": "ada@corp.example"})
        assert answer.status_code == 200
        assert "caracal-position" not in answer.headers
        ids.append(answer.json()["user_id"])
    assert ids[0] == ids[2] != ids[1]
    found = await api.log.find(Zone, zone)
    assert found is not None
    async with api.database() as db:
        key = await VAULT.read(db, found.data_key_ref)
    assert ids[0] == user_id_of(key, url, "ada@corp.example")
    await api.call("DELETE", f"/zones/{zone}/trusted-issuers/{made['id']}")
    anew = await trusted(api, zone, issuer=url, subject_claim="email")
    path = f"/zones/{zone}/trusted-issuers/{anew['id']}/user-id"
    by_email = (await api.call("POST", path, {"subject": "ada@corp.example"})).json()["user_id"]
    assert by_email == user_id_of(key, url, "ada@corp.example", "email") != ids[0]


async def test_an_archived_issuer_ends_the_sessions_it_began(api: Plane) -> None:
    zone = await api.zone()
    app = (await api.application(zone))["id"]
    made, other = await trusted(api, zone), await trusted(api, zone)
    gone = await begun(api, zone, app, made["id"])
    stays = await begun(api, zone, app, other["id"])
    own = await begun(api, zone, app, None)
    path = f"/zones/{zone}/trusted-issuers/{made['id']}"
    assert (await api.call("DELETE", path)).status_code == 204
    rows = (await api.call("GET", f"/zones/{zone}/sessions")).json()
    assert {row["id"]: row["status"] for row in rows} == {
        gone.aggregate_id: "revoked",
        stays.aggregate_id: "active",
        own.aggregate_id: "active",
    }
    async with Redis.from_url(api.redis_url) as redis:
        entries = await redis.xrevrange("caracal.sessions.revoke", count=50)
    said = [fields for _, fields in entries if fields[b"session_id"] == gone.aggregate_id.encode()]
    assert [entry[b"reason"] for entry in said] == [b"issuer_archived"]
    assert await refused(api, "DELETE", path) == (404, "trusted_issuer_not_found")
    assert await refused(api, "GET", path) == (404, "trusted_issuer_not_found")
    with in_zone(zone):
        gone.revoke("token_revoked")
    with pytest.raises(Exception, match="session_not_found"):
        await api.log.save(gone)
    with pytest.raises(Exception, match="trusted_issuer_not_found"):
        await begun(api, zone, app, made["id"])
    await trusted(api, zone, issuer=made["issuer"])  # may be trusted again, and begins anew


async def test_administrators_are_told_who_changed_it(api: Plane) -> None:
    zone = await api.zone()
    made = await trusted(api, zone)
    await api.call("DELETE", f"/zones/{zone}/trusted-issuers/{made['id']}")
    rows = (await api.call("GET", f"/zones/{zone}/admin-audit?limit=50")).json()
    deleted = [row for row in rows if row["action"].startswith("DELETE")]
    assert [(row["entity_type"], row["entity_id"]) for row in deleted] == [
        ("trusted-issuers", made["id"])
    ]
