"""The SIEM process: all its wires meet here. It has no business in the database."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from starlette.applications import Starlette

from caracal.errors import StartError
from caracal.events.store.redis import GONE, connect
from caracal.events.topics import AUDIT, TOPICS
from caracal.services.health import Health
from caracal.services.http import App, Edge, no_route
from caracal.services.siem.delivery import Delivery
from caracal.services.siem.exporter import Exporter, Lag
from caracal.services.siem.lines import Lines
from caracal.services.siem.sink import Sink
from caracal.services.siem.syslog import PORT, Syslog
from caracal.services.siem.webhook import Webhook
from caracal.services.traced import Traced, exporting
from caracal.settings import Settings
from caracal.stream_signature import Keyring
from caracal.tasks import cancelled

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
AWAY_SECONDS = 30.0
"""A sink that takes nothing for so long makes the process unready."""


def create_app(settings: Settings) -> App:
    """Return the ASGI app of the SIEM process: its operational routes."""
    health = Health(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(exporting(settings, health))
            sink = _sink(settings)
            stack.push_async_callback(sink.close)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, sink.reopen)
            redis = connect(settings.redis_url, connections=20)
            stack.push_async_callback(redis.aclose)
            siem = Siem(settings, sink, redis)
            tasks = [asyncio.create_task(job) for job in (siem.exporter.run(), siem.look())]
            stack.push_async_callback(cancelled, *tasks)

            async def stalled() -> str | None:
                return "job_stalled" if any(task.done() for task in tasks) else None

            health.watch(
                redis=redis,
                checks=(stalled, siem.away, siem.lagging),
                details=siem.details,
                counters=siem.counters,
            )
            yield

    app = Starlette(lifespan=lifespan)
    return Traced(health.around(Edge(no_route, body_limit=0), lifespan=app))


class Siem:
    """The exporter of one process, and what is told of it."""

    def __init__(self, settings: Settings, sink: Sink, redis: Redis) -> None:
        self._settings, self._redis = settings, redis
        self._lag = Lag()
        self.exporter = Exporter(
            Delivery(sink, batch_bytes=settings.siem_batch_bytes),
            redis_url=settings.redis_url,
            topics=topics_of(settings),
            keys=settings.audit_hmac_key,
            ring=Keyring(settings.facts_hmac_key),
            batch=settings.siem_batch_max,
            claim_idle_seconds=settings.siem_claim_idle_secs,
        )

    async def look(self) -> None:
        """Look for ever how far behind the group is."""
        while True:
            try:
                self._lag = await self.exporter.lag(self._redis)
            except GONE as error:
                logger.info("lag is not known: %s", type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def away(self) -> str | None:
        """Return ``sink_unreachable`` when the sink has taken nothing for a while."""
        since = self.exporter.delivery.failing_since
        long_ago = since is not None and time.monotonic() - since >= AWAY_SECONDS
        return "sink_unreachable" if long_ago else None

    async def lagging(self) -> str | None:
        """Return ``siem_lag`` when more waits than the settings allow; 0 = no limit."""
        limit = self._settings.siem_ready_lag_max
        return "siem_lag" if limit and self._lag.entries > limit else None

    def details(self) -> dict[str, Any]:
        """Return what ``/ready`` tells beside."""
        failing = self.exporter.delivery.failing_since is not None
        dead = self.exporter.counters.dead
        told: dict[str, Any] = {"lag": self._lag.entries, "dead_letters": dead}
        if failing or dead:
            told |= {"degraded": True, "reason": "sink_failing" if failing else "dead_letters"}
        return told

    def counters(self) -> dict[str, Any]:
        """Return the counters."""
        delivery, counters = self.exporter.delivery.counters, self.exporter.counters
        return {
            "sent_total": delivery.sent,
            "batches_total": delivery.batches,
            "retries_total": delivery.retries,
            "refused_total": delivery.refused,
            "dead_letters_total": counters.dead,
            "hmac_failures_total": counters.forged,
            "gone_total": counters.gone,
            "restarts_total": counters.restarts,
            "lag": self._lag.entries,
            "pel_oldest_secs": self._lag.oldest_seconds,
            "sink_failing": int(self.exporter.delivery.failing_since is not None),
        }


def topics_of(settings: Settings) -> list[str]:
    """Return the topics that are exported."""
    facts = [topic.name for topic in TOPICS.values() if topic.key == "facts"]
    return [AUDIT, *(facts if settings.siem_topics == "all" else ())]


def _sink(settings: Settings) -> Sink:
    parts = urlsplit(settings.siem_sink_url)
    if parts.scheme in ("file", "stdout"):
        return Lines(Path(unquote(parts.path)) if parts.scheme == "file" else None)
    if parts.scheme == "syslog+tls":
        return Syslog(
            parts.hostname or "",
            parts.port or PORT,
            timeout=settings.siem_sink_timeout,
            tls=_tls(settings),
        )
    return Webhook(
        settings.siem_sink_url,
        token=settings.siem_sink_token,
        form=settings.siem_sink_format,
        timeout=settings.siem_sink_timeout,
        tls=_tls(settings),
    )


def _tls(settings: Settings) -> ssl.SSLContext:
    """Return how the sink's certificate is verified, and ours is shown, if there is one.

    Raises:
        StartError: a file holds no certificate, or no key of it.
    """
    try:
        tls = ssl.create_default_context(cafile=settings.siem_sink_ca_file)
        if settings.siem_sink_cert_file is not None:
            tls.load_cert_chain(settings.siem_sink_cert_file, settings.siem_sink_key_file)
    except ssl.SSLError as error:
        raise StartError(f"a SIEM_SINK_…_FILE cannot be used: {error.reason}") from error
    return tls
