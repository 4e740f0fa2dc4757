"""``Caracal-Min-Position``: answer only when the read models have come that far.

Only for those who have proven who they are: nothing else shows a read model, and who has not
shall not make the database work. Nobody holds a connection while he waits.
"""

from __future__ import annotations

from collections.abc import Callable

from caracal.services.api.call import Api
from caracal.services.consistency import lagging, min_position
from caracal.services.http import App, Receive, Scope, Send

_SECONDS = 2.0


class MinPosition:
    """ASGI layer that waits, at most 2 s; inside of the door."""

    def __init__(self, app: App, api: Callable[[], Api]) -> None:
        self._app, self._api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_known(scope) and (position := min_position(scope)) is not None:
            await self._wait(position)
        await self._app(scope, receive, send)

    async def _wait(self, position: int) -> None:
        api = self._api()
        async with api.pool.connection() as connection:
            wanted = await api.waiter.up_to(connection, position)
        if wanted is None or not await api.waiter.applied(wanted, _SECONDS):
            raise lagging()


def _is_known(scope: Scope) -> bool:
    return scope["type"] == "http" and "token" in scope["state"]
