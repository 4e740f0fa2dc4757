"""The worker's audit jobs: ingest, trim, verify; make and drop the ledger's months."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from redis.asyncio import Redis

from caracal import clock
from caracal.events.store.audit_topic import backlog, group_state, trim
from caracal.events.store.postgres import connected
from caracal.events.store.redis import GONE, connect
from caracal.events.topics import SIEM_GROUP
from caracal.projections.audit_chain import ChainReport, sweep
from caracal.projections.audit_ingest import Ingestor
from caracal.services.worker.export import Export
from caracal.services.worker.jobs import Job
from caracal.services.worker.retention import Retention
from caracal.settings import Settings
from caracal.stream_signature import Keyring

logger = logging.getLogger(__name__)

TRIM_SECONDS = 10
SWEEP_SECONDS = 3600
_AGAIN_SECONDS = 5

Work = Callable[[AsyncConnection[Any]], Awaitable[None]]


@dataclass(slots=True)
class AuditGauges:
    """What the jobs saw last."""

    length: int = 0
    pending_oldest_seconds: float = 0
    dead_letters: int = 0
    trimmed: int = 0
    passed_over: int = 0
    idle_groups: int = 0
    siem_lag: int = 0
    siem_oldest_seconds: float = 0
    checked: int = 0
    mismatches: int = 0
    breaks: int = 0
    hmac_failures: int = 0
    last_sweep: int = 0
    last_full: int = 0


class AuditJobs:
    """All that the worker does for the ledger; each of ``jobs`` runs until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.gauges = AuditGauges()
        # SIEM gets copies: it may be late, but not fill the topic so that nothing is allowed.
        self._hold = min(settings.siem_backlog_max, settings.audit_backlog_max // 2)
        self.retention = Retention(settings)
        self.export = Export(settings)
        self.ingestor = Ingestor(
            database_url=settings.database_url,
            redis_url=settings.redis_url,
            keys=settings.audit_hmac_key,
            ring=Keyring(settings.facts_hmac_key),
            claim_idle_seconds=settings.audit_claim_idle_secs,
        )

    def jobs(self) -> list[Job]:
        """Return the jobs, to be run as a task each."""
        return [
            self.ingestor.run,
            partial(self._every, TRIM_SECONDS, self._trim),
            partial(self._every, SWEEP_SECONDS, self._sweep),
            self.retention.run,
            *([self.export.run] if self.export.is_on else []),
        ]

    async def lagging(self) -> str | None:
        """Return ``audit_lag`` when a limit of the settings is exceeded; 0 = no limit."""
        settings, gauges = self._settings, self.gauges
        limits = (
            (settings.audit_ready_dlq_max, gauges.dead_letters),
            (settings.audit_ready_lag_max, gauges.length),
            (settings.audit_ready_pel_oldest_secs_max, gauges.pending_oldest_seconds),
        )
        return "audit_lag" if any(limit and is_ > limit for limit, is_ in limits) else None

    @property
    def degraded(self) -> bool:
        """Whether copies do not get out: SIEM is about to lack some, or the export stands still."""
        gauges = self.gauges
        late = gauges.siem_lag > self._hold // 2
        return bool(gauges.idle_groups) or late or self.export.failing

    def counters(self) -> dict[str, Any]:
        """Return the contract's audit counters."""
        ingest, gauges = self.ingestor.counters, self.gauges
        return {
            "inserts_total": ingest.inserted,
            "consumer_lag": gauges.length,
            "consumer_pel_oldest_secs": gauges.pending_oldest_seconds,
            "parse_errors_total": ingest.parse_errors,
            "dlq_total": ingest.dead,
            "retries_total": ingest.retries,
            "hmac_failures_total": ingest.hmac_failures,
            "tamper_replay_total": ingest.tampered,
            "tamper_checked_total": gauges.checked,
            "tamper_mismatch_total": gauges.mismatches,
            "tamper_chain_breaks": gauges.breaks,
            "tamper_hmac_failures": gauges.hmac_failures,
            "tamper_last_sweep_unix": gauges.last_sweep,
            "tamper_last_full_unix": gauges.last_full,
            "retention_created_total": ingest.partitions_made + self.retention.made,
            "retention_dropped_total": self.retention.dropped,
            "is_retention_leader": int(self.retention.is_leader),
            "export_events_total": self.export.events,
            "export_errors_total": self.export.errors,
            "export_duration_ms": self.export.duration_ms,
            "is_export_leader": int(self.export.is_leader),
            "audit_trimmed_total": gauges.trimmed,
            "audit_passed_over_total": gauges.passed_over,
            "audit_idle_groups": gauges.idle_groups,
            "siem_lag": gauges.siem_lag,
            "siem_pel_oldest_secs": gauges.siem_oldest_seconds,
        }

    async def _every(self, seconds: float, work: Work) -> None:
        """Do some work now and every so often; after an error again soon, on a new connection."""
        while True:
            try:
                async with await connected(self._settings.database_url) as connection:
                    await work(connection)
            except (*GONE, psycopg.Error) as error:
                logger.info("audit %s: %s", work.__name__, type(error).__name__)
                await asyncio.sleep(min(_AGAIN_SECONDS, seconds))
            else:
                await asyncio.sleep(seconds)

    async def _trim(self, connection: AsyncConnection[Any]) -> None:
        async with AsyncExitStack() as stack:
            redis: Redis = connect(self._settings.redis_url, connections=1)
            stack.push_async_callback(redis.aclose)
            went = await trim(redis, connection, hold=self._hold)
            waiting = await backlog(redis)
            siem = await group_state(redis, SIEM_GROUP)
        gauges = self.gauges
        gauges.trimmed += went.committed
        gauges.passed_over += went.passed_over
        gauges.idle_groups = len(went.idle)
        gauges.siem_lag = siem.waiting if siem else 0
        gauges.siem_oldest_seconds = siem.oldest_seconds if siem else 0
        gauges.length, gauges.dead_letters = waiting.length, waiting.dead_letters
        gauges.pending_oldest_seconds = waiting.oldest_seconds
        if went.idle:
            logger.error("audit groups idle for a day no longer hold the topic: %s", went.idle)
        if went.passed_over:
            logger.error("%d audit entries trimmed that SIEM has not had", went.passed_over)

    async def _sweep(self, connection: AsyncConnection[Any]) -> None:
        """Verify everything once, then what came in during the last hours."""
        full = not self.gauges.last_full
        hours = timedelta(hours=self._settings.audit_tamper_rolling_hours)
        since = None if full else clock.now() - hours
        reports = await sweep(connection, self._settings.audit_hmac_key, since=since)
        self._count(reports)
        self.gauges.last_sweep = int(time.time())
        if full:
            self.gauges.last_full = self.gauges.last_sweep

    def _count(self, reports: list[ChainReport]) -> None:
        gauges = self.gauges
        gauges.checked += sum(report.checked for report in reports)
        for found in (found for report in reports for found in report.findings):
            gauges.mismatches += found.kind == "content_mismatch"
            gauges.hmac_failures += found.kind == "chain_hmac_mismatch"
            gauges.breaks += found.kind in ("chain_break", "chain_gap", "chain_end_mismatch")
            logger.error("ledger: %s in %s: %s", found.kind, found.zone_id, found.detail)
