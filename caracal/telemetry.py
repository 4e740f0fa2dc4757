"""Spans (OpenTelemetry), and the ids of the trace in log lines.

Off until :func:`use` is told a tracer: until then a span is a look at one variable. A span never
holds what was sent: no header, no query, no body, no text of an exception.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer
from opentelemetry.trace import SpanKind as SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from caracal import clock
from caracal.errors import CaracalError
from caracal.trace import kept_traceparent

Headers = Sequence[tuple[bytes, bytes]]
Args = ParamSpec("Args")
Result = TypeVar("Result")

incoming: ContextVar[Headers] = ContextVar("incoming", default=())
"""Headers of the request that is answered here; looked at only by who needs its trace."""

_W3C = TraceContextTextMapPropagator()
_MAX_CAUSES = 100
_OVER = timedelta(minutes=5)
_tracer: Tracer | None = None
_counts: Callable[[], dict[str, int]] = dict


def use(tracer: Tracer | None, counts: Callable[[], dict[str, int]] = dict) -> None:
    """Make spans with ``tracer`` from now on; None: no more. ``counts`` are for ``/metrics``."""
    global _tracer, _counts
    _tracer, _counts = tracer, counts


def is_on() -> bool:
    """Say whether spans are made."""
    return _tracer is not None


def counts() -> dict[str, int]:
    """Return what became of the spans; nothing when off."""
    return _counts()


class Nothing:
    """A span that nobody looks at; false, so that what is costly to tell need not be told."""

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        return None

    def __bool__(self) -> bool:
        return False

    def set(self, name: str, value: Any) -> None:
        """Say something of it; the name is one of the semantic conventions or ``caracal.``."""

    def answered(self, status: int, *, fails_at: int) -> None:
        """Say the status of an HTTP answer; from ``fails_at`` on this side calls it a failure."""


class Running(Nothing):
    """A span as a context: the current one inside, ended with it."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> Running:
        self._token = context.attach(trace.set_span_in_context(self.span))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        end(self.span, error)

    def __bool__(self) -> bool:
        return True

    def set(self, name: str, value: Any) -> None:
        self.span.set_attribute(name, value)

    def answered(self, status: int, *, fails_at: int) -> None:
        self.set("http.response.status_code", status)
        if status >= fails_at:
            self.set("error.type", str(status))
            self.span.set_status(Status(StatusCode.ERROR))


_NOTHING = Nothing()


def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: Context | None = None,
) -> Nothing:
    """Return a span to be entered, a child of the current one; its attributes need no look-up."""
    if _tracer is None:
        return _NOTHING
    return Running(_tracer.start_span(name, parent, kind, attributes))


def spanned(
    name: str, *, kind: SpanKind = SpanKind.INTERNAL
) -> Callable[[Callable[Args, Awaitable[Result]]], Callable[Args, Awaitable[Result]]]:
    """Decorate a coroutine function: each call is a span."""

    def decorate(function: Callable[Args, Awaitable[Result]]) -> Callable[Args, Awaitable[Result]]:
        @functools.wraps(function)
        async def within(*args: Args.args, **kwargs: Args.kwargs) -> Result:
            if _tracer is None:
                return await function(*args, **kwargs)
            with span(name, kind=kind):
                return await function(*args, **kwargs)

        return within

    return decorate


def calling(method: str, host: str, port: int | None) -> Nothing:
    """Return the span of an HTTP request that this process makes.

    Without ``url.full``, which the conventions ask for: what follows the host may be a secret.
    """
    if _tracer is None:
        return _NOTHING
    attributes: dict[str, Any] = {"http.request.method": method, "server.address": host}
    if port is not None:
        attributes["server.port"] = port
    return span(method, attributes, kind=SpanKind.CLIENT)


def end(span: Span, error: BaseException | None = None) -> None:
    """End a span; of an error it says the kind, for its text may tell what nobody is to read."""
    if error is not None:
        refusal = error if isinstance(error, CaracalError) else None
        span.set_attribute("error.type", refusal.code if refusal else type(error).__qualname__)
        if refusal is None or refusal.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def note(**members: str | None) -> None:
    """Say something of the current span: ``zone_id=...`` is its attribute ``caracal.zone_id``."""
    if _tracer is None:
        return
    current = trace.get_current_span()
    for name, value in members.items():
        if value is not None:
            current.set_attribute(f"caracal.{name}", value)


def caller() -> bytes | None:
    """Return the ``traceparent`` of the request that is answered here; None: none, or malformed."""
    return kept_traceparent([value for name, value in incoming.get() if name == b"traceparent"])


def traceparent() -> str | None:
    """Return what names this place in its trace: the current span, else what the caller said."""
    if _tracer is not None:
        here = trace.get_current_span().get_span_context()
        if here.is_valid:
            return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"
    given = caller()
    return None if given is None else given.decode()


def remote(headers: Mapping[str, str]) -> Context:
    """Return the context that ``traceparent`` and ``tracestate`` name; empty without one."""
    return _W3C.extract(headers, Context())


def passed_on() -> dict[str, str]:
    """Return the headers by which the next service of ours joins the trace."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        _W3C.inject(headers)
    if not headers and (given := caller()) is not None:
        headers["traceparent"] = given.decode()
    return headers


class Cause(NamedTuple):
    """An event that a batch holds: ``traceparent`` and ``occurred_at`` of its metadata."""

    traceparent: str | None
    occurred_at: str
    position: int


@contextmanager
def batch(
    name: str, kind: SpanKind, attributes: Mapping[str, Any], causes: Iterable[Cause]
) -> Iterator[None]:
    """Have a span for the work inside in each trace that one of the events belongs to.

    Not for events of long ago: their traces are over, and this is a replay.
    """
    if _tracer is None:
        yield
        return
    spans = [_caused(name, kind, attributes, found) for found in _by_trace(causes)]
    try:
        yield
    except BaseException as error:
        for each in spans:
            end(each, error)
        raise
    for each in spans:
        end(each)


def _caused(
    name: str, kind: SpanKind, attributes: Mapping[str, Any], causes: Sequence[Cause]
) -> Span:
    assert _tracer is not None
    return _tracer.start_span(
        name,
        remote({"traceparent": str(causes[0].traceparent)}),
        kind,
        {
            **attributes,
            "messaging.batch.message_count": len(causes),
            "caracal.position": causes[-1].position,
        },
    )


def _by_trace(causes: Iterable[Cause]) -> Iterable[list[Cause]]:
    oldest = clock.rfc3339(clock.now() - _OVER)  # as text it compares alike
    found: dict[str, list[Cause]] = {}
    for cause in causes:
        told = cause.traceparent
        if not told or cause.occurred_at < oldest or not kept_traceparent([told.encode()]):
            continue
        if told in found or len(found) < _MAX_CAUSES:
            found.setdefault(told, []).append(cause)
    return found.values()


class TraceOfRecord(logging.Filter):
    """Gives log records ``trace_id``, ``span_id``, and ``trace``: both as the end of a line."""

    def filter(self, record: logging.LogRecord) -> bool:
        told = traceparent()
        record.trace_id, record.span_id = (told[3:35], told[36:52]) if told else ("", "")
        record.trace = f" trace_id={told[3:35]} span_id={told[36:52]}" if told else ""
        return True
