from __future__ import annotations

from caracal.events.base import Fall
from caracal.projections.application import applications
from tests.making import ZONE, in_zone, new_application, reduced, sealed, store_with


async def test_rows() -> None:
    app = new_application(secret=sealed("ref"), traits=["a"])
    with in_zone():
        app.change({"name": "other", "consent": "required"})
    archived = new_application()
    with in_zone():
        archived.archive(Fall())
    rows = reduced(applications, await store_with(app, archived))["applications"]
    row = rows[app.aggregate_id]
    assert (
        row.items()
        >= {
            "zone_id": ZONE,
            "name": "other",
            "registration_method": "managed",
            "credential_type": "token",
            "client_secret_ref": "ref",
            "traits": ["a"],
            "consent": "required",
        }.items()
    )
    assert row["created_at"] < row["updated_at"]
    assert "archived_at" in rows[archived.aggregate_id]
    assert "ended_at" in rows[archived.aggregate_id]
