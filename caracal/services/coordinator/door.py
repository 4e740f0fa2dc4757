"""The door of the Coordinator: how often, who is it, may they be here.

Runs before any body is parsed, so an unauthenticated caller learns nothing from a body's errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from caracal.errors import BadInput, NotFound
from caracal.ids import ID_PATTERN
from caracal.services.coordinator.call import Coordinator
from caracal.services.coordinator.caller import Caller
from caracal.services.http import (
    App,
    Receive,
    Scope,
    Send,
    is_bearer,
    raw_path,
)
from caracal.services.windows import caller_of
from caracal.settings import Settings

VERIFY = "/v1/verify"
_ZONE = re.compile(r"^(?P<alias>/v1)?/zones/(?P<zone>[^/]+)(?P<rest>/.*)?$")
_INVOCATIONS = re.compile(r"/invocations(/.*)?", re.DOTALL)
_OF_OPERATOR = tuple(
    (method, re.compile(path))
    for method, path in (
        ("GET", r"/agents(/[^/]+(/children|/effective-authority)?)?"),
        ("PATCH", r"/agents/[^/]+/(suspend|resume)"),
        ("DELETE", r"/agents/[^/]+"),
        ("GET", r"/delegations(/(active|(inbound|outbound)/[^/]+|[^/]+/(traverse|impact)))?"),
        ("PATCH", r"/delegations/[^/]+/revoke"),
    )
)


class Door:
    """ASGI layer that lets only known callers through; ``/v1/verify`` is open."""

    def __init__(self, app: App, parts: Callable[[], Coordinator]) -> None:
        self._app, self._parts = app, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != VERIFY:  # which counts, and answers, itself
            parts = self._parts()
            await parts.limits.requests.enter(caller_of(scope))
            await _admit(scope, parts)
        await self._app(scope, receive, send)


async def _admit(scope: Scope, parts: Coordinator) -> None:
    match = _ZONE.match(raw_path(scope))
    zone_id = unquote(match["zone"]) if match else None
    rest = unquote(match["rest"] or "") if match else ""  # as the routes see it
    caller = _operator(scope, parts.settings, zone_id, rest)
    if caller is None:
        caller = await parts.identities.caller(scope)
        _check_place(scope, zone_id, caller)
        await parts.identities.check_standing(caller)
    else:
        _check_place(scope, zone_id, caller)
    scope["state"]["caller"] = caller
    if match is None and scope["path"].startswith("/v1/"):
        await parts.limits.facade.enter(caller_of(scope))
    elif scope["method"] != "GET" and _INVOCATIONS.fullmatch(rest):
        await parts.limits.invocations.enter(f"{caller.zone_id}:{caller.client_id}")
    if match and match["alias"]:
        scope["root_path"] = match["alias"]  # the routes are those without it


def zone_of(scope: Scope) -> str | None:
    """Return the zone of a request: its caller's, else the one that its path names, if any."""
    if (caller := scope["state"].get("caller")) is not None:
        return str(caller.zone_id)
    match = _ZONE.match(raw_path(scope))
    return unquote(match["zone"]) if match else None


def _operator(scope: Scope, given: Settings, zone_id: str | None, rest: str) -> Caller | None:
    if zone_id is None or not is_bearer(scope, given.caracal_coordinator_token):
        return None
    asked = scope["method"]
    may = any(method == asked and path.fullmatch(rest) for method, path in _OF_OPERATOR)
    return Caller.operator(zone_id, given.agent_coordinator_scope) if may else None


def _check_place(scope: Scope, zone_id: str | None, caller: Caller) -> None:
    if zone_id is None:
        if _ZONE.match(scope["path"]):  # its slashes are encoded
            raise NotFound("not_found", "there is no such route")
        return
    if not ID_PATTERN.fullmatch(zone_id):
        raise BadInput("invalid_params", "a zone id has 1-128 of A-Z a-z 0-9 . _ : -")
    caller.check_zone(zone_id)
