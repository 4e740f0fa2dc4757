"""``Caracal-Min-Position``: answer only when the read models have come that far."""

from __future__ import annotations

from collections.abc import Callable

from caracal.services.api.call import Api
from caracal.services.consistency import lagging, min_position
from caracal.services.http import App, Receive, Scope, Send


class MinPosition:
    """ASGI layer that waits, at most 2 s."""

    def __init__(self, app: App, api: Callable[[], Api]) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (position := min_position(scope)) is not None:
            async with self._api().pool.connection() as connection:
                if not await self._api().waiter.reached(connection, position):
                    raise lagging()
        await self._app(scope, receive, send)
