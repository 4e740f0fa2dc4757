"""How an agent session is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class AgentAnswer(BaseModel):
    id: str
    agent_session_id: str
    zone_id: str
    application_id: str
    parent_id: str | None
    subject_session_id: str
    session_sid: str
    authority_root_session_id: str
    kind: str
    session_class: str
    capabilities: list[str]
    status: Literal["active", "suspended", "terminated", "expired"]
    status_reason: str | None
    depth: int
    ttl_seconds: int
    metadata: dict[str, Any]
    spawned_at: datetime
    terminated_at: datetime | None
    last_heartbeat_at: datetime | None
    heartbeat_deadline_at: datetime | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> AgentAnswer:
        """Return the answer for a row of the read model, or of the view in memory."""
        beats = heartbeats(row)
        session = row["subject_session_id"]
        more = {"agent_session_id": row["id"], "session_class": row["kind"], "session_sid": session}
        return cls(**{**row, **more, **beats, "authority_root_session_id": session})


def heartbeats(row: Mapping[str, Any]) -> dict[str, datetime | None]:
    """Return when an agent last beat and until when it leases: the later of fact and telemetry."""
    if row["kind"] != "service":
        return {"last_heartbeat_at": row.get("beat_at"), "heartbeat_deadline_at": None}
    ends = [at for at in (row["heartbeat_deadline_at"], row.get("beat_until")) if at is not None]
    return {
        "last_heartbeat_at": row.get("beat_at") or row["spawned_at"],
        "heartbeat_deadline_at": max(ends, default=None),
    }
