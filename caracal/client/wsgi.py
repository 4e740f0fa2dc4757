"""WSGI middleware: requests are handled at the place that their envelope tells of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from caracal.client.envelope import restored, stand

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
_HEADERS = {"HTTP_TRACEPARENT": b"traceparent", "HTTP_BAGGAGE": b"baggage"}


class EnvelopeMiddleware:
    """Restores ``traceparent`` and ``baggage`` for the time of each request (PEP 3333).

    Works with every WSGI framework: ``app.wsgi_app = EnvelopeMiddleware(app.wsgi_app)`` in Flask,
    ``application = EnvelopeMiddleware(application)`` in Django. Each request has a context of its
    own, its answer is made within it to the last part, and the server's thread keeps nothing.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        given = ((name, environ.get(key, "")) for key, name in _HEADERS.items())
        headers = [(name, value.encode("latin-1")) for name, value in given if value]
        context = copy_context()
        context.run(stand, restored(headers))
        return _Parts(context.run(self._app, environ, start_response), context)


class _Parts:
    """The parts of an answer, each made within the request's context."""

    def __init__(self, parts: Iterable[bytes], context: Context) -> None:
        self._parts, self._context = parts, context

    def __iter__(self) -> Iterator[bytes]:
        parts = self._context.run(iter, self._parts)
        while (part := self._context.run(next, parts, None)) is not None:
            yield part

    def close(self) -> None:
        """Close what the application returned, if it can be closed."""
        if close := getattr(self._parts, "close", None):
            self._context.run(close)
