"""What the queries of all read models share: live rows, newest first, keyset pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import FeatureNotSupported
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from caracal.projections.table import Table

Db = AsyncConnection[Any]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: rows strictly before ``after`` (time, id), at most ``limit``."""

    limit: int
    after: tuple[datetime, str] | None = None


@dataclass(frozen=True, slots=True)
class IdPage:
    """A page of a list by id: rows beyond ``after``, at most ``limit``; newest first by default."""

    limit: int
    after: str | None = None
    oldest_first: bool = False


async def one(db: Db, table: Table, **equal: Any) -> dict[str, Any] | None:
    """Return the live row whose columns have these values; None when there is none."""
    rows = await select(db, f"{_live(table)}{_equal(equal)} LIMIT 1", list(equal.values()))
    return rows[0] if rows else None


async def page(
    db: Db,
    table: Table,
    page: Page,
    *,
    where: str = "",
    arguments: tuple[Any, ...] = (),
    time: str = "created_at",
    ended_too: bool = False,
) -> list[dict[str, Any]]:
    """Return a page, newest first, with one row more than its limit when more follow.

    ``where`` is further SQL that begins with ``AND``; ``ended_too`` shows ended rows as well.
    """
    seen = "NOT stub" if ended_too else "ended_at IS NULL"
    before = f" AND ({time}, id) < (%s, %s)" if page.after else ""
    return await select(
        db,
        f"SELECT * FROM {table.name} WHERE {seen} {where}{before}"
        f" ORDER BY {time} DESC, id DESC LIMIT %s",
        [*arguments, *(page.after or ()), page.limit + 1],
    )


async def moments(
    db: Db,
    columns: str,
    table: str,
    page: Page,
    *,
    since: datetime | None,
    until: datetime | None,
    equal: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return a page of what happened, newest first, one row more than its limit when more follow.

    ``since`` <= ``occurred_at`` < ``until``; ``equal`` names columns; None does not filter.
    """
    conditions: dict[str, Any] = {"occurred_at >= %s": since, "occurred_at < %s": until}
    conditions |= {f"{column} = %s": value for column, value in equal.items()}
    given = {text: value for text, value in conditions.items() if value is not None}
    arguments = list(given.values())
    if page.after is not None:
        given["(occurred_at, id) < (%s, %s)"] = None
        arguments += page.after
    where = " AND ".join(given) or "true"
    return await select(
        db,
        f"SELECT {columns} FROM {table} WHERE {where} ORDER BY occurred_at DESC, id DESC LIMIT %s",
        [*arguments, page.limit + 1],
    )


async def page_by_id(
    db: Db, statement: str, arguments: list[Any], page: IdPage, column: str = "id"
) -> list[dict[str, Any]]:
    """Return a page of a query that has a ``WHERE``, with one row more when more follow."""
    beyond, order = (">", "ASC") if page.oldest_first else ("<", "DESC")
    if page.after is not None:
        statement, arguments = f"{statement} AND {column} {beyond} %s", [*arguments, page.after]
    return await select(
        db, f"{statement} ORDER BY {column} {order} LIMIT %s", [*arguments, page.limit + 1]
    )


async def is_row(db: Db, table: Table, zone_id: str, row_id: str) -> bool:
    """Say whether the zone's collection has such a row, ended or not."""
    statement = f"SELECT FROM {table.name} WHERE zone_id = %s AND id = %s AND NOT stub"
    return bool(await select(db, statement, [zone_id, row_id]))


async def select(db: Db, statement: str, arguments: list[Any]) -> list[dict[str, Any]]:
    """Run a query and return its rows as dictionaries.

    A rebuild may have given the table other columns since this connection prepared the query: it
    is prepared anew.
    """
    try:
        return await _selected(db, statement, arguments)
    except FeatureNotSupported:  # "cached plan must not change result type"
        if db.info.transaction_status != TransactionStatus.IDLE:
            raise
        await db.execute("DEALLOCATE ALL")  # psycopg forgets its own then, too
        return await _selected(db, statement, arguments)


async def _selected(db: Db, statement: str, arguments: list[Any]) -> list[dict[str, Any]]:
    async with db.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, arguments, prepare=True)
        return await cursor.fetchall()


async def ids_in_zones(
    db: Db, statement: str, limit: int, *arguments: Any
) -> list[tuple[str, str]]:
    """Run a sweeper's query, which takes its limit last; return (id, zone) of each row."""
    rows = await select(db, statement, [*arguments, limit])
    return [(row["id"], row["zone_id"]) for row in rows]


def _live(table: Table) -> str:
    return f"SELECT * FROM {table.name} WHERE ended_at IS NULL AND NOT stub"


def _equal(equal: dict[str, Any]) -> str:
    return "".join(f" AND {column} = %s" for column in equal)
