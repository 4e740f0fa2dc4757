"""Carries out plans as coroutines, on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar, final

import httpx

from caracal.client.asynchronous import Async
from caracal.client.plan import Ask, End, Inside, Make, Plan, Scope, Share, Step, Walk
from caracal.client.settled import finished, made

T = TypeVar("T")


class AsyncFlight(Generic[T]):
    """Work that is done once for all who wait for it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[T] | None = None

    async def join(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the work under way, or begin it."""
        if self._task is None:
            self._task = asyncio.create_task(self._landed(work))
            self._task.add_done_callback(_seen)
        # Shielded: the work serves everyone who waits, not only the first who may go away.
        return await asyncio.shield(self._task)

    def drop(self) -> None:
        """Leave the work under way to those who wait already."""
        self._task = None

    async def close(self) -> None:
        """End the work under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _landed(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            if self._task is asyncio.current_task():
                self._task = None


def _seen(task: asyncio.Task[Any]) -> None:
    """Look at how it ended, in case nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


@final
class AsyncPlans:
    """The driver of ``Caracal``."""

    def __init__(self, http_client: httpx.AsyncClient | None = None) -> None:
        self._http = httpx.AsyncClient(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        self._flights: list[AsyncFlight[Any]] = []

    def flight(self) -> AsyncFlight[Any]:
        """Return a new flight; it ends with the driver."""
        self._flights.append(AsyncFlight())
        return self._flights[-1]

    async def run(self, plan: Plan[T]) -> T:
        """Follow a plan; return what it returns."""
        walk = Walk(plan)
        for step in walk:
            try:
                walk.sent(await self._outcome(step))
            except BaseException as error:  # noqa: BLE001 - raised in the plan
                walk.failed(error)
        return walk.result

    @asynccontextmanager
    async def scope(self, plan: Scope[T]) -> AsyncIterator[T]:
        """Follow a plan around the body of an ``async with``."""
        walk = Walk(plan)
        for step in walk:
            try:
                if isinstance(step, Inside):
                    yield step.value
                    walk.sent(None)
                else:
                    walk.sent(await self._outcome(step))
            except BaseException as error:  # noqa: BLE001 - raised in the plan
                walk.failed(error)

    async def close(self) -> None:
        """End what is under way; close the HTTP client, if it is ours."""
        for flight in self._flights:
            await flight.close()
        if self._is_ours:
            await self._http.aclose()

    async def _outcome(self, step: Step) -> Any:
        match step:
            case Ask(core, call):
                return await Async(core, self._http, None).bound(core.answer)(call)
            case Share(flight, plan_of):
                return await flight.join(lambda: self.run(plan_of()))
            case Make(plan, undo):
                return await made(self.run(plan), lambda thing: self.run(undo(thing)))
            case End(plan):
                return await finished(self.run(plan))
