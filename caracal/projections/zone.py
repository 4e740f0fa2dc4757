"""Read model of zones."""

from __future__ import annotations

from typing import Any

from caracal.events.base import Fact
from caracal.events.zone import Zone
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page, select
from caracal.projections.table import Change, End, Put, Table, change, end, put

ZONES = Table(
    "zones",
    columns={
        "name": "text",
        "slug": "text",
        "org_id": "text",
        "dcr_enabled": "boolean",
        "pkce_required": "boolean",
        "login_flow": "text",
        "gateway_only": "boolean",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(created_at DESC, id DESC) WHERE ended_at IS NULL",),
)

zones = Projection("zones", ZONES)


@zones.on(Zone.Created)
def created(fact: Fact) -> Put:
    return put(
        ZONES,
        fact,
        gateway_only=fact.data.get("gateway_only", False),  # older zones do not say
        created_at=fact.occurred_at,
        updated_at=fact.occurred_at,
    )


@zones.on(Zone.Changed)
def changed(fact: Fact) -> Change:
    return change(ZONES, fact, updated_at=fact.occurred_at)


@zones.on(Zone.Archived)
def archived(fact: Fact) -> End:
    return end(ZONES, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_zone(db: Db, zone_id: str) -> dict[str, Any] | None:
    """Return a zone that is not archived."""
    return await one(db, ZONES, id=zone_id)


async def list_zones(db: Db, page_: Page) -> list[dict[str, Any]]:
    """Return zones that are not archived, newest first, one more than the page holds."""
    return await page(db, ZONES, page_)


async def taken_slugs(db: Db, derived: str) -> set[str]:
    """Return the live slugs that are ``derived`` or ``derived`` and a suffix.

    The guard has the last word; this spares it the attempts that must fail.
    """
    statement = "SELECT slug FROM zones WHERE ended_at IS NULL AND (slug = %s OR slug LIKE %s)"
    rows = await select(db, statement, [derived, f"{derived}-%"])
    return {row["slug"] for row in rows}
