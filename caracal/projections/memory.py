"""Operations applied in memory, by the same rules as in SQL: what the tails hold."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from caracal import clock
from caracal.projections.table import (
    AnyTable,
    Applied,
    Change,
    End,
    Mark,
    Merged,
    Prune,
    Put,
    Remove,
    Table,
)

Row = dict[str, Any]

KEPT_SECONDS = 3700.0
"""Longer than any token lives: who names an ended thing is told so, not that it is unknown."""


class MemoryView(Protocol):
    """A table as a process holds it."""

    @property
    def table(self) -> AnyTable:
        """Return the declaration."""
        ...

    def load(self, rows: Iterable[Row]) -> None:
        """Take the rows of a snapshot, in place of all there are."""
        ...

    def apply(self, position: int, operation: Any) -> None:
        """Apply one operation; again, or late, it changes nothing."""
        ...


class MemoryTable:
    """The rows of a table by id, with indexes over columns kept up to date.

    Attributes:
        weight: about how many bytes it takes.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: dict[str, Row] = {}
        self.weight = 0
        self._indexes: dict[tuple[str, ...], dict[tuple[Any, ...], set[str]]] = {}

    def index(self, *columns: str) -> Callable[..., list[Row]]:
        """Keep an index over ``columns``; return its look-up of live rows."""
        ids = self.ids(*columns)
        return lambda *values: [self.rows[row_id] for row_id in ids(*values)]

    def ids(self, *columns: str) -> Callable[..., Sequence[str]]:
        """Keep an index over ``columns``; return its look-up of live rows' ids, in order."""
        entries = self._indexes.setdefault(columns, {})

        def look_up(*values: Any) -> Sequence[str]:
            found = entries.get(values)  # of a walk nearly all are leaves
            return sorted(found) if found else ()

        return look_up

    def count(self, *columns: str) -> Callable[..., int]:
        """Keep an index over ``columns``; return how many live rows its look-up would give."""
        entries = self._indexes.setdefault(columns, {})
        return lambda *values: len(entries.get(values, ()))

    @property
    def live_rows(self) -> int:
        """Return how many rows are of live things; walks them all."""
        return sum(1 for row in self.rows.values() if row["ended_at"] is None)

    def live(self, row_id: str) -> Row | None:
        """Return the row of a live thing; None when it is unknown or has ended."""
        row = self.rows.get(row_id)
        return None if row is None or row["ended_at"] is not None else row

    def load(self, rows: Iterable[Row]) -> None:
        """Take rows of a snapshot; in place of all there are."""
        self.rows, self.weight = {}, 0
        for entries in self._indexes.values():
            entries.clear()
        self.extend(rows)

    def extend(self, rows: Iterable[Row]) -> None:
        """Take more rows of the same snapshot."""
        for row in rows:
            self._store(row)

    def apply(self, position: int, operation: Put | Change | End | Remove) -> None:
        """Apply one operation; applying it again, or an older one, changes nothing."""
        if isinstance(operation, Put):
            self._put(position, operation.id, self._values(operation.columns))
        elif isinstance(operation, Change):
            self._change(position, operation.id, self._values(operation.columns))
        elif isinstance(operation, Remove):
            self._remove(operation.id)
        else:
            columns = self._values(operation.columns)
            for row_id in operation.ids:
                self._end(position, row_id, columns)

    def _put(self, position: int, row_id: str, columns: Row) -> None:
        row = self.rows.get(row_id)
        if row is None:
            self._store({**self._blank(row_id, position), **columns})
        elif row["stub"]:
            final = {name: row[name] for name in self.table.final}
            self._store({**row, **columns, **final, "position": position, "stub": False})

    def _change(self, position: int, row_id: str, columns: Row) -> None:
        row = self.rows.get(row_id)
        if row is None or row["position"] >= position:
            return
        if row["ended_at"] is not None:
            columns = {k: v for k, v in columns.items() if k not in self.table.final}
        self._store({**row, **columns, "position": position})

    def _end(self, position: int, row_id: str, columns: Row) -> None:
        row = self.rows.get(row_id)
        if row is None:
            row = {**self._blank(row_id, 0), "stub": True}
        elif row["ended_at"] is not None and row["ended_at"] <= position:
            return
        final = dict.fromkeys(self.table.final)
        self._store({**row, **final, **columns, "ended_at": position})

    def _blank(self, row_id: str, position: int) -> Row:
        blank = dict.fromkeys(self.table.columns)
        return {"id": row_id, "position": position, "ended_at": None, "stub": False, **blank}

    def _values(self, columns: Mapping[str, Any]) -> Row:
        types = self.table.columns
        return {
            name: clock.parse(value)
            if types[name] == "timestamptz" and isinstance(value, str)
            else value
            for name, value in columns.items()
        }

    def _remove(self, row_id: str) -> None:
        self._forget(row_id)
        self.rows.pop(row_id, None)

    def _forget(self, row_id: str) -> None:
        if (row := self.rows.get(row_id)) is None:
            return
        self.weight -= weight_of(row)
        if row["ended_at"] is None:
            for columns, entries in self._indexes.items():
                _discard(entries, tuple(row[name] for name in columns), row_id)

    def _store(self, row: Row) -> None:
        self._forget(row["id"])
        self.weight += weight_of(row)
        for columns, entries in self._indexes.items():
            if row["ended_at"] is None:
                entries.setdefault(tuple(row[name] for name in columns), set()).add(row["id"])
        self.rows[row["id"]] = row


