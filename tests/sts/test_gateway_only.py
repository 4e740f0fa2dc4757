"""A zone that issues mandates for resources to the Gateway only (contract, section 20)."""

from __future__ import annotations

import httpx

from tests.backbone import change_zone
from tests.sts.world import Tenant, World, new_tenant


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error")


async def turn(tenant: Tenant, *, on: bool = True) -> None:
    """Change the zone; what is posted next is answered by who has seen it."""
    await tenant.save(change_zone(tenant.zone, gateway_only=on))


async def test_a_mandate_is_for_the_gateway_alone(world: World) -> None:
    tenant = await new_tenant(world.log)
    form = tenant.form(subject_token=tenant.token(), scope="read")
    assert told(await world.post(form)) == (200, None)
    await turn(tenant)
    refused = await world.post(form)
    assert told(refused) == (403, "access_denied")
    assert "to the Gateway only" in refused.json()["error_description"]
    (event,) = await world.audit(refused)
    assert (event["decision"], event["evaluation_status"]) == ("deny", "gateway_only")
    assert event["zone_id"] == tenant.id
    signed = await world.by_gateway({n: v for n, v in form.items() if n != "client_secret"})
    assert told(signed) == (200, None)
    assert told(await world.post(tenant.form())) == (200, None)  # ambient: for nothing but asking
    assert told(await world.per_call()) == (200, None)  # another zone
    await turn(tenant, on=False)
    assert told(await world.post(form)) == (200, None)


async def test_who_has_not_proven_itself_learns_nothing_of_it(world: World) -> None:
    tenant = await new_tenant(world.log)
    await turn(tenant)
    right = {"subject_token": tenant.token(), "scope": "read"}
    wrong = await world.post(tenant.form(**right, client_secret="wrong"))
    assert told(wrong) == (401, "access_denied")
    bad = await world.post(tenant.form(subject_token="no.token.at-all", scope="read"))
    assert told(bad) == (401, "invalid_token")


async def test_on_behalf_of_is_no_way_around_it(world: World) -> None:
    tenant = await new_tenant(world.log)
    await turn(tenant)
    ada = tenant.token(sub="ada", sub_type="user")
    form = tenant.form(subject_token=ada, actor_token=tenant.token(), scope="read")
    assert told(await world.post(form)) == (403, "access_denied")
