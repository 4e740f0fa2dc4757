"""Who may run policies when: a few at a time, in turn by owner, and only so many wait.

A zone's administrator can keep a processor busy for seconds with each request. So of each owner
one piece of work at a time contends for a place: however many requests one of them sends, the
others are served in between. What does not fit into an owner's queue is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from caracal.errors import TooMany

PLACES = 2
"""How many processes run at once, in each process of ours."""

QUEUE_MAX = 16
"""How many requests of one owner run or wait."""

_owner: ContextVar[str | None] = ContextVar("policy_work_owner", default=None)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """Count all work inside as that of ``owner``; work of nobody (a command line's) is not held."""
    token = _owner.set(owner)
    try:
        yield
    finally:
        _owner.reset(token)


class _Queue:
    """One owner's: ``size`` of those who run or wait, of which the lock lets one through."""

    def __init__(self) -> None:
        self.size = 0
        self.lock = asyncio.Lock()

    @contextmanager
    def entered(self) -> Iterator[None]:
        if self.size >= QUEUE_MAX:
            raise TooMany("rate_limited", "too many policies are waiting to be run; try again")
        self.size += 1
        try:
            yield
        finally:
            self.size -= 1


class _Turns:
    """The places of one event loop."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(PLACES)
        self.queues: WeakValueDictionary[str, _Queue] = WeakValueDictionary()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


@asynccontextmanager
async def turn() -> AsyncIterator[None]:
    """Wait for a place, and have it inside.

    Raises:
        TooMany: 429 ``rate_limited``, the owner has too much work waiting.
    """
    turns = _turns.setdefault(asyncio.get_running_loop(), _Turns())
    if (owner := _owner.get()) is None:
        async with turns.places:
            yield
        return
    queue = turns.queues.setdefault(owner, _Queue())
    with queue.entered():
        # Places are given in the order of asking, and each owner asks once at a time: round about.
        async with queue.lock, turns.places:
            yield
