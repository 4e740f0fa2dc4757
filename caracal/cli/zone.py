"""``caracal zone``: zones, the tenants that everything else lives in."""

from __future__ import annotations

from typing import Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.connection import Cli

ZONES = Things(
    noun="zone",
    namespace="zones",
    columns=("id", "slug", "name", "dcr_enabled", "pkce_required", "created_at"),
    fields=(
        Field("name", str, "What people call it.", needed=True),
        Field("slug", str, "Its short name; made of the name when absent."),
        Field("org_id", str, "Organisation it belongs to."),
        Field("dcr_enabled", bool, "Let clients register themselves."),
        Field("pkce_required", bool, "Demand PKCE."),
        Field("login_flow", str, "How its users log in."),
        Field("gateway_only", bool, "Issue mandates for resources to the Gateway only."),
    ),
    ending="its applications, sessions, agents and open streams end at once.",
    zoned=False,
    found=Cli.zone_of,
    named_by="Id, slug or name",
)
_CHANGES = (
    *ZONES.fields,
    Field(
        "dcr_shutdown",
        Literal["keep_live", "revoke_live"],
        "With --no-dcr-enabled: what becomes of clients that registered themselves.",
    ),
)

zone = group()
ZONES.add(zone, "list", "get", "create", "delete")
ZONES.patch(zone, _CHANGES)
ZONES.show(zone, "dcr-status", "dcr_status", "Show how many clients registered themselves.")
ZONES.show(zone, "rotate-signing-key", "rotate_signing_key", "Sign with a new key from now on.")
