"""When admin tokens were used: noted off the request path, and never at its cost."""

from __future__ import annotations

import asyncio
import logging
import time

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from caracal import clock
from caracal.projections.admin_token import note_uses
from caracal.services.connections import Pool
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)
EVERY_SECONDS = 60.0


class Uses:
    """Notes the use of each token at most once in :data:`EVERY_SECONDS`."""

    def __init__(self) -> None:
        self._noted: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, database: Pool) -> None:
        """Begin to write down what is noted."""
        self._task = asyncio.create_task(self._run(database), name="token uses")

    async def stop(self) -> None:
        """Stop; what is not written is lost, it was a hint."""
        if self._task is not None:
            await cancelled(self._task)

    def note(self, token_id: str) -> None:
        """Note a use; takes no time and cannot fail."""
        now = time.monotonic()
        if now - self._noted.get(token_id, float("-inf")) >= EVERY_SECONDS:
            self._noted[token_id] = now
            self._waiting.add(token_id)
            self._some.set()

    async def _run(self, database: Pool) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            tokens, self._waiting = self._waiting, set()
            try:
                async with database.connection() as connection:
                    await note_uses(connection, tokens, clock.now())
            except (psycopg.Error, PoolTimeout, PoolClosed) as error:
                logger.warning("the use of %d admin tokens is not noted: %s", len(tokens), error)
