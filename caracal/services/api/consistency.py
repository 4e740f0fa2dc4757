"""``Caracal-Min-Position``: answer only when the read models have come that far."""

from __future__ import annotations

from collections.abc import Callable

from caracal.errors import BadInput, Unavailable
from caracal.services.api.call import Api
from caracal.services.http import App, Receive, Scope, Send, header


def min_position(scope: Scope) -> int | None:
    """Return the position that the caller wants to see; None without one.

    Raises:
        BadInput: 400 ``invalid_params``, no decimal number.
    """
    given = header(scope, b"caracal-min-position")
    if given is None:
        return None
    if not given.isdigit() or len(given) > 18:
        raise BadInput("invalid_params", "Caracal-Min-Position is a decimal number")
    return int(given)


def lagging() -> Unavailable:
    """Return the refusal of a view that has not come that far."""
    return Unavailable("projection_lagging", "the read models have not come that far yet")


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
