"""Read model of resources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caracal.events.base import Fact
from caracal.events.resource import Resource
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections.memory import MemoryTable, RecentTable, Row
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page
from caracal.projections.table import Change, End, Put, Table, change, end, put
from caracal.resource_match import match

RESOURCES = Table(
    "resources",
    columns={
        "zone_id": "text",
        "identifier": "text",
        "name": "text",
        "upstream_url": "text",
        "scopes": "jsonb",
        "prefix_match": "boolean",
        "provider_id": "text",
        "gateway_application_id": "text",
        "protocol": "text",
        "rate_limit": "jsonb",
        "created_at": "timestamptz",
        "updated_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL", "(zone_id, ended_at)"),
)

resources = Projection("resources", RESOURCES)


@resources.on(Resource.Created)
def created(fact: Fact) -> Put:
    return put(RESOURCES, fact, created_at=fact.occurred_at, updated_at=fact.occurred_at)


@resources.on(Resource.Changed)
def changed(fact: Fact) -> Change:
    return change(RESOURCES, fact, updated_at=fact.occurred_at)


@resources.on(Resource.Archived)
def archived(fact: Fact) -> End:
    return end(RESOURCES, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_resource(db: Db, zone_id: str, resource_id: str) -> dict[str, Any] | None:
    """Return a resource of the zone that is not archived."""
    return await one(db, RESOURCES, zone_id=zone_id, id=resource_id)


async def list_resources(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return resources that are not archived, newest first, one more than the page holds."""
    return await page(db, RESOURCES, page_, where="AND zone_id = %s", arguments=(zone_id,))


def recent_resources() -> RecentTable:
    """Return the table as a process holds it: without those that ended long ago."""
    born_on = FACT_TOPIC_OF[Resource.Created.TOPIC].name
    return RecentTable(RESOURCES, born_on=born_on, ended_on="archived_at")


def names_of(table: MemoryTable) -> Callable[[str], Row | None]:
    """Return the look-up of the resource that an identifier names: exact, else longest prefix.

    ``table`` holds one zone's resources, and none yet.
    """
    at, prefix_at = table.index("identifier"), table.index("identifier", "prefix_match")
    exact, prefixes = _Registered(at), _Registered(lambda text: prefix_at(text, True))

    def named(requested: str) -> Row | None:
        identifier = match(requested, exact, prefixes)
        return None if identifier is None else at(identifier)[0]

    return named


class _Registered:
    """Identifiers of a zone, as far as the look-up ``found`` knows them."""

    def __init__(self, found: Callable[[str], list[Row]]) -> None:
        self._found = found

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and bool(self._found(identifier))
