"""The ledger's months: made ahead of time, and dropped when retention no longer keeps them."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from caracal import clock
from caracal.projections.audit_cut import EVERYTHING, drop_before
from caracal.projections.audit_export import exported_until
from caracal.projections.audit_ledger import Ledger
from caracal.projections.audit_retention import kept_days
from caracal.services.worker.leading import Leading
from caracal.settings import Settings

logger = logging.getLogger(__name__)

ROTATE_SECONDS = 6 * 3600
_SOON = 30.0
_LOCK = 0x4341524130303032  # the contract's: one in the deployment


class Retention(Leading):
    """Rotates the months at start and every 6 h, on the worker that leads."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.database_url, _LOCK, "retention")
        self._settings = settings
        self.made = self.dropped = 0

    async def work(self, connection: AsyncConnection[Any]) -> float:
        """Make months and drop months; soon again when readers were in the way."""
        ledger = Ledger(connection, self._settings.audit_hmac_key)
        await ledger.prepare_months()
        self.made += ledger.partitions_made
        days = await kept_days(connection, self._settings.audit_retention_days)
        until = clock.now() - timedelta(days=days)
        exported = EVERYTHING
        if self._settings.exports:
            exported = await exported_until(connection)
        try:
            dropped = await drop_before(
                connection, until, self._settings.audit_hmac_key, exported=exported
            )
        except LockNotAvailable:
            logger.info("audit retention: the ledger is being read; soon again")
            return min(_SOON, ROTATE_SECONDS)
        self.dropped += len(dropped)
        for name in dropped:
            logger.warning("%s is dropped: older than %d days", name, days)
        return ROTATE_SECONDS
