"""Sweepers: what time ends is ended by a command, so that every end is an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import psycopg

from caracal.errors import CaracalError
from caracal.events.application import application_not_found
from caracal.events.base import acting
from caracal.events.session import Session
from caracal.events.signing_key import SigningKey
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log, Saved, retrying
from caracal.projections.application import overdue_applications
from caracal.projections.query import Db
from caracal.projections.session import overdue_sessions
from caracal.projections.signing_key import superseded_keys
from caracal.services.cascade import Ground, application_cascade
from caracal.services.connections import Pool, pool
from caracal.settings import Settings

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 5
_KEYS_EVERY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """What time ends of one kind of thing.

    ``name`` is the sweeper's in events and logs, ``counts`` its metric. ``overdue`` returns
    (id, zone) of at most so many things; ``end`` ends one by a command, and writes nothing when
    it has ended meanwhile.
    """

    name: str
    counts: str
    every_ms: int
    overdue: Callable[[Db, int], Awaitable[list[tuple[str, str]]]]
    end: Callable[[Ground, str, str], Awaitable[Saved]]


def sweeps(settings: Settings) -> tuple[Sweep, ...]:
    """Return all that is swept."""
    return (
        Sweep(
            "session sweeper",
            "sessions_expired_total",
            settings.session_sweep_interval_ms,
            overdue_sessions,
            _expire_session,
        ),
        Sweep(
            "registration sweeper",
            "applications_expired_total",
            settings.dcr_sweep_interval_ms,
            overdue_applications,
            _archive_application,
        ),
        Sweep(
            "signing key sweeper",
            "signing_keys_retired_total",
            _KEYS_EVERY_MS,
            superseded_keys,
            _retire_key,
        ),
    )


async def _expire_session(ground: Ground, sid: str, zone_id: str) -> Saved:
    session = await ground.log.find(Session, sid)
    if session is None or session.ended:
        return Saved()
    session.expire()
    return await ground.log.save(session)


async def _archive_application(ground: Ground, application_id: str, zone_id: str) -> Saved:
    missing = application_not_found(application_id)
    return await application_cascade("expired").command(ground, application_id, zone_id, missing)()


async def _retire_key(ground: Ground, kid: str, zone_id: str) -> Saved:
    if (key := await ground.log.find(SigningKey, kid)) is None:
        return Saved()
    key.retire("rotated")
    return await ground.log.save(key)


class Sweeper:
    """Sweeps one kind of thing, one sweeper in the deployment; ``run`` goes on until cancelled."""

    def __init__(self, settings: Settings, sweep: Sweep) -> None:
        self._settings, self.sweep = settings, sweep
        self.ended = 0

    async def run(self) -> None:
        """Sweep for ever; on an error close everything, wait, try again."""
        while True:
            try:
                async with pool(self._settings) as connections, self._ground(connections) as ground:
                    await self._sweep(ground)
                await asyncio.sleep(self.sweep.every_ms / 1000)
            except (psycopg.Error, OSError, CaracalError) as error:
                logger.info("%s tries again: %s", self.sweep.name, error)
                await asyncio.sleep(_AGAIN_SECONDS)

    @asynccontextmanager
    async def _ground(self, connections: Pool) -> AsyncIterator[Ground]:
        appender = Appender(self._settings.database_url)
        await appender.start()
        try:
            yield Ground(Log(connections, appender), connections.connection)
        finally:
            await appender.stop()

    async def _sweep(self, ground: Ground) -> None:
        batch = self._settings.sweeper_batch_size
        async with ground.database() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (self.sweep.name,)
            )
            if (row := await cursor.fetchone()) is None or not row[0]:
                return
            while overdue := await self.sweep.overdue(connection, batch):
                ended = [await self._end(ground, *thing) for thing in overdue]
                if len(overdue) < batch or not any(ended):
                    return

    async def _end(self, ground: Ground, thing_id: str, zone_id: str) -> bool:
        with acting(zone_id=zone_id, actor="system", actor_name=self.sweep.name):
            try:
                saved = await retrying(partial(self.sweep.end, ground, thing_id, zone_id))
            except CaracalError as refusal:  # ended by another command meanwhile
                logger.debug("%s: %s stays as it is: %s", self.sweep.name, thing_id, refusal)
                return False
        self.ended += bool(saved.events)
        return bool(saved.events)
