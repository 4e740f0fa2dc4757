"""Protected resource metadata (RFC 9728): where a client gets a token for a resource."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote

from caracal.errors import NotFound
from caracal.ids import ID_PATTERN
from caracal.jwk import ALGORITHMS
from caracal.services.gateway.view import GatewayView
from caracal.services.http import Scope, header

WELL_KNOWN = "/.well-known/oauth-protected-resource"


def is_metadata(scope: Scope) -> bool:
    """Say whether the request asks for metadata; with a bearer it is a call to the upstream."""
    path = scope["path"]
    if scope["method"] != "GET" or not path.startswith(WELL_KNOWN):
        return False
    return path[len(WELL_KNOWN) :][:1] in ("", "/") and header(scope, b"authorization") is None


def metadata_url(base: str, zone_id: str | None, resource: str | None) -> str:
    """Return the metadata's URL, its suffix as far as zone and resource are known."""
    parts = [quote(part, safe="") for part in (zone_id, resource if zone_id else None) if part]
    return "/".join((f"{base}{WELL_KNOWN}", *parts))


async def document(view: GatewayView, scope: Scope, base: str, issuer: str) -> dict[str, Any]:
    """Return the metadata document for a path (RFC 9728, section 2).

    Args:
        view: knows the resources.
        scope: of the request.
        base: of the Gateway, which without zone and resource is the resource itself.
        issuer: ``ISSUER_URL``; empty: not said.

    Raises:
        NotFound: 404, no such resource is routable.
    """
    path = scope["raw_path"].decode("ascii")
    zone_part, _, resource_part = path.removeprefix(WELL_KNOWN).lstrip("/").partition("/")
    zone_id, resource = unquote(zone_part), unquote(resource_part)
    if not zone_id:
        return _document(base, issuer)
    row = await view.find(zone_id, resource, scope) if ID_PATTERN.fullmatch(zone_id) else None
    if row is None:
        raise NotFound("not_found", "there is no such protected resource")
    server = issuer and f"{issuer}/zones/{quote(zone_id, safe='')}"
    return {**_document(row["identifier"], server), "scopes_supported": row["scopes"]}


def _document(resource: str, server: str) -> dict[str, Any]:
    servers = {"authorization_servers": [server]} if server else {}
    return {
        "resource": resource,
        **servers,
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
    }
