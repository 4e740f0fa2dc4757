"""The request's body on its way to the upstream: whole when small, else streamed; bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from caracal.errors import TooLarge
from caracal.services.gateway.refusals import ClientGone
from caracal.services.http import Receive, Scope, header

WHOLE = 65_536
"""Bodies up to this many bytes are read before the upstream is called."""
_UNWATCHED_SECONDS = 0.1  # a call as short as this does not pay for the watch


class Upload:
    """The body of one request, and whether the client is still there."""

    def __init__(self, scope: Scope, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self.declared = _declared(scope)
        """Length in bytes; 0 without a body, None when it is not told."""
        self._begun: list[bytes] = []  # read already, to be sent first
        self._read = asyncio.Event()
        self.too_large = False
        self.client_gone = False
        self.progress: Callable[[], None] | None = None
        """Called for each piece that is sent on."""
        if self.declared == 0:
            self._read.set()

    @property
    def finished(self) -> bool:
        """Say whether all of it has been read."""
        return self._read.is_set()

    def check(self) -> None:
        """Refuse a body that declares too much, before anyone is called.

        Raises:
            TooLarge: 413.
        """
        if (self.declared or 0) > self._limit:
            raise body_too_large()

    async def whole(self, limit: int) -> bytes | None:
        """Read a body of at most ``limit`` bytes; None when it is longer, not to be held here.

        Raises:
            TooLarge: 413, over ``MAX_REQUEST_BYTES``.
            ClientGone: before its end.
        """
        if self.declared is not None and self.declared > min(limit, self._limit):
            return None
        while not self.finished and sum(map(len, self._begun)) <= limit:
            self._begun.append(await self._next())
        if not self.finished:
            return None
        self._begun = [b"".join(self._begun)]
        return self._begun[0]

    async def data(self) -> bytes | AsyncIterator[bytes] | None:
        """Return what the HTTP client sends; a body of unknown length is streamed as it comes.

        Raises:
            TooLarge: 413.
            ClientGone: before the end of a small body.
        """
        if self.finished or self.declared is not None:
            body = await self.whole(WHOLE)
            if body is not None:
                return body or None
        return self._stream()

    @contextmanager
    def watched(self, gone: Callable[[], None]) -> Iterator[None]:
        """Call ``gone`` when the client leaves while the context lasts."""
        watching: list[asyncio.Task[None]] = []

        def watch() -> None:
            watching.append(asyncio.create_task(self._watch(gone)))

        timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, watch)
        try:
            yield
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()

    async def _watch(self, gone: Callable[[], None]) -> None:
        await self._read.wait()  # until then who reads the body would be told
        while (await self._receive())["type"] != "http.disconnect":
            pass
        gone()

    async def _stream(self) -> AsyncIterator[bytes]:
        for chunk in self._begun:
            yield chunk
        while not self.finished:
            chunk = await self._next()
            if self.progress is not None:
                self.progress()
            if chunk:
                yield chunk

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_gone = True
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        self._limit -= len(chunk)
        if self._limit < 0:
            self.too_large = True
            raise body_too_large()
        if not message.get("more_body", False):
            self._read.set()
        return chunk


def _declared(scope: Scope) -> int | None:
    length = header(scope, b"content-length")
    if length is not None and length.isdigit():
        return int(length)
    return None if header(scope, b"transfer-encoding") else 0


def body_too_large() -> TooLarge:
    """Return the refusal of a body over ``MAX_REQUEST_BYTES``."""
    return TooLarge("payload_too_large", "request body too large")
