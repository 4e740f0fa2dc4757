"""``client.resources``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from caracal.client.call import Null
from caracal.client.method import D
from caracal.client.things import Editable


class RateLimit(TypedDict):
    """How many exchanges in how long."""

    window_seconds: int
    max_requests: int


class Resource(TypedDict):
    """A resource; with ``upstream_url`` the Gateway routes to it."""

    id: str
    zone_id: str
    identifier: str
    name: str
    upstream_url: str | None
    scopes: list[str]
    provider_id: str | None
    created_at: str
    prefix_match: NotRequired[bool]
    gateway_application_id: NotRequired[str | None]
    protocol: NotRequired[Literal["http", "mcp"]]
    rate_limit: NotRequired[RateLimit | None]
    updated_at: NotRequired[str]


class _ResourceMembers(TypedDict, total=False):
    name: str | None
    upstream_url: str | Null | None
    prefix_match: bool | None
    provider_id: str | Null | None
    gateway_application_id: str | Null | None
    protocol: Literal["http", "mcp"] | None
    rate_limit: RateLimit | Null | None


class ResourceInput(_ResourceMembers):
    """A new resource."""

    identifier: str
    scopes: Sequence[str]


class ResourcePatch(_ResourceMembers, total=False):
    """Changes of a resource; ``NULL`` clears what may be null."""

    identifier: str | None
    scopes: Sequence[str] | None


class Resources(Editable[D, Resource, ResourceInput, ResourcePatch]):
    """Resources: what tokens are for.

    >>> api = client.resources.create(
    ...     zone_id, {"identifier": "resource://files", "scopes": ["read"]}
    ... )
    >>> client.resources.patch(zone_id, api["id"], {"upstream_url": NULL})
    """

    _plural = "resources"
