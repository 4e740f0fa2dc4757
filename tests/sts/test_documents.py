"""Keys, metadata, routes, positions: what the STS answers beside tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from caracal import mandate
from caracal.ids import new_id
from tests.sts.world import ISSUER, World, new_tenant, new_world

METADATA = "/.well-known/oauth-authorization-server"


async def get(world: World, path: str, **headers: str) -> httpx.Response:
    return await world.http.get(world.url + path, headers=headers)


async def test_both_forms_of_the_key_set_verify_what_is_minted(world: World) -> None:
    minted = (await world.per_call()).json()["access_token"]
    by_query = await get(world, f"/.well-known/jwks.json?zone_id={world.tenant.id}")
    by_path = await get(world, f"/zones/{world.tenant.id}/.well-known/jwks.json")
    assert by_query.json() == by_path.json() == {"keys": [world.tenant.key.public_jwk()]}
    assert by_query.headers["cache-control"] == "public, max-age=300, must-revalidate"
    mandate.verify(minted, mandate.parse_jwks(by_path.content))


async def test_a_zone_made_a_moment_ago_is_known(world: World) -> None:
    tenant = await new_tenant(world.log)
    keys = await get(world, f"/zones/{tenant.id}/.well-known/jwks.json")
    assert keys.status_code == 200
    other = await new_tenant(world.log)
    assert (await get(world, f"{METADATA}/zones/{other.id}")).status_code == 200


async def test_unreadable_keys_are_skipped_and_all_unreadable_is_an_error(world: World) -> None:
    tenant = await new_tenant(world.log)

    async def add_unreadable() -> httpx.Response:
        kid = new_id()
        position = str(await tenant.rotate(kid, {"kid": kid, "x": "?", "y": "?"}, b"?"))
        path = f"/zones/{tenant.id}/.well-known/jwks.json"
        return await get(world, path, **{"Caracal-Min-Position": position})

    one_left = await add_unreadable()
    assert [key["kid"] for key in one_left.json()["keys"]] == [tenant.key.kid]
    none_left = await add_unreadable()
    assert (none_left.status_code, none_left.json()["error"]) == (500, "internal_error")
    metrics = await get(world, "/metrics", Accept="application/json")
    assert metrics.json()["sts"]["jwks_invalid_keys"] == 3


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/.well-known/jwks.json?zone_id=nowhere", 404, "resource_not_found"),
        ("/zones/nowhere/.well-known/jwks.json", 404, "resource_not_found"),
        ("/.well-known/jwks.json?zone_id=a&zone_id=b", 400, "invalid_token"),
        (f"{METADATA}/zones/nowhere", 400, "zone_invalid"),
        (f"{METADATA}/zones/no%20where", 400, "zone_invalid"),
        ("/oauth/2/token", 405, "method_not_allowed"),
        ("/oauth/2/tokens", 404, "not_found"),
        ("/zones/a/b/.well-known/jwks.json", 404, "not_found"),
    ],
)
async def test_other_answers(world: World, path: str, status: int, code: str) -> None:
    answer = await get(world, path)
    body = answer.json()
    assert (answer.status_code, body["error"]) == (status, code)
    assert body["requestId"] == answer.headers["x-request-id"]


async def test_a_verifier_that_names_no_zone(world: World) -> None:
    """An only zone is served in dev mode; of several none is, unless one is the default."""
    await new_tenant(world.log)
    refused = await get(world, "/.well-known/jwks.json")
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_token")


async def test_metadata(world: World) -> None:
    whole = (await get(world, METADATA)).json()
    zone = (await get(world, f"{METADATA}/zones/{world.tenant.id}")).json()
    assert whole["issuer"] == ISSUER
    assert zone["issuer"] == f"{ISSUER}/zones/{world.tenant.id}"
    assert zone["jwks_uri"] == f"{zone['issuer']}/.well-known/jwks.json"
    assert whole["token_endpoint_auth_methods_supported"] == [
        "client_secret_post",
        "private_key_jwt",
    ]
    algorithms = whole["token_endpoint_auth_signing_alg_values_supported"]
    assert algorithms == ["ES256", "RS256", "PS256"]
    assert whole["token_endpoint"] == zone["token_endpoint"] == f"{ISSUER}/oauth/2/token"


async def test_the_request_id_is_the_callers_when_well_formed(world: World) -> None:
    given = await get(world, "/none", **{"X-Request-Id": "my.id:1"})
    assert given.headers["x-request-id"] == given.json()["requestId"] == "my.id:1"
    other = await get(world, "/none", **{"X-Request-Id": "my id"})
    assert other.headers["x-request-id"] != "my id"


@pytest.mark.parametrize("given", ["soon", "-1", "9" * 19])
async def test_a_position_is_a_number(world: World, given: str) -> None:
    answer = await get(world, "/.well-known/jwks.json", **{"Caracal-Min-Position": given})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_params")


async def test_a_position_that_is_not_reached(world: World) -> None:
    beyond = str(await world.position() + 1)
    answer = await world.http.post(
        f"{world.url}/oauth/2/token",
        data=world.tenant.form(),
        headers={"Caracal-Min-Position": beyond},
    )
    assert (answer.status_code, answer.json()["error"]) == (503, "projection_lagging")
    assert int(answer.headers["retry-after"]) >= 1


async def test_ready_and_counters(world: World) -> None:
    await world.per_call()
    ready = await get(world, "/ready")
    assert (ready.status_code, ready.json()["ok"]) == (200, True)
    counters = (await get(world, "/metrics", Accept="application/json")).json()
    assert set(counters) == {"sts", "opa", "audit_dropped"}
    engine = counters["opa"]
    assert engine["eval_total"] >= 1
    assert engine["eval_duration_ns"] > 0
    assert engine["compile_total"] >= 1
    assert engine["compile_duration_ns"] > 0
    assert engine["max_policy_age_seconds"] > 0
    assert {"eval_errors", "compile_errors"} < set(engine)
    assert engine["policies_apart"] == engine["processes_lost_total"] == 0
    assert "caracal_sts_opa_eval_total" in (await get(world, "/metrics")).text


class TestDefaultZone:
    """Verifiers that fetch ``{iss}/.well-known/jwks.json`` and name no zone."""

    @pytest.fixture
    async def alone(self, database_url: str, redis_url: str) -> AsyncIterator[World]:
        async with new_world(database_url, redis_url) as made:
            yield made

    async def test_an_only_zone_in_dev_mode(self, alone: World) -> None:
        keys = await get(alone, "/.well-known/jwks.json")
        assert keys.json()["keys"] == [alone.tenant.key.public_jwk()]
