"""``caracal session``: who is logged in."""

from __future__ import annotations

from typing import Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group

SESSIONS = Things(
    noun="session",
    namespace="sessions",
    columns=("id", "session_type", "subject_id", "status", "expires_at", "created_at"),
    filters=(
        Field("status", Literal["active", "revoked", "expired"], "With this status."),
        Field("subject", str, "Of this user or application."),
    ),
)

session = group()
SESSIONS.add(session, "list")
