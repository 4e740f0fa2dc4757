"""``caracal resource``: what mandates are for."""

from __future__ import annotations

from typing import Literal

from caracal.cli.collection import Field, Things
from caracal.cli.command import group
from caracal.cli.given import Json

RESOURCES = Things(
    noun="resource",
    namespace="resources",
    columns=("id", "identifier", "name", "scopes", "upstream_url", "protocol", "created_at"),
    fields=(
        Field("identifier", str, "Its name in requests, e.g. resource://crm.", needed=True),
        Field("scopes", list[str], "A scope; may be repeated.", needed=True, option="scope"),
        Field("name", str, "What people call it; the identifier when absent."),
        Field("upstream_url", str, "Where the Gateway finds it.", null=True),
        Field("prefix_match", bool, "Match what begins with it, too."),
        Field("provider_id", str, "Provider of its credential.", null=True, option="provider"),
        Field(
            "gateway_application_id",
            str,
            "Application that the Gateway acts as.",
            null=True,
            option="gateway-app",
        ),
        Field("protocol", Literal["http", "mcp"], "mcp: policies see the tool that is called."),
        Field("rate_limit", Json, '{"window_seconds": 60, "max_requests": 1000}', null=True),
    ),
    ending="no more mandates for it, and those there are end at once.",
)

resource = group()
RESOURCES.add(resource, "list", "get", "create", "patch", "delete")
