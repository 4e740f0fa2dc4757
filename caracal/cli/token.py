"""``caracal token``: who may call the control plane."""

from __future__ import annotations

from typing import Any, Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli
from caracal.cli.given import sent

TOKENS = Things(
    noun="token",
    namespace="admin_tokens",
    columns=("id", "name", "scope", "zone_id", "capability", "last_used_at", "revoked_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("scope", Literal["global", "zone"], "Everything, or one zone.", needed=True),
        Field(
            "zone_id", str, "The zone of a token of scope zone: id, slug or name.", option="zone"
        ),
        Field("capability", Literal["read", "write", "approve"], "What it may do."),
    ),
    ending="whoever uses it is refused at once.",
    zoned=False,
)

token = group()
TOKENS.add(token, "list")
TOKENS.end(token, "revoke", "revoke", "revoked")


@TOKENS.command(token, "create", parameters=[each.option_of_create() for each in TOKENS.fields])
def create(cli: Cli, **given: Any) -> None:
    """Make a token; it is shown this once."""
    if given["zone_id"] is not None:
        given["zone_id"] = cli.zone_of(given["zone_id"])
    cli.out.record(TOKENS.call(cli, "create", sent(TOKENS.fields, given)))
