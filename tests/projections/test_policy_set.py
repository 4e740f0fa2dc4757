from __future__ import annotations

from caracal.events.policy_set import manifest_sha256
from caracal.projections.policy_set import policy_sets
from tests.making import ZONE, in_zone, new_policy_set, reduced, store_with


async def test_rows() -> None:
    one, other = (new_policy_set(name=name, manifests=[["a"], ["b"]]) for name in "ab")
    store = await store_with(one, other)
    (first, second), (chosen, _) = one.versions, other.versions
    with in_zone():
        one.activate(first, second, policies=(), replacing=None)
    await store.save(one)
    tables = reduced(policy_sets, store)
    assert (
        tables["policy_sets"][one.aggregate_id].items()
        >= {
            "zone_id": ZONE,
            "name": "a",
            "active_version_id": first,
            "shadow_version_id": second,
            "manifest_sha256": manifest_sha256(["a"]),
        }.items()
    )
    assert (
        tables["policy_set_versions"][second].items()
        >= {
            "zone_id": ZONE,
            "policy_set_id": one.aggregate_id,
            "version": 2,
            "manifest": ["b"],
            "manifest_sha256": manifest_sha256(["b"]),
            "schema_version": "2026-03-16",
        }.items()
    )
    with in_zone():
        other.activate(chosen, policies=(), replacing=one)
    await store.save(other, one)
    rows = reduced(policy_sets, store)["policy_sets"]
    assert rows[other.aggregate_id]["active_version_id"] == chosen
    assert not {"active_version_id", "shadow_version_id", "manifest_sha256"} & set(
        rows[one.aggregate_id]
    )
    with in_zone():
        one.archive()
    await store.save(one)
    assert "archived_at" in reduced(policy_sets, store)["policy_sets"][one.aggregate_id]
