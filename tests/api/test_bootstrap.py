"""Local bootstrap: the same things, whoever calls, however often, at whatever time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg import AsyncConnection

from caracal import secret_hash
from caracal.errors import StartError
from caracal.events.store.vault import Vault
from caracal.events.zone import Zone
from caracal.ids import log_key
from caracal.mandate import SigningKey, public_key, sign, verify
from caracal.policy.check import check_policy
from caracal.projections.query import select
from caracal.services.api.app import routes
from caracal.services.api.bootstrap import _CONTENT
from caracal.settings import load_settings
from tests.api.running import Plane, plane, worker
from tests.api.test_admin_tokens import error_of
from tests.backbone import new_zone, opened_log

LIVE_KEYS = "SELECT * FROM signing_keys WHERE zone_id = %s AND ended_at IS NULL"
PATH = "/local/bootstrap"
KEKS = ("12" * 32, "34" * 32)
FIXED = {
    "zone_id": "zone1",
    "app_id": "app1",
    "application_id": "app1",
    "app_client_id": "zone1:app1",
    "resource": "resource://example",
    "scope": "read agent:lifecycle",
}
EXISTED = FIXED | {"app_client_secret": None, "rotated": False, "signing_key_resealed": False}


@asynccontextmanager
async def local(database_url: str, redis_url: str, **more: str) -> AsyncIterator[Plane]:
    """A control plane with bootstrap, and no worker."""
    given = {"CARACAL_LOCAL_BOOTSTRAP_ENABLED": "true"} | more
    async with (
        opened_log(database_url) as log,
        plane(database_url, redis_url, log, **given) as api,
    ):
        yield api


@pytest.fixture
async def fresh(database_url: str, redis_url: str) -> AsyncIterator[Plane]:
    """A control plane with bootstrap, on servers with nothing in them."""
    async with worker(database_url, redis_url), local(database_url, redis_url) as api:
        yield api


async def stored_secret(api: Plane) -> str:
    async with api.database() as db:
        (row,) = await select(db, "SELECT client_secret_ref FROM applications", [])
        return (await Vault((bytes.fromhex(KEKS[0]),)).read(db, row["client_secret_ref"])).decode()


async def test_everything_is_made_with_its_fixed_ids(fresh: Plane) -> None:
    answer = await fresh.call("POST", PATH, {"force": False})
    made = answer.json()
    assert answer.status_code == 201
    assert re.fullmatch(r"[0-9a-f]{48}", made["app_client_secret"])
    assert made == EXISTED | {"app_client_secret": made["app_client_secret"]}
    assert secret_hash.verify(await stored_secret(fresh), made["app_client_secret"])

    async def shown(path: str) -> Any:
        return (await fresh.call("GET", f"/zones/zone1{path}")).json()

    def has(thing: dict[str, Any], **members: Any) -> bool:
        return members.items() <= thing.items()

    assert has(await shown(""), org_id="local", name="Local Dev", slug="local-dev")
    assert has(await shown(""), dcr_enabled=True, pkce_required=False)
    app = await shown("/applications/app1")
    assert has(app, registration_method="managed", credential_type="password", consent="implicit")
    resource = await shown("/resources/resource1")
    assert has(resource, identifier="resource://example", scopes=["read", "agent:lifecycle"])
    assert has(resource, gateway_application_id="app1", upstream_url=None)
    (version,) = (await shown("/policies/local-dev-allow"))["versions"]
    assert version["id"] == "local-dev-allow-v1"
    policy_set = await shown("/policy-sets/local-dev-policy-set")
    assert policy_set["active_version_id"] == "local-dev-policy-set-v1"
    manifest = await shown("/policy-sets/local-dev-policy-set/versions/local-dev-policy-set-v1")
    assert manifest["policies"] == ["local-dev-allow"]
    async with fresh.database() as db:
        (key,) = await select(db, LIVE_KEYS, ["zone1"])
        rows = await select(db, "SELECT aggregate_key FROM log WHERE name = 'zone.created'", [])
    assert (key["id"], key["version"]) == ("zone1-signing-key-v1", 1)
    assert [row["aggregate_key"] for row in rows] == [log_key("zone1")]


async def test_a_second_call_finds_it(fresh: Plane) -> None:
    first = (await fresh.call("POST", PATH, {})).json()
    before = await stored_secret(fresh)
    again = await fresh.call("POST", PATH, {"force": False})
    assert (again.status_code, again.json()) == (200, EXISTED)
    assert "caracal-position" not in again.headers
    assert await stored_secret(fresh) == before
    forced = await fresh.call("POST", PATH, {"force": True})
    secret = forced.json()["app_client_secret"]
    assert (forced.status_code, forced.json()) == (
        200,
        EXISTED | {"app_client_secret": secret, "rotated": True},
    )
    assert secret != first["app_client_secret"]
    assert secret_hash.verify(await stored_secret(fresh), secret)


async def test_eight_at_once(database_url: str, redis_url: str) -> None:
    async with (
        worker(database_url, redis_url),
        local(database_url, redis_url) as api,
        local(database_url, redis_url) as other,
    ):
        calls = (by.call("POST", PATH, {"force": False}) for by in [api, other] * 4)
        answers = await asyncio.gather(*calls)
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert [a.json() for a in answers if a.status_code == 200] == [EXISTED] * 7
        async with api.database() as db:
            names = await select(db, "SELECT name FROM log WHERE name NOT LIKE 'admin%%'", [])
        assert [row["name"] for row in names] == [
            "zone.created",
            "signing_key.created",
            "application.created",
            "resource.created",
            "policy.created",
            "policy.version_added",
            "policy_set.created",
            "policy_set.version_added",
            "policy_set.activated",
        ]


async def test_a_changed_kek_makes_a_new_signing_key(database_url: str, redis_url: str) -> None:
    async with worker(database_url, redis_url):
        async with local(database_url, redis_url) as api:
            await api.call("POST", PATH, {})
        async with local(database_url, redis_url, ZONE_KEK=KEKS[1]) as api:
            answers = await asyncio.gather(*(api.call("POST", PATH, {}) for _ in range(8)))
            assert {answer.status_code for answer in answers} == {200}
            resealed = [answer.json()["signing_key_resealed"] for answer in answers]
            assert sorted(resealed) == [False] * 7 + [True]
            async with api.database() as db:
                (key,) = await select(db, LIVE_KEYS, ["zone1"])
                assert key["version"] == 2
                await _check_signs(db, key, KEKS[1])
                old = await select(db, "SELECT reason FROM signing_keys WHERE version = 1", [])
            assert old == [{"reason": "unreadable"}]
            forced = (await api.call("POST", PATH, {"force": True})).json()
            assert (forced["rotated"], forced["signing_key_resealed"]) == (True, False)


async def _check_signs(db: AsyncConnection[Any], row: dict[str, Any], kek: str) -> None:
    pem = await Vault((bytes.fromhex(kek),)).read(db, row["private_key_ref"])
    kid, key = public_key(row["public_jwk"])
    token = sign({"sub": "ada"}, SigningKey.from_pem(row["id"], pem))
    assert verify(token, {kid: key}) == {"sub": "ada"}


async def test_with_both_keks_nothing_is_resealed(database_url: str, redis_url: str) -> None:
    async with worker(database_url, redis_url):
        async with local(database_url, redis_url) as api:
            await api.call("POST", PATH, {})
        async with local(database_url, redis_url, ZONE_KEK=",".join(KEKS[::-1])) as api:
            assert (await api.call("POST", PATH, {})).json() == EXISTED


async def test_a_zone_of_that_name_made_by_another(fresh: Plane) -> None:
    await fresh.save(new_zone("zone1"))
    for force in (False, True):
        answer = await fresh.call("POST", PATH, {"force": force})
        assert error_of(answer) == (409, "zone_not_local_bootstrap")


@pytest.mark.parametrize("gone", ["", "/applications/app1", "/resources/resource1"])
async def test_what_was_archived_is_not_made_again(fresh: Plane, gone: str) -> None:
    await fresh.call("POST", PATH, {})
    assert (await fresh.call("DELETE", f"/zones/zone1{gone}")).status_code == 204
    for force in (False, True):
        answer = await fresh.call("POST", PATH, {"force": force})
        assert error_of(answer) == (409, "zone_not_local_bootstrap")


async def test_a_taken_slug(fresh: Plane) -> None:
    await fresh.zone(slug="local-dev")
    answer = await fresh.call("POST", PATH, {})
    assert error_of(answer) == (409, "zone_slug_conflict")
    assert await fresh.log.find(Zone, "zone1") is None


@pytest.fixture(scope="module")
async def enabled(api: Plane) -> AsyncIterator[Plane]:
    """A replica of the shared control plane that has the route."""
    async with local(api.database_url, api.redis_url) as made:
        yield made


@pytest.mark.parametrize("wrong", [{"force": 1}, {"force": None}, {"force": "true"}, [], None])
async def test_bad_bodies(enabled: Plane, wrong: Any) -> None:
    assert error_of(await enabled.call("POST", PATH, wrong)) == (400, "invalid_body")


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "203.0.113.7"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
    ],
)
async def test_what_was_forwarded_is_not_local(enabled: Plane, header: dict[str, str]) -> None:
    answer = await enabled.call("POST", PATH, {}, headers=header)
    assert error_of(answer) == (403, "loopback_only")


async def test_global_tokens_that_write_only(enabled: Plane) -> None:
    zone = await enabled.zone()
    for token, code in (
        (await enabled.token("zone", zone), "admin_token_zone_mismatch"),
        (await enabled.token("global", capability="read"), "admin_token_capability"),
        (await enabled.token("global", capability="approve"), "admin_token_capability"),
    ):
        answer = await enabled.call("POST", PATH, {}, headers=token)
        assert error_of(answer) == (403, code)
    answer = await enabled.client.post(f"/v1{PATH}", json={}, headers={"Authorization": ""})
    assert error_of(answer) == (401, "invalid_admin_token")


async def test_there_is_no_such_route_unless_enabled(api: Plane) -> None:
    for content in ({"json": {}}, {"content": b"{"}):
        answer = await api.call("POST", PATH, **content)
        assert error_of(answer) == (404, "not_found")
    assert f"/v1{PATH}" not in routes(local_bootstrap=False).openapi()["paths"]


def test_it_does_not_start_in_runtime_mode() -> None:
    given = {
        "CARACAL_MODE": "runtime",
        "DATABASE_URL": "postgresql://x/y",
        "REDIS_URL": "redis://x",
        "FACTS_HMAC_KEY": "ab" * 32,
        "AUDIT_HMAC_KEY": "ef" * 32,
        "ZONE_KEK": KEKS[0],
    }
    assert load_settings("api", given).is_runtime
    with pytest.raises(StartError, match="CARACAL_LOCAL_BOOTSTRAP_ENABLED is for"):
        load_settings("api", given | {"CARACAL_LOCAL_BOOTSTRAP_ENABLED": "true"})


async def test_its_policy_passes_the_upload_check() -> None:
    await check_policy(_CONTENT)
