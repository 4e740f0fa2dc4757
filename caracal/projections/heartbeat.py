"""Telemetry of agents and services: how they say that they live. No events, no read model.

What an answer shows is the later of fact and telemetry; that a lease was lost is a fact.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from caracal.projections.query import Db, select


async def agent_beats(db: Db, agent_id: str) -> dict[str, Any] | None:
    """Return when an agent last beat, and until when it leased by that."""
    rows = await select(db, "SELECT * FROM agent_heartbeats WHERE agent_id = %s", [agent_id])
    return rows[0] if rows else None


async def beat_agent(db: Db, agent_id: str, now: datetime, until: datetime | None) -> None:
    """Note that an agent lives; the latest beat counts."""
    await db.execute(
        "INSERT INTO agent_heartbeats AS h VALUES (%s, %s, %s) ON CONFLICT (agent_id) DO UPDATE"
        " SET last_heartbeat_at = greatest(h.last_heartbeat_at, excluded.last_heartbeat_at),"
        " heartbeat_deadline_at ="
        " greatest(h.heartbeat_deadline_at, excluded.heartbeat_deadline_at)",
        (agent_id, now, until),
        prepare=True,
    )


async def service_beats(db: Db, service_id: str) -> dict[str, Any] | None:
    """Return how a service last said it was."""
    statement = "SELECT * FROM agent_service_heartbeats WHERE service_id = %s"
    rows = await select(db, statement, [service_id])
    return rows[0] if rows else None


async def beat_service(
    db: Db, service_id: str, now: datetime, health: str, metadata: dict[str, Any]
) -> dict[str, Any]:
    """Note how a service is, and what else it says; return all that it has said."""
    rows = await select(
        db,
        "INSERT INTO agent_service_heartbeats AS h VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (service_id) DO UPDATE SET health = excluded.health,"
        " last_heartbeat_at = greatest(h.last_heartbeat_at, excluded.last_heartbeat_at),"
        " metadata = h.metadata || excluded.metadata RETURNING *",
        [service_id, health, now, Jsonb(metadata)],
    )
    return rows[0]


async def forget_told(db: Db, service_id: str) -> None:
    """Forget what heartbeats added to a service's metadata: it was registered anew."""
    await db.execute(
        "UPDATE agent_service_heartbeats SET metadata = '{}' WHERE service_id = %s", (service_id,)
    )
