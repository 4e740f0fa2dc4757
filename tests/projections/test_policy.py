from __future__ import annotations

from caracal.projections.policy import policies
from tests.making import ZONE, in_zone, new_policy, reduced, store_with


async def test_rows() -> None:
    policy = new_policy(name="a", versions=2)
    with in_zone():
        policy.archive()
    tables = reduced(policies, await store_with(policy))
    row = tables["policies"][policy.aggregate_id]
    assert row.items() >= {"zone_id": ZONE, "name": "a", "created_by": "operator"}.items()
    assert "archived_at" in row
    first, second = (tables["policy_versions"][version.id] for version in policy.versions)
    assert (first["version"], first["content"]) == (1, "text 1")
    assert (
        second.items()
        >= {
            "zone_id": ZONE,
            "policy_id": policy.aggregate_id,
            "version": 2,
            "content": "text 2",
            "content_sha256": policy.versions[1].content_sha256,
            "schema_version": "2026-03-16",
        }.items()
    )
    assert "ended_at" not in second  # an active manifest may hold it
