"""``client.zones``."""

from __future__ import annotations

from typing import Literal, TypedDict

from caracal.client.call import Call, Listing, api, listing, nothing, page
from caracal.client.method import D, Namespace, many, one


class Zone(TypedDict):
    """A zone. Times are RFC 3339."""

    id: str
    org_id: str
    name: str
    slug: str
    dcr_enabled: bool
    pkce_required: bool
    login_flow: str
    gateway_only: bool
    created_at: str
    updated_at: str


class _ZoneMembers(TypedDict, total=False):
    slug: str | None
    org_id: str | None
    dcr_enabled: bool | None
    pkce_required: bool | None
    login_flow: str | None
    gateway_only: bool | None


class ZoneInput(_ZoneMembers):
    """A new zone; without ``slug`` one is made of the name."""

    name: str


class ZonePatch(_ZoneMembers, total=False):
    """Changes of a zone; ``dcr_shutdown`` goes with ``dcr_enabled: False``."""

    name: str | None
    dcr_shutdown: Literal["keep_live", "revoke_live"] | None


class DcrStatus(TypedDict):
    """How a zone stands with dynamic client registration."""

    id: str
    dcr_enabled: bool
    live_dcr_applications: int


class RotatedSigningKey(TypedDict):
    """The zone's new signing key."""

    zone_id: str
    kid: str
    version: int
    created_at: str


class Zones(Namespace[D]):
    """Zones; a global token is needed for ``list`` and ``create``.

    >>> zone = client.zones.create({"name": "Research"})
    >>> client.zones.patch(zone["id"], {"dcr_enabled": True})
    """

    @many
    def list(self, *, limit: int | None = None, cursor: str | None = None) -> Listing[Zone]:
        """List zones, newest first: all of them, or a page of ``limit``."""
        return listing(api("GET", "zones", query=page(limit, cursor)), limit)

    list_page, iter = list.by_page(), list.each()

    @one
    def get(self, id: str) -> Call[Zone]:
        """Show a zone."""
        return api("GET", "zones", id)

    @one
    def create(self, input: ZoneInput) -> Call[Zone]:
        """Create a zone with its signing key."""
        return api("POST", "zones", body=input)

    @one
    def patch(self, id: str, input: ZonePatch) -> Call[Zone]:
        """Change the members given."""
        return api("PATCH", "zones", id, body=input)

    @one
    def delete(self, id: str) -> Call[None]:
        """Archive a zone: its sessions, agents, edges and open streams end at once."""
        return nothing(api("DELETE", "zones", id))

    @one
    def dcr_status(self, id: str) -> Call[DcrStatus]:
        """Tell whether dynamic registration is on, and how many such applications live."""
        return api("GET", "zones", id, "dcr-status")

    @one
    def rotate_signing_key(self, id: str) -> Call[RotatedSigningKey]:
        """Make a new signing key; tokens of the one before stay valid."""
        return api("POST", "zones", id, "signing-key", "rotate")
