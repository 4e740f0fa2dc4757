"""What records go to, over TLS on loopback: an HTTP collector and a syslog receiver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.backbone import eventually
from tests.certificates import certificate

HOST = "127.0.0.1"


def trusting(folder: Path) -> ssl.SSLContext:
    """A client's context that trusts the servers of these tests."""
    return ssl.create_default_context(cafile=folder / "server.pem")


class Receiver:
    """Takes batches, unless ``answer`` says otherwise.

    Attributes:
        calls: headers and body of each request.
        answer: gives a status and headers for a body; None takes it.
        records: what was taken, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, ""
        self.calls: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[bytes], tuple[int, dict[str, str]] | None] = lambda body: None
        self.records: list[dict[str, Any]] = []
        self._tls = certificate(folder, HOST)
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen, where it listened before."""
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/in", self._take)
        app.router.add_post("/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, HOST, self._port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        assert site._server is not None
        sockets: Any = site._server
        self._port = sockets.sockets[0].getsockname()[1]
        self.url = f"https://{HOST}:{self._port}/in"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.calls.append((dict(request.headers), body))
        if (told := self.answer(body)) is not None:
            return web.Response(status=told[0], headers=told[1], text="no")
        self.records += [json.loads(line) for line in body.splitlines()]
        return web.Response(text='{"text":"Success","code":0}')

    async def _elsewhere(self, request: web.Request) -> web.Response:
        raise AssertionError("followed a redirect")

    @property
    def ids(self) -> list[str]:
        """Ids of the events that were taken, in order, each as often as it came."""
        return [record["metadata"]["uid"] for record in self.records]

    async def has(self, *ids: str) -> None:
        """Wait until it has taken these."""

        async def there() -> bool:
            return set(ids) <= set(self.ids)

        await eventually(there, seconds=30, what=f"{len(ids)} records at the sink")


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    made = Receiver(tmp_path)
    await made.start()
    yield made
    await made.stop()


class SyslogReceiver:
    """Reads frames of RFC 5425; ``deaf``: takes connections, and reads nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.messages: list[bytes] = []
        self.connections = 0
        self.deaf = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tls = certificate(folder, HOST)
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._read, HOST, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        if self.deaf.is_set():
            await self._stopped.wait()
            writer.transport.abort()
            return
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                size = int(await reader.readuntil(b" "))
                self.messages.append(await reader.readexactly(size))
        writer.close()

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def stop(self) -> None:
        self._stopped.set()
        if self._server is not None:
            self._server.close()
            self.hang_up()
            self._server = None


@pytest.fixture
async def syslog(tmp_path: Path) -> AsyncIterator[SyslogReceiver]:
    made = SyslogReceiver(tmp_path)
    await made.start()
    yield made
    await made.stop()
