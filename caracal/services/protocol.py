"""HTTP/1.1 on the wire: uvicorn's httptools protocol with trailers, limits and timeouts.

uvicorn 0.54 refuses ``http.response.trailers``, sends chunks to HTTP/1.0 clients, merges trailer
fields of a request into its headers, and has no limit on headers and no timeout but keep-alive.
Used as ``uvicorn.Config(http=protocol_class(...))``; WebSocket upgrades are left to uvicorn.
"""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from http import HTTPStatus
from math import inf
from typing import Any
from urllib.parse import unquote

import httptools
import orjson
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from caracal.ids import new_id
from caracal.services.http import HARDENING
from caracal.services.response_cycle import CutConnection, ResponseCycle, check_uvicorn

__all__ = ["CaracalProtocol", "CutConnection", "protocol_class"]

_MAX_DISCARDED = 1 << 20
_LINGER = 5.0
_FRAMING = (b"content-length", b"transfer-encoding")


class _Stage(Enum):
    IDLE = "between requests"
    HEADERS = "in a request's head"
    BODY = "in a request's body"


class _HeadTooLarge(Exception):
    """Leaves the parser from within a callback."""


class _TooMuchUnread(Exception):
    """Leaves it, too."""


class CaracalProtocol(HttpToolsProtocol):
    """One connection. Limits are class attributes; :func:`protocol_class` sets them."""

    read_header_timeout = 5.0
    read_timeout = 60.0
    write_timeout = 60.0
    max_header_bytes = 16384

    _stage = _Stage.IDLE
    _head_bytes = 0  # of this head, as parsed
    _raw_bytes = 0  # of this head, as it came in, for a field that never ends
    _begun = 0  # requests that began in the data at hand
    _too_large = False
    _discarded = 0
    _handed_over = False
    _data = b""  # at hand
    _rest: bytes | None = None  # of it, behind the head of an upgrade that is ignored
    _upgrade_ignored = False
    _skipping = False  # callbacks: a head that was seen already
    _refused = False
    _deadline = inf
    _read_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    _close_timer: asyncio.TimerHandle | None = None

    # -- connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_within(self.read_header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._begun = 0
        before = self._stage
        self._rest = data
        while self._rest:
            self._data, self._rest = self._rest, None
            super().data_received(self._data)
        self._data = b""
        if self._handed_over or self._refused or self.transport.is_closing():
            return
        if self._stage is _Stage.HEADERS:
            self._head_grew(len(data), before)
        else:
            self._after_data()

    def handle_websocket_upgrade(self) -> None:
        self._handed_over = True
        self._cancel_timers()
        super().handle_websocket_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Any other upgrade is ignored (RFC 9110, section 7.8: a server may), its body is not.

        The parser takes what follows such a head for the other protocol and then for the next
        request: whoever writes the body would write requests in the name of the connection.
        """
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        self._rest = self._data[upgrade.args[0] :]
        self._upgrade_ignored = False
        framing = [b"%b: %b\r\n" % line for line in self.headers if line[0] in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._skipping = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        except httptools.HttpParserError:
            self._rest = None
            self._refuse(400)

    def shutdown(self) -> None:
        super().shutdown()
        self.bound_close()

    # -- request

    def on_message_begin(self) -> None:
        if self._skipping:
            return
        self._stage = _Stage.HEADERS
        self._begun += 1
        self._head_bytes = self._raw_bytes = self._discarded = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._skipping:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._skipping:
            return
        self._count(len(name) + len(value) + 4)
        # RFC 9110, section 6.5.1: trailer fields are not merged into the headers.
        if self._stage is _Stage.HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._skipping:
            self._skipping = False
            return
        self._stage = _Stage.BODY
        version = self.parser.get_http_version()
        scope: Any = self.scope
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        if version == "1.1":
            scope["extensions"] = {"http.response.trailers": {}}
            if sum(name == b"host" for name, _ in self.headers) != 1:
                raise ValueError("not exactly one Host (RFC 9112, section 3.2)")
        if self.parser.should_upgrade():
            if self._should_upgrade():
                return
            self._upgrade_ignored = True
        self._set_path(scope)
        self._begin(scope, keep_alive=version == "1.1" and self.parser.should_keep_alive())

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None and self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > _MAX_DISCARDED:
                self._hang_up()
                raise _TooMuchUnread
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_ignored:  # so the parser thinks
            return
        self._stage = _Stage.IDLE
        super().on_message_complete()

    def _set_path(self, scope: Any) -> None:
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + target.path
        scope["query_string"] = target.query or b""

    def _begin(self, scope: Any, *, keep_alive: bool) -> None:
        before = self.cycle
        self.cycle = ResponseCycle(
            self.bound_close,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        app = service_unavailable if self._crowded() else self.app
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:  # pipelined: answered in order
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def _crowded(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and max(len(self.connections), len(self.tasks)) >= limit

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.max_header_bytes:
            self._too_large = True
            raise _HeadTooLarge

    # -- refusals on the wire

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn when the parser gave up, also because of :class:`_HeadTooLarge`."""
        del msg
        if not self._refused:
            self._refuse(431 if self._too_large else 400)

    def _refuse(self, status: int) -> None:
        self._refused = True
        if self._busy():  # an answer is under way, and the cut says enough
            self.transport.close()
            return
        self.transport.write(_refusal(status, self.server_state.default_headers))
        self._hang_up()

    def _hang_up(self) -> None:
        """Say that this is all. What still comes is read for a while, by nobody.

        Closing over data that nobody has read resets the connection, the answer with it.
        """
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._close_timer = self.loop.call_later(_LINGER, self.transport.abort)
        else:  # TLS
            self.transport.close()
            self.bound_close()

    # -- time

    def _head_grew(self, size: int, before: _Stage) -> None:
        """The head is not complete. What came before it in the same data cannot be told apart."""
        if self._begun == 0 or (self._begun == 1 and before is _Stage.IDLE):
            self._raw_bytes += size
        if self._raw_bytes > self.max_header_bytes:
            self._refuse(431)
        elif self._begun and self.cycle is not None:
            self._expect_within(self.read_header_timeout)

    def _after_data(self) -> None:
        if self._stage is _Stage.BODY:
            self._expect_within(self.read_timeout)
        elif self.cycle is not None:
            self._deadline = inf
            if not self._busy() and self.timeout_keep_alive_task is None:
                self._keep_alive()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_within(self, seconds: float) -> None:
        """Move the deadline; one timer serves many requests and looks at it when it fires."""
        self._deadline = self.loop.time() + seconds
        if self._read_timer is not None:
            if self._read_timer.when() <= self._deadline:
                return
            self._read_timer.cancel()
        self._read_timer = self.loop.call_at(self._deadline, self._read_overdue)

    def _read_overdue(self) -> None:
        self._read_timer = None
        if self._deadline == inf or self.transport.is_closing():
            return
        if self.loop.time() < self._deadline:
            self._read_timer = self.loop.call_at(self._deadline, self._read_overdue)
        elif self._waits_for_us():
            self._expect_within(self.read_timeout)
        elif self._stage is _Stage.HEADERS:
            self._refuse(408)
        else:
            self.transport.abort()

    def _waits_for_us(self) -> bool:
        """Whether the client may not, or need not yet, send more."""
        if self._stage is _Stage.HEADERS:
            return self._busy()
        return self.flow.read_paused or (self._busy() and self.cycle.waiting_for_100_continue)

    def _cancel_timers(self) -> None:
        for timer in (self._read_timer, self._write_timer, self._close_timer):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.bound_close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self.bound_close()

    def bound_close(self) -> None:
        """A closing transport still sends what it holds; one that nobody reads is given up."""
        if self._close_timer is None and self.transport.is_closing() and self._unsent():
            self._close_timer = self.loop.call_later(self.write_timeout, self.transport.abort)

    def _unsent(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:  # asyncio's TLS transport, once it is closed for good
            return 0


_CODES = {400: "invalid_request", 408: "request_timeout", 431: "headers_too_large"}


def _refusal(status: int, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    phrase = HTTPStatus(status).phrase
    request_id = new_id()
    body = orjson.dumps(
        {"error": _CODES[status], "error_description": phrase.lower(), "requestId": request_id}
    )
    head = [
        f"HTTP/1.1 {status} {phrase}".encode(),
        *(name + b": " + value for name, value in (*default_headers, *HARDENING)),
        b"content-type: application/json",
        f"x-request-id: {request_id}".encode(),
        f"content-length: {len(body)}".encode(),
        b"connection: close",
    ]
    return b"\r\n".join((*head, b"", body))


def protocol_class(
    read_header_timeout: float = 5.0,
    read_timeout: float = 60.0,
    write_timeout: float = 60.0,
    max_header_bytes: int = 16384,
) -> type[CaracalProtocol]:
    """Return a protocol for ``uvicorn.Config(http=...)`` with these limits.

    Args:
        read_header_timeout: seconds from connecting, or from a request's first byte on a kept
            connection, until its head is there (408).
        read_timeout: seconds between two pieces of a request's body; the connection is cut.
        write_timeout: seconds that a reader may leave a full send buffer unread; likewise.
        max_header_bytes: request target and header fields together (431, RFC 6585).
    """
    limits = {
        "read_header_timeout": read_header_timeout,
        "read_timeout": read_timeout,
        "write_timeout": write_timeout,
        "max_header_bytes": max_header_bytes,
    }
    return type("LimitedCaracalProtocol", (CaracalProtocol,), limits)


check_uvicorn(
    HttpToolsProtocol,
    "app access_log access_logger connections cycle expect_100_continue flow limit_concurrency"
    " logger loop parser pipeline root_path scope server_state tasks timeout_keep_alive"
    " timeout_keep_alive_task transport connection_made connection_lost data_received"
    " handle_websocket_upgrade _unsupported_upgrade_warning _should_upgrade _start_asgi_task"
    " shutdown on_message_begin on_url on_header on_headers_complete on_body"
    " on_message_complete on_response_complete send_400_response pause_writing resume_writing"
    " timeout_keep_alive_handler",
)
