"""Read your writes: wait until the read models of an event have applied it, without polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from caracal.events.store.log import Saved
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
        self._moved = asyncio.Condition()
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
        cursor = await database.execute(
            "SELECT wanted.name, (SELECT l.position FROM log l WHERE l.name = wanted.name"
            " AND l.position <= %s ORDER BY l.position DESC LIMIT 1),"
            " (SELECT coalesce(max(position), 0) FROM log)"
            " FROM unnest(%s::text[]) AS wanted (name)",
            (position, list(self._readers)),
        )
        rows = await cursor.fetchall()
        if not rows or rows[0][2] < position:
            return False
        return await self.applied(Saved(tuple((at, name) for name, at, _ in rows if at)), timeout)

    async def _reached(self, wanted: Mapping[Place, int], timeout: float) -> bool:
        def there() -> bool:
            return all(self._positions.get(place, 0) >= at for place, at in wanted.items())

        if there():
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._moved:
                await self._moved.wait_for(there)
        return there()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                logger.info("waiter starts again: %s", type(error).__name__)
                await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        connection = await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=2)
        async with connection:
            await connection.execute(f"LISTEN {CHECKPOINT_CHANNEL}")  # before reading: no gap
            cursor = await connection.execute("SELECT projection, topic, position FROM checkpoints")
            for projection, topic, position in await cursor.fetchall():
                self._positions[projection, topic] = position
            await self._tell()
            async for notify in connection.notifies():
                projection, topic, position = notify.payload.split(" ")
                self._positions[projection, topic] = int(position)
                await self._tell()

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()
