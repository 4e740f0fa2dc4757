"""Public keys of a zone (RFC 7517, section 5; contract, section 16). Never of several zones."""

from __future__ import annotations

import logging
from urllib.parse import parse_qs

import orjson

from caracal.errors import BadInput, InternalError, NotFound
from caracal.services.http import Receive, Scope, Send, respond
from caracal.services.known_zones import parsed_key
from caracal.services.sts.view import KnownZone, StsView

logger = logging.getLogger(__name__)
_CACHE = (b"cache-control", b"public, max-age=300, must-revalidate")
_MEMBERS = ("kty", "crv", "use", "alg", "kid", "x", "y")


class Jwks:
    """``GET /.well-known/jwks.json?zone_id=`` and ``GET /zones/{zone_id}/.well-known/jwks.json``.

    ``default_zone`` is served to verifiers that name none; in dev mode, so is an only zone.
    """

    def __init__(self, view: StsView, *, default_zone: str, dev: bool) -> None:
        self._view, self._default_zone, self._dev = view, default_zone, dev
        self.invalid_keys = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the zone's key set.

        Raises:
            BadInput: 400 ``invalid_token``, no zone is named and none is the default.
            NotFound: 404 ``resource_not_found``, the zone has no keys.
            InternalError: 500, none of its keys can be read.
        """
        zone_id = scope["path_params"].get("zone_id") or self._named(scope)
        zone = KnownZone(self._view, zone_id)
        if not zone.published_keys():
            await self._view.look_again()
        await respond(send, 200, orjson.dumps({"keys": self._keys(zone)}), [_CACHE])

    def _named(self, scope: Scope) -> str:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("zone_id", [])
        only = self._view.only_zone() if self._dev else None
        zone_id = given[0] if len(given) == 1 else self._default_zone or only
        if zone_id is None or len(given) > 1:
            raise BadInput("invalid_token", "zone_id is needed, once")
        return zone_id

    def _keys(self, zone: KnownZone) -> list[dict[str, str]]:
        rows = zone.published_keys()
        if not rows:
            raise NotFound("resource_not_found", "the zone has no keys")
        readable = [row for row in rows if parsed_key(row) is not None]
        self.invalid_keys += len(rows) - len(readable)
        if not readable:
            logger.error("no signing key of zone %s can be read", zone.id)
            raise InternalError
        return [{name: row["public_jwk"][name] for name in _MEMBERS} for row in readable]
