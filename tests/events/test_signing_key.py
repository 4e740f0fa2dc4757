from __future__ import annotations

import pytest

from caracal.errors import NotFound
from tests.making import ZONE, in_zone, new_key, signals, store_with, told


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


async def test_the_first_key_of_a_zone_is_no_news_a_later_one_is() -> None:
    store = await store_with(new_key(), new_key(number=2, replaces="k1"))
    assert signals(store, "caracal.keys.invalidate") == [
        {"zone_id": ZONE, "fact": "signing_key.created"}
    ]


async def test_a_dead_zone_gets_no_key() -> None:
    with pytest.raises(NotFound, match="zone_not_found"):
        await store_with(new_key(), keys=())
