"""Sends spans and metrics to a collector (OTLP over HTTP), from threads of this process.

Imported when it is wanted only, in the process that serves, so after every fork. Whatever the
collector does, no request waits for it: what it does not take in time is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family

from caracal import __version__, telemetry
from caracal.ids import new_id
from caracal.services.traced import trace_id
from caracal.settings import Settings
from caracal.tasks import cancelled

STOP_SECONDS = 1.0
"""How long the end of a process may wait for the collector, at most; else a part of its grace."""

_OF_GRACE = 0.25
_LOOK_SECONDS = 0.01
_LINE_SECONDS = 60.0
_SCOPE = InstrumentationScope("caracal", __version__)
_logger = logging.getLogger(__name__)


class _Seldom(logging.Filter):
    """Lets one line a minute pass: a collector that is gone is no news each time."""

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _LINE_SECONDS
        return True


for _exporter in (OTLPSpanExporter, OTLPMetricExporter):
    logging.getLogger(_exporter.__module__).addFilter(_Seldom())


class Export:
    """The export of one process; ``start`` and ``stop`` own its threads and its task."""

    def __init__(self, settings: Settings, collect: Callable[[], Iterable[Family]]) -> None:
        """``collect`` gives the metrics as ``/metrics`` shows them; it is asked in the event loop.

        Raises:
            ValueError: one of the SDK's own variables is malformed.
        """
        endpoint, resource = settings.otel_exporter_otlp_endpoint, _resource(settings.service)
        self._spans = _Spans(resource, endpoint) if _wanted("TRACES") else None
        self._metrics = _Metrics(resource, endpoint, collect) if _wanted("METRICS") else None
        self._patience = min(STOP_SECONDS, settings.shutdown_grace_ms / 1000 * _OF_GRACE)

    def start(self) -> None:
        """Begin to export."""
        if self._spans is not None:
            tracer = self._spans.provider.get_tracer(_SCOPE.name, _SCOPE.version)
            telemetry.use(tracer, self._spans.counts)
        if self._metrics is not None:
            self._metrics.start()

    async def stop(self) -> None:
        """Send what there is, as far as the collector takes it soon; end."""
        sending: list[Thread] = []
        if self._metrics is not None:
            sending += await self._metrics.stop()
        telemetry.use(None)
        if self._spans is not None:
            sending.append(_begun(self._spans.provider.shutdown))
        limit = time.monotonic() + self._patience
        while any(thread.is_alive() for thread in sending):
            if time.monotonic() > limit:
                _logger.warning("the collector does not answer: the last telemetry is lost")
                return
            await asyncio.sleep(_LOOK_SECONDS)


def _wanted(signal: str) -> bool:
    return (
        os.environ.get(f"OTEL_{signal}_EXPORTER", "otlp").strip().lower() != "none"
        and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"
    )


def _url(signal: str, endpoint: str) -> str:
    """Return where a signal goes: its own variable names a whole URL, ours a base."""
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return own or f"{endpoint}/v1/{signal}"


def _resource(service: str) -> Resource:
    """Return who sends; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` win."""
    known = {
        "service.name": f"caracal-{service}",
        "service.version": __version__,
        "service.instance.id": new_id(),
    }
    return Resource.create(known).merge(OTELResourceDetector().detect())


def _begun(work: Callable[[], object]) -> Thread:
    """Begin a thread that nobody need wait for."""
    thread = Thread(target=work, name="otlp", daemon=True)
    thread.start()
    return thread


class _Spans:
    """Spans in a bounded queue, and the thread of the SDK that sends them."""

    def __init__(self, resource: Resource, endpoint: str) -> None:
        exporter = _Counted(OTLPSpanExporter(endpoint=_url("traces", endpoint)))
        self._queue = _Bounded(exporter, int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048))
        self.provider = TracerProvider(
            resource=resource, id_generator=_Ids(), shutdown_on_exit=False
        )
        self.provider.add_span_processor(self._queue)

    def counts(self) -> dict[str, int]:
        """Return what became of the spans."""
        sent = self._queue.exporter
        return {
            "otel_spans_exported_total": sent.taken - sent.failed,
            "otel_spans_dropped_total": self._queue.dropped + sent.failed,
        }


class _Ids(RandomIdGenerator):
    def generate_trace_id(self) -> int:
        return trace_id.get() or super().generate_trace_id()


class _Counted(SpanExporter):
    """Counts what the collector was given, and what of it was lost."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.taken = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Bounded(SpanProcessor):
    """The SDK's batches; what they cannot take is counted, not told in a log line each."""

    def __init__(self, exporter: _Counted, size: int) -> None:
        self.exporter, self._size = exporter, size
        self._batches = BatchSpanProcessor(exporter, max_queue_size=size)
        self._put = self.dropped = 0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._batches.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if self._put - self.exporter.taken >= self._size:
            self.dropped += 1
            return
        self._put += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int | None = 30_000) -> bool:
        return self._batches.force_flush(timeout_millis)


class _Metrics:
    """Metrics every ``OTEL_METRIC_EXPORT_INTERVAL`` ms, as sums and gauges of now."""

    def __init__(
        self, resource: Resource, endpoint: str, collect: Callable[[], Iterable[Family]]
    ) -> None:
        self._resource, self._collect = resource, collect
        self._exporter = OTLPMetricExporter(endpoint=_url("metrics", endpoint))
        self._seconds = int(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1000
        self._began = time.time_ns()
        self._sending: Thread | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._run(), name="otlp-metrics")

    async def stop(self) -> list[Thread]:
        """Send for the last time; return the threads at it."""
        if self._task is not None:
            await cancelled(self._task)
        self._send(self._exporter.shutdown)
        return [self._sending] if self._sending is not None else []

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            self._send()

    def _send(self, then: Callable[[], None] = lambda: None) -> None:
        if self._sending is not None and self._sending.is_alive():
            return  # the numbers are sums: the next ones tell all
        try:
            data = self._data()
        except Exception:
            _logger.exception("metrics cannot be collected")
            return

        def send() -> None:
            self._exporter.export(data)
            then()

        self._sending = _begun(send)

    def _data(self) -> MetricsData:
        metrics = [metric for family in self._collect() for metric in self._of(family)]
        scope = ScopeMetrics(_SCOPE, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _of(self, family: Family) -> Iterator[Metric]:
        now = time.time_ns()
        points = [
            NumberDataPoint(dict(sample.labels), self._began, now, sample.value)
            for sample in family.samples
        ]
        if family.type == "counter":
            total = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
            yield Metric(f"{family.name}_total", family.documentation, "", total)
        elif points:
            yield Metric(family.name, family.documentation, "", Gauge(points))
