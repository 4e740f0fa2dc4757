"""Sweepers: what time ends is ended by a command, so that every expiry is an event."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import psycopg

from caracal.errors import CaracalError
from caracal.events.base import acting
from caracal.events.session import Session
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log, Saved, retrying
from caracal.projections.session import overdue_sessions
from caracal.services.connections import pool
from caracal.settings import Settings

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 5
_LOCK = 4846791580151137094  # one sweeper in the deployment


class SessionSweeper:
    """Expires sessions whose time has run out. ``run`` goes on until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.expired = 0

    async def run(self) -> None:
        """Sweep for ever; on an error close everything, wait, try again."""
        while True:
            try:
                async with AsyncExitStack() as stack:
                    await self._sweep(stack)
                await asyncio.sleep(self._settings.session_sweep_interval_ms / 1000)
            except (psycopg.Error, OSError, CaracalError) as error:
                logger.info("session sweeper tries again: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _sweep(self, stack: AsyncExitStack) -> None:
        connections = await stack.enter_async_context(pool(self._settings))
        appender = Appender(self._settings.database_url)
        await appender.start()
        stack.push_async_callback(appender.stop)
        log = Log(connections, appender)
        async with connections.connection() as connection, connection.transaction():
            cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,))
            row = await cursor.fetchone()
            if not row or not row[0]:
                return
            while overdue := await overdue_sessions(connection, self._settings.sweeper_batch_size):
                ended = [await self._expire(log, sid, zone_id) for sid, zone_id in overdue]
                if len(overdue) < self._settings.sweeper_batch_size or not any(ended):
                    return

    async def _expire(self, log: Log, sid: str, zone_id: str) -> bool:
        async def command() -> Saved:
            session = await log.find(Session, sid)
            if session is None or session.ended:
                return Saved()
            session.expire()
            return await log.save(session)

        with acting(zone_id=zone_id, actor="system", actor_name="session sweeper"):
            try:
                saved = await retrying(command)
            except CaracalError as refusal:  # ended by a cascade meanwhile
                logger.debug("session %s not expired: %s", sid, refusal)
                return False
        self.expired += bool(saved.events)
        return bool(saved.events)
