"""Read model of applications."""

from __future__ import annotations

from typing import Any

from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, ids_in_zones, one, page, select
from caracal.projections.table import Change, End, Put, Table, change, end, put

APPLICATIONS = Table(
    "applications",
    columns={
        "zone_id": "text",
        "name": "text",
        "registration_method": "text",
        "credential_type": "text",
        "client_secret_ref": "text",
        "jwks": "jsonb",
        "jwks_uri": "text",
        "traits": "jsonb",
        "consent": "text",
        "expires_at": "timestamptz",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=(
        "(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL",
        "(expires_at) WHERE ended_at IS NULL",
        "(zone_id, ended_at)",
    ),
)

applications = Projection("applications", APPLICATIONS)


@applications.on(Application.Created)
def created(fact: Fact) -> Put:
    return put(APPLICATIONS, fact, created_at=fact.occurred_at, updated_at=fact.occurred_at)


@applications.on(Application.Changed)
def changed(fact: Fact) -> Change:
    return change(APPLICATIONS, fact, updated_at=fact.occurred_at)


@applications.on(Application.Archived)
def archived(fact: Fact) -> End:
    return end(APPLICATIONS, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_application(db: Db, zone_id: str, application_id: str) -> dict[str, Any] | None:
    """Return an application of the zone that is not archived."""
    return await one(db, APPLICATIONS, zone_id=zone_id, id=application_id)


async def list_applications(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return applications that are not archived, newest first, one more than the page holds."""
    return await page(db, APPLICATIONS, page_, where="AND zone_id = %s", arguments=(zone_id,))


async def public_application_ids(db: Db, zone_id: str) -> list[str]:
    """Return the ids of the zone's applications that have no credential."""
    statement = (
        "SELECT id FROM applications WHERE zone_id = %s AND credential_type = 'public'"
        " AND ended_at IS NULL AND NOT stub"
    )
    return [row["id"] for row in await select(db, statement, [zone_id])]


async def overdue_applications(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return DCR applications more than 24 h past their end, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM applications WHERE ended_at IS NULL AND NOT stub"
        " AND registration_method = 'dcr' AND expires_at < now() - interval '24 hours'"
        " ORDER BY expires_at LIMIT %s",
        limit,
    )
