"""``Caracal-Min-Position``: answer only when a service's view has come that far."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from caracal.errors import BadInput, Unavailable
from caracal.services.http import App, Receive, Scope, Send, header


class MinPosition:
    """ASGI layer that waits, at most 2 s, until ``reached`` says that a position is there.

    ``concerns`` says whose requests may wait: those of callers who have proven who they are.
    """

    def __init__(
        self,
        app: App,
        reached: Callable[[int], Awaitable[bool]],
        concerns: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        self._app, self._reached, self._concerns = app, reached, concerns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        waits = scope["type"] == "http" and self._concerns(scope)
        position = min_position(scope) if waits else None
        if position is not None and not await self._reached(position):
            raise lagging()
        await self._app(scope, receive, send)


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
