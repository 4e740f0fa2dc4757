"""A token is proven once; what that may never let through."""

from __future__ import annotations

from caracal.ids import new_id
from caracal.mandate import SigningKey
from tests.sts.world import Tenant, World, new_tenant


async def status(world: World, tenant: Tenant, token: str) -> int:
    return (await world.post(tenant.form(subject_token=token))).status_code


async def replace_key(tenant: Tenant) -> None:
    key = SigningKey.generate(new_id())
    await tenant.rotate(key.kid, key.public_jwk(), key.pem())


async def test_another_signature_under_proven_claims_is_refused(world: World) -> None:
    token = world.tenant.token()
    assert await status(world, world.tenant, token) == 200
    head, _, _ = token.rpartition(".")
    signature = SigningKey.generate(world.tenant.key.kid).sign({}).rpartition(".")[2]
    for forged in (f"{head}.{signature}", f"{head}.", head):
        assert await status(world, world.tenant, forged) == 401
    assert await status(world, world.tenant, token) == 200


async def test_a_proven_token_ends_with_its_key(world: World) -> None:
    tenant = await new_tenant(world.log)
    token = tenant.token()
    assert await status(world, tenant, token) == 200
    await replace_key(tenant)
    assert await status(world, tenant, token) == 200
    await replace_key(tenant)
    assert await status(world, tenant, token) == 401


async def test_a_proven_token_is_nothing_in_another_zone(world: World) -> None:
    other, token = await new_tenant(world.log), world.tenant.token()
    assert await status(world, world.tenant, token) == 200
    assert await status(world, other, token) == 401
