"""Leadership by an advisory lock on the connection that does the work.

The lock only saves work: compare-and-set protects what is written. So a standby may go ahead
without it when the leader holds it but has fallen silent (stopped, hung, cut off).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import AsyncConnection

SILENCE_SECONDS = 2.0
_ASK_SECONDS = 0.05


class Leadership:
    """Waits until this process should work.

    ``sign`` returns something that changes while the leader works, or the constant ``IDLE``
    while there is nothing to do.
    """

    IDLE = object()

    def __init__(
        self,
        connection: AsyncConnection[Any],
        key: int | str,
        sign: Callable[[], Awaitable[object]],
    ) -> None:
        self._connection, self._key, self._sign = connection, key, sign

    async def wait(self) -> bool:
        """Return True when the lock is ours, False when its holder has been silent for 2 s."""
        seen, since = await self._sign(), time.monotonic()
        while not await self._try_lock():
            await asyncio.sleep(_ASK_SECONDS)
            sign = await self._sign()
            if sign != seen or sign is self.IDLE:
                seen, since = sign, time.monotonic()
            elif time.monotonic() - since >= SILENCE_SECONDS:
                return False
        return True

    async def _try_lock(self) -> bool:
        call = (
            "pg_try_advisory_lock(hashtextextended(%s, 0))"
            if isinstance(self._key, str)
            else "pg_try_advisory_lock(%s)"
        )
        cursor = await self._connection.execute(f"SELECT {call}", (self._key,))
        row = await cursor.fetchone()
        return bool(row and row[0])
