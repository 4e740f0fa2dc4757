"""Applications of zones that are not in memory: read alone, so that a client can prove itself.

Whoever has proven nothing must not make this process load a zone, or put one out. And the log is
at its own head, however late the read models are: what it does not have is not there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import psycopg

from caracal.events.base import Fact
from caracal.events.record import Record
from caracal.ids import log_key
from caracal.projections.application import APPLICATIONS, applications
from caracal.projections.memory import MemoryTable, Row, apply
from caracal.services.connections import Pool
from caracal.services.sts.fair_queue import FairQueue
from caracal.services.sts.refusals import state_stale

PARALLEL = 4
QUEUE_MAX = 1024
"""Look-ups that may wait; of one more the newest of the zone that has most waiting goes."""
PATIENCE_SECONDS = 4.0
_MAX_KNOWN = 2_000


class LoneApplications:
    """Finds them in the log, a few at once: the rest of the pool is for who is authenticated.

    Anybody may name applications that there are not, from as many addresses as they like. So zones
    take turns, and in a zone the addresses: a flood holds up nobody's first call to another zone,
    and in its own only behind one look-up of each address.

    One that was found is known until it changes: nobody reads it again by guessing its secret.
    """

    def __init__(self, database: Pool) -> None:
        self._database = database
        self._turns = FairQueue(PARALLEL, QUEUE_MAX)
        self._known: OrderedDict[str, Row] = OrderedDict()
        self._changes = 0

    def applied(self, fact: Fact) -> None:
        """Forget an application that has changed; a listener of the tail."""
        if fact.name.startswith("application."):
            self._changes += 1
            self._known.pop(fact.aggregate_id, None)

    def forget_all(self) -> None:
        """Forget everything: the view was taken anew, and facts may have been missed."""
        self._changes += 1
        self._known.clear()

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
        changes = self._changes
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                async with self._turns.turn(zone_id, address):
                    records = await self._read(application_id)
        except (psycopg.Error, OSError, TimeoutError):
            raise state_stale() from None
        row = _read_model(records).live(application_id)
        if row is not None and changes == self._changes:
            self._keep(row)
        return _of_zone(row, zone_id)

    async def _read(self, application_id: str) -> list[Record]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                "SELECT position, version, name, state FROM log"
                " WHERE aggregate_key = %s ORDER BY version",
                (log_key(application_id),),
                prepare=True,
            )
            return [Record.read(*row) for row in await cursor.fetchall()]

    def _keep(self, row: Row) -> None:
        self._known[row["id"]] = row
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


def _read_model(records: list[Record]) -> MemoryTable:
    table = MemoryTable(APPLICATIONS)
    for record in records:
        apply({APPLICATIONS.name: table}, applications.reduce(record.fact()))
    return table


def _of_zone(row: Row | None, zone_id: str) -> Row | None:
    return row if row is not None and row["zone_id"] == zone_id else None
