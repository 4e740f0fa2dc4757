"""Sweepers: what time ends is ended by a command, so that every end is an event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import psycopg

from caracal import clock
from caracal.errors import CaracalError
from caracal.events.agent_service import AgentService
from caracal.events.application import application_not_found
from caracal.events.base import acting
from caracal.events.delegation import Delegation
from caracal.events.grant import Grant
from caracal.events.invocation import Invocation
from caracal.events.session import Session
from caracal.events.signing_key import SigningKey
from caracal.events.store.appender import Appender
from caracal.events.store.log import Log, Saved, retrying
from caracal.projections.agent import lapsed_agents, orphaned_agents, overdue_agents
from caracal.projections.agent_service import silent_services
from caracal.projections.application import overdue_applications
from caracal.projections.delegation import outlived_delegations, overdue_delegations
from caracal.projections.invocation import overdue_invocations
from caracal.projections.job_tick import tick
from caracal.projections.provider_authorization import overdue_authorizations
from caracal.projections.query import Db
from caracal.projections.session import overdue_sessions
from caracal.projections.signing_key import superseded_keys
from caracal.services.agent_subtree import Subtree
from caracal.services.cascade import Ground, application_cascade
from caracal.services.connections import Pool, pool
from caracal.settings import Settings

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 5
_KEYS_EVERY_MS = 60_000


Overdue = Callable[[Db, int], Awaitable[list[tuple[str, str]]]]
End = Callable[[Ground, str, str], Awaitable[Saved]]


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of thing that is swept.

    ``overdue`` returns (id, zone) of at most so many; ``end`` ends one by a command, and writes
    nothing when it has ended meanwhile.
    """

    overdue: Overdue
    end: End


@dataclass(frozen=True, slots=True)
class Sweep:
    """What time ends, together: under one lock, never overlapping itself.

    ``name`` is the sweeper's in events, logs and ``job_ticks``; ``counts`` and ``runs`` are its
    metrics; of each kind ``batch`` things are looked at in one go.
    """

    name: str
    counts: str
    every_ms: int
    batch: int
    steps: tuple[Step, ...]
    runs: str | None = None


def sweeps(settings: Settings) -> tuple[Sweep, ...]:
    """Return all that is swept."""
    return (*_of_control_plane(settings), *_of_coordinator(settings))


def _of_control_plane(settings: Settings) -> tuple[Sweep, ...]:
    batch = settings.sweeper_batch_size
    return (
        Sweep(
            "session sweeper",
            "sessions_expired_total",
            settings.session_sweep_interval_ms,
            batch,
            (Step(overdue_sessions, _expire_session),),
        ),
        Sweep(
            "registration sweeper",
            "applications_expired_total",
            settings.dcr_sweep_interval_ms,
            batch,
            (Step(overdue_applications, _archive_application),),
        ),
        Sweep(
            "authorization sweeper",
            "authorizations_expired_total",
            settings.authorization_sweep_interval_ms,
            batch,
            (Step(overdue_authorizations, _expire_authorization),),
        ),
        Sweep(
            "signing key sweeper",
            "signing_keys_retired_total",
            _KEYS_EVERY_MS,
            batch,
            (Step(superseded_keys, _retire_key),),
        ),
    )


