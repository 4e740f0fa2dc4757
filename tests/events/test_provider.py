from __future__ import annotations

import pytest

from caracal.errors import Conflict, NotFound
from caracal.events.catalogue import export_of
from caracal.events.guards import Erase
from caracal.events.provider import Provider, Sealed
from caracal.events.store.log import Saved
from tests.making import (
    ZONE,
    facts,
    in_zone,
    new_provider,
    new_resource,
    sealed_config,
    store_with,
    told,
)


async def test_created_changed_archived() -> None:
    provider = new_provider(identifier="a", config={"issuer": 1}, secrets=["api_key", "token"])
    with in_zone():
        provider.change({"name": "provider", "config": {"issuer": 1}})
        provider.change({"config": {"issuer": True}, "client_id": "c"})
        provider.archive()
    store = await store_with(provider)
    assert told(store) == [
        (
            "provider.created",
            {
                "identifier": "a",
                "name": "provider",
                "kind": "oauth2",
                "owner_type": "customer",
                "client_id": None,
                "config": {"issuer": 1},
                "secret_config_ref": "provider/1",
                "secret_config_keys": ["api_key", "token"],
            },
        ),
        ("provider.changed", {"config": {"issuer": True}, "client_id": "c"}),
        ("provider.archived", {}),
    ]
    exported = export_of("provider.created", facts(store)[0].data)
    assert exported.keys() == facts(store)[0].data.keys() - {"secret_config_ref"}
    with in_zone():
        for command in (lambda: provider.change({"name": "x"}), provider.archive):
            with pytest.raises(NotFound, match="provider_not_found"):
                command()


async def test_secrets_come_and_go_with_their_event() -> None:
    provider = new_provider(secrets=["token"])
    store = await store_with(provider)
    assert set(store.held.vault) == {"provider/1"}
    with in_zone():
        provider.change({}, sealed_config("api_key", "token", ref="provider/2"))
    await store.save(provider)
    assert told(store)[-1] == (
        "provider.changed",
        {"secret_config_ref": "provider/2", "secret_config_keys": ["api_key", "token"]},
    )
    assert set(store.held.vault) == {"provider/2"}
    with in_zone():
        provider.change({"name": "n"})
    await store.save(provider)
    assert set(store.held.vault) == {"provider/2"}
    with in_zone():
        provider.change({}, Sealed())
    await store.save(provider)
    assert told(store)[-1] == (
        "provider.changed",
        {"secret_config_ref": None, "secret_config_keys": []},
    )
    assert store.held.vault == {}


async def test_the_same_secrets_are_sealed_anew() -> None:
    provider = new_provider(secrets=["token"])
    store = await store_with(provider)
    with in_zone():
        provider.change({"name": "provider"}, sealed_config("token", ref="provider/2"))
    assert await store.save(provider) != Saved()
    assert set(store.held.vault) == {"provider/2"}


async def test_archiving_erases() -> None:
    provider, bare = new_provider(secrets=["token"]), new_provider()
    store = await store_with(provider, bare)
    with in_zone():
        provider.archive()
        bare.archive()
    assert Erase(("provider/1",)) in provider.guards
    assert not any(isinstance(guard, Erase) for guard in bare.guards)
    await store.save(provider, bare)
    assert store.held.vault == {}


async def test_an_identifier_has_one_live_provider_in_a_zone() -> None:
    one, other = new_provider(identifier="a"), new_provider(identifier="b")
    store = await store_with(one, other, keys=(f"live:zone:{ZONE}", "live:zone:other"))
    await store.save(new_provider("other", identifier="a"))
    with pytest.raises(Conflict, match="provider_identifier_conflict"):
        await store.save(new_provider(identifier="a"))
    with in_zone():
        other.change({"identifier": "a"})
    with pytest.raises(Conflict, match="provider_identifier_conflict"):
        await store.save(other)
    with in_zone():
        one.change({"identifier": "c"})
    await store.save(one)
    await store.save(new_provider(identifier="a"))
    with in_zone():
        one.archive()
    await store.save(one)
    await store.save(new_provider(identifier="c"))


async def test_it_can_be_loaded_again() -> None:
    provider = new_provider(identifier="a", config={"a": 1}, secrets=["token"])
    with in_zone():
        provider.change({"config": {"b": 2}, "kind": "oidc"})
    store = await store_with(provider)
    loaded = await store.find(Provider, provider.aggregate_id)
    assert loaded is not None
    assert (loaded.identifier, loaded.kind, loaded.config) == ("a", "oidc", {"b": 2})
    assert (loaded.secret_config_ref, loaded.secret_config_keys) == ("provider/1", ["token"])


async def test_no_resource_comes_to_hang_on_a_dead_provider() -> None:
    provider, resource = new_provider(), new_resource()
    store = await store_with(provider, resource)
    await store.save(on_it := new_resource(provider_id=provider.aggregate_id))
    with in_zone():
        provider.archive()
    await store.save(provider)
    with pytest.raises(NotFound, match="provider_not_found"):
        await store.save(new_resource(provider_id=provider.aggregate_id))
    with in_zone():
        resource.change({"provider_id": provider.aggregate_id})
    with pytest.raises(NotFound, match="provider_not_found"):
        await store.save(resource)
    with in_zone():
        on_it.change({"name": "still changed", "provider_id": None})
    await store.save(on_it)


async def test_a_dead_zone_gets_no_provider() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_provider(), keys=())
