"""``caracal delegation``: who handed what authority to whom."""

from __future__ import annotations

from caracal.cli.collection import Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

DELEGATIONS = Things(
    noun="delegation",
    namespace="delegations",
    columns=(
        *("id", "source_session_id", "target_session_id", "scopes"),
        *("status", "expires_at", "created_at"),
    ),
    ending="authority handed on from it ends at once, too.",
    coordinator=True,
)
_NODES = ("depth", "id", "source_session_id", "target_session_id")

delegation = group()


@DELEGATIONS.command(delegation, "active")
def active(cli: Cli) -> None:
    """List the delegations in force."""
    cli.out.rows(DELEGATIONS.call(cli, "active"), DELEGATIONS.columns, "No delegations.")


DELEGATIONS.list_of(
    delegation, "inbound", "inbound", "List what an agent was given.", DELEGATIONS.columns
)
DELEGATIONS.list_of(
    delegation, "outbound", "outbound", "List what an agent gave on.", DELEGATIONS.columns
)
DELEGATIONS.list_of(delegation, "traverse", "traverse", "List what hangs on it.", _NODES)
DELEGATIONS.show(delegation, "impact", "impact", "Show what revoking it would end.")

DELEGATIONS.end(delegation, "revoke", "revoke", "revoked")
