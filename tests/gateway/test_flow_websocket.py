"""WebSockets through the Gateway: the same checks, both directions, cut by what ends authority."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from caracal.services.gateway.streams import STALE
from tests.backbone import eventually
from tests.gateway.doubles import Told
from tests.gateway.scene import Scene


class Echo:
    """An upstream that says everything again, in upper case."""

    def __init__(self) -> None:
        self.heads: list[Any] = []
        self.got: list[Any] = []
        self.closed = asyncio.Event()
        self.code: int | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.heads.append(request)
        if request.path == "/closed":
            return web.Response(status=409, text="busy", headers={"X-Of": "upstream"})
        if request.path == "/plain":
            return web.Response(text="no socket")
        answer = web.WebSocketResponse(protocols=["chat"])
        await answer.prepare(request)
        async for message in answer:
            self.got.append(message.data)
            if message.data == "bye":
                await answer.close(code=4001)
            elif isinstance(message.data, str):
                await answer.send_str(message.data.upper())
            else:
                await answer.send_bytes(message.data)
        self.code = answer.close_code
        self.closed.set()
        return answer


@pytest.fixture
async def echo(scene: Scene) -> AsyncIterator[Echo]:
    """What the resource's upstream is."""
    made = Echo()
    runner = web.ServerRunner(web.Server(made))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    scene.sts.directive = {"url": f"http://{host}:{port}/"}
    yield made
    await runner.cleanup()


@asynccontextmanager
async def opened(
    scene: Scene, path: str = "/ws", headers: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """Open a WebSocket through the Gateway."""
    url = scene.url.replace("http", "ws", 1) + path
    sent = scene.headers() if headers is None else headers
    async with connect(url, additional_headers=sent, proxy=None, **options) as made:
        yield made


async def test_both_directions_are_relayed(scene: Scene, echo: Echo) -> None:
    before = await scene.counted()
    async with opened(scene, "/ws/x?a=1", subprotocols=["chat", "other"]) as socket:
        assert socket.subprotocol == "chat"
        assert socket.response is not None
        assert "x-request-id" in socket.response.headers
        assert int(socket.response.headers["x-caracal-token-expires-in"]) > 500
        for text in ("one", "two", "three"):
            await socket.send(text)
            assert await socket.recv() == text.upper()
        await socket.send(b"\x00" * 100_000)
        assert await socket.recv() == b"\x00" * 100_000
    await asyncio.wait_for(echo.closed.wait(), 10)
    assert echo.code == 1000
    (head,) = echo.heads
    assert head.path_qs == "/ws/x?a=1"
    assert head.headers["Authorization"].startswith("Bearer ey")
    assert head.headers["X-Forwarded-Proto"] == "http"
    assert not [name for name in head.headers if name.lower().startswith("x-caracal-")]

    async def counted() -> bool:
        after = await scene.counted()
        return after["requests_allowed"] == before["requests_allowed"] + 1

    await eventually(counted)


async def test_the_upstream_s_close_reaches_the_client(scene: Scene, echo: Echo) -> None:
    async with opened(scene) as socket:
        await socket.send("bye")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4001


async def test_the_client_s_close_reaches_the_upstream(scene: Scene, echo: Echo) -> None:
    async with opened(scene) as socket:
        await socket.close(4002)
    await asyncio.wait_for(echo.closed.wait(), 10)
    assert echo.code == 4002


async def test_a_client_that_vanishes_closes_the_upstream(scene: Scene, echo: Echo) -> None:
    async with opened(scene) as socket:
        await socket.send("x")
        await socket.recv()
        socket.transport.abort()
        await asyncio.wait_for(echo.closed.wait(), 10)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer abc"}, 401, "invalid_token"),
        ({"X-Caracal-Resource": "resource://none"}, 403, "access_denied"),
    ],
)
async def test_the_checks_come_before_the_handshake(
    scene: Scene, echo: Echo, headers: dict[str, str], status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(scene, headers=scene.headers() | headers):
            pass
    response = refused.value.response
    assert response.status_code == status
    assert code in (response.body or b"").decode()
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert response.headers["Content-Type"] == "application/json"
    assert not echo.heads


async def test_what_the_sts_refuses_is_not_opened(scene: Scene, echo: Echo) -> None:
    body = {"error": "access_denied", "error_description": "policy denied", "requestId": "x"}
    scene.sts.told = Told(403, body)
    with pytest.raises(InvalidStatus) as refused:
        async with opened(scene):
            pass
    assert refused.value.response.status_code == 403
    assert not echo.heads
    assert "mcp" not in scene.sts.calls[0]["call_context"]


async def test_of_mcp_over_a_websocket_policy_is_told_that_it_cannot_be_read(
    scene: Scene, echo: Echo
) -> None:
    made = await scene.resource_with(upstream_url="http://127.0.0.1:9", protocol="mcp")
    headers = scene.headers() | {"X-Caracal-Resource": made.identifier}
    async with opened(scene, headers=headers) as socket:
        await socket.send("bye")
    assert orjson.loads(scene.sts.calls[0]["call_context"])["mcp"] == {"method": ""}


@pytest.mark.parametrize(("path", "status"), [("/closed", 409), ("/plain", 502)])
async def test_an_upstream_that_declines(scene: Scene, echo: Echo, path: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with opened(scene, path):
            pass
    assert refused.value.response.status_code == status
    assert ("x-of" in refused.value.response.headers) == (status == 409)


async def test_the_guard_stands_before_the_dial(scene: Scene, echo: Echo) -> None:
    scene.sts.directive = {"url": "http://10.0.0.1/"}
    with pytest.raises(InvalidStatus) as refused:
        async with opened(scene):
            pass
    assert refused.value.response.status_code == 403


async def test_a_revocation_closes_both_sides(scene: Scene, echo: Echo) -> None:
    session = await scene.session()
    headers = scene.headers(sid=session.aggregate_id, root_sid=session.aggregate_id)
    async with opened(scene, headers=headers) as socket:
        await socket.send("one")
        assert await socket.recv() == "ONE"
        await scene.revoke(session)
        await socket.send("too late")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1008
    await asyncio.wait_for(echo.closed.wait(), 10)
    assert echo.got == ["one"]
    with pytest.raises(InvalidStatus) as refused:
        async with opened(scene, headers=headers):
            pass
    assert refused.value.response.status_code == 401


async def test_a_stale_view_closes_with_1012(scene: Scene, echo: Echo) -> None:
    async with opened(scene) as socket:
        await socket.send("one")
        assert await socket.recv() == "ONE"
        scene.gateway.streams.end_all(STALE)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1012
    await asyncio.wait_for(echo.closed.wait(), 10)


async def test_a_message_over_the_limit_is_not_taken(scene: Scene, echo: Echo) -> None:
    async with opened(scene) as socket:
        sending = socket.send(b"x" * (scene.settings.max_request_bytes + 1))
        with pytest.raises(ConnectionClosed):
            await asyncio.gather(sending, socket.recv())
        assert socket.close_code == 1009
    assert not echo.got


async def test_other_upgrades_are_stripped(scene: Scene) -> None:
    answer = await scene.call(headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    assert answer.text == "hello"
    (request,) = scene.upstream.requests
    assert request.all("upgrade") == []
    assert "pgrade" not in "".join(request.all("connection"))


async def test_no_call_is_left_over(scene: Scene) -> None:
    async def over() -> bool:
        return not len(scene.gateway.streams) and not scene.gateway.streams._by_anchor

    await eventually(over)
