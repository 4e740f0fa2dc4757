"""ASGI middleware: requests are handled at the place that their envelope tells of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from caracal.client.envelope import restored, standing

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class EnvelopeMiddleware:
    """Restores ``traceparent`` and ``baggage`` for the time of each request or WebSocket.

    Works with every ASGI framework: ``app.add_middleware(EnvelopeMiddleware)`` in FastAPI and
    Starlette. What the caller says of itself is a hint for calls made meanwhile, never authority.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        with standing(restored(scope["headers"])):
            return await self._app(scope, receive, send)
