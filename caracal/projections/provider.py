"""Read model of providers; secrets are in the vault, here stand their names."""

from __future__ import annotations

from typing import Any

from caracal.events.base import Fact
from caracal.events.provider import Provider
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page
from caracal.projections.table import Change, End, Put, Table, change, end, put

PROVIDERS = Table(
    "providers",
    columns={
        "zone_id": "text",
        "identifier": "text",
        "name": "text",
        "kind": "text",
        "owner_type": "text",
        "client_id": "text",
        "config": "jsonb",
        "secret_config_ref": "text",
        "secret_config_keys": "jsonb",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL", "(zone_id, ended_at)"),
)

providers = Projection("providers", PROVIDERS)


@providers.on(Provider.Created)
def created(fact: Fact) -> Put:
    return put(PROVIDERS, fact, created_at=fact.occurred_at, updated_at=fact.occurred_at)


@providers.on(Provider.Changed)
def changed(fact: Fact) -> Change:
    return change(PROVIDERS, fact, updated_at=fact.occurred_at)


@providers.on(Provider.Archived)
def archived(fact: Fact) -> End:
    return end(PROVIDERS, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_provider(db: Db, zone_id: str, provider_id: str) -> dict[str, Any] | None:
    """Return a provider of the zone that is not archived."""
    return await one(db, PROVIDERS, zone_id=zone_id, id=provider_id)


async def list_providers(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return providers that are not archived, newest first, one more than the page holds."""
    return await page(db, PROVIDERS, page_, where="AND zone_id = %s", arguments=(zone_id,))