def _of_coordinator(settings: Settings) -> tuple[Sweep, ...]:
    batch = settings.sweeper_batch_size
    lease = timedelta(seconds=settings.service_agent_lease_seconds)
    kept = timedelta(days=settings.delegation_retention_days)
    return (
        Sweep(
            "ttl_sweep",
            "agents_expired_total",
            settings.ttl_sweep_interval_ms,
            batch,
            (Step(overdue_agents, _end_agent), Step(orphaned_agents, _end_agent)),
            runs="caracal_ttl_sweeper_runs_total",
        ),
        Sweep(
            "service_lease_sweep",
            "leases_lost_total",
            settings.service_lease_sweep_interval_ms,
            batch,
            (
                Step(lapsed_agents, _suspend_agent),
                Step(lambda db, limit: silent_services(db, lease, limit), _lose_service),
            ),
            runs="caracal_service_lease_sweeper_runs_total",
        ),
        Sweep(
            "invocation_deadline",
            "invocation_deadlines_total",
            settings.deadline_sweep_interval_ms,
            batch,
            (Step(overdue_invocations, _enforce_deadline),),
        ),
        Sweep(
            "retention_cleanup",
            "delegations_cleaned_total",
            settings.retention_cleanup_interval_ms,
            settings.retention_cleanup_batch_size,
            (
                Step(overdue_delegations, _expire_delegation),
                Step(lambda db, limit: outlived_delegations(db, kept, limit), _purge_delegation),
            ),
            runs="caracal_retention_cleaner_runs_total",
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


async def _expire_authorization(ground: Ground, grant_id: str, zone_id: str) -> Saved:
    if (grant := await ground.log.find(Grant, grant_id)) is None:
        return Saved()
    grant.expire_authorization(clock.now())
    return await ground.log.save(grant)


async def _retire_key(ground: Ground, kid: str, zone_id: str) -> Saved:
    if (key := await ground.log.find(SigningKey, kid)) is None:
        return Saved()
    key.retire("rotated")
    return await ground.log.save(key)


async def _end_agent(ground: Ground, agent_id: str, zone_id: str) -> Saved:
    return await Subtree(ground, zone_id, agent_id).terminate("ttl")


async def _suspend_agent(ground: Ground, agent_id: str, zone_id: str) -> Saved:
    return await Subtree(ground, zone_id, agent_id).suspend("service_heartbeat_lost")


async def _lose_service(ground: Ground, service_id: str, zone_id: str) -> Saved:
    if (service := await ground.log.find(AgentService, service_id)) is None:
        return Saved()
    service.lose()
    return await ground.log.save(service)


async def _enforce_deadline(ground: Ground, invocation_id: str, zone_id: str) -> Saved:
    if (invocation := await ground.log.find(Invocation, invocation_id)) is None:
        return Saved()
    invocation.enforce_deadline(clock.now())
    return await ground.log.save(invocation)


async def _expire_delegation(ground: Ground, edge_id: str, zone_id: str) -> Saved:
    if (edge := await ground.log.find(Delegation, edge_id)) is None:
        return Saved()
    edge.expire()
    return await ground.log.save(edge)


async def _purge_delegation(ground: Ground, edge_id: str, zone_id: str) -> Saved:
    if (edge := await ground.log.find(Delegation, edge_id)) is None:
        return Saved()
    edge.purge()
    return await ground.log.save(edge)


class Sweeper:
    """Sweeps what belongs together, once in the deployment; ``run`` goes on until cancelled."""

    def __init__(self, settings: Settings, sweep: Sweep) -> None:
        self._settings, self.sweep = settings, sweep
        self.ended = self.runs = 0

    @property
    def counters(self) -> dict[str, int]:
        """Return the sweeper's metrics."""
        runs = {self.sweep.runs: self.runs} if self.sweep.runs else {}
        return {self.sweep.counts: self.ended, **runs}

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
        async with ground.database() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (self.sweep.name,)
            )
            if (row := await cursor.fetchone()) is None or not row[0]:
                return
            for step in self.sweep.steps:
                await self._sweep_step(ground, connection, step)
            await tick(connection, self.sweep.name, self.sweep.every_ms)
        self.runs += 1

    async def _sweep_step(self, ground: Ground, connection: Db, step: Step) -> None:
        batch = self.sweep.batch
        while overdue := await step.overdue(connection, batch):
            ended = [await self._end(ground, step, *thing) for thing in overdue]
            if len(overdue) < batch or not any(ended):
                return

    async def _end(self, ground: Ground, step: Step, thing_id: str, zone_id: str) -> bool:
        with acting(zone_id=zone_id, actor="system", actor_name=self.sweep.name):
            try:
                saved = await retrying(partial(step.end, ground, thing_id, zone_id))
            except CaracalError as refusal:  # ended by another command meanwhile
                logger.debug("%s: %s stays as it is: %s", self.sweep.name, thing_id, refusal)
                return False
        self.ended += bool(saved.events)
        return bool(saved.events)