class RecentTable(MemoryTable):
    """A table of things that come and go all day: what has ended is forgotten after a while.

    It is kept for :data:`KEPT_SECONDS`, far longer than its beginning can still be underway on
    another topic, so that nothing comes to life again.

    Args:
        table: the declaration.
        born_on: name of the topic that says what has begun.
        ended_on: SQL for when a row has ended.
    """

    def __init__(self, table: Table, *, born_on: str, ended_on: str) -> None:
        super().__init__(table)
        self.born_on, self.ended_on = born_on, ended_on
        self._ended: deque[tuple[float, str]] = deque()

    def load(self, rows: Iterable[Row]) -> None:
        """Take rows of a snapshot; in place of all there are."""
        self._ended.clear()
        super().load(rows)

    def _store(self, row: Row) -> None:
        super()._store(row)
        now = time.monotonic()
        if row["ended_at"] is not None:
            self._ended.append((now + KEPT_SECONDS, row["id"]))
        while self._ended and self._ended[0][0] <= now:
            self._remove(self._ended.popleft()[1])


_PLACE = 300  # a row's own, among the rows and in an index


def weight_of(row: Row) -> int:
    """Return about how many bytes a row takes in memory."""
    return _PLACE + _size(row)


def _size(value: Row | list[Any]) -> int:
    inner = value if isinstance(value, list) else value.values()
    size = sys.getsizeof(value) + sum(map(sys.getsizeof, inner))
    for one in inner:
        if type(one) in _CONTAINERS:
            size += _size(one)
    return size


_CONTAINERS = (dict, list)


def _discard(
    entries: dict[tuple[Any, ...], set[str]], values: tuple[Any, ...], row_id: str
) -> None:
    entries[values].discard(row_id)
    if not entries[values]:
        del entries[values]


class MemoryMarks:
    """The marks of a :class:`Merged` table by id."""

    def __init__(self, table: Merged) -> None:
        self.table = table
        self.rows: dict[str, Row] = {}

    def load(self, rows: Iterable[Row]) -> None:
        """Take rows of a snapshot; in place of all there are."""
        self.rows = {row["id"]: row for row in rows}

    def apply(self, position: int, operation: Mark | Prune) -> None:
        """Merge marks; in any order, any number of times. Or forget those that are outlived."""
        if isinstance(operation, Prune):
            self._prune(operation)
            return
        for row_id in operation.ids:
            row = self.rows.setdefault(row_id, self._blank(row_id))
            for name, value in operation.columns.items():
                if value is not None:
                    row[name] = value if row[name] is None else max(row[name], value)

    def _prune(self, prune: Prune) -> None:
        outlived = prune.outlived
        before = min(prune.before, int(clock.now().timestamp()) - outlived.least)
        self.rows = {
            row_id: row
            for row_id, row in self.rows.items()
            if row[outlived.on] >= before or not outlived.holds(row)
        }

    def _blank(self, row_id: str) -> Row:
        return {"id": row_id, **{n: _BLANK.get(kind) for n, kind in self.table.columns.items()}}


_BLANK = {"boolean": False, "bigint": 0}


def apply(tables: Mapping[str, MemoryView], operations: Iterable[Applied]) -> None:
    """Apply operations to the tables that a process holds; others do not concern it."""
    for applied in operations:
        if (table := tables.get(applied.operation.table.name)) is not None:
            table.apply(applied.position, applied.operation)
