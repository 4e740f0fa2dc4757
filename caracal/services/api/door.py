"""The door of the control plane: who is it, may they be here, is there such a zone.

Runs before any body is parsed, so an unauthenticated caller learns nothing from a body's errors.
Order: token, capability, scope, path ids, rate of registrations, zone.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from caracal.errors import BadInput, Forbidden, NotFound
from caracal.ids import ID_PATTERN
from caracal.policy.turns import owned_by
from caracal.services.api.limits import Limits
from caracal.services.api.uses import Uses
from caracal.services.api.view import ApiView, invalid_admin_token
from caracal.services.http import App, Receive, Scope, Send, bearer_of, client_address, raw_path

_ZONE = re.compile(r"^/v1/zones/(?P<zone>[^/]+)(?P<rest>/.*)?$")
_REGISTRATION = ("POST", "/applications/dcr")
_SATISFY = re.compile(r"/v1/zones/[^/]+/step-up-challenges/[^/]+/satisfy")
_TOKENS = re.compile(r"^/v1/admin-tokens(/|$)")
_CALLBACK = re.compile(r"/v1/zones/[^/]+/provider-grants/oauth/callback")
_READS = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/v1/policy-templates",)
_OF_NO_ZONE = frozenset({"/v1/policies/validate"})
"""Paths outside of all zones that tokens of a zone reach too."""


class Door:
    """ASGI layer that lets only known callers through to ``/v1``."""

    def __init__(self, app: App, view: ApiView, limits: Limits, uses: Uses) -> None:
        self._app, self._view, self._limits, self._uses = app, view, limits, uses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _guarded(scope["path"]):
            await self._app(scope, receive, send)
            return
        if is_callback(scope["path"]) and scope["method"] == "GET":
            self._limits.check_callbacks(client_address(scope))
            await self._check_zone(scope)
            await self._app(scope, receive, send)
            return
        token = await self._check(scope)
        with owned_by(token["zone_id"] or token["id"]):
            await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> dict[str, Any]:
        address = client_address(scope)
        self._limits.check_failures(address)
        token = await self._authenticated(scope, address)
        self._limits.check_requests(token["id"])
        self._uses.note(token["id"])
        scope["state"]["token"] = token
        _check_capability(token, scope["method"], scope["path"])
        path = raw_path(scope)
        if _ZONE.match(path) is None and _ZONE.match(scope["path"]):  # its slashes are encoded
            raise NotFound("not_found", "there is no such route")
        if path not in _OF_NO_ZONE:
            _check_scope(token, zone_of(scope), scope["path"])
        await self._check_zone(scope)
        return token

    async def _check_zone(self, scope: Scope) -> None:
        match = _ZONE.match(raw_path(scope))
        if match is None:
            return
        zone_id = unquote(match["zone"])
        if not ID_PATTERN.fullmatch(zone_id):
            raise BadInput("invalid_params", "a zone id has 1-128 of A-Z a-z 0-9 . _ : -")
        # Routes are found by the decoded path: a limit that looks at the raw one is stepped around.
        if (scope["method"], unquote(match["rest"] or "")) == _REGISTRATION:
            await self._limits.check_registrations(zone_id)
        if match["rest"]:
            await self._view.need_zone(zone_id)

    async def _authenticated(self, scope: Scope, address: str) -> dict[str, Any]:
        try:
            return await self._view.token(bearer_of(scope))
        except type(invalid_admin_token()):
            self._limits.failed(address)
            raise


def zone_of(scope: Scope) -> str | None:
    """Return the zone that a path names, if any."""
    match = _ZONE.match(raw_path(scope))
    return unquote(match["zone"]) if match else None


def is_callback(path: str) -> bool:
    """Say whether a path is where browsers come back from a provider, without a token of ours."""
    return _CALLBACK.fullmatch(path) is not None


def _guarded(path: str) -> bool:
    return path.startswith("/v1/") and not path.startswith(_OPEN)


def _check_capability(token: dict[str, Any], method: str, path: str) -> None:
    if method in _READS or token["capability"] == "write":
        return
    if token["capability"] == "read":
        raise Forbidden("admin_token_capability", "this token may only read")
    if (method, bool(_SATISFY.fullmatch(path))) != ("POST", True):
        raise Forbidden("admin_token_capability", "this token may only read and approve")


def _check_scope(token: dict[str, Any], zone_id: str | None, path: str) -> None:
    if token["scope"] != "zone" or token["zone_id"] == zone_id:
        return
    if _TOKENS.match(path):
        raise Forbidden("admin_token_management_requires_global", "a global token is needed")
    raise Forbidden("admin_token_zone_mismatch", "this token is for another zone")
