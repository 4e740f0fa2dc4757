"""A token is proven once; what that may never let through."""

from __future__ import annotations

from caracal.ids import new_id
from caracal.mandate import SigningKey
from tests.making import in_zone
from tests.sts.world import VAULT, KeyFact, Tenant, World, new_tenant


async def status(world: World, tenant: Tenant, token: str) -> int:
    return (await world.post(tenant.form(subject_token=token))).status_code


async def replace_key(tenant: Tenant, number: int) -> None:
    key = SigningKey.generate(new_id())
    with in_zone(tenant.id):
        fact = KeyFact.create(
            key.kid,
            zone_id=tenant.id,
            public_jwk=key.public_jwk(),
            private_key=VAULT.seal(key.pem()),
            number=number,
        )
    await tenant.save(fact)


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
    await replace_key(tenant, 2)
    assert await status(world, tenant, token) == 200
    await replace_key(tenant, 3)
    assert await status(world, tenant, token) == 401


async def test_a_proven_token_is_nothing_in_another_zone(world: World) -> None:
    other, token = await new_tenant(world.log), world.tenant.token()
    assert await status(world, world.tenant, token) == 200
    assert await status(world, other, token) == 401
