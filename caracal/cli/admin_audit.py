"""``caracal admin-audit``: what administrators changed, and what they were refused."""

from __future__ import annotations

from caracal.cli.collection import BETWEEN, Field, Things
from caracal.cli.command import group

REQUESTS = Things(
    noun="request",
    namespace="admin_audit",
    columns=("occurred_at", "actor_name", "action", "status_code", "request_id"),
    filters=(
        *BETWEEN,
        Field("actor", str, "Of the admin token with this id."),
        Field("action", str, "Method and path."),
        Field("entity_type", str, "On this kind of thing, e.g. grants."),
        Field("entity_id", str, "On this thing."),
        Field("request_id", str, "This request."),
        Field("status_code", int, "Answered so."),
    ),
    of_all_zones=True,
)

admin_audit = group()
REQUESTS.add(admin_audit, "list")
