"""The outermost layer of a service, on a real connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import uvicorn

from caracal.services.http import Edge, respond
from caracal.services.protocol import protocol_class

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, 200, (await receive())["body"], [])


async def trickled(port: int) -> bytes:
    """Send a body byte by byte until the server has had enough; return its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(reader.read())
    writer.write(HEAD)
    with suppress(ConnectionError):
        while not answer.done():
            writer.write(b"a")
            await writer.drain()
            await asyncio.wait([answer], timeout=0.02)
    writer.close()
    return await answer


async def test_a_body_that_trickles_in_is_given_up() -> None:
    config = uvicorn.Config(
        Edge(echo, body_limit=1000, body_seconds=0.2), http=protocol_class(), port=0, lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with asyncio.timeout(10):
        answer = await trickled(port)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"request_timeout"' in answer
    assert b"\r\nconnection: close\r\n" in answer
    server.should_exit = True
    await serving
