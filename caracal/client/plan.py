"""What the agents' side does, without I/O: the one way for both of its clients.

A *plan* is a generator that yields steps and is sent what became of them, as a flow of the core
does with attempts; a *scope* is a plan that stands still for the body of a ``with``. The two
drivers (``plan_sync.py``, ``plan_async.py``) only carry the steps out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from caracal.client.call import Call
from caracal.client.core import Core
from caracal.errors import CaracalError

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """Carry out a call; what it answers is sent back."""

    core: Core
    call: Call[Any]


@dataclass(frozen=True, slots=True)
class Share:
    """Follow a plan once for all who ask meanwhile; ``flight`` is the driver's own."""

    flight: Any
    plan: Callable[[], Plan[Any]]


@dataclass(frozen=True, slots=True)
class Make:
    """Follow a plan that makes something; interrupted meanwhile, it is made and undone."""

    plan: Plan[Any]
    undo: Callable[[Any], Plan[None]]


@dataclass(frozen=True, slots=True)
class End:
    """Follow a plan to its end though the caller is interrupted."""

    plan: Plan[None]


@dataclass(frozen=True, slots=True)
class Inside(Generic[T]):
    """Let the body of the ``with`` run, with this value; its error is raised here."""

    value: T


Step = Ask | Share | Make | End
Plan = Generator[Step, Any, T]
Scope = Generator[Step | Inside[T], Any, None]


class Walk(Generic[S, T]):
    """A walk through a generator's steps: each is followed by what became of it.

    >>> for step in walk:
    ...     walk.sent(outcome_of(step))
    >>> walk.result
    """

    result: T

    def __init__(self, steps: Generator[S, Any, T]) -> None:
        self._steps = steps
        self._onward: Callable[[], S] = partial(steps.send, None)

    def __iter__(self) -> Iterator[S]:
        return self

    def __next__(self) -> S:
        try:
            return self._onward()
        except StopIteration as end:
            self.result = end.value
            raise

    def sent(self, outcome: Any) -> None:
        """Tell the step's outcome, when it is gone on."""
        self._onward = partial(self._steps.send, outcome)

    def failed(self, error: BaseException) -> None:
        """Raise the step's failure there, when it is gone on."""
        self._onward = partial(self._steps.throw, error)


def inside(value: T) -> Scope[T]:
    """Let the body run."""
    yield Inside(value)


def leaving(body: Scope[T], leave: Callable[[], Plan[None]], what: str, wanted: bool) -> Scope[T]:
    """End something on leaving; an error of the body is not replaced by one of the end."""
    try:
        yield from body
    except BaseException as error:
        if wanted:
            try:
                yield End(leave())
            except CaracalError as failure:
                error.add_note(f"the {what} could not be ended: {failure}")
        raise
    if wanted:
        yield End(leave())
