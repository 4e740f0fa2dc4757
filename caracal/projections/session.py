"""Read model of sessions; those that have ended stay to be seen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from caracal.events.application import Application
from caracal.events.base import Fact
from caracal.events.grant import Grant
from caracal.events.session import Session
from caracal.events.trusted_issuer import TrustedIssuer
from caracal.events.zone import Zone
from caracal.projections.projection import Projection
from caracal.projections.query import Db, Page, ids_in_zones, page, select
from caracal.projections.table import End, Put, Table, end, put

SESSIONS = Table(
    "sessions",
    columns={
        "zone_id": "text",
        "session_type": "text",
        "subject_id": "text",
        "application_id": "text",
        "parent_id": "text",
        "trusted_issuer_id": "text",
        "authenticated_at": "timestamptz",
        "expires_at": "timestamptz",
        "created_at": "timestamptz",
        "status": "text",
        "revoked_at": "timestamptz",
    },
    final=("status", "revoked_at"),
    indexes=(
        "(zone_id, created_at DESC, id DESC)",
        "(zone_id, subject_id) WHERE ended_at IS NULL",
        "(application_id) WHERE ended_at IS NULL",
        "(trusted_issuer_id) WHERE ended_at IS NULL",
        "(expires_at) WHERE ended_at IS NULL",
    ),
)

sessions = Projection("sessions", SESSIONS)


@sessions.on(Session.Started)
def started(fact: Fact) -> Put:
    return put(SESSIONS, fact, created_at=fact.occurred_at, status="active")


@sessions.on(Session.Revoked)
def revoked(fact: Fact) -> End:
    return _revoked(fact, [fact.aggregate_id])


@sessions.on(Session.Expired)
def expired(fact: Fact) -> End:
    return end(SESSIONS, [fact.aggregate_id], status="expired", revoked_at=None)


@sessions.on(Grant.Revoked, TrustedIssuer.Archived, Application.Archived, Zone.Archived)
def fell(fact: Fact) -> End:
    return _revoked(fact, fact.data.get("sessions", []))


def _revoked(fact: Fact, sids: list[str]) -> End:
    return end(SESSIONS, sids, status="revoked", revoked_at=fact.occurred_at)


async def list_sessions(db: Db, zone_id: str, page_: Page, **equal: Any) -> list[dict[str, Any]]:
    """Return sessions of any status, newest first, one more than the page holds.

    ``equal`` filters by ``status`` and ``subject_id``.
    """
    where = "AND zone_id = %s" + "".join(f" AND {column} = %s" for column in equal)
    return await page(
        db, SESSIONS, page_, where=where, arguments=(zone_id, *equal.values()), ended_too=True
    )


async def live_sessions(
    db: Db,
    zone_id: str,
    moment: datetime,
    columns: Sequence[str],
    values: Collection[tuple[str, ...]],
) -> list[dict[str, Any]]:
    """Return the zone's active sessions that live beyond ``moment``, by any of ``values``.

    ``values`` are what ``columns`` may hold together. Rows have ``id``, ``position`` of the
    start, and ``columns``.
    """
    statement = (
        f"SELECT {', '.join(('id', 'position', *columns))} FROM sessions"
        " WHERE ended_at IS NULL AND NOT stub AND zone_id = %s AND expires_at > %s"
    )
    if columns:
        arrays = ", ".join("%s::text[]" for _ in columns)
        statement += f" AND ({', '.join(columns)}) IN (SELECT * FROM unnest({arrays}))"
    return await select(db, statement, [zone_id, moment, *map(list, zip(*values, strict=True))])


async def overdue_sessions(db: Db, limit: int) -> list[tuple[str, str]]:
    """Return active sessions whose time has run out, oldest first: (id, zone)."""
    return await ids_in_zones(
        db,
        "SELECT id, zone_id FROM sessions WHERE ended_at IS NULL AND NOT stub"
        " AND expires_at < now() ORDER BY expires_at LIMIT %s",
        limit,
    )
