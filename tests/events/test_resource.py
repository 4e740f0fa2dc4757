from __future__ import annotations

import pytest

from caracal.errors import Conflict, NotFound
from tests.making import in_zone, new_application, new_resource, store_with, told


async def test_created_changed_archived() -> None:
    resource = new_resource(identifier="resource://a")
    with in_zone():
        resource.change({"name": "resource"})
        resource.change({"scopes": ["read"], "upstream_url": None})
        resource.archive()
    store = await store_with(resource)
    (_, created), *rest = told(store)
    assert (created["identifier"], created["scopes"]) == ("resource://a", ["read", "write"])
    assert rest == [("resource.changed", {"scopes": ["read"]}), ("resource.archived", {})]
    with in_zone():
        for command in (lambda: resource.change({"name": "x"}), resource.archive):
            with pytest.raises(NotFound, match="resource_not_found"):
                command()


async def test_an_identifier_has_one_live_resource_in_a_zone() -> None:
    one, other = new_resource(identifier="a"), new_resource(identifier="b")
    store = await store_with(one, other)
    with pytest.raises(Conflict, match="resource_identifier_conflict"):
        await store.save(new_resource(identifier="a"))
    with in_zone():
        other.change({"identifier": "a"})
    with pytest.raises(Conflict, match="resource_identifier_conflict"):
        await store.save(other)
    with in_zone():
        one.change({"identifier": "c"})
    await store.save(one)
    await store.save(new_resource(identifier="a"))
    with in_zone():
        one.archive()
    await store.save(one)
    await store.save(new_resource(identifier="c"))


async def test_a_zone_has_so_many_resources() -> None:
    first = new_resource(quota=2)
    store = await store_with(first, new_resource(quota=2))
    with pytest.raises(Conflict, match="resource_quota_exceeded"):
        await store.save(new_resource(quota=2))
    with in_zone():
        first.archive()
    await store.save(first)
    await store.save(new_resource(quota=2))


async def test_the_gateways_application_must_live() -> None:
    app, resource = new_application(), new_resource()
    store = await store_with(app, resource)
    await store.save(new_resource(gateway_application_id=app.aggregate_id))
    with pytest.raises(NotFound, match="gateway_application_not_found"):
        await store.save(new_resource(gateway_application_id="none"))
    with in_zone():
        resource.change({"gateway_application_id": "none"})
    with pytest.raises(NotFound, match="gateway_application_not_found"):
        await store.save(resource)


async def test_a_dead_zone_gets_no_resource() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_resource(), keys=())
