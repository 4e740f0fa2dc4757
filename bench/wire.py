"""The least HTTP/1.1 client that can keep a server busy: one connection, one request at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

Done = Callable[[int, bytes], None]
"""Called with status and body; status 0: the connection broke."""


def request(
    method: str, path: str, host: str, headers: Mapping[str, str], body: bytes = b""
) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method in ("POST", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """A kept-alive connection. ``ask`` takes a callback: no task, no future a request."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._done: Done | None = None
        self._buffer = b""
        self._body_at = -1
        self._length: int | None = None

    @classmethod
    async def to(cls, host: str, port: int) -> Connection:
        """Connect."""
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(cls, host, port))[1]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, raw: bytes, done: Done) -> None:
        """Send a request; ``done`` is called with its answer."""
        self._done = done
        if self._transport.is_closing():
            self._finish(0, b"")
        else:
            self._transport.write(raw)

    async def asked(self, raw: bytes) -> tuple[int, bytes]:
        """Send a request and wait for status and body."""
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

        def done(status: int, body: bytes) -> None:
            if not answer.done():  # else nobody waits any more
                answer.set_result((status, body))

        self.ask(raw, done)
        return await answer

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_at < 0:
            self._read_head()
        if self._body_at >= 0 and self._complete():
            self._finish(int(self._buffer[9:12]), self._buffer[self._body_at :])

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        self._body_at = end + 4
        head = self._buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        elif b"\r\ntransfer-encoding: chunked" not in head:
            self._length = 0

    def _complete(self) -> bool:
        if self._length is not None:
            return len(self._buffer) - self._body_at >= self._length
        return self._buffer.endswith(b"0\r\n\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(0, b"")

    def _finish(self, status: int, body: bytes) -> None:
        done, self._done = self._done, None
        self._buffer, self._body_at, self._length = b"", -1, None
        if done is not None:
            done(status, body)
