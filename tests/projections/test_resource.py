from __future__ import annotations

from caracal.projections.resource import resources
from tests.making import ZONE, in_zone, new_resource, reduced, store_with


async def test_rows() -> None:
    limit = {"window_seconds": 60, "max_requests": 5}
    resource = new_resource(identifier="resource://a", upstream_url="http://a", rate_limit=limit)
    archived = new_resource()
    with in_zone():
        resource.change({"upstream_url": None, "scopes": ["read"]})
        archived.archive()
    rows = reduced(resources, await store_with(resource, archived))["resources"]
    row = rows[resource.aggregate_id]
    assert (
        row.items()
        >= {
            "zone_id": ZONE,
            "identifier": "resource://a",
            "scopes": ["read"],
            "prefix_match": False,
            "protocol": "http",
            "rate_limit": limit,
        }.items()
    )
    assert "upstream_url" not in row
    assert row["created_at"] < row["updated_at"]
    assert "archived_at" in rows[archived.aggregate_id]
