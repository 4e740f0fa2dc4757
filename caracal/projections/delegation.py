"""Read model of delegation edges, and of each zone's epoch: the position of its last change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from caracal.events.agent import Agent
from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.events.delegation import Delegation
from caracal.events.topics import FACT_TOPIC_OF
from caracal.events.zone import Zone
from caracal.projections.memory import RecentTable
from caracal.projections.projection import Projection
from caracal.projections.query import Db, IdPage, ids_in_zones, page_by_id, select
from caracal.projections.table import (
    Mark,
    Merged,
    Operation,
    Remove,
    Table,
    end,
    put,
    zone_of,
)

DELEGATIONS = Table(
    "delegations",
    columns={
        "zone_id": "text",
        "source_session_id": "text",
        "target_session_id": "text",
        "issuer_application_id": "text",
        "receiver_application_id": "text",
        "parent_edge_id": "text",
        "resource_id": "text",
        "scopes": "jsonb",
        "constraints": "jsonb",
        "expires_at": "timestamptz",
        "path": "jsonb",
        "created_at": "timestamptz",
        "status": "text",
        "edge_version": "int",
        "revoked_at": "timestamptz",
    },
    final=("status", "edge_version", "revoked_at"),
    indexes=(
        "(zone_id, id DESC)",
        "(zone_id, id DESC) WHERE ended_at IS NULL",
        "(zone_id, ended_at)",
        "(zone_id, target_session_id, id DESC)",
        "(zone_id, source_session_id, id DESC)",
        "(expires_at) WHERE ended_at IS NULL",
        "(coalesce(revoked_at, expires_at)) WHERE ended_at IS NOT NULL",
    ),
)

DELEGATION_EPOCHS = Merged("delegation_epochs", columns={"epoch": "bigint"})

delegations = Projection("delegations", DELEGATIONS, DELEGATION_EPOCHS)


@delegations.on(Delegation.Created)
def created(fact: Fact) -> list[Operation]:
    row = put(DELEGATIONS, fact, created_at=fact.occurred_at, status="active", edge_version=0)
    return [row, _epoch(fact)]


@delegations.on(Delegation.Revoked, Agent.Terminated, Application.Archived, Zone.Archived)
def revoked(fact: Fact) -> list[Operation]:
    if not (edges := fact.data.get("edges", [])):
        return []
    columns = {"status": "revoked", "edge_version": 1, "revoked_at": fact.occurred_at}
    # With their zone: an end may come first, and whoever reads one zone must find it.
    row_end = end(DELEGATIONS, edges, **zone_of(DELEGATIONS, fact), **columns)
    return [row_end, _epoch(fact)]


@delegations.on(Delegation.Expired)
def expired(fact: Fact) -> list[Operation]:
    columns = {"status": "expired", "edge_version": 0, "revoked_at": None}
    return [end(DELEGATIONS, [fact.aggregate_id], **columns), _epoch(fact)]


@delegations.on(Delegation.Purged)
def purged(fact: Fact) -> Remove:
    return Remove(DELEGATIONS, fact.aggregate_id)


def _epoch(fact: Fact) -> Mark:
    return Mark(DELEGATION_EPOCHS, [str(fact.zone_id)], {"epoch": fact.position})


def recent_delegations() -> RecentTable:
    """Return the table as a process holds it: without those that ended long ago."""
    born_on = FACT_TOPIC_OF[Delegation.Created.TOPIC].name
    return RecentTable(DELEGATIONS, born_on=born_on, ended_on="coalesce(revoked_at, expires_at)")


_SEEN = "SELECT * FROM delegations WHERE zone_id = %s AND NOT stub"


async def get_delegation(db: Db, zone_id: str, edge_id: str) -> dict[str, Any] | None:
    """Return an edge of the zone, ended or not."""
    rows = await select(db, f"{_SEEN} AND id = %s", [zone_id, edge_id])
    return rows[0] if rows else None


async def list_delegations(db: Db, zone_id: str, page: IdPage) -> list[dict[str, Any]]:
    """Return the edges of a zone, of any status, one more than the page holds."""
    return await page_by_id(db, _SEEN, [zone_id], page)


async def list_active(db: Db, zone_id: str, moment: datetime, page: IdPage) -> list[dict[str, Any]]:
    """Return the edges of a zone that hold at ``moment``, one more than the page holds."""
    statement = f"{_SEEN} AND ended_at IS NULL AND expires_at > %s"
    return await page_by_id(db, statement, [zone_id, moment], page)


async def list_inbound(db: Db, zone_id: str, agent_id: str, page: IdPage) -> list[dict[str, Any]]:
    """Return the edges to an agent, of any status, one more than the page holds."""
    return await page_by_id(db, f"{_SEEN} AND target_session_id = %s", [zone_id, agent_id], page)


async def list_outbound(db: Db, zone_id: str, agent_id: str, page: IdPage) -> list[dict[str, Any]]:
    """Return the edges from an agent, of any status, one more than the page holds."""
    return await page_by_id(db, f"{_SEEN} AND source_session_id = %s", [zone_id, agent_id], page)


async def overdue_delegations(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return active edges past their end, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM delegations WHERE ended_at IS NULL AND NOT stub"
        " AND expires_at < now() ORDER BY expires_at LIMIT %s",
        limit,
    )


async def outlived_delegations(db: Db, kept: timedelta, limit: int) -> list[tuple[str, str]]:
    """Return edges that ended more than ``kept`` ago, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM delegations WHERE ended_at IS NOT NULL AND NOT stub"
        " AND coalesce(revoked_at, expires_at) < now() - %s ORDER BY ended_at LIMIT %s",
        limit,
        kept,
    )
