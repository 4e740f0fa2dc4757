"""Read model of trusted issuers."""

from __future__ import annotations

from typing import Any

from caracal.events.base import Fact
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page
from caracal.projections.table import Change, End, Put, Table, change, end, put

TRUSTED_ISSUERS = Table(
    "trusted_issuers",
    columns={
        "zone_id": "text",
        "name": "text",
        "issuer": "text",
        "audiences": "jsonb",
        "algorithms": "jsonb",
        "jwks_uri": "text",
        "subject_claim": "text",
        "required_claims": "jsonb",
        "mapped_claims": "jsonb",
        "application_ids": "jsonb",
        "max_age_seconds": "integer",
        "session_seconds": "integer",
        "single_use": "boolean",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL", "(zone_id, ended_at)"),
)

trusted_issuers = Projection("trusted_issuers", TRUSTED_ISSUERS)


@trusted_issuers.on(TrustedIssuer.Created)
def created(fact: Fact) -> Put:
    return put(TRUSTED_ISSUERS, fact, created_at=fact.occurred_at, updated_at=fact.occurred_at)


@trusted_issuers.on(TrustedIssuer.Changed)
def changed(fact: Fact) -> Change:
    return change(TRUSTED_ISSUERS, fact, updated_at=fact.occurred_at)


@trusted_issuers.on(TrustedIssuer.Archived)
def archived(fact: Fact) -> End:
    return end(TRUSTED_ISSUERS, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_trusted_issuer(db: Db, zone_id: str, issuer_id: str) -> dict[str, Any] | None:
    """Return a trusted issuer of the zone that is not archived."""
    return await one(db, TRUSTED_ISSUERS, zone_id=zone_id, id=issuer_id)


async def list_trusted_issuers(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return trusted issuers that are not archived, newest first, one more than the page holds."""
    return await page(db, TRUSTED_ISSUERS, page_, where="AND zone_id = %s", arguments=(zone_id,))
