"""Read model of policies and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caracal.events.base import Fact
from caracal.events.policy import Policy
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page, select
from caracal.projections.table import End, Put, Table, end, put

POLICIES = Table(
    "policies",
    columns={
        "zone_id": "text",
        "name": "text",
        "description": "text",
        "owner_type": "text",
        "created_by": "text",
        "created_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL", "(zone_id)"),
)

POLICY_VERSIONS = Table(
    "policy_versions",
    columns={
        "zone_id": "text",
        "policy_id": "text",
        "version": "int",
        "content": "text",
        "content_sha256": "text",
        "schema_version": "text",
        "created_at": "timestamptz",
    },
    indexes=("(policy_id, version DESC)", "(zone_id)"),
)

policies = Projection("policies", POLICIES, POLICY_VERSIONS)


@policies.on(Policy.Created)
def created(fact: Fact) -> Put:
    return put(POLICIES, fact, created_at=fact.occurred_at)


@policies.on(Policy.VersionAdded)
def version_added(fact: Fact) -> Put:
    members = {name: value for name, value in fact.data.items() if name != "version_id"}
    whose = {"zone_id": fact.zone_id, "policy_id": fact.aggregate_id}
    columns = {**members, **whose, "created_at": fact.occurred_at}
    return Put(POLICY_VERSIONS, fact.data["version_id"], columns)


@policies.on(Policy.Archived)
def archived(fact: Fact) -> End:
    # The versions stay: an active manifest may hold them.
    return end(POLICIES, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_policy(db: Db, zone_id: str, policy_id: str) -> dict[str, Any] | None:
    """Return a policy of the zone that is not archived."""
    return await one(db, POLICIES, zone_id=zone_id, id=policy_id)


async def list_policies(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return policies that are not archived, newest first, one more than the page holds."""
    return await page(db, POLICIES, page_, where="AND zone_id = %s", arguments=(zone_id,))


async def versions_of(db: Db, policy_id: str) -> list[dict[str, Any]]:
    """Return all versions of a policy, the newest first."""
    statement = "SELECT * FROM policy_versions WHERE policy_id = %s ORDER BY version DESC"
    return await select(db, statement, [policy_id])


async def live_versions(db: Db, zone_id: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return those of the versions whose policy is in the zone and not archived."""
    statement = (
        "SELECT v.* FROM policy_versions v JOIN policies p ON p.id = v.policy_id"
        " WHERE v.id = ANY(%s) AND p.zone_id = %s AND p.ended_at IS NULL AND NOT p.stub"
    )
    return await select(db, statement, [list(ids), zone_id])


async def zone_versions(db: Db, zone_id: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the versions of the zone's policies in this order, each with its policy's ``name``
    and whether that is ``archived``."""
    statement = (
        "SELECT v.*, p.name, p.ended_at IS NOT NULL AS archived"
        " FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (id, place)"
        " JOIN policy_versions v ON v.id = wanted.id JOIN policies p ON p.id = v.policy_id"
        " WHERE p.zone_id = %s AND NOT p.stub ORDER BY wanted.place"
    )
    return await select(db, statement, [list(ids), zone_id])


async def policies_of(db: Db, version_ids: Sequence[str]) -> list[str]:
    """Return the ids of the policies that have these versions, each once, in their order."""
    statement = (
        "SELECT v.policy_id FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (id, place)"
        " JOIN policy_versions v ON v.id = wanted.id ORDER BY wanted.place"
    )
    rows = await select(db, statement, [list(version_ids)])
    return list(dict.fromkeys(row["policy_id"] for row in rows))
