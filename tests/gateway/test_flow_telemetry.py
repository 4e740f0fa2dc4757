"""What the Gateway does with a trace: kept or made, handed to the STS, told in spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from websockets.asyncio.client import connect

from caracal.ids import new_id
from tests.backbone import eventually
from tests.gateway.doubles import Told
from tests.gateway.scene import Scene
from tests.telemetry.recording import Recording, recording

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.fixture
def spans() -> Iterator[Recording]:
    with recording() as made:
        yield made


async def told(spans: Recording, kind: SpanKind, name: str) -> ReadableSpan:
    """Return the only such span; the answer may be here before its span has ended."""

    async def ended() -> list[ReadableSpan]:
        return [span for span in spans.named(name) if span.kind is kind]

    (found,) = await eventually(ended)
    return found


def place(span: ReadableSpan) -> tuple[str, str]:
    context = span.get_span_context()
    assert context is not None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


async def test_off_a_caller_s_trace_goes_to_both(scene: Scene) -> None:
    assert (await scene.call(headers={"traceparent": TRACE})).status_code == 200
    assert scene.sts.headers[-1][b"traceparent"].decode() == TRACE
    assert scene.upstream.requests[-1].all("traceparent") == [TRACE]


async def test_off_no_trace_is_made_for_the_sts(scene: Scene) -> None:
    assert (await scene.call()).status_code == 200
    assert b"traceparent" not in scene.sts.headers[-1]


async def test_on_the_sts_gets_our_span_and_the_upstream_what_came(
    scene: Scene, spans: Recording
) -> None:
    assert (await scene.call(headers={"traceparent": TRACE})).status_code == 200
    trace, span = place(await told(spans, SpanKind.CLIENT, "POST"))
    assert trace == TRACE_ID
    assert scene.sts.headers[-1][b"traceparent"].decode() == f"00-{trace}-{span}-01"
    assert scene.upstream.requests[-1].all("traceparent") == [TRACE]


@pytest.mark.parametrize("given", [None, "00-x", f"00-{'0' * 32}-00f067aa0ba902b7-01"])
async def test_on_a_made_trace_has_the_request_s_id(
    scene: Scene, spans: Recording, given: str | None
) -> None:
    request_id = new_id()
    headers = {"X-Request-Id": request_id} | ({"traceparent": given} if given else {})
    assert (await scene.call(headers=headers)).status_code == 200
    trace, span = place(await told(spans, SpanKind.CLIENT, "GET"))
    assert trace == request_id.replace("-", "")
    assert scene.upstream.requests[-1].all("traceparent") == [f"00-{trace}-{span}-01"]


async def test_a_refusal_of_the_sts_is_a_failed_call_of_ours(
    scene: Scene, spans: Recording
) -> None:
    body = {"error": "access_denied", "error_description": "no", "requestId": "r"}
    scene.sts.told = Told(403, body)
    assert (await scene.call()).status_code == 403
    asked = await told(spans, SpanKind.CLIENT, "POST")
    server = await told(spans, SpanKind.SERVER, "GET")
    assert (asked.attributes or {})["error.type"] == "403"
    assert "error.type" not in (server.attributes or {})


async def test_own_paths_have_names(scene: Scene, spans: Recording) -> None:
    own = "/.well-known/oauth-protected-resource"
    path = f"{own}/{scene.tenant.id}/{quote(scene.resource, safe='')}"
    assert (await scene.http.get(scene.url + path)).status_code == 200
    await told(spans, SpanKind.SERVER, f"GET {own}")
    assert (await scene.http.get(f"{scene.url}/health")).status_code == 200
    await told(spans, SpanKind.SERVER, "GET /health")


@pytest.fixture
async def socket_upstream(scene: Scene) -> AsyncIterator[list[str]]:
    """An upstream with WebSockets; the ``traceparent`` of each handshake."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["traceparent"])
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scene.sts.directive = {"url": "http://{}:{}/".format(*runner.addresses[0][:2])}
    yield seen
    await runner.cleanup()


async def test_a_websocket_is_a_call_too(
    scene: Scene, spans: Recording, socket_upstream: list[str]
) -> None:
    url = scene.url.replace("http", "ws", 1) + "/ws"
    async with connect(url, additional_headers=scene.headers(), proxy=None) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
    dialled = await told(spans, SpanKind.CLIENT, "GET")
    server = await told(spans, SpanKind.SERVER, "GET")
    assert (server.attributes or {})["http.response.status_code"] == 101
    assert dialled.parent is not None
    assert f"{dialled.parent.span_id:016x}" == place(server)[1]
    assert socket_upstream[0][3:52] == "-".join(place(dialled))
