"""``/openapi.json`` of a service: for anyone, as often as he likes."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from caracal.services.documented import Document
from caracal.services.http import ROUTE, App, Receive, Scope, Send, respond

PATH = "/openapi.json"


class Published:
    """ASGI layer that answers with the document, written once; all else goes on to ``app``."""

    def __init__(self, app: App, document: Callable[[], Document]) -> None:
        self._app, self._document = app, document
        self._written = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", PATH):
            await self._app(scope, receive, send)
            return
        scope["state"][ROUTE] = PATH
        self._written = self._written or orjson.dumps(self._document())
        await respond(send, 200, self._written, [])
