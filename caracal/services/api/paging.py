"""Pages of lists: ``limit`` and ``cursor`` in, ``Link`` (RFC 8288) out."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import Depends, Query, Request, Response

from caracal import clock
from caracal.errors import BadInput
from caracal.ids import ID_PATTERN
from caracal.projections.query import Page
from caracal.services.links import link_next

MAX_CURSOR = 512
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def encode_cursor(moment: datetime, row_id: str) -> str:
    """Return the opaque cursor of a row."""
    text = orjson.dumps({"ts": clock.rfc3339(moment), "id": row_id})
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def decode_cursor(text: str) -> tuple[datetime, str]:
    """Return time and id of a cursor.

    Raises:
        BadInput: 400 ``invalid_cursor``.
    """
    try:
        if len(text) > MAX_CURSOR or not _BASE64URL.fullmatch(text):
            raise ValueError
        fields = orjson.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        moment, row_id = clock.parse(fields["ts"]), fields["id"]
        if not ID_PATTERN.fullmatch(row_id):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError):
        raise BadInput("invalid_cursor", "the cursor is none that a Link header gave") from None
    return moment, row_id


Cursor = Annotated[str | None, Query(description="from the Link of the page before")]


async def _page(limit: Annotated[int, Query(ge=1, le=500)] = 200, cursor: Cursor = None) -> Page:
    return Page(limit, decode_cursor(cursor) if cursor is not None else None)


async def _log_page(
    limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: Cursor = None
) -> Page:
    return await _page(limit, cursor)


PageDep = Annotated[Page, Depends(_page)]
LogPageDep = Annotated[Page, Depends(_log_page)]
"""Sessions and audit: smaller by default, larger at most."""


def cut(
    rows: list[dict[str, Any]],
    page: Page,
    request: Request,
    response: Response,
    time: str = "created_at",
) -> list[dict[str, Any]]:
    """Return the page's rows; when one more was read, set ``Link`` to the next page."""
    if len(rows) <= page.limit:
        return rows
    rows = rows[: page.limit]
    link_next(request, response, page.limit, encode_cursor(rows[-1][time], rows[-1]["id"]))
    return rows
