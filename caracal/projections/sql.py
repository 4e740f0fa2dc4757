"""Operations as SQL: one statement for many operations of one shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import orjson
from psycopg import AsyncConnection, AsyncCursor
from psycopg.types.json import Jsonb

from caracal.projections.table import (
    AnyTable,
    Applied,
    Change,
    End,
    Mark,
    Merged,
    Operation,
    Prune,
    Put,
    Remove,
    Table,
)

Rows = list[tuple[str, int, Sequence[Any]]]  # id, position, values


@dataclass(slots=True)
class Group:
    """Operations of one kind on one table with the same columns, each on another id."""

    kind: type[Operation]
    table: AnyTable
    columns: tuple[str, ...]
    rows: Rows = field(default_factory=list)

    def statement(self, names: Mapping[str, str]) -> tuple[str, list[Any]]:
        """Return SQL and arguments; ``names`` gives tables another name (rebuild)."""
        types = self.table.columns
        given: list[Any] = [[row[0] for row in self.rows], [row[1] for row in self.rows]]
        for place, column in enumerate(self.columns):
            values = [row[2][place] for row in self.rows]
            given.append(_json(values) if types[column] == "jsonb" else values)
        name = names.get(self.table.name, self.table.name)
        alone = len(self.rows) == 1
        statement = _sql(self.kind, self.table, name, self.columns, alone)  # type: ignore[arg-type]
        return statement, [values[0] for values in given] if alone else given


def grouped(operations: Iterable[Applied]) -> list[Group]:
    """Gather operations on ids into groups; what touches one id stays in order."""
    groups: list[Group] = []
    last_of: dict[tuple[str, str], int] = {}
    by_shape: dict[tuple[Any, ...], int] = {}
    for applied in operations:
        operation = applied.operation
        if isinstance(operation, Prune):
            continue
        kind, table = type(operation), operation.table
        columns = tuple(operation.columns)
        values = tuple(operation.columns.values())
        for row_id in _ids(operation):
            number = by_shape.get((kind, table.name, columns), -1)
            if number <= last_of.get((table.name, row_id), -1):
                groups.append(Group(kind, table, columns))
                number = by_shape[kind, table.name, columns] = len(groups) - 1
            groups[number].rows.append((row_id, applied.position, values))
            last_of[table.name, row_id] = number
    return groups


async def apply(
    database: AsyncConnection[Any] | AsyncCursor[Any],
    operations: Iterable[Applied],
    names: Mapping[str, str] | None = None,
) -> None:
    """Execute operations in the caller's transaction; on one cursor several are cheaper."""
    operations, names = list(operations), names or {}
    for group in grouped(operations):
        statement, arguments = group.statement(names)
        await database.execute(statement, arguments, prepare=True)
    for prune in _prunes(operations):
        name, outlived = names.get(prune.table.name, prune.table.name), prune.outlived
        statement = _prune_sql(name, outlived.on, outlived.where)
        await database.execute(statement, (prune.before, outlived.least), prepare=True)


def _prunes(operations: Iterable[Applied]) -> Iterable[Prune]:
    """Return of each table the one that reaches farthest: it removes what the others do."""
    last: dict[str, Prune] = {}
    for prune in (applied.operation for applied in operations):
        if isinstance(prune, Prune):
            known = last.setdefault(prune.table.name, prune)
            last[prune.table.name] = max(known, prune, key=lambda one: one.before)
    return last.values()


def _ids(operation: Put | Change | End | Remove | Mark) -> Sequence[str]:
    if isinstance(operation, Put | Change | Remove):
        return (operation.id,)
    return tuple(dict.fromkeys(operation.ids))


def _json(values: list[Any]) -> list[Jsonb | None]:
    return [None if value is None else Jsonb(value, orjson.dumps) for value in values]


@cache
def _sql(
    kind: type[Operation], table: AnyTable, name: str, columns: tuple[str, ...], alone: bool
) -> str:
    types = {
        "id": "text",
        "position": "bigint",
        **{column: table.columns[column] for column in columns},
    }
    source = _one_row(types) if alone else _rows(types)
    if isinstance(table, Merged):
        return _mark_sql(table, name, columns, source)
    if kind is Put:
        return _put_sql(table, name, columns, source)
    if kind is Remove:
        return f"DELETE FROM {name} AS t USING {source} WHERE t.id = given.id"
    return (
        _change_sql(table, name, columns, source)
        if kind is Change
        else _end_sql(table, name, columns, source)
    )


def _one_row(types: Mapping[str, str]) -> str:
    """One row as it is: packing an array for each column costs more than all the rest."""
    values = ", ".join(f"%b::{kind} AS {column}" for column, kind in types.items())
    return f"(SELECT {values}) AS given"


def _rows(types: Mapping[str, str]) -> str:
    arrays = ", ".join(f"%b::{kind}[]" for kind in types.values())
    return f"(SELECT * FROM unnest({arrays}) AS given ({', '.join(types)})) AS given"


def _put_sql(table: Table, name: str, columns: tuple[str, ...], source: str) -> str:
    given = ", ".join(("id", "position", *columns))
    filled = [column for column in ("position", *columns) if column not in table.final]
    sets = ", ".join(f"{column} = excluded.{column}" for column in filled)
    return (
        f"INSERT INTO {name} AS t ({given}) SELECT {given} FROM {source}"
        f" ON CONFLICT (id) DO UPDATE SET stub = false, {sets} WHERE t.stub"
    )


def _change_sql(table: Table, name: str, columns: tuple[str, ...], source: str) -> str:
    sets = "".join(
        f", {column} = CASE WHEN t.ended_at IS NULL THEN given.{column} ELSE t.{column} END"
        if column in table.final
        else f", {column} = given.{column}"
        for column in columns
    )
    return (
        f"UPDATE {name} AS t SET position = given.position{sets}"
        f" FROM {source} WHERE t.id = given.id AND t.position < given.position"
    )


def _end_sql(table: Table, name: str, columns: tuple[str, ...], source: str) -> str:
    names = "".join(f", {column}" for column in columns)
    every = dict.fromkeys((*table.final, *columns))
    sets = "".join(f", {column} = excluded.{column}" for column in every)
    return (
        f"INSERT INTO {name} AS t (id, position, ended_at, stub{names})"
        f" SELECT id, 0, position, true{names} FROM {source}"
        f" ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at{sets}"
        " WHERE t.ended_at IS NULL OR t.ended_at > excluded.ended_at"
    )


def _mark_sql(table: Merged, name: str, columns: tuple[str, ...], source: str) -> str:
    names = ", ".join(columns)
    sets = ", ".join(
        f"{column} = t.{column} OR excluded.{column}"
        if table.columns[column] == "boolean"
        else f"{column} = greatest(t.{column}, excluded.{column})"
        for column in columns
    )
    return (
        f"INSERT INTO {name} AS t (id, {names}) SELECT id, {names} FROM {source}"
        f" ON CONFLICT (id) DO UPDATE SET {sets}"
    )


@cache
def _prune_sql(name: str, on: str, where: str) -> str:
    # What others write just now is not waited for: it is no longer old, or they remove it.
    return (
        f"DELETE FROM {name} WHERE id IN (SELECT id FROM {name} WHERE ({where})"
        f" AND {on} < least(%s, extract(epoch FROM now())::bigint - %s)"
        " FOR UPDATE SKIP LOCKED)"
    )
