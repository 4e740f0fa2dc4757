from __future__ import annotations

import pytest

from caracal.errors import NotFound
from caracal.events.guards import Overtaken
from caracal.events.signing_key import SigningKey, newest_key
from tests.making import ZONE, in_zone, new_key, sealed, signals, store_with, told


async def test_a_key_is_made_and_retired_once() -> None:
    key = new_key()
    store = await store_with(key)
    assert key.private_key_ref in store.held.vault
    with in_zone():
        key.retire("rotated")
        key.retire("rotated")
    await store.save(key)
    assert key.private_key_ref not in store.held.vault
    created = {
        "version": 1,
        "alg": "ES256",
        "public_jwk": {"kty": "EC", "kid": key.aggregate_id},
        "private_key_ref": key.private_key_ref,
        "replaces": None,
    }
    assert told(store) == [
        ("signing_key.created", created),
        ("signing_key.retired", {"reason": "rotated"}),
    ]


def successor(key: SigningKey) -> SigningKey:
    with in_zone():
        return key.successor("next", public_jwk={"kid": "next"}, private_key=sealed("key/next"))


async def test_the_first_key_of_a_zone_is_no_news_a_later_one_is() -> None:
    first = new_key()
    store = await store_with(first, successor(first))
    _, (_, second) = told(store)
    assert (second["version"], second["replaces"]) == (2, first.aggregate_id)
    assert store.held.keys[newest_key(ZONE)] == "next"
    assert signals(store, "caracal.keys.invalidate") == [
        {"zone_id": ZONE, "fact": "signing_key.created"}
    ]


async def test_a_key_has_one_successor() -> None:
    first = new_key()
    store = await store_with(first, successor(first))
    with pytest.raises(Overtaken, match="concurrent_update"):
        await store.save(new_key(number=2, replaces=first.aggregate_id))
    with pytest.raises(Overtaken, match="concurrent_update"):
        await store.save(new_key())  # a zone begins once


async def test_a_dead_zone_gets_no_key() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_key(), keys=())
