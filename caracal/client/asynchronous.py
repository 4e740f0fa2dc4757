"""Carries out flows with ``httpx.AsyncClient``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar, final

import httpx

from caracal.client.answer import Failed, Outcome
from caracal.client.call import Listing
from caracal.client.core import Attempt, Core, Flow
from caracal.client.errors import AdminCancelledError
from caracal.client.wire import Body, built, failed, wanted
from caracal.tasks import cancelled

P = ParamSpec("P")
T = TypeVar("T")


@final
class Async:
    """The driver of ``AsyncAdminClient``."""

    def __init__(
        self, core: Core, http_client: httpx.AsyncClient | None, cancel: asyncio.Event | None
    ) -> None:
        self.core = core
        self._http = httpx.AsyncClient(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        self._cancel = cancel
        self._seconds = core.options.timeout_ms / 1000

    def bound(self, flow_of: Callable[P, Flow[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return the method that carries out the flow."""

        @wraps(flow_of)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self._run(flow_of(*args, **kwargs))

        return method

    def each(self, listing_of: Callable[P, Listing[T]]) -> Callable[P, AsyncIterator[T]]:
        """Return the method that gives the items of all pages, one after the other."""

        @wraps(listing_of)
        async def method(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
            for flow in self.core.pages(listing_of(*args, **kwargs)):
                for item in await self._run(flow):
                    yield item

        return method

    async def close(self) -> None:
        """Close the HTTP client, if it is ours."""
        if self._is_ours:
            await self._http.aclose()

    async def _run(self, flow: Flow[T]) -> T:
        try:
            attempt = next(flow)
            while True:
                attempt = flow.send(await self._outcome(attempt))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _outcome(self, attempt: Attempt) -> Outcome:
        if attempt.after:
            await self._unless_cancelled(asyncio.sleep(attempt.after), None)
        if self._cancel is not None and self._cancel.is_set():
            raise AdminCancelledError
        outcome = await self._unless_cancelled(self._fetch(attempt), self._seconds)
        if outcome is None:
            return Failed(TimeoutError(f"{self._seconds} s are over"), timed_out=True)
        return outcome

    async def _unless_cancelled(
        self, work: Coroutine[Any, Any, T], seconds: float | None
    ) -> T | None:
        """Do the work; None when it takes longer.

        Raises:
            AdminCancelledError: ``cancel`` was set before the work's end.
        """
        task = asyncio.create_task(work)
        tasks: list[asyncio.Task[Any]] = [task]
        if self._cancel is not None:
            tasks.append(asyncio.create_task(self._cancel.wait()))
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if task in done:
                return task.result()
            if done:
                raise AdminCancelledError
            return None
        finally:
            await cancelled(*tasks)

    async def _fetch(self, attempt: Attempt) -> Outcome:
        body = Body()
        try:
            request = built(self._http, attempt, self._seconds)
            response = await self._http.send(
                request, stream=True, auth=None, follow_redirects=False
            )
            try:
                if wanted(response, attempt):
                    async for part in response.aiter_bytes():
                        if not body.add(part):
                            break
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            return failed(error)
        return body.answer(response)
