"""Single things, read from the log: of zones that are not in memory, for whom none is loaded.

The log is at its own head, however late the read models are: what it does not have is not there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from psycopg import AsyncConnection

from caracal.errors import CaracalError
from caracal.events.record import Record
from caracal.ids import log_key
from caracal.projections.memory import MemoryTable, apply
from caracal.projections.projection import Projection
from caracal.services.connections import Pool
from caracal.services.consistency import patience
from caracal.services.fair_queue import FairQueue

PARALLEL = 4
"""At once: the rest of the pool is for who is authenticated."""
QUEUE_MAX = 1024
"""That may wait; of one more the newest of the zone that has most waiting goes."""
PATIENCE_SECONDS = 4.0

Filled = TypeVar("Filled", bound=MemoryTable)


class LookUps:
    """A few at once; zones take turns, and in a zone those who ask.

    Anybody may name what there is not, from as many addresses as they like. A flood holds up nobody
    who asks of another zone, and in its own only behind one look-up of each asker.
    """

    def __init__(self, database: Pool, full: Callable[[], CaracalError]) -> None:
        """``full`` is what is told to one too many."""
        self._database = database
        self._turns = FairQueue(PARALLEL, QUEUE_MAX, full)

    @asynccontextmanager
    async def turn(self, zone_id: str, asker: str) -> AsyncIterator[AsyncConnection[Any]]:
        """Wait for a turn; yield a connection.

        Raises:
            Unavailable: 503 ``state_stale``, the log cannot be read now.
            CaracalError: too many wait.
        """
        async with (
            patience(PATIENCE_SECONDS),
            self._turns.turn(zone_id, asker),
            self._database.connection() as connection,
        ):
            yield connection


async def read(
    connection: AsyncConnection[Any], ids: Sequence[str], projection: Projection, table: Filled
) -> Filled:
    """Return ``table`` with what the log says of things, as their read model would have it."""
    cursor = await connection.execute(
        "SELECT position, version, name, state FROM log"
        " WHERE aggregate_key = ANY(%s) ORDER BY position",
        ([log_key(one) for one in ids],),
        prepare=True,
    )
    for record in [Record.read(*row) for row in await cursor.fetchall()]:
        apply({table.table.name: table}, projection.reduce(record.fact()))
    return table
