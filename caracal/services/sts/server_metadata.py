"""OAuth 2.0 Authorization Server Metadata (RFC 8414), for the deployment and for each zone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from caracal.errors import BadInput
from caracal.ids import ID_PATTERN
from caracal.jwk import ALGORITHMS
from caracal.services.http import Receive, Scope, Send, respond
from caracal.services.sts.token_request import GRANT_TYPE
from caracal.services.sts.view import StsView

AUTH_METHODS = ("client_secret_post", "private_key_jwt")
_AUTHENTICATED = ("token", "introspection", "revocation")


class ServerMetadata:
    """``GET /.well-known/oauth-authorization-server`` and the same with ``/zones/{zone_id}``."""

    def __init__(self, view: StsView, issuer: str) -> None:
        self._view, self._issuer = view, issuer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the metadata.

        Raises:
            BadInput: 400 ``zone_invalid``, the zone is malformed or unknown.
        """
        zone_id = scope["path_params"].get("zone_id")
        if zone_id is not None:
            await self._check_zone(zone_id)
        path = f"/zones/{zone_id}" if zone_id else ""
        cache = [(b"cache-control", b"public, max-age=300")]
        await respond(send, 200, orjson.dumps(self._document(path)), cache)

    def _document(self, path: str) -> dict[str, Any]:
        # Section 3.3: the issuer is the one whose path the well-known URI was made of.
        return {
            "issuer": f"{self._issuer}{path}",
            "token_endpoint": f"{self._issuer}/oauth/2/token",
            "introspection_endpoint": f"{self._issuer}/oauth/2/introspect",
            "revocation_endpoint": f"{self._issuer}/oauth/2/revoke",
            "jwks_uri": f"{self._issuer}{path}/.well-known/jwks.json",
            "grant_types_supported": [GRANT_TYPE],
            "response_types_supported": [],
            "dpop_signing_alg_values_supported": list(ALGORITHMS),
            **dict(_authentication()),
        }

    async def _check_zone(self, zone_id: str) -> None:
        unknown = BadInput("zone_invalid", "there is no such zone")
        if not ID_PATTERN.fullmatch(zone_id):
            raise unknown
        if not self._view.has_zone(zone_id):
            await self._view.look_again()
        if not self._view.has_zone(zone_id):
            raise unknown


def _authentication() -> Iterator[tuple[str, list[str]]]:
    for endpoint in _AUTHENTICATED:
        yield f"{endpoint}_endpoint_auth_methods_supported", list(AUTH_METHODS)
        yield f"{endpoint}_endpoint_auth_signing_alg_values_supported", list(ALGORITHMS)
