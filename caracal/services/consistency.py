"""Answers from a view that is new enough, for the caller (``Caracal-Min-Position``) and for us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg

from caracal.errors import BadInput, Unavailable
from caracal.projections.tail import Tail
from caracal.services.http import App, Receive, Scope, Send, header

_LOST_SECONDS = 1.5
"""A tail that reaches the log is never that old: it looks four times a second."""


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


def state_stale() -> Unavailable:
    """Return the refusal of a view that may have missed something."""
    return Unavailable("state_stale", "the state is not known to be current")


async def need_log(tail: Tail) -> None:
    """Refuse at once what only the database knows, while it does not answer.

    Raises:
        Unavailable: 503 ``state_stale``; whoever asks does not wait for a connection in vain.
    """
    if tail.age > _LOST_SECONDS and not await tail.probe():
        raise state_stale()


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Wait for the database for so long.

    Raises:
        Unavailable: 503 ``state_stale``, it has not answered, or cannot be reached.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except (psycopg.Error, OSError, TimeoutError):
        raise state_stale() from None
