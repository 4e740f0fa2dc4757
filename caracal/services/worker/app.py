"""The worker: relay, projections and audit jobs, a task each, every one with its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette

from caracal.events.store.redis import connect
from caracal.events.store.relay import Relay
from caracal.events.topics import TOPICS
from caracal.projections import PROJECTIONS
from caracal.projections.runner import Runner
from caracal.services.connections import pool, rings
from caracal.services.health import Health
from caracal.services.http import App, Edge
from caracal.services.traced import Traced, exporting
from caracal.services.worker.audit import AuditJobs
from caracal.services.worker.audit_admin import AuditAdmin
from caracal.services.worker.jobs import Jobs
from caracal.services.worker.sweep import Sweeper, sweeps
from caracal.settings import Settings


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the worker: its operational routes."""
    health, admin = Health(settings), AuditAdmin(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            connections = await stack.enter_async_context(pool(settings))
            redis = connect(settings.redis_url, connections=20)
            stack.push_async_callback(redis.aclose)
            admin.open(connections, redis)
            relay, runners = _relay(settings), _runners(settings)
            audit = AuditJobs(settings)
            sweepers = [Sweeper(settings, sweep) for sweep in sweeps(settings)]
            projecting = (runner.run for runner in runners)
            sweeping = (sweeper.run for sweeper in sweepers)
            jobs = Jobs((relay.run, *projecting, *sweeping, *audit.jobs()))
            stack.push_async_callback(jobs.stop)
            health.watch(
                database=connections,
                checks=(jobs.stalled, audit.lagging),
                details=lambda: _details(relay, runners, audit, settings.ready_dead_letters_max),
                counters=lambda: {
                    **_counters(relay, runners),
                    "job_failures_total": jobs.failures,
                    **audit.counters(),
                    **{name: n for sweeper in sweepers for name, n in sweeper.counters.items()},
                },
            )
            yield

    app = Starlette(lifespan=lifespan)
    return Traced(health.around(Edge(admin, body_limit=0), lifespan=app))


def _relay(settings: Settings) -> Relay:
    return Relay(
        settings.database_url,
        settings.redis_url,
        rings(settings),
        maxlen=settings.streams_maxlen,
        poll_seconds=settings.relay_poll_ms / 1000,
    )


def _runners(settings: Settings) -> list[Runner]:
    return [
        Runner(
            projection,
            topic,
            database_url=settings.database_url,
            redis_url=settings.redis_url,
            rings=rings(settings),
        )
        for projection in PROJECTIONS
        for topic in projection.topics
    ]


def _details(
    relay: Relay, runners: list[Runner], audit: AuditJobs, dead_letters_max: int
) -> dict[str, Any]:
    parked = sum(len(runner.counters.parked) for runner in runners)
    dead_letters = sum(runner.counters.foreign for runner in runners)
    quarantined = relay.counters.quarantined
    return {
        "position": relay.counters.position,
        "parked": parked,
        "quarantined": quarantined,
        "dead_letters": dead_letters,
        "siem_lag": audit.gauges.siem_lag,
        "degraded": bool(
            parked or quarantined or dead_letters > dead_letters_max or audit.degraded
        ),
    }


def _counters(relay: Relay, runners: list[Runner]) -> dict[str, Any]:
    counters = relay.counters
    return {
        "relay_position": counters.position,
        "relay_published_total": counters.published,
        "relay_resyncs_total": counters.resyncs,
        "relay_refused_total": counters.refused,
        "relay_restarts_total": counters.restarts,
        "quarantines_total": counters.quarantined,
        "topics": len(TOPICS),
        "projections": {
            f"{runner.projection.name}_{runner.topic.name}": {
                "position": runner.counters.position,
                "applied_total": runner.counters.applied,
                "gaps_total": runner.counters.gaps,
                "foreign_total": runner.counters.foreign,
                "parked": len(runner.counters.parked),
            }
            for runner in runners
        },
    }
