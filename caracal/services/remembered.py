"""What was read of the database, kept until a fact says that it has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """At most ``most`` things by key, the least used gone first.

    Attributes:
        changes: how many were told of. Take it before a read: what has changed since, whatever it
            was, may be older than what was read says.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[Key, Value] = OrderedDict()
        self.changes = 0

    def get(self, key: Key) -> Value | None:
        """Return what is known."""
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
        return known

    def keep(self, key: Key, value: Value, changes: int) -> None:
        """Keep what was read when there had been so many ``changes``, if there was none since."""
        if changes != self.changes:
            return
        self._known[key] = value
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def changed(self, key: Key) -> None:
        """Forget what has changed."""
        self.changes += 1
        self._known.pop(key, None)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew, and facts may have been missed."""
        self.changes += 1
        self._known.clear()
