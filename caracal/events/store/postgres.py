"""How our processes open connections of their own to PostgreSQL."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

_SECONDS = 5  # a busy server answers late; one that is not there refuses at once


async def connected(url: str, options: str | None = None) -> AsyncConnection[Any]:
    """Open a connection in autocommit mode; ``options`` are the server's, ``-c name=value``.

    Raises:
        psycopg.Error: the server cannot be reached, or has said nothing for 5 s.
    """
    return await AsyncConnection.connect(
        url, autocommit=True, connect_timeout=_SECONDS, options=options
    )
