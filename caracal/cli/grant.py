"""``caracal grant``: which application may ask for what, for whom."""

from __future__ import annotations

from typing import Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group

GRANTS = Things(
    noun="grant",
    namespace="grants",
    columns=("id", "application_id", "user_id", "resource_id", "scopes", "status", "created_at"),
    fields=(
        Field("application_id", str, "Who may ask.", needed=True, option="app"),
        Field("resource_id", str, "For what.", needed=True, option="resource"),
        Field("scopes", list[str], "A scope; may be repeated.", needed=True, option="scope"),
        Field("user_id", str, "For whom; the application itself when absent.", option="user"),
    ),
    filters=(
        Field("application_id", str, "Of this application.", option="app"),
        Field("user_id", str, "Of this user.", option="user"),
        Field("resource_id", str, "For this resource.", option="resource"),
        Field("provider_id", str, "For resources with this provider.", option="provider"),
        Field("status", Literal["active", "revoked", "expired"], "With this status."),
        Field("scopes", str, "With all of these scopes, separated by commas."),
    ),
    ending="mandates that rely on it, and the sessions of its user, end at once.",
)

grant = group()
GRANTS.add(grant, "list", "get", "create")
GRANTS.end(grant, "revoke", "revoke", "revoked")
