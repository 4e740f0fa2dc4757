"""The request's body on its way to the upstream: whole when small, else streamed; bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from caracal.errors import TooLarge
from caracal.services.http import Receive, Scope, header, read_body

WHOLE = 65_536
"""Bodies up to this many bytes are read before the upstream is called."""


class Upload:
    """The body of one request."""

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._scope, self._receive, self._limit = scope, receive, limit
        self._whole: bytes | None = None
        self.finished = False
        self.too_large = False
        self.client_gone = False
        self._deadline: tuple[asyncio.Timeout, float] | None = None

    @property
    def declared(self) -> int | None:
        """Return the declared length; 0 without a body; None when it is not told."""
        length = header(self._scope, b"content-length")
        if length is not None and length.isdigit():
            return int(length)
        return None if header(self._scope, b"transfer-encoding") else 0

    def check(self) -> None:
        """Refuse a body that declares too much, before anyone is called.

        Raises:
            TooLarge: 413.
        """
        if (self.declared or 0) > self._limit:
            raise body_too_large()

    async def whole(self, limit: int) -> bytes | None:
        """Read the body when it declares at most ``limit`` bytes; None when it must be streamed.

        Raises:
            TooLarge: 413.
            ConnectionError: the client has gone.
        """
        if self._whole is None and self.declared is not None and self.declared <= limit:
            self._whole = await read_body(self._receive, self._scope, self._limit)
            self.finished = True
        return self._whole

    async def data(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what the HTTP client sends."""
        body = await self.whole(WHOLE)
        return self._stream() if body is None else body or None

    def keep_alive(self, deadline: asyncio.Timeout, seconds: float) -> None:
        """Let the wait for the answer count from the last piece of the body."""
        self._deadline = (deadline, seconds)

    async def _stream(self) -> AsyncIterator[bytes]:
        size = 0
        while not self.finished:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.client_gone = True
                raise ConnectionError("client gone")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limit:
                self.too_large = True
                raise body_too_large()
            self.finished = not message.get("more_body", False)
            if self._deadline is not None:
                deadline, seconds = self._deadline
                deadline.reschedule(asyncio.get_running_loop().time() + seconds)
            if chunk:
                yield chunk


def body_too_large() -> TooLarge:
    """Return the refusal of a body over ``MAX_REQUEST_BYTES``."""
    return TooLarge("payload_too_large", "request body too large")
