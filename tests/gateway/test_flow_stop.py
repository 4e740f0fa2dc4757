"""SIGTERM to a Gateway in a process: event streams are cut, other calls end by themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import httpx
import pytest

from caracal.services.http import Receive, Send, respond
from tests.backbone import eventually
from tests.gateway.doubles import Feed, Request, Wire
from tests.gateway.scene import Scene

_MAIN = "import sys; from caracal.cli import main; sys.exit(main())"


@asynccontextmanager
async def own_process(scene: Scene) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Another Gateway on the scene's servers, as the command line starts it."""
    with socket.create_server(("127.0.0.1", 0)) as plug:
        port = plug.getsockname()[1]
    given = scene.settings
    env = {
        **os.environ,
        "CARACAL_MODE": "dev",
        "DATABASE_URL": given.database_url,
        "REDIS_URL": given.redis_url,
        "FACTS_HMAC_KEY": given.facts_hmac_key[0].hex(),
        "AUDIT_HMAC_KEY": given.audit_hmac_key[0].hex(),
        "GATEWAY_STS_HMAC_KEY": given.gateway_sts_hmac_key[0].hex(),
        "ISSUER_URL": given.issuer_url,
        "STS_URL": given.sts_url,
        "ALLOW_PRIVATE_UPSTREAMS": "loopback",
        "LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MAIN, "serve", "gateway", "--port", str(port), env=env
    )
    url = f"http://127.0.0.1:{port}"

    async def ready() -> bool:
        assert process.returncode is None
        try:
            return (await scene.http.get(f"{url}/ready")).status_code == 200
        except httpx.TransportError:
            return False

    try:
        await eventually(ready, seconds=30, what="a Gateway in its own process")
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_stop_lets_calls_end_but_not_streams(scene: Scene) -> None:
    feed, slow = Feed(), asyncio.Event()

    async def behave(request: Request, receive: Receive, send: Send) -> None:
        if request.raw_path == b"/slow":
            await slow.wait()
            await respond(send, 200, b"done", [])
        else:
            await feed(request, receive, send)

    scene.upstream.behaviour = behave
    async with own_process(scene) as (process, url), Wire.opened(url) as stream:
        feed.give(b"one")
        await stream.ask("/events", scene.headers())
        assert await stream.piece() == b"one"
        async with Wire.opened(url) as other:
            asking = asyncio.create_task(other.ask("/slow", scene.headers()))

            async def under_way() -> bool:
                return len(scene.upstream.requests) == 2

            await eventually(under_way)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(h11.RemoteProtocolError):  # cut: its authority has not ended
                await stream.rest()
            assert not asking.done()
            slow.set()
            assert (await asking).status_code == 200
            assert (await other.rest())[0] == b"done"
        async with asyncio.timeout(15):
            assert await process.wait() == 0
