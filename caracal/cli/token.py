"""``caracal token``: who may call the control plane."""

from __future__ import annotations

from typing import Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group

TOKENS = Things(
    noun="token",
    namespace="admin_tokens",
    columns=("id", "name", "scope", "zone_id", "capability", "created_at", "revoked_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("scope", Literal["global", "zone"], "Everything, or one zone.", needed=True),
        Field("zone_id", str, "The zone of a token of scope zone.", option="zone"),
        Field("capability", Literal["read", "write", "approve"], "What it may do."),
    ),
    ending="whoever uses it is refused at once.",
    zoned=False,
)

token = group()
TOKENS.add(token, "list", "create")
TOKENS.end(token, "revoke", "revoke", "revoked")
