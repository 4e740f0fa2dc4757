"""A server on the loopback that misbehaves as it is told, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Behaviour = Callable[[Writer, asyncio.Event], Awaitable[None]]


def raw(*parts: bytes) -> Behaviour:
    """Write these bytes and hang up."""

    async def behave(writer: Writer, _: asyncio.Event) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return behave


def answer(status: str, body: bytes = b"", *headers: str) -> Behaviour:
    """Write a well-formed answer and hang up."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


async def silent(_: Writer, over: asyncio.Event) -> None:
    """Say nothing."""
    await over.wait()


def dripping(head: bytes, drop: bytes) -> Behaviour:
    """Write ``head``, then a drop every 20 ms: no single read is ever late."""

    async def behave(writer: Writer, over: asyncio.Event) -> None:
        writer.write(head)
        while not over.is_set():
            writer.write(drop)
            await writer.drain()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.02)

    return behave


async def reset(writer: Writer, _: asyncio.Event) -> None:
    """Cut the connection off."""
    writer.transport.abort()


class Faulty:
    """The running server; ``seen`` holds the heads of the requests so far."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours)
        self._over = asyncio.Event()
        self.asked = asyncio.Event()
        self.seen: list[str] = []
        self.url = ""

    async def handle(self, reader: Reader, writer: Writer) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.append(head.decode())
            self.asked.set()
            behave = self._behaviours.pop(0) if self._behaviours else answer("200 OK", b"[]")
            await behave(writer, self._over)
        writer.close()

    def stop(self) -> None:
        self._over.set()


@asynccontextmanager
async def faulty(*behaviours: Behaviour) -> AsyncIterator[Faulty]:
    """Serve the behaviours, one a connection; after them ``[]``."""
    server = Faulty(*behaviours)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        server.stop()
        listening.close()
