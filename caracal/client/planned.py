"""Methods that are declared once, as plans, and belong to both clients of the agents' side.

``@planned`` makes a plan of ``T`` a method that returns ``T``, and a coroutine of ``T`` on the
asynchronous client; ``@scoped`` makes a scope of ``T`` a context manager of either kind.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from caracal.client.plan import Plan, Scope
from caracal.client.plan_async import AsyncPlans
from caracal.client.plan_sync import SyncPlans

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=SyncPlans | AsyncPlans)


class Acting(Generic[E]):
    """What follows plans; ``E`` is the driver that carries them out."""

    def __init__(self, plans: E) -> None:
        self._plans = plans


class planned(Generic[P, T]):  # noqa: N801 - a decorator
    """A method whose answer is one ``T``."""

    def __init__(self, plan_of: Callable[Concatenate[Any, P], Plan[T]]) -> None:
        self._plan_of = plan_of
        self.__doc__ = plan_of.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: Acting[SyncPlans], owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(
        self, instance: Acting[AsyncPlans], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, instance: Acting[Any] | None, owner: type) -> Any:
        return self if instance is None else _followed(self._plan_of, instance, "run")


class scoped(Generic[P, T]):  # noqa: N801 - a decorator
    """A method that gives one ``T`` for the time of a ``with``."""

    def __init__(self, scope_of: Callable[Concatenate[Any, P], Scope[T]]) -> None:
        self._scope_of = scope_of
        self.__doc__ = scope_of.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(
        self, instance: Acting[SyncPlans], owner: type
    ) -> Callable[P, AbstractContextManager[T]]: ...

    @overload
    def __get__(
        self, instance: Acting[AsyncPlans], owner: type
    ) -> Callable[P, AbstractAsyncContextManager[T]]: ...

    def __get__(self, instance: Acting[Any] | None, owner: type) -> Any:
        return self if instance is None else _followed(self._scope_of, instance, "scope")


def _followed(plan_of: Callable[..., Any], instance: Acting[Any], how: str) -> Callable[..., Any]:
    follow = getattr(instance._plans, how)  # noqa: SLF001 - of this module

    @wraps(plan_of)
    def method(*args: Any, **kwargs: Any) -> Any:
        return follow(plan_of(instance, *args, **kwargs))

    return method
