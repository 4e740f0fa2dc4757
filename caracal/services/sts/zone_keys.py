"""Data keys of zones, opened: users are named by them."""

from __future__ import annotations

import logging
from collections import OrderedDict

from caracal.errors import InternalError
from caracal.events.base import Fact
from caracal.events.store.log import Log
from caracal.events.store.vault import Unreadable, Vault
from caracal.events.zone import Zone
from caracal.services.connections import Pool
from caracal.services.sts.refusals import denied

logger = logging.getLogger(__name__)
_MAX_ZONES = 1024


class ZoneKeys:
    """A zone's data key never changes, so it is read once; it is forgotten with its zone."""

    def __init__(self, database: Pool, log: Log, vault: Vault) -> None:
        self._database, self._log, self._vault = database, log, vault
        self._opened: OrderedDict[str, bytes] = OrderedDict()
        self._ended = 0

    def applied(self, fact: Fact) -> None:
        """Forget the key of a zone that has ended; a listener of the tail."""
        if fact.name == Zone.Archived.TOPIC:
            self._ended += 1
            self._opened.pop(fact.aggregate_id, None)

    async def opened(self, zone_id: str) -> bytes:
        """Return the key of a zone.

        Raises:
            Refused: 403 ``access_denied``, the zone has ended just now.
            InternalError: it does not open.
            Unavailable: 503 ``unavailable``, the database cannot be reached.
        """
        if (known := self._opened.get(zone_id)) is not None:
            self._opened.move_to_end(zone_id)
            return known
        ended, key = self._ended, await self._read(zone_id)
        if ended == self._ended:  # else it may be erased already, and would be kept
            self._opened[zone_id] = key
        if len(self._opened) > _MAX_ZONES:
            self._opened.popitem(last=False)
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
