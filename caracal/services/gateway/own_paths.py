"""The Gateway's own paths: metadata of protected resources, and the order to look again."""

from __future__ import annotations

import orjson

from caracal.errors import CaracalError, Unavailable
from caracal.services.gateway.metadata import WELL_KNOWN, document, is_metadata
from caracal.services.gateway.view import GatewayView
from caracal.services.http import (
    ROUTE,
    App,
    Receive,
    Scope,
    Send,
    is_bearer,
    public_base,
    request_id_of,
    respond,
    respond_error,
)
from caracal.settings import Settings

_RELOAD = "/.well-known/caracal/reload"


class OwnPaths:
    """Answers what is the Gateway's own; ``proxy`` and ``sockets`` get all that is not."""

    def __init__(self, settings: Settings, view: GatewayView, proxy: App, sockets: App) -> None:
        self._settings, self._view = settings, view
        self._proxy, self._sockets = proxy, sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
            return
        if not scope["path"].startswith("/.well-known/"):
            await self._proxy(scope, receive, send)
            return
        try:
            if is_metadata(scope):
                scope["state"][ROUTE] = WELL_KNOWN
                await self._metadata(scope, send)
            elif self._is_reload(scope):
                scope["state"][ROUTE] = _RELOAD
                await self._reload(scope, send)
            else:
                await self._proxy(scope, receive, send)
        except CaracalError as error:
            await respond_error(send, error, request_id_of(scope))

    async def _metadata(self, scope: Scope, send: Send) -> None:
        base = public_base(scope, self._settings.gateway_url)
        found = await document(self._view, scope, base, self._settings.issuer_url)
        headers = [(b"x-request-id", request_id_of(scope).encode())]
        await respond(send, 200, orjson.dumps(found), headers)

    def _is_reload(self, scope: Scope) -> bool:
        token = self._settings.gateway_admin_token
        return scope["path"] == _RELOAD and scope["method"] == "POST" and is_bearer(scope, token)

    async def _reload(self, scope: Scope, send: Send) -> None:
        tail = self._view.following
        tail.retake()
        if not await tail.probe():  # answered after the snapshot
            raise Unavailable("unavailable", "no snapshot can be taken now")
        headers = [(b"x-request-id", request_id_of(scope).encode())]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
