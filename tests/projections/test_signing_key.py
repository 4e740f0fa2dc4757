from __future__ import annotations

from caracal.projections.signing_key import signing_keys
from tests.making import ZONE, in_zone, new_key, reduced, store_with


async def test_rows() -> None:
    old = new_key()
    key = new_key(number=2, replaces=old.aggregate_id)
    with in_zone():
        old.retire("rotated")
    rows = reduced(signing_keys, await store_with(old, key))["signing_keys"]
    assert (
        rows[key.aggregate_id].items()
        >= {
            "zone_id": ZONE,
            "version": 2,
            "alg": "ES256",
            "public_jwk": {"kty": "EC", "kid": key.aggregate_id},
            "private_key_ref": key.private_key_ref,
        }.items()
    )
    assert rows[old.aggregate_id]["reason"] == "rotated"
    assert "retired_at" in rows[old.aggregate_id]
    assert "retired_at" not in rows[key.aggregate_id]
