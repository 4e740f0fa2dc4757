"""Leadership by an advisory lock on the connection that does the work.

The lock only saves work: compare-and-set protects what is written. So a standby may go ahead
without it when the leader holds it but has fallen silent (stopped, hung, cut off).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

SILENCE_SECONDS = 2.0
_ASK_SECONDS = 0.5


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
        while not await self._lock():
            sign = await self._sign()
            if sign != seen or sign is self.IDLE:
                seen, since = sign, time.monotonic()
            elif time.monotonic() - since >= SILENCE_SECONDS:
                return False
        return True

    async def _lock(self) -> bool:
        """Wait a little for the lock: in the server, so it comes at once when its holder dies."""
        key = "hashtextextended(%s, 0)" if isinstance(self._key, str) else "%s"
        try:
            await self._connection.execute(
                f"SELECT set_config('lock_timeout', %s, true), pg_advisory_lock({key})",
                (f"{_ASK_SECONDS * 1000:.0f}ms", self._key),
            )
        except psycopg.errors.LockNotAvailable:
            return False
        return True
