"""Applications of zones that are not in memory: read alone, so that a client can prove itself.

Whoever has proven nothing must not make this process load a zone, or put one out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from psycopg import AsyncConnection

from caracal.events.base import Fact
from caracal.projections.application import APPLICATIONS, applications
from caracal.projections.memory import MemoryTable, Row
from caracal.services.connections import Pool
from caracal.services.look_ups import LookUps, read
from caracal.services.remembered import Remembered
from caracal.services.sts.refusals import too_many_failures

_MAX_KNOWN = 2_000


class LoneApplications:
    """Finds them in the log.

    One that was found is known until it changes: nobody reads it again by guessing its secret.
    """

    def __init__(self, database: Pool) -> None:
        self._look_ups = LookUps(database, partial(too_many_failures, 0))
        self._known: Remembered[str, Row] = Remembered(_MAX_KNOWN)

    def applied(self, fact: Fact) -> None:
        """Forget an application that has changed; a listener of the tail."""
        if fact.name.startswith("application."):
            self._known.changed(fact.aggregate_id)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew, and facts may have been missed."""
        self._known.forget_all()

    def known(self, zone_id: str, application_id: str) -> Row | None:
        """Return an application of the zone that was found before."""
        return _of_zone(self._known.get(application_id), zone_id)

    async def find(self, zone_id: str, application_id: str, address: str) -> Row | None:
        """Return an application of the zone that is not archived, as its read model would.

        ``address``: of who asks.

        Raises:
            TooMany: 429 ``access_denied``, too many wait.
            Unavailable: 503 ``state_stale``, the log cannot be read now.
        """
        changes = self._known.changes
        async with self._look_ups.turn(zone_id, address) as connection:
            table = await self._read(connection, application_id)
        row = table.live(application_id)
        if row is not None:
            self._known.keep(application_id, row, changes)
        return _of_zone(row, zone_id)

    async def _read(self, connection: AsyncConnection[Any], application_id: str) -> MemoryTable:
        return await read(connection, [application_id], applications, MemoryTable(APPLICATIONS))


def _of_zone(row: Row | None, zone_id: str) -> Row | None:
    return row if row is not None and row["zone_id"] == zone_id else None
