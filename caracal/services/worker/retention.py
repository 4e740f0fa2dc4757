"""The ledger's months: made ahead of time, and dropped when retention no longer keeps them."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from caracal import clock
from caracal.projections.audit_cut import drop_before
from caracal.projections.audit_ledger import Ledger
from caracal.projections.audit_retention import kept_days
from caracal.settings import Settings

logger = logging.getLogger(__name__)

ROTATE_SECONDS = 6 * 3600
LEADER_SECONDS = 30
_LOCK = 0x4341524130303032  # the contract's: one in the deployment


class Retention:
    """Rotates the months at start and every 6 h, on the worker that leads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.is_leader = False
        self.made = self.dropped = 0

    async def run(self) -> None:
        """Rotate for ever; on an error close everything, wait, try again."""
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._settings.database_url, autocommit=True, connect_timeout=5
                ) as connection:
                    await self._lead(connection)
            except (psycopg.Error, OSError) as error:
                logger.info("audit retention: %s", type(error).__name__)
            self.is_leader = False
            await asyncio.sleep(min(5, LEADER_SECONDS))

    async def _lead(self, connection: AsyncConnection[Any]) -> None:
        due = 0.0
        while True:
            await self._ask(connection)
            if self.is_leader and time.monotonic() >= due:
                due = time.monotonic() + ROTATE_SECONDS if await self._rotate(connection) else 0.0
            await asyncio.sleep(min(LEADER_SECONDS, ROTATE_SECONDS))

    async def _ask(self, connection: AsyncConnection[Any]) -> None:
        """Try to lead; who does, sees only whether the connection that holds the lock lives."""
        statement = "SELECT true" if self.is_leader else f"SELECT pg_try_advisory_lock({_LOCK})"
        row = await (await connection.execute(statement)).fetchone()
        self.is_leader = bool(row and row[0])

    async def _rotate(self, connection: AsyncConnection[Any]) -> bool:
        """Make months and drop months; False when readers were in the way."""
        ledger = Ledger(connection, self._settings.audit_hmac_key)
        await ledger.prepare_months()
        self.made += ledger.partitions_made
        days = await kept_days(connection, self._settings.audit_retention_days)
        until = clock.now() - timedelta(days=days)
        try:
            dropped = await drop_before(connection, until, self._settings.audit_hmac_key)
        except LockNotAvailable:
            logger.info("audit retention: the ledger is being read; soon again")
            return False
        self.dropped += len(dropped)
        for name in dropped:
            logger.warning("%s is dropped: older than %d days", name, days)
        return True
