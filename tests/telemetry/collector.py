"""What stands for a collector: takes OTLP over HTTP, decodes it, keeps it and its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from caracal.services.http import Receive, Scope, Send, read_body, respond

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


@dataclass(frozen=True)
class Seen:
    """A span as it came."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """The ASGI app; when it ``holds``, it takes requests and does not answer until ``released``."""

    spans: list[Seen] = field(default_factory=list)
    metrics: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    holds: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        body = await read_body(receive, scope, 1 << 26)
        if self.holds:
            await self.released.wait()
        self.raw.append(body)
        assert dict(scope["headers"])[b"content-type"] == b"application/x-protobuf"
        if scope["path"] == "/v1/traces":
            self.spans += self._spans(ExportTraceServiceRequest.FromString(body))
        else:
            assert scope["path"] == "/v1/metrics"
            self._measured(ExportMetricsServiceRequest.FromString(body))
        await respond(send, 200, b"", [], b"application/x-protobuf")

    def _spans(self, request: ExportTraceServiceRequest) -> Iterator[Seen]:
        for group in request.resource_spans:
            resource = _read(group.resource.attributes)
            self.resources.append(resource)
            for scope in group.scope_spans:
                for span in scope.spans:
                    yield Seen(
                        resource["service.name"],
                        span.name,
                        span.kind,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.status.code == 2,
                        _read(span.attributes),
                    )

    def _measured(self, request: ExportMetricsServiceRequest) -> None:
        for group in request.resource_metrics:
            service = _read(group.resource.attributes)["service.name"]
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    points = metric.sum.data_points or metric.gauge.data_points
                    self.metrics[service, metric.name] = [point.as_double for point in points]

    def of_trace(self, trace_id: str) -> list[Seen]:
        """Return the spans of a trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def one(self, trace_id: str, service: str, name: str, kind: int | None = None) -> Seen:
        """Return the only such span."""
        found = [
            span
            for span in self.of_trace(trace_id)
            if (span.service, span.name) == (f"caracal-{service}", name)
            and kind in (None, span.kind)
        ]
        assert len(found) == 1, (name, self.of_trace(trace_id))
        return found[0]


def _read(attributes: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
