"""Rotation of a zone's signing key, and what the STS makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from caracal import mandate
from caracal.projections.query import select
from caracal.services.sts.app import create_app as sts_app
from tests.api.policies import set_of, sets, version_of
from tests.api.running import Plane, served, settings
from tests.sts.world import POLICY

RESOURCE = "resource://keys"


async def rotated(api: Plane, zone: str) -> dict[str, Any]:
    return await api.made(f"/zones/{zone}/signing-key/rotate", None)


async def keys_of(api: Plane, zone: str) -> list[dict[str, Any]]:
    statement = "SELECT * FROM signing_keys WHERE zone_id = %s ORDER BY version"
    async with api.database() as db:
        return await select(db, statement, [zone])


async def facts_of(api: Plane, kid: str) -> list[dict[str, Any]]:
    statement = (
        "SELECT convert_from(state, 'UTF8')::jsonb AS fact FROM log WHERE name LIKE 'signing_key%%'"
        " AND convert_from(state, 'UTF8')::jsonb ->> 'aggregate_id' = %s ORDER BY position"
    )
    async with api.database() as db:
        return [row["fact"] for row in await select(db, statement, [kid])]


async def test_the_answer_has_the_contracts_members(api: Plane) -> None:
    zone = await api.zone()
    (first,) = await keys_of(api, zone)
    made = await rotated(api, zone)
    assert made == {
        "zone_id": zone,
        "kid": made["kid"],
        "version": 2,
        "created_at": made["created_at"],
    }
    old, new = await keys_of(api, zone)
    assert (old, new["id"], new["version"]) == (first, made["kid"], 2)
    (fact,) = await facts_of(api, made["kid"])
    assert (fact["version"], fact["replaces"]) == (2, first["id"])


@pytest.mark.parametrize("zone", ["unknown", "archived"])
async def test_no_zone_no_key(api: Plane, zone: str) -> None:
    if zone == "archived":
        zone = await api.zone()
        await api.call("DELETE", f"/zones/{zone}")
    answer = await api.call("POST", f"/zones/{zone}/signing-key/rotate")
    assert (answer.status_code, answer.json()["error"]) == (404, "zone_not_found")


async def test_a_reading_token_rotates_nothing(api: Plane) -> None:
    zone = await api.zone()
    for capability in ("read", "approve"):
        headers = await api.token("zone", zone, capability)  # type: ignore[arg-type]
        answer = await api.call("POST", f"/zones/{zone}/signing-key/rotate", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (403, "admin_token_capability")
    assert len(await keys_of(api, zone)) == 1


async def test_many_rotate_and_no_number_is_missing_or_there_twice(api: Plane) -> None:
    zone = await api.zone()
    path = f"/zones/{zone}/signing-key/rotate"
    answers = await asyncio.gather(*(api.call("POST", path) for _ in range(32)))
    done = [answer.json() for answer in answers if answer.status_code == 201]
    assert {a.json()["error"] for a in answers if a.status_code != 201} <= {"concurrent_update"}
    assert sorted(made["version"] for made in done) == list(range(2, len(done) + 2))
    rows = await keys_of(api, zone)
    assert [row["version"] for row in rows] == list(range(1, len(done) + 2))
    replaced = [(await facts_of(api, row["id"]))[0]["replaces"] for row in rows]
    assert replaced == [None, *(row["id"] for row in rows[:-1])]


# --- as the STS follows it -----------------------------------------------------------------


@pytest.fixture
async def sts(api: Plane) -> AsyncIterator[httpx.AsyncClient]:
    """An STS on the same servers."""
    given = settings("sts", api.database_url, api.redis_url, ISSUER_URL="https://sts.example")
    async with (
        served(sts_app(given)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        yield client


async def test_the_sts_signs_with_the_new_key_and_knows_the_old(
    api: Plane, sts: httpx.AsyncClient
) -> None:
    zone = await api.zone()
    app = await api.application(zone, credential_type="token")
    await api.resource(zone, identifier=RESOURCE)
    policies, (version,) = await set_of(api, zone, [await version_of(api, zone, POLICY)])
    await api.call("POST", sets(zone, policies, "activate"), {"version_id": version})
    form = {
        "zone_id": zone,
        "application_id": app["id"],
        "client_secret": app["client_secret"],
        "resource": RESOURCE,
        "scope": "read",
    }

    async def exchanged(position: int, **more: str) -> str:
        headers = {"Caracal-Min-Position": str(position)}
        answer = await sts.post("/oauth/2/token", data=form | more, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def published() -> list[str]:
        keys = (await sts.get(f"/zones/{zone}/.well-known/jwks.json")).json()["keys"]
        return [key["kid"] for key in keys]

    (first,) = await keys_of(api, zone)
    old = await exchanged(0)
    assert mandate.peek(old).kid == first["id"]
    answer = await api.call("POST", f"/zones/{zone}/signing-key/rotate")
    position, second = int(answer.headers["caracal-position"]), answer.json()["kid"]
    assert mandate.peek(await exchanged(position)).kid == second
    assert mandate.peek(await exchanged(position, subject_token=old)).kid == second
    assert await published() == [second, first["id"]]
    third = await rotated(api, zone)
    await exchanged(position + 1)
    assert await published() == [third["kid"], second]
