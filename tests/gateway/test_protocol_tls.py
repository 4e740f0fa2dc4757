"""The protocol behind TLS: trailers and refusals arrive there, too."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from caracal.services.protocol import protocol_class


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await send({"type": "http.response.body", "body": scope["scheme"].encode()})
    await send({"type": "http.response.trailers", "headers": [(b"x-end", b"1")]})


@pytest.fixture
async def port(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[int]:
    protocol = protocol_class()
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(config=config, server_state=state, app_state={}),
        "127.0.0.1",
        0,
        ssl=tls[0],
    )
    yield server.sockets[0].getsockname()[1]
    server.close()
    for connection in list(state.connections):
        connection.shutdown()
    await server.wait_closed()


async def ask(port: int, request: bytes, client: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=client, server_hostname="tls.example"
    )
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_trailers_arrive(port: int, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await ask(port, request, tls[1])
    assert answer.endswith(b"5\r\nhttps\r\n0\r\nx-end: 1\r\n\r\n")


async def test_refusals_arrive(port: int, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"v" * 17000 + b"\r\n\r\n"
    assert (await ask(port, request, tls[1])).startswith(b"HTTP/1.1 431 ")
