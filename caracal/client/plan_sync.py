"""Carries out plans on the calling thread; threads may share the driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar, final

import httpx

from caracal.client.plan import Ask, End, Inside, Make, Plan, Scope, Share, Step, Walk
from caracal.client.sync import Sync, begun
from caracal.errors import CaracalError

T = TypeVar("T")


class SyncFlight(Generic[T]):
    """Work that is done once for all threads that wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # work that has landed already lands within it
        self._future: Future[T] | None = None

    def join(self, work: Callable[[], T]) -> T:
        """Wait for the work under way, or begin it.

        It has a thread of its own: who waits and is interrupted (Ctrl-C) ends it for nobody else.
        """
        with self._lock:
            future = self._future
            if future is None:
                future = self._future = begun(work)
                future.add_done_callback(self._landed)
        return future.result()

    def drop(self) -> None:
        """Leave the work under way to those who wait already."""
        with self._lock:
            self._future = None

    def _landed(self, future: Future[T]) -> None:
        with self._lock:
            if self._future is future:
                self._future = None


@final
class SyncPlans:
    """The driver of ``SyncCaracal``."""

    def __init__(self, http_client: httpx.Client | None = None) -> None:
        self._http = httpx.Client(trust_env=False) if http_client is None else http_client
        self._is_ours = http_client is None

    def flight(self) -> SyncFlight[Any]:
        """Return a new flight."""
        return SyncFlight()

    def run(self, plan: Plan[T]) -> T:
        """Follow a plan; return what it returns."""
        walk = Walk(plan)
        for step in walk:
            try:
                walk.sent(self._outcome(step))
            except BaseException as error:  # noqa: BLE001 - raised in the plan
                walk.failed(error)
        return walk.result

    @contextmanager
    def scope(self, plan: Scope[T]) -> Iterator[T]:
        """Follow a plan around the body of a ``with``."""
        walk = Walk(plan)
        for step in walk:
            try:
                if isinstance(step, Inside):
                    yield step.value
                    walk.sent(None)
                else:
                    walk.sent(self._outcome(step))
            except BaseException as error:  # noqa: BLE001 - raised in the plan
                walk.failed(error)

    def close(self) -> None:
        """Close the HTTP client, if it is ours."""
        if self._is_ours:
            self._http.close()

    def _outcome(self, step: Step) -> Any:
        match step:
            case Ask(core, call):
                return Sync(core, self._http, None).bound(core.answer)(call)
            case Share(flight, plan_of):
                return flight.join(lambda: self.run(plan_of()))
            case Make(plan, undo):
                return _made(lambda: self.run(plan), lambda thing: self.run(undo(thing)))
            case End(plan):
                return _finished(begun(lambda: self.run(plan)))


def _made(work: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Make something; interrupted while it is made (Ctrl-C), it is made and undone."""
    future = begun(work)
    try:
        wait([future])
    except BaseException:
        _finished(begun(lambda: _undone(future, undo)))
        raise
    return future.result()


def _undone(future: Future[T], undo: Callable[[T], None]) -> None:
    with suppress(CaracalError):  # it was not made, or ends by its time to live
        undo(future.result())


def _finished(future: Future[T]) -> T:
    """Wait for work to its end; an interrupt that came meanwhile is raised after it."""
    interrupt: BaseException | None = None
    while not future.done():
        try:
            wait([future])
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupt = error
    if interrupt is not None:
        raise interrupt
    return future.result()
