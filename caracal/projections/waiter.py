"""Read your writes: wait until the read models of an event have applied it, without polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.events.store.listening import Listening
from caracal.events.store.log import Saved
from caracal.events.store.postgres import connected
from caracal.events.topics import FACT_TOPIC_OF
from caracal.projections import PROJECTIONS
from caracal.projections.projection import Projection
from caracal.projections.runner import CHECKPOINT_CHANNEL
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

Place = tuple[str, str]  # projection, topic


class Waiter:
    """Knows how far each projection is, by one listening connection a process."""

    def __init__(self, database_url: str, projections: Sequence[Projection] = PROJECTIONS) -> None:
        self._url = database_url
        self._readers: dict[str, list[Place]] = {}
        for projection in projections:
            for name in projection.reducers:
                place = (projection.name, FACT_TOPIC_OF[name].name)
                self._readers.setdefault(name, []).append(place)
        self._positions: dict[Place, int] = {}
        self._waiting: dict[Place, set[_Wait]] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="waiter")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            await cancelled(self._task)

    async def applied(self, saved: Saved, timeout: float = 1.0) -> bool:
        """Wait until the read models have applied a command's events; False after ``timeout`` s."""
        wanted: dict[Place, int] = {}
        for position, name in saved.events:
            for place in self._readers.get(name, ()):
                wanted[place] = max(position, wanted.get(place, 0))
        return await self._reached(wanted, timeout)

    async def reached(
        self, database: AsyncConnection[Any], position: int, timeout: float = 2.0
    ) -> bool:
        """Wait until every read model has applied the log up to ``position``."""
        wanted = await self.up_to(database, position)
        return wanted is not None and await self.applied(wanted, timeout)

    async def up_to(self, database: AsyncConnection[Any], position: int) -> Saved | None:
        """Return what to wait for with :meth:`applied`, the last event of each name up to
        ``position``; None when the log has not come that far."""
        cursor = await database.execute(
            # Rows are compared, not columns: see LogReader.
            "SELECT wanted.name, (SELECT l.position FROM log l"
            " WHERE (l.name, l.position) <= (wanted.name, %s)"
            " AND (l.name, l.position) > (wanted.name, 0)"
            " ORDER BY l.name DESC, l.position DESC LIMIT 1),"
            " (SELECT coalesce(max(position), 0) FROM log)"
            " FROM unnest(%s::text[]) AS wanted (name)",
            (position, list(self._readers)),
        )
        rows = await cursor.fetchall()
        if not rows or rows[0][2] < position:
            return None
        return Saved(tuple((at, name) for name, at, _ in rows if at))

    async def _reached(self, wanted: Mapping[Place, int], timeout: float) -> bool:
        missing = {place for place, at in wanted.items() if self._positions.get(place, 0) < at}
        if not missing:
            return True
        wait = _Wait(wanted, missing, asyncio.get_running_loop().create_future())
        for place in missing:
            self._waiting.setdefault(place, set()).add(wait)
        try:
            async with asyncio.timeout(timeout):
                await wait.done
        except TimeoutError:
            return False
        finally:
            for place in wait.missing:
                self._waiting[place].discard(wait)
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                logger.info("waiter starts again: %s", type(error).__name__)
                await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        async with await connected(self._url) as connection, AsyncExitStack() as stack:
            listening = Listening(connection, self._heard)
            stack.callback(listening.stop)
            await connection.execute(f"LISTEN {CHECKPOINT_CHANNEL}")  # before reading: no gap
            cursor = await connection.execute("SELECT projection, topic, position FROM checkpoints")
            for projection, topic, position in await cursor.fetchall():
                self._moved((projection, topic), position)
            listening.begin()
            await listening.lost
            raise psycopg.OperationalError("the listening connection was lost")

    def _heard(self, channel: str, payload: str) -> None:
        projection, topic, position = payload.split(" ")
        self._moved((projection, topic), int(position))

    def _moved(self, place: Place, position: int) -> None:
        self._positions[place] = position
        waiting = self._waiting.get(place, set())
        for wait in [wait for wait in waiting if wait.wanted[place] <= position]:
            waiting.discard(wait)
            wait.reached(place)


@dataclass(eq=False, slots=True)
class _Wait:
    """One who waits; woken once, when all places are where they should be."""

    wanted: Mapping[Place, int]
    missing: set[Place]
    done: asyncio.Future[None]

    def reached(self, place: Place) -> None:
        self.missing.discard(place)
        if not self.missing and not self.done.done():
            self.done.set_result(None)
