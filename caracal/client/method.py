"""Methods that are declared once and belong to both clients.

A namespace's function says what is asked; the decorator makes it a method that returns ``T`` on
``AdminClient`` and a coroutine of ``T`` on ``AsyncAdminClient``, for people and type checkers
alike::

    class Zones(Namespace[D]):
        @one
        def get(self, id: str) -> Call[Zone]:
            return api("GET", "zones", id)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from caracal.client.asynchronous import Async
from caracal.client.call import Call, Listing, Page
from caracal.client.core import Core, Flow
from caracal.client.sync import Sync

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D", bound=Sync | Async)


class Namespace(Generic[D]):
    """Methods of one kind of thing; ``D`` is the driver of the client that they belong to."""

    def __init__(self, driver: D) -> None:
        self._driver = driver


class Method(Generic[P, T]):
    """A method whose answer is one ``T``."""

    def __init__(
        self,
        build: Callable[Concatenate[Any, P], Any],
        flow: Callable[[Core, Any], Flow[T]],
    ) -> None:
        self._build, self._flow = build, flow
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Namespace[Sync], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(
        self, instance: Namespace[Async], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, instance: Namespace[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        driver = instance._driver  # noqa: SLF001 - of this module
        build = self._build.__get__(instance)

        @wraps(build)
        def flow_of(*args: P.args, **kwargs: P.kwargs) -> Flow[T]:
            return self._flow(driver.core, build(*args, **kwargs))

        return driver.bound(flow_of)


class Each(Generic[P, T]):
    """A method that gives the items of a list one after the other."""

    def __init__(self, build: Callable[Concatenate[Any, P], Listing[T]]) -> None:
        self._build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Namespace[Sync], owner: type) -> Callable[P, Iterator[T]]: ...

    @overload
    def __get__(self, instance: Namespace[Async], owner: type) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, instance: Namespace[Any] | None, owner: type) -> Any:
        if instance is None:
            return self
        return instance._driver.each(self._build.__get__(instance))  # noqa: SLF001


class many(Method[P, list[T]]):  # noqa: N801 - a decorator
    """A method that answers a list: one page of it, or all."""

    def __init__(self, build: Callable[Concatenate[Any, P], Listing[T]]) -> None:
        super().__init__(build, Core.all)
        self._listing = build

    def by_page(self) -> Method[P, Page[T]]:
        """Return the same list as a method that answers one ``Page``."""
        return Method(self._listing, Core.page)

    def each(self) -> Each[P, T]:
        """Return the same list as a method that goes through all its pages lazily."""
        return Each(self._listing)


def one(build: Callable[Concatenate[Any, P], Call[T]]) -> Method[P, T]:
    """Declare a method that answers an object, or nothing."""
    return Method(build, Core.answer)
