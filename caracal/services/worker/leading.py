"""Work that one worker of the deployment does: whoever holds an advisory lock."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.events.store.postgres import connected

logger = logging.getLogger(__name__)

LEADER_SECONDS = 30
_AGAIN_SECONDS = 5


class Leading:
    """Works for ever, as long as it leads; on an error closes everything, waits, tries again.

    Attributes:
        is_leader: whether this process holds the lock.
    """

    def __init__(self, database_url: str, lock: int, name: str) -> None:
        self._database_url, self._lock, self._name = database_url, lock, name
        self.is_leader = False

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with await connected(self._database_url) as connection:
                    await self._lead(connection)
            except (psycopg.Error, OSError) as error:
                self.failed(error)
            self.is_leader = False
            await asyncio.sleep(min(_AGAIN_SECONDS, LEADER_SECONDS))

    async def work(self, connection: AsyncConnection[Any]) -> float:
        """Do what is due; return the seconds until more may be."""
        raise NotImplementedError

    def failed(self, error: Exception) -> None:
        """Note what went wrong; it is tried again."""
        logger.info("audit %s: %s", self._name, type(error).__name__)

    async def _lead(self, connection: AsyncConnection[Any]) -> None:
        due = 0.0
        while True:
            await self._ask(connection)
            if self.is_leader and time.monotonic() >= due:
                due = time.monotonic() + await self.work(connection)
            rest = max(0.0, due - time.monotonic()) if self.is_leader else LEADER_SECONDS
            await asyncio.sleep(min(LEADER_SECONDS, rest))

    async def _ask(self, connection: AsyncConnection[Any]) -> None:
        """Try to lead; who does, sees only whether the connection that holds the lock lives."""
        statement = (
            "SELECT true" if self.is_leader else f"SELECT pg_try_advisory_lock({self._lock})"
        )
        row = await (await connection.execute(statement)).fetchone()
        self.is_leader = bool(row and row[0])
