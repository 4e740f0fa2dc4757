"""``Link`` to the next page of a list (RFC 8288)."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request, Response

_OURS = ("limit", "cursor")


def link_next(request: Request, response: Response, limit: int, cursor: str) -> None:
    """Say where the next page is: the same query, from ``cursor`` on."""
    query = [pair for pair in request.query_params.multi_items() if pair[0] not in _OURS]
    query += [("limit", str(limit)), ("cursor", cursor)]
    response.headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
