"""Tables of read models, and what a reducer may do to them.

Reducers are pure: they return operations. One place turns operations into SQL, another applies
them in memory, so the same reducer fills Postgres, the tails of the hot path and a rebuild.

Topics have no order among each other, so operations commute where they can meet: a thing's own
topic puts and changes its row; any topic may end it. An end is final, the earliest in log order
counts, and one that comes before its row is kept as a stub that no query shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caracal.events.base import Fact


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A read model's table: ``columns`` maps names to SQL types (structured values: ``jsonb``).

    Every table has ``id``, ``position`` (of the last put or change), ``ended_at`` (position of
    the end, null while alive) and ``stub`` (ended before it was seen). ``final`` are the columns
    that an end sets; one that it does not name becomes null.
    """

    name: str
    columns: Mapping[str, str]
    final: Sequence[str] = ()
    indexes: Sequence[str] = ()

    def ddl(self, name: str | None = None) -> list[str]:
        """Return the statements that create the table, under another name for a rebuild."""
        name = name or self.name
        columns = "".join(f", {column} {kind}" for column, kind in self.columns.items())
        return [
            f"CREATE TABLE {name} (id text PRIMARY KEY, position bigint NOT NULL,"
            f" ended_at bigint, stub boolean NOT NULL DEFAULT false{columns})",
            *(f"CREATE INDEX ON {name} {index}" for index in self.indexes),
        ]


@dataclass(frozen=True, slots=True)
class Outlived:
    """Which rows of a table of marks nobody needs any longer, once they are old.

    Attributes:
        on: the column that tells how old, Unix seconds.
        where: what else must hold, as SQL.
        holds: the same, of a row in memory.
        least: seconds for which a row stays by our own clock, whatever time an event tells.
    """

    on: str
    where: str
    holds: Callable[[Mapping[str, Any]], bool]
    least: int


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A table of marks that only grow: of each column the greatest value ever given counts.

    A ``bigint`` begins at 0, a ``boolean`` as false, any other column as null. ``outlived`` says
    what a :class:`Prune` removes.
    """

    name: str
    columns: Mapping[str, str]
    indexes: Sequence[str] = ()
    outlived: Outlived | None = None

    def ddl(self, name: str | None = None) -> list[str]:
        """Return the statements that create the table, under another name for a rebuild."""
        name = name or self.name
        columns = "".join(
            f", {column} {kind}{_BEGINS.get(kind, '')}" for column, kind in self.columns.items()
        )
        return [
            f"CREATE TABLE {name} (id text PRIMARY KEY{columns})",
            *(f"CREATE INDEX ON {name} {index}" for index in self.indexes),
        ]


_BEGINS = {"boolean": " NOT NULL DEFAULT false", "bigint": " NOT NULL DEFAULT 0"}


AnyTable = Table | Merged


@dataclass(frozen=True, slots=True)
class Put:
    """The row of a thing that has begun."""

    table: Table
    id: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """New values of a thing's own row; final columns stay once it has ended."""

    table: Table
    id: str
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class End:
    """Things that have ended, with their final columns."""

    table: Table
    ids: Sequence[str]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remove:
    """A thing that has ended and is not kept any longer; its own topic says so, last of all."""

    table: Table
    id: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mark:
    """Marks on ids, merged with those they have."""

    table: Merged
    ids: Sequence[str]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prune:
    """Rows that a table of marks has outlived and that are older than ``before`` (Unix seconds).

    It hangs on the log alone, so that a rebuild removes the same rows.
    """

    table: Merged
    before: int

    @property
    def outlived(self) -> Outlived:
        """Return which rows of the table that concerns."""
        assert self.table.outlived is not None, f"{self.table.name} keeps all its rows"
        return self.table.outlived


Operation = Put | Change | End | Remove | Mark | Prune


@dataclass(frozen=True, slots=True)
class Applied:
    """An operation at its position in the log."""

    position: int
    operation: Operation


def put(table: Table, fact: Fact, **columns: Any) -> Put:
    """Return the row of the fact's own thing: the members of its data, and ``columns``."""
    return Put(table, fact.aggregate_id, _known(table, fact.data) | zone_of(table, fact) | columns)


def change(table: Table, fact: Fact, **columns: Any) -> Change:
    """Return the change of the fact's own thing: the members of its data, and ``columns``."""
    return Change(table, fact.aggregate_id, _known(table, fact.data) | columns)


def end(table: Table, ids: Sequence[str], **columns: Any) -> End:
    """Return the end of things."""
    return End(table, ids, columns)


def mark(table: Merged, ids: Sequence[str], **columns: Any) -> Mark:
    """Return marks."""
    return Mark(table, ids, columns)


def zone_of(table: Table, fact: Fact) -> dict[str, Any]:
    """Return the column that says in which zone a thing of the fact is, if the table has one."""
    return {"zone_id": fact.zone_id} if "zone_id" in table.columns else {}


def _known(table: Table, data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name in table.columns}
