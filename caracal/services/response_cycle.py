"""One request and its response on the wire: uvicorn's cycle with trailers and HTTP/1.0."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    RequestResponseCycle,
)


class CutConnection(Exception):
    """Raised by an application: end the connection now, without a clean end of the body."""


class ResponseCycle(RequestResponseCycle):
    """One request and its response; adds trailers (RFC 9112, section 7.1.2) and HTTP/1.0."""

    def __init__(self, bound_close: Callable[[], None], **rest: Any) -> None:
        super().__init__(**rest)
        self._bound_close = bound_close
        self._announced = False  # trailers will follow, says the application
        self._trailers: list[bytes] | None = None  # the body is over, trailers are due
        self._until_close = False  # the body ends with the connection

    async def run_asgi(self, app: Any) -> None:
        await super().run_asgi(partial(self._cuttable, app))
        self._bound_close()

    async def _cuttable(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except CutConnection:
            self.disconnected = True
            self.transport.close()

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            await self._send_body(message)
        elif kind == "http.response.trailers":
            await self._send_trailers(message)
        else:
            self._plan(message)
            await super().send(message)

    def _plan(self, start: Any) -> None:
        self._announced = bool(start.get("trailers"))
        if self.scope["http_version"] == "1.1" or self.response_started:
            return
        if not any(name.lower() == b"content-length" for name, _ in start.get("headers", ())):
            self.chunked_encoding = False
            self._until_close = True

    async def _send_body(self, message: Any) -> None:
        if self._until_close:
            self.expected_content_length = len(message.get("body", b""))
        if self._trailers is not None:
            raise RuntimeError("Body sent after its end; trailers are due.")
        if self._announced and self.chunked_encoding and not message.get("more_body", False):
            last: Any = {**message, "more_body": True}
            await super().send(last)
            self._trailers = []
        else:
            await super().send(message)

    async def _send_trailers(self, message: Any) -> None:
        """ASGI extension ``http.response.trailers``; dropped where the framing has no room."""
        if self._trailers is None:
            if not (self._announced and (self.response_complete or self.disconnected)):
                raise RuntimeError("Trailers not announced, or sent before the end of the body.")
            return
        for name, value in message.get("headers", ()):
            if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
                raise RuntimeError("Invalid HTTP trailer.")
            self._trailers += (name, b": ", value, b"\r\n")
        if not message.get("more_trailers", False):
            await self._finish(self._trailers)

    async def _finish(self, trailers: list[bytes]) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        self._trailers = None
        if self.disconnected:
            return
        self.transport.write(b"".join((b"0\r\n", *trailers, b"\r\n")))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def check_uvicorn(base: type, names: str, arguments: str | None = None) -> None:
    """Refuse a uvicorn whose insides are not the ones these files are written against.

    Raises:
        ImportError: ``base`` lacks one of ``names``, or takes other ``arguments``.
    """
    set_in_init = base.__init__.__code__.co_names  # type: ignore[misc]
    missing = [n for n in names.split() if not hasattr(base, n) and n not in set_in_init]
    if arguments and list(inspect.signature(base).parameters) != arguments.split():
        missing.append("known arguments")
    if missing:
        raise ImportError(
            f"uvicorn {uvicorn.__version__}: {base.__name__} lacks {', '.join(missing)}; "
            "caracal.services.protocol is written against uvicorn 0.54"
        )


check_uvicorn(
    RequestResponseCycle,
    "run_asgi send scope transport flow disconnected keep_alive waiting_for_100_continue"
    " response_started response_complete chunked_encoding expected_content_length"
    " message_event on_response",
    arguments="scope transport flow logger access_logger access_log default_headers message_event"
    " expect_100_continue keep_alive on_response",
)
