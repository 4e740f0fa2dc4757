"""Protected resource metadata (RFC 9728): where a client gets a token for a resource."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from caracal.errors import NotFound
from caracal.ids import ID_PATTERN
from caracal.services.gateway.view import GatewayView
from caracal.services.http import Scope, header

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def base_url(scope: Scope, configured: str) -> str:
    """Return the Gateway's public base: ``GATEWAY_URL``, else what the request was sent to."""
    host = (header(scope, b"host") or b"localhost").decode("latin-1")
    return configured or f"{scope['scheme']}://{host}"


def metadata_url(base: str, zone_id: str | None, resource: str | None) -> str:
    """Return the metadata's URL, its suffix as far as zone and resource are known."""
    parts = [quote(part, safe="") for part in (zone_id, resource if zone_id else None) if part]
    return "/".join((f"{base}{WELL_KNOWN}", *parts))


def document(view: GatewayView, path: str, base: str, issuer: str) -> dict[str, Any]:
    """Return the metadata document for a path (RFC 9728, section 2).

    Raises:
        NotFound: 404, no such resource is routable.
    """
    zone_part, _, resource_part = path.removeprefix(WELL_KNOWN).lstrip("/").partition("/")
    zone_id, resource = unquote(zone_part), unquote(resource_part)
    if not zone_id:
        return _document(base, issuer, None, None)
    row = view.routable(zone_id, resource) if ID_PATTERN.fullmatch(zone_id) else None
    if row is None:
        raise NotFound("not_found", "there is no such protected resource")
    return _document(row["identifier"], issuer, zone_id, row["scopes"])


def _document(
    resource: str, issuer: str, zone_id: str | None, scopes: list[str] | None
) -> dict[str, Any]:
    server = f"{issuer}/zones/{quote(zone_id, safe='')}" if zone_id else issuer
    found: dict[str, Any] = {
        "resource": resource,
        "authorization_servers": [server],
        "bearer_methods_supported": ["header"],
    }
    return found if scopes is None else {**found, "scopes_supported": scopes}
