"""Pages of lists: ``limit`` and ``cursor`` (the id of the last row seen) in, ``Link`` out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Query

from caracal.errors import BadInput
from caracal.ids import ID_PATTERN
from caracal.projections.query import Db, IdPage, is_row
from caracal.projections.table import Table
from caracal.services.coordinator.call import Call
from caracal.services.links import link_next

Rows = list[dict[str, Any]]
Listing = Callable[[Db, IdPage], Awaitable[Rows]]
Cursor = Annotated[str | None, Query(description="id of the last row of the page before")]


async def _page(limit: Annotated[int, Query(ge=1, le=500)] = 100, cursor: Cursor = None) -> IdPage:
    if cursor is not None and not ID_PATTERN.fullmatch(cursor):
        raise bad_cursor()
    return IdPage(limit, cursor)


PageDep = Annotated[IdPage, Depends(_page)]


async def listed(
    call: Call,
    zone_id: str,
    table: Table,
    page: IdPage,
    rows_of: Listing,
    *,
    oldest_first: bool = False,
) -> Rows:
    """Return a page's rows; when more follow, set ``Link``.

    Raises:
        BadInput: 400 ``invalid_cursor``, no row of the zone's ``table``.
    """
    async with call.database() as db:
        if page.after is not None and not await is_row(db, table, zone_id, page.after):
            raise bad_cursor()
        rows = await rows_of(db, replace(page, oldest_first=oldest_first))
    if len(rows) > page.limit:
        rows = rows[: page.limit]
        link_next(call.request, call.response, page.limit, rows[-1]["id"])
    return rows


def bad_cursor() -> BadInput:
    return BadInput("invalid_cursor", "the cursor is no row of this list")
