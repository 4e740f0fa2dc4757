"""Work that many want at once and one does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from caracal.tasks import cancelled

Result = TypeVar("Result")


class Flights(Generic[Result]):
    """At most one piece of work under way for each key; ``close`` ends all."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[Result]] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._under_way

    async def join(self, key: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return what the work under way gives; begin it if there is none.

        It is finished for those who come later, even when everyone here has gone away.
        """
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(_awaited(work))
            task.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(task)

    async def close(self, grace: float = 0) -> None:
        """End the work under way, what does not end by itself within ``grace`` seconds."""
        if tasks := list(self._under_way.values()):
            await asyncio.wait(tasks, timeout=grace)
        for task in tasks:
            await cancelled(task)

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits any more


async def _awaited(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
