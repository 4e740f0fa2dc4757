"""Carries out flows with ``httpx.Client``."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import wraps
from time import monotonic
from typing import ParamSpec, TypeVar, final

import httpx

from caracal.client.answer import Failed, Outcome
from caracal.client.call import Listing
from caracal.client.core import Attempt, Core, Flow
from caracal.client.errors import AdminCancelledError
from caracal.client.wire import Body, built, failed, wanted

P = ParamSpec("P")
T = TypeVar("T")

_POLL_SECONDS = 0.02
"""How late a ``cancel`` may be noticed: no thread waits for two events at once."""


def begun(work: Callable[[], T]) -> Future[T]:
    """Begin work on a thread of its own, in a copy of the caller's context."""
    future: Future[T] = Future()

    def carry_out() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where the caller waits
            future.set_exception(error)

    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(carry_out,), daemon=True, name="caracal-client")
    try:
        thread.start()
    except RuntimeError:  # no thread more, as at the interpreter's end: without the limit, then
        carry_out()
    return future


@final
class Sync:
    """The driver of ``AdminClient``.

    Each attempt runs on a thread of its own, so its time limit and ``cancel`` hold whatever the
    server does: httpx alone limits each read, not their sum. An abandoned attempt ends with the
    read that it is in.
    """

    def __init__(
        self, core: Core, http_client: httpx.Client | None, cancel: threading.Event | None
    ) -> None:
        self.core = core
        self._http = httpx.Client(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None
        self._cancel = threading.Event() if cancel is None else cancel
        self._poll = None if cancel is None else _POLL_SECONDS
        self._seconds = core.options.timeout_ms / 1000

    def bound(self, flow_of: Callable[P, Flow[T]]) -> Callable[P, T]:
        """Return the method that carries out the flow."""

        @wraps(flow_of)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return self._run(flow_of(*args, **kwargs))

        return method

    def each(self, listing_of: Callable[P, Listing[T]]) -> Callable[P, Iterator[T]]:
        """Return the method that gives the items of all pages, one after the other."""

        @wraps(listing_of)
        def method(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            for flow in self.core.pages(listing_of(*args, **kwargs)):
                yield from self._run(flow)

        return method

    def close(self) -> None:
        """Close the HTTP client, if it is ours."""
        if self._is_ours:
            self._http.close()

    def _run(self, flow: Flow[T]) -> T:
        try:
            attempt = next(flow)
            while True:
                attempt = flow.send(self._outcome(attempt))
        except StopIteration as end:
            result: T = end.value
            return result

    def _outcome(self, attempt: Attempt) -> Outcome:
        if self._cancel.wait(attempt.after):
            raise AdminCancelledError
        abandoned = threading.Event()
        try:
            return self._within(begun(lambda: self._fetch(attempt, abandoned)))
        finally:
            abandoned.set()

    def _within(self, future: Future[Outcome]) -> Outcome:
        end = monotonic() + self._seconds
        while not future.done():
            if self._cancel.is_set():
                raise AdminCancelledError
            if (left := end - monotonic()) <= 0:
                return Failed(TimeoutError(f"{self._seconds} s are over"), timed_out=True)
            wait([future], left if self._poll is None else min(left, self._poll))
        return future.result()

    def _fetch(self, attempt: Attempt, abandoned: threading.Event) -> Outcome:
        body = Body()
        try:
            request = built(self._http, attempt, self._seconds)
            response = self._http.send(request, stream=True, auth=None, follow_redirects=False)
            try:
                if wanted(response, attempt):
                    for part in response.iter_bytes():
                        if abandoned.is_set() or not body.add(part):
                            break
            finally:
                response.close()
        except httpx.RequestError as error:
            return failed(error)
        return body.answer(response)
