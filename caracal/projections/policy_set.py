"""Read model of policy sets and their versions."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from caracal.events.base import Fact
from caracal.events.policy_set import PolicySet
from caracal.policy.engine import Bundle
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, one, page, select
from caracal.projections.table import Change, End, Put, Table, change, end, put

POLICY_SETS = Table(
    "policy_sets",
    columns={
        "zone_id": "text",
        "name": "text",
        "description": "text",
        "active_version_id": "text",
        "shadow_version_id": "text",
        "manifest_sha256": "text",
        "created_at": "timestamptz",
        "archived_at": "timestamptz",
    },
    final=("archived_at",),
    indexes=("(zone_id, created_at DESC, id DESC) WHERE ended_at IS NULL", "(zone_id)"),
)

POLICY_SET_VERSIONS = Table(
    "policy_set_versions",
    columns={
        "zone_id": "text",
        "policy_set_id": "text",
        "version": "int",
        "manifest": "jsonb",
        "manifest_sha256": "text",
        "schema_version": "text",
        "created_at": "timestamptz",
    },
    indexes=("(policy_set_id, version DESC)", "(zone_id)"),
)

policy_sets = Projection("policy_sets", POLICY_SETS, POLICY_SET_VERSIONS)


@policy_sets.on(PolicySet.Created)
def created(fact: Fact) -> Put:
    return put(POLICY_SETS, fact, created_at=fact.occurred_at)


@policy_sets.on(PolicySet.VersionAdded)
def version_added(fact: Fact) -> Put:
    members = {name: value for name, value in fact.data.items() if name != "version_id"}
    whose = {"zone_id": fact.zone_id, "policy_set_id": fact.aggregate_id}
    columns = {**members, **whose, "created_at": fact.occurred_at}
    return Put(POLICY_SET_VERSIONS, fact.data["version_id"], columns)


@policy_sets.on(PolicySet.Activated)
def activated(fact: Fact) -> Change:
    return change(POLICY_SETS, fact, active_version_id=fact.data["version_id"])


@policy_sets.on(PolicySet.Deactivated)
def deactivated(fact: Fact) -> Change:
    none = dict.fromkeys(("active_version_id", "shadow_version_id", "manifest_sha256"))
    return change(POLICY_SETS, fact, **none)


@policy_sets.on(PolicySet.Archived)
def archived(fact: Fact) -> End:
    return end(POLICY_SETS, [fact.aggregate_id], archived_at=fact.occurred_at)


async def get_policy_set(db: Db, zone_id: str, policy_set_id: str) -> dict[str, Any] | None:
    """Return a policy set of the zone that is not archived."""
    return await one(db, POLICY_SETS, zone_id=zone_id, id=policy_set_id)


async def list_policy_sets(db: Db, zone_id: str, page_: Page) -> list[dict[str, Any]]:
    """Return policy sets that are not archived, newest first, one more than the page holds."""
    return await page(db, POLICY_SETS, page_, where="AND zone_id = %s", arguments=(zone_id,))


async def get_policy_set_version(
    db: Db, policy_set_id: str, version_id: str
) -> dict[str, Any] | None:
    """Return a version of a policy set."""
    return await one(db, POLICY_SET_VERSIONS, policy_set_id=policy_set_id, id=version_id)


async def is_named_by_active_policy(db: Db, zone_id: str, text: str) -> bool:
    """Say whether a policy of the zone's active or shadow manifest contains ``text``."""
    statement = (
        "SELECT 1 FROM policy_sets s"
        " JOIN policy_set_versions v ON v.id IN (s.active_version_id, s.shadow_version_id)"
        " CROSS JOIN LATERAL jsonb_array_elements_text(v.manifest) AS item (id)"
        " JOIN policy_versions p ON p.id = item.id"
        " WHERE s.zone_id = %s AND s.ended_at IS NULL AND strpos(p.content, %s) > 0 LIMIT 1"
    )
    return bool(await select(db, statement, [zone_id, text]))


async def recorded_bundle(db: Db, zone_id: str, version_id: str) -> Bundle | None:
    """Return the policies of a version, also of one that is archived, in its order.

    None when the zone has no such version, or a text is not what its hash says.
    """
    statement = (
        "SELECT v.manifest_sha256, item.id, p.content, p.content_sha256"
        " FROM policy_set_versions v"
        " CROSS JOIN LATERAL jsonb_array_elements_text(v.manifest)"
        " WITH ORDINALITY AS item (id, place)"
        " LEFT JOIN policy_versions p ON p.id = item.id AND p.zone_id = v.zone_id AND NOT p.stub"
        " WHERE v.zone_id = %s AND v.id = %s AND NOT v.stub ORDER BY item.place"
    )
    rows = await select(db, statement, [zone_id, version_id])
    if not rows or not all(map(_is_as_hashed, rows)):
        return None
    return Bundle(rows[0]["manifest_sha256"], tuple((row["id"], row["content"]) for row in rows))


def _is_as_hashed(row: dict[str, Any]) -> bool:
    content = row["content"]
    return content is not None and sha256(content.encode()).hexdigest() == row["content_sha256"]
