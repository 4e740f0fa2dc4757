"""Data keys of zones, opened: users are named by them."""

from __future__ import annotations

import logging

from caracal.errors import InternalError
from caracal.events.base import Fact
from caracal.events.store.log import Log
from caracal.events.store.vault import Unreadable, Vault
from caracal.events.zone import Zone
from caracal.services.connections import Pool
from caracal.services.remembered import Remembered
from caracal.services.sts.refusals import denied

logger = logging.getLogger(__name__)
_MAX_ZONES = 1024


class ZoneKeys:
    """A zone's data key never changes, so it is read once; it is forgotten with its zone."""

    def __init__(self, database: Pool, log: Log, vault: Vault) -> None:
        self._database, self._log, self._vault = database, log, vault
        self._opened: Remembered[str, bytes] = Remembered(_MAX_ZONES)

    def applied(self, fact: Fact) -> None:
        """Forget the key of a zone that has ended; a listener of the tail."""
        if fact.name == Zone.Archived.TOPIC:
            self._opened.changed(fact.aggregate_id)

    def forget_all(self) -> None:
        """Forget all keys: the view was taken anew, and zones may have ended unseen."""
        self._opened.forget_all()

    async def opened(self, zone_id: str) -> bytes:
        """Return the key of a zone.

        Raises:
            Refused: 403 ``access_denied``, the zone has ended just now.
            InternalError: it does not open.
            Unavailable: 503 ``unavailable``, the database cannot be reached.
        """
        if (known := self._opened.get(zone_id)) is not None:
            return known
        changes, key = self._opened.changes, await self._read(zone_id)
        self._opened.keep(zone_id, key, changes)  # unless it may be erased already
        return key

    async def _read(self, zone_id: str) -> bytes:
        zone = await self._log.find(Zone, zone_id)
        if zone is None or zone.archived:
            raise denied("session revoked", "session_invalid")
        try:
            async with self._database.connection() as connection:
                return await self._vault.read(connection, zone.data_key_ref)
        except Unreadable:
            logger.error("the data key of zone %s does not open", zone_id)
            raise InternalError from None
