"""The span of each request that a service answers, and for how long they are exported.

Names and attributes are those of the stable HTTP semantic conventions of OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.context import Context

from caracal import telemetry
from caracal.errors import StartError
from caracal.services.health import Health
from caracal.services.http import ROUTE, App, Message, Receive, Scope, Send, request_id_of
from caracal.settings import Settings
from caracal.telemetry import SpanKind
from caracal.trace import kept_traceparent, new_traceparent

FASTAPI_OFF: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""For ``FastAPI(telemetry=...)``: its own spans and logs tell queries, bodies and exceptions."""

_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
_STARTS = ("http.response.start", "websocket.http.response.start")

trace_id: ContextVar[int | None] = ContextVar("trace_id", default=None)
"""Of the trace that begins now: that of a request without one follows from its request id."""


class Traced:
    """ASGI layer, outside of all others."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        token = telemetry.incoming.set(scope["headers"])
        try:
            if telemetry.is_on():
                await self._spanned(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            telemetry.incoming.reset(token)

    async def _spanned(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        method = scope.get("method", "GET")  # of a WebSocket's handshake
        known = method if method in _METHODS else "_OTHER"
        with _server_span(scope, known, method) as span:

            async def watched(message: Message) -> None:
                if message["type"] in _STARTS:
                    span.answered(message["status"], fails_at=500)
                elif message["type"] == "websocket.accept":
                    span.answered(101, fails_at=500)
                await send(message)

            try:
                await self._app(scope, receive, watched)
            finally:
                route = state.get(ROUTE) or getattr(scope.get("route"), "path", None)
                _name(span, "HTTP" if known == "_OTHER" else known, route, scope["path"])


def _server_span(scope: Scope, known: str, method: str) -> telemetry.Nothing:
    request_id = request_id_of(scope)
    attributes: dict[str, Any] = {
        "http.request.method": known,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope.get("http_version", "1.1"),
        "caracal.request_id": request_id,
    }
    if known != method:
        attributes["http.request.method_original"] = method
    parent = _parent(scope)
    token = trace_id.set(None if parent else int(new_traceparent(request_id)[3:35], 16))
    try:
        return telemetry.span(known, attributes, kind=SpanKind.SERVER, parent=parent)
    finally:
        trace_id.reset(token)


def _parent(scope: Scope) -> Context:
    """Return the caller's place in its trace: the one that the Gateway would keep, or none."""
    given: dict[bytes, list[bytes]] = {b"traceparent": [], b"tracestate": []}
    for name, value in scope["headers"]:
        if name in given:
            given[name].append(value)
    if (kept := kept_traceparent(given[b"traceparent"])) is None:
        return Context()
    state = b",".join(given[b"tracestate"]).decode("latin-1")
    return telemetry.remote({"traceparent": kept.decode(), "tracestate": state})


def _name(span: telemetry.Nothing, method: str, route: str | None, path: str) -> None:
    """Name a span by its route; a path without one is the caller's own, and may be a secret."""
    if isinstance(span, telemetry.Running) and route is not None:
        span.span.update_name(f"{method} {route}")
        span.set("http.route", route)
        span.set("url.path", path)


@asynccontextmanager
async def exporting(settings: Settings, health: Health) -> AsyncIterator[None]:
    """Export spans and what ``/metrics`` shows, if there is a collector; first in, last out.

    Raises:
        StartError: one of the SDK's own variables is malformed.
    """
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    from caracal.services.otlp import Export  # the SDK costs a process time to start

    try:
        export = Export(settings, health.collect)
    except ValueError as error:
        raise StartError(f"a variable of OpenTelemetry is malformed: {error}") from error
    export.start()
    try:
        yield
    finally:
        await export.stop()
