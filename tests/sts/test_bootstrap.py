"""What local bootstrap makes is enough: its application gets a token from a real STS."""

from __future__ import annotations

from caracal.mandate import public_key, verify
from caracal.projections.query import select
from tests.api.running import plane
from tests.api.test_bootstrap import LIVE_KEYS
from tests.sts.world import AUDIT_KEY, ISSUER, KEK, World, new_world


async def token_for(world: World, secret: str) -> str:
    """Ask for a token as the bootstrapped application."""
    form = {
        "zone_id": "zone1",
        "application_id": "app1",
        "client_secret": secret,
        "resource": "resource://example",
        "scope": "read agent:lifecycle",
    }
    answer = await world.post(form)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["scope"], body["target_resources"]) == (
        "read agent:lifecycle",
        ["resource://example"],
    )
    return str(body["access_token"])


async def test_the_bootstrapped_application_gets_a_token(database_url: str, redis_url: str) -> None:
    keys = {
        "FACTS_HMAC_KEY": bytes(range(32)).hex(),
        "STREAMS_HMAC_KEY": (b"\x42" * 32).hex(),
        "AUDIT_HMAC_KEY": AUDIT_KEY.hex(),
        "ZONE_KEK": KEK.hex(),
        "CARACAL_LOCAL_BOOTSTRAP_ENABLED": "true",
    }
    async with (
        new_world(database_url, redis_url, worker=True) as world,
        plane(database_url, redis_url, world.log, **keys) as api,
    ):
        first = (await api.call("POST", "/local/bootstrap", {"force": False})).json()
        token = await token_for(world, first["app_client_secret"])
        async with api.database() as db:
            (row,) = await select(db, LIVE_KEYS, ["zone1"])
        claims = verify(token, dict([public_key(row["public_jwk"])]))
        assert (claims["iss"], claims["zone_id"], claims["client_id"]) == (ISSUER, "zone1", "app1")
        forced = (await api.call("POST", "/local/bootstrap", {"force": True})).json()
        await token_for(world, forced["app_client_secret"])
        old = {"zone_id": "zone1", "application_id": "app1", "resource": "resource://example"}
        refused = await world.post(old | {"client_secret": first["app_client_secret"]})
        assert refused.status_code == 401
